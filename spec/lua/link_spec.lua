local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

-- Waits until f() is true, at most a few seconds.
local function eventually(f)
  local due = mx.now() + 10
  while mx.now() < due do
    if f() then return true end
    mx.sleep(0.01)
  end
  error("it did not happen within 10 s", 2)
end

on_each_broker("a connection", function(connect, name)
  it("goes past a slow handler, and calls on the same connection are answered meanwhile", function()
    local c = connect()
    local q = assert(c:queue(name "front", { durable = false }))
    for i = 1, 200 do assert(c:publish_async("", q, tostring(i))) end
    local go, seen = false, {}
    assert(c:consume(q, { prefetch = 4, concurrency = 4 }, function(m)
      local i = tonumber(m.body)
      while i == 1 and not go do mx.sleep(0.01) end
      seen[#seen + 1] = i
    end))
    eventually(function() return #seen >= 5 end)
    mx.sleep(0.3)                         -- as much as may pass it has passed it
    assert.equal(2, seen[1])
    assert.is_true(#seen < 200)
    assert.equal(1, assert(c:queue_info(q)).consumers)
    go = true
    eventually(function() return #seen == 200 end)
    eventually(function() return assert(c:queue_info(q)).messages == 0 end)
  end)
end)
