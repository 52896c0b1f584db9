-- Waits and errors where Lua allows none cost what they were in, never the process.
local cli = dofile "spec/cli/run.lua"

local function run(text) return cli.mxrun("-u mem:// " .. cli.file(text)) end

describe("an error handler", function()
  it("may not wait, and the task goes on", function()
    local out, code = run [[
      local function wait(e) mx.sleep(0.001) return e end
      print(select(2, xpcall(error, wait, "x")):match "cannot wait inside an error handler")
      local task = mx.spawn(function() return xpcall(error, wait, "x") end)
      print(task:wait(5))
      print(xpcall(error, function(e) return "got " .. e end, "x"))
    ]]
    assert.equal(0, code)
    assert.matches("^cannot wait inside an error handler\ntrue\tfalse\t.*cannot wait inside an error handler\nfalse\tgot x\n$", out)
  end)
end)

describe("a finalizer", function()
  for how, code in pairs { ["that raises"] = "error 'x'", ["that waits"] = "mx.sleep(1)" } do
    it(how .. " is logged, also where the collector ran in compiled code", function()
      local out, exit, why = run(([[
        local ffi, n = require "ffi", 0
        local T = ffi.metatype("struct { int i; }", { __gc = function() %s end })
        mx.queue "q"
        mx.consume("q", function()
          n = n + 1
          local _, _, list = T(), ffi.gc(ffi.new "int[1]", function() %s end), {}
          for i = 1, 50 do list[i] = { i } end
        end)
        for i = 1, 3000 do mx.publish_async("", "q", "x" .. i) end
        while n < 3000 do mx.sleep(0.01) end
        collectgarbage()
        print(n)
        mx.stop()
      ]]):format(code, code))
      assert.same({ "3000\n", 0 }, { out, exit })
      assert.matches("a finalizer failed", why)
    end)
  end
end)

describe("mx.on('error')", function()
  it("is given an error object, whatever was raised", function()
    local out = run [[
      mx.on("error", function(e) print(e.code, e, e.cause) end)
      mx.spawn(error, "lost", 0)
    ]]
    assert.equal("internal\tlost\tlost\n", out)
  end)
end)

describe("a callback from C", function()
  it("may not wait, and is called what it is", function()
    local out, code = run [[
      local ffi = require "ffi"
      ffi.cdef "void qsort(void *base, size_t n, size_t size, int (*compare)(const int *, const int *));"
      local list = ffi.new("int[2]", 2, 1)
      ffi.C.qsort(list, 2, 4, function(a, b)
        print(select(2, pcall(mx.sleep, 0.01)))
        return a[0] - b[0]
      end)
      print(list[0])
    ]]
    assert.equal(0, code)
    assert.matches("^%S+:5: cannot wait inside a callback from C\n", out)     -- as often as qsort asks
    assert.matches("\n1\n$", out)
  end)
end)
