-- What require finds: modules beside the script, Debian's packages, the user's tree of LuaRocks, what LUA_PATH says.
local cli = dofile "spec/cli/run.lua"

describe("require", function()
  local root
  local function write(path, text)
    os.execute(("mkdir -p '%s'"):format((root .. path):match "^(.*)/"))
    local f = assert(io.open(root .. path, "w"))
    f:write(text)
    f:close()
  end
  before_each(function()
    root = os.tmpname()
    os.remove(root)
    root = root .. "/"
    write("app/main.lua", 'print(require "app_tool", require "app_tools.more")')
    write("app/app_tool.lua", "return 'beside'")
    write("app/app_tools/more/init.lua", "return 'a folder beside'")
  end)
  after_each(function() os.execute("rm -rf " .. root) end)

  it("finds modules beside the script wherever it is started, before those of the working directory", function()
    write("elsewhere/app_tool.lua", "return 'the working directory'")
    local out, code, why = cli.shell(("mxrun=$(realpath $MXRUN); cd %selsewhere && $mxrun -u mem:// ../app/main.lua"):format(root))
    assert.same({ "beside\ta folder beside\n", 0, "" }, { out, code, why })
    assert.same({ "beside\ta folder beside\n", 0, "" }, { cli.mxrun("-u mem:// " .. root .. "app/main.lua") })
  end)

  it("finds them in a check and in a test too", function()
    write("app/queued.lua", 'mx.queue(require "names")')
    write("app/names.lua", 'assert(mx.queue_info) return "of the module"')
    assert.matches("fine, 0 exchanges, 1 queue", (cli.mxrun("--check " .. root .. "app/queued.lua")))
    local h = mx.test.load(root .. "app/queued.lua")
    assert.is_truthy(h.topology.queues["of the module"])
    h:close()
  end)

  it("finds what LuaRocks put into the home directory", function()
    write("home/.luarocks/share/lua/5.1/rocky.lua", "return 'a rock'")
    write("home/.luarocks/share/lua/5.1/stony/init.lua", "return 'a stone'")
    local code = 'print(require "rocky", require "stony", (package.cpath:match ";[^;]*$"))'
    local line = ("HOME=%shome $MXRUN -u mem:// -e '%s'"):format(root, code)
    assert.same({ ("a rock\ta stone\t;%shome/.luarocks/lib/lua/5.1/?.so\n"):format(root), 0, "" }, { cli.shell(line) })
  end)

  it("honours LUA_PATH and LUA_CPATH", function()
    write("only/here.lua", "return 'here'")
    local code = 'print(require "here", package.path, package.cpath)'
    local line = ("LUA_PATH='%sonly/?.lua' LUA_CPATH=x/?.so $MXRUN -u mem:// -e '%s'"):format(root, code)
    assert.same({ ("here\t%sonly/?.lua;\tx/?.so;\n"):format(root), 0, "" }, { cli.shell(line) })
    write("only/app_tool.lua", "return 'said'")
    line = ("LUA_PATH='%sonly/?.lua' $MXRUN -u mem:// %sapp/main.lua"):format(root, root)
    assert.same({ "said\ta folder beside\n", 0, "" }, { cli.shell(line) })
    assert.same({ "beside\ta folder beside\n", 0, "" }, { cli.shell(("LUA_PATH= $MXRUN -u mem:// %sapp/main.lua"):format(root)) })
  end)

  it("gives mxrun its own modules whatever LUA_CPATH says and whatever lies in the working directory", function()
    write("trap/cjson.so", "no library")
    local line = ("mxrun=$(realpath $MXRUN); cd %strap && $mxrun -u mem:// -e 'print(mx.json.encode { 1 })'"):format(root)
    local out, code, why = cli.shell(line)
    assert.same({ "[1]\n", 0, "" }, { out, code, why })
  end)

  it("finds Debian's packages, in C and in Lua", function()
    local out, code, why = cli.mxrun [[-u mem:// -e 'print(type(require "cjson".encode), type(require "pl.stringx".strip))']]
    assert.same({ "function\tfunction\n", 0, "" }, { out, code, why })
  end)
end)
