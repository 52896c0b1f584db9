-- The manual pages and the completions say what mxrun says of itself.
local cli = dofile "spec/cli/run.lua"

-- The options of a help text: each with its dashes.
local function options_of(help)
  local list = {}
  for line in help:gmatch "[^\n]+" do
    local column = line:match "^ ? ? ? ? ? ? ? ?(%-.-)  " or line:match "^ ? ? ? ? ? ? ? ?(%-.*)$"
    for option in (" " .. (column or "")):gmatch "[ ,](%-%-?%a[%w-]*)" do list[#list + 1] = option end
  end
  table.sort(list)
  return list
end

local function commands_of(help)
  local list = {}
  for words in help:gmatch "mxrun ([%l|]+)" do
    for word in words:gmatch "%l+" do list[#list + 1] = word end
  end
  table.sort(list)
  return list
end

local function help(command) return (cli.mxrun((command or "") .. " --help")) end
local main = help()
local usage = main:match "^(.-)\n\n"

describe("the manual page", function()
  local function page(how)
    local path = os.tmpname()
    local _, code, why = cli.shell(("luajit docs/manual.lua %s 1.2.3 >%s"):format(how, path))
    assert.same({ 0, "" }, { code, why })
    return path
  end

  local function rendered(path)
    local out, code, why = cli.shell(("groff -ww -man -Tutf8 -P-c -P-b -P-u -rLL=200n %s"):format(path))
    assert.same({ 0, "" }, { code, why })
    return out
  end

  it("mxrun(1) has each option and command of --help, and renders without a warning", function()
    local path = page "command $MXRUN"
    local text = rendered(path):gsub("‐\n +", ""):gsub("[‐−]", "-")
    assert.matches("mxrun %- run Lua scripts against RabbitMQ", text)
    for _, option in ipairs(options_of(main)) do
      assert.is_truthy(text:find("\n       [^\n]*" .. option:gsub("%p", "%%%0") .. "%f[^%w-]"), option)
    end
    for _, command in ipairs(commands_of(usage)) do
      local from = select(2, text:find("\n   mxrun " .. command .. "\n", 1, true))
      local part = text:sub(from, (text:find("\n   mxrun ", from, true) or text:find("\nENVIRONMENT", from, true)))
      for _, option in ipairs(options_of(help(command))) do assert.is_truthy(part:find(option, 1, true), command .. " " .. option) end
    end
    for name in main:gmatch "MXRUN_[%u_]+" do assert.is_truthy(text:find("\n       " .. name .. "[\n ]"), name) end
    local code = text:match "EXIT STATUS(.-)\n%u"
    for number in main:match("exit codes: ([^\n]+)"):gmatch "%f[%d]%d+%f[%D]" do assert.matches("\n       " .. number .. " ", code) end
    os.remove(path)
  end)

  it("mxrun-api(7) has each entry of the reference, and renders without a warning", function()
    local path = page "api docs/api.md"
    local text = rendered(path):gsub("[‐−]", "-")
    for line in io.lines "docs/api.md" do
      local name = line:match "^### `?([%w_.:]+)"
      if name then assert.is_truthy(text:find("\n   " .. name, 1, true), name) end
    end
    os.remove(path)
  end)
end)

describe("completion in bash", function()
  local function complete(...)
    local words = { ... }
    for i, w in ipairs(words) do words[i] = "'" .. w .. "'" end
    local line = ([[
      . contrib/mxrun.bash
      COMP_WORDS=("$MXRUN" %s)
      COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
      _mxrun "$MXRUN"
      printf "%%s\n" "${COMPREPLY[@]}"]]):format(table.concat(words, " "))
    local out, code, why = cli.shell(line)
    assert.same({ 0, "" }, { code, why })
    local list = {}
    for word in out:gmatch "[^\n]+" do list[#list + 1] = word end
    table.sort(list)
    return list
  end

  local function has(list, word)
    for _, w in ipairs(list) do
      if w == word then return true end
    end
  end

  it("offers each option of --help, and of each command's", function()
    assert.same(options_of(main), complete "-")
    for _, command in ipairs(commands_of(usage)) do
      local list = complete(command, "-")
      for _, option in ipairs(options_of(help(command))) do assert.is_true(has(list, option), command .. " " .. option) end
    end
  end)

  it("offers each command, after options too", function()
    for _, command in ipairs(commands_of(usage)) do
      assert.is_true(has(complete(command:sub(1, -2)), command), command)
      assert.is_true(has(complete("-u", "mem://", "--log=text", command), command), command)
    end
  end)

  it("offers values, files and what a command does", function()
    assert.same({ "json", "text" }, complete("--log", ""))
    assert.same({ "warn" }, complete("--log-level", "w"))
    assert.same({ "debug", "error", "info", "warn" }, complete("--log-level", "=", ""))
    assert.same({ "amqp://", "amqps://" }, complete("-u", "amq"))
    assert.same({ "examples/hello.lua" }, complete("--check", "examples/hel"))
    assert.same({ "examples/hello.lua" }, complete("examples/hel"))
    assert.same({ "scripts/mx" }, complete("--scripts", "scripts/"))
    assert.same({ "purge" }, complete("dlq", "orders", "pur"))
  end)

  it("leaves a script's own arguments to files", function()
    assert.same({}, complete("examples/hello.lua", "--lo"))
    assert.same({ "docs" }, complete("examples/hello.lua", "doc"))
  end)
end)

describe("completion in zsh", function()
  it("compiles, where there is a zsh", function()
    local _, code, why = cli.shell "! command -v zsh >/dev/null || zsh -n contrib/_mxrun"
    assert.same({ 0, "" }, { code, why })
  end)
end)
