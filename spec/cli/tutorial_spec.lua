-- docs/TUTORIAL.md, typed as it stands into one shell, prints what it shows. `…` there stands for anything; in blocks called
-- "figures" the numbers and their units may differ.
local cli = dofile "spec/cli/run.lua"

local text = cli.read "docs/TUTORIAL.md"

-- { section =, file =, text = } or { section =, command =, shown =, figures = }, in their order
local function steps_of(markdown)
  local steps, section, said, at = {}, "", "", 1
  while true do
    local from, to, kind, body = markdown:find("\n```(%w+[^\n]*)\n(.-)\n```", at)
    local prose = markdown:sub(at, from or #markdown)
    for title in prose:gmatch "\n## (%d+)" do section = tonumber(title) end
    if not from then return steps end
    said = prose:match ".*`([%w/_]+%.lua)`" or said
    if kind == "lua" then
      steps[#steps + 1] = { section = section, file = said, text = body }
    elseif kind:find "^console" then
      for line in body:gmatch "[^\n]+" do
        local command = line:match "^%$ (.*)"
        if command then
          steps[#steps + 1] = { section = section, command = command, shown = "", figures = kind == "console figures" }
        else
          steps[#steps].shown = steps[#steps].shown .. line .. "\n"
        end
      end
    end
    at = to
  end
end

local function quiet(s) return (s:gsub("^%s+", ""):gsub("%s+$", "")) end

local function free_port()
  local p = io.popen [[python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])']]
  local port = p:read "*l"
  p:close()
  return port
end

-- What stands for this machine and its haste instead of the reader's.
local function fitted(steps)
  local ports = { ["8080"] = free_port(), ["8081"] = free_port() }
  for _, step in ipairs(steps) do
    if step.section == 6 and step.command == 'echo "exit $?"' then step.shown = "exit …" end      -- 3: generator-limited
    for _, part in ipairs { "text", "command" } do
      if step[part] then
        step[part] = step[part]:gsub("amqp://guest:guest@localhost", cli.amqp or "%0"):gsub("%f[%d]808[01]%f[%D]", ports)
          :gsub("ramp = 200, duration = 2", "ramp = 40, duration = 1"):gsub("rate = 200, duration = 5", "rate = 40, duration = 2")
          :gsub("< 200ms", "< 30000ms")
      end
    end
  end
  return steps
end

-- One script for one shell; before each command a line with its number.
local function script_of(steps)
  local lines = { "exec 2>&1", "trap 'kill $(jobs -p) 2>/dev/null' EXIT" }
  for i, step in ipairs(steps) do
    if step.file then
      lines[#lines + 1] = ("mkdir -p $(dirname %s)\ncat >%s <<'END_OF_FILE'\n%s\nEND_OF_FILE"):format(step.file, step.file, step.text)
    else
      lines[#lines + 1] = ("code=$?; printf '\\001%d\\n'; (exit $code)\n%s"):format(i, step.command)
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

local function pattern_of(shown)
  return "^" .. shown:gsub("[%^%$%(%)%%%.%[%]%*%+%-%?]", "%%%0"):gsub("…", ".-") .. "$"
end

-- The text without its figures, and without what a benchmark says only on a machine that has other work.
local function figureless(s)
  s = s:gsub("generator%-limited, ", "ok, ")
  for _, line in ipairs { "the generator", "generator", "collector" } do s = s:gsub("\n *" .. line .. " [^\n]*", "") end
  return (s:gsub("%d[%d.,]*", "0"):gsub("0 [mun]?s%f[%A]", "0 s"):gsub("0 [KMG]B", "0 B"):gsub("[ \t]+", " "))
end

local function typed(steps)
  local directory = os.tmpname()
  os.remove(directory)
  local path = cli.file(script_of(steps))
  local out = cli.shell(("mkdir -p %s/bin && ln -s $(realpath $MXRUN) %s/bin/mxrun && cd %s && PATH=%s/bin:$PATH bash %s; rm -rf %s")
    :format(directory, directory, directory, directory, path, directory))
  os.remove(path)
  local printed = {}
  for i, said in (out .. "\1"):gmatch "\1(%d+)\n([^\1]*)%f[\1]" do printed[tonumber(i)] = said end
  return printed
end

describe("the tutorial", function()
  local steps, commands = {}, 0
  for _, step in ipairs(steps_of(text)) do
    if cli.amqp or step.section < 4 then steps[#steps + 1] = step end
    if step.command then commands = commands + 1 end
  end

  it("has commands", function() assert.is_true(commands > 25) end)

  local c
  local function clear()
    if not cli.amqp then return end
    c = c or assert(mx.connect { url = cli.amqp })
    for _, queue in ipairs { "orders", "orders.dlq", "invoices", "prices" } do c:delete_queue(queue) end
  end

  it("prints what it shows", function()
    clear()
    local printed = typed(fitted(steps))
    clear()
    for i, step in ipairs(steps) do
      if step.command then
        local real, shown = quiet(printed[i] or "(nothing, the shell had ended)"), quiet(step.shown)
        if step.figures then real, shown = figureless(real), figureless(shown) end
        if not real:find(pattern_of(shown)) then assert.equal(shown, real, "$ " .. step.command) end
      end
    end
  end)
end)
