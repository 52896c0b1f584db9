-- The commands that the guide shows run as written, with less to do, and print what it shows but for the figures.
local cli = dofile "spec/cli/run.lua"
local commands = loadfile "docs/commands.lua"()
local MXRUN = os.getenv "MXRUN" or "build/mxrun"

local function write(path, text)
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
end

-- A folder that is this one but for what is written there.
local function folder()
  local dir = os.tmpname()
  os.remove(dir)
  os.execute(("mkdir %s && for f in *; do [ $f = profiles ] || ln -s $PWD/$f %s/; done"):format(dir, dir))
  return dir
end

local function free_port() return 23000 + (mx.now() * 1e6 + os.time()) % 6000 end

-- Those without figures.
local function lines_of(text)
  local list = {}
  for line in text:gmatch "[^\n]+" do
    if not line:find "%d" then list[#list + 1] = line end
  end
  return list
end

describe("docs/PROFILING.md", function()
  it("shows commands as they are", function()
    local shown = commands.blocks_of(cli.read "docs/PROFILING.md")
    local blocks = commands.blocks_of(cli.read "docs/PROFILING.md")
    assert.is_true(#blocks > 5)
    local dir, port = folder(), ("%d"):format(free_port())
    local script = commands.script_of(blocks, MXRUN, function(c)
      return (c:gsub("8080", port):gsub(" %de%d", " 5e4"):gsub("=1e6", "=5e4"):gsub("300000", "3000"))
    end)
    write(dir .. "/commands", "cd " .. dir .. "\nexport MESSAGES=5e4 MXRUN_URLS=\n" .. script)
    local p = io.popen(("timeout 300 bash %s/commands"):format(dir))
    local printed = p:read "*a"
    p:close()
    os.execute("rm -rf " .. dir)
    commands.outputs(blocks, printed)
    for i, block in ipairs(blocks) do
      for k, c in ipairs(block) do
        local want, found = shown[i][k], {}
        for line in c.output:gmatch "[^\n]+" do found[line] = true end
        assert.is_nil(c.output:match "exit %d+\n$", c.command .. "\n" .. c.output)
        assert.equal(want.output == "", c.output == "", c.command .. "\n" .. c.output)
        for _, line in ipairs(lines_of(want.output)) do assert.is_true(found[line], c.command .. "\n" .. line .. "\n" .. c.output) end
      end
    end
  end)
end)
