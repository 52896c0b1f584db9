-- A handler's time limit that comes together with what the handler waited for.
local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

local function spin(seconds)
  local due = mx.now() + seconds
  while mx.now() < due do end -- luacheck: ignore
end

on_each_broker("a time limit", function(connect, name)
  local function run(second_wait)
    local c = connect()
    local q = assert(c:queue(name "limit", { durable = false, dlq = true }))
    local ended, raised = {}, {}
    local consumer = assert(c:consume(q, { timeout = 0.2, retry = { max = 0 }, concurrency = 4 }, function(m)
      local key = m.body
      local late = key:find "late"
      local ok, e = pcall(mx.sleep, late and 0.2 or 0)         -- which of the two comes first is chance
      if late and ok and second_wait then ok, e = pcall(mx.sleep, 60) end
      if late then raised[#raised + 1] = not ok and e.code end
      ended[#ended + 1] = key
    end))
    for i = 1, 4 do assert(c:publish("", q, "late" .. i)) end
    while c:queue_info(q).messages > 0 do mx.sleep(0) end
    mx.sleep(0.001)
    spin(0.3)                                      -- the sleeps and the limits are all over now
    while #ended < 4 do mx.sleep(0.001) end
    for i = 1, 8 do assert(c:publish("", q, "next" .. i)) end
    while #ended < 12 do mx.sleep(0.001) end
    while consumer.sub.busy > 0 do mx.sleep(0.001) end
    assert.equal(0, consumer.active)
    assert.is_true(#consumer.sub.idle <= 4)
    assert.is_true(consumer:stop(5))
    return raised, c:queue_info(q .. ".dlq").messages
  end

  it("that comes when the handler is awake already costs this delivery, and no other", function()
    local _, dead = run(false)
    assert.is_true(dead <= 4)
  end)

  it("that comes when the handler is awake already is raised by its next wait", function()
    local raised = run(true)
    assert.same({ "timeout", "timeout", "timeout", "timeout" }, raised)
  end)

  it("lets the retry's own delay publish, although no task runs then", function()
    local c = connect()
    local q, other = assert(c:queue(name "limit", { durable = false, dlq = true })), assert(c:queue(name "told", { durable = false }))
    assert(c:publish("", other, "first"))               -- the publisher is open
    local receipt, e
    assert(c:consume(q, { timeout = 0.1, retry = { max = 1, delay = function()
      receipt, e = c:publish_async("", other, "late")
    end } }, function() mx.sleep(60) end))
    assert(c:publish("", q, "x"))
    assert(mx.test.eventually(function() return receipt or e end, 10))
    assert(receipt:wait())
    assert.equal(2, c:queue_info(other).messages)
  end)
end)
