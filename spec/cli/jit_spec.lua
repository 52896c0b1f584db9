-- The hot loops stay compiled: LuaJIT's own log must not name one of ours as blacklisted.
local MXRUN = os.getenv "MXRUN" or "build/mxrun"

local HANDLERS = {
  counts = "n = n + 1",
  reads = "n = n + #msg.body",
  loops = "for i = 1, 20 do n = n + i * msg.size end",
}

describe("a hot loop", function()
  local function stays_compiled(options, what, code, consume, loop)
    loop = loop or "mx/turn:serve"
    consume = consume or [[mx.consume("hot", function(msg) got = got + 1 %s end)]]
    it("is never blacklisted when its handler " .. what .. options:gsub("^%-w.*", " in a worker of a supervisor"), function()
      local log, path = os.tmpname(), os.tmpname()
      local f = assert(io.open(path, "w"))
      f:write(([[
        require("jit.v").start(%q)
        assert(mx.queue("hot", { durable = false }))
        local n, got, all = 0, 0, 300000
        assert(%s)
        for i = 1, all do mx.publish_async("", "hot", "body " .. i) end
        while got < all do mx.sleep(0.001) end
        print(got)
        mx.stop()
      ]]):format(log, (consume:gsub("%%s", code))))
      f:close()
      local p = io.popen(("timeout 120 %s %s -u mem:// %s 2>/dev/null"):format(MXRUN, options, path))
      assert.equal("300000\n", p:read "*a")
      p:close()
      local compiled
      for line in io.lines(log) do
        assert.is_nil(line:match "mx/[%w]+:[%w]+.*blacklisted" and line)
        compiled = compiled or line:find(loop, 1, true)
      end
      assert.is_truthy(compiled)
      os.remove(log)
      os.remove(path)
    end)
  end

  for what, code in pairs(HANDLERS) do
    stays_compiled("", what, code)
    stays_compiled("-w 1", what, code)
  end
  stays_compiled("", "gets batches of a policy", "", [[mx.consume_batch("hot", { size = 100, policy = function(b)
    return b.memory > 0.8 and b.count >= 50 or b.count >= 90 or 0.1 - b.age
  end }, function(batch) got = got + #batch end)]], "mx/batch:gather")
  stays_compiled("", "gets batches of groups", "", [[mx.consume_batch("hot", { size = 50, group_by = function(m) return m.size end },
    function(batch) got = got + #batch end)]], "mx/batch:gather")
end)

describe("an option", function()
  it("reaches its function, however hot the code between them is", function()
    local path = os.tmpname()
    local f = assert(io.open(path, "w"))
    f:write [[
      local bad = 0
      for k = 1, 200 do
        local c = assert(mx.connect { url = "mem://" .. k })
        local x = assert(c:exchange("x", { type = "topic", durable = false }))
        local q = assert(c:queue("q", { durable = false, dlq = true, bind = { { x, "#" } } }))
        assert(c:consume(q, function() return "reject" end))
        local n = 0
        assert(c:consume("q.dlq", function(m)
          n = n + 1
          if m.headers["x-mx-origin"] ~= q then bad = bad + 1 end
        end))
        for i = 1, 6 do assert(c:publish(x, "key." .. i, "x", { id = "id-" .. i, headers = { n = i } })) end
        while n < 6 do mx.sleep(0.001) end
        c:close()
      end
      print(bad)
    ]]
    f:close()
    local p = io.popen(("timeout 120 %s -u mem:// %s 2>&1"):format(MXRUN, path))
    assert.equal("0\n", p:read "*a")
    p:close()
    os.remove(path)
  end)
end)
