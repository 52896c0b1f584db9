-- Who comes first: messages by priority, consumers by priority, and the single active one.
local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)
local broker = dofile "spec/lua/broker.lua"
local own = broker.own

on_each_broker("a queue with priorities", function(connect, name)
  for _, row in ipairs {
    { "the highest first", 5, { 1, 3, 2 }, "2:3 3:2 1:1" },
    { "equals in their order", 5, { 2, 2, 1, 2 }, "1:2 2:2 4:2 3:1" },
    { "none is 0", 5, { false, 0, 1, false }, "3:1 1: 2:0 4:" },
    { "what is above the maximum counts as the maximum", 3, { 3, 9, 255, 2 }, "1:3 2:9 3:255 4:2" },
    { "one level", 1, { 0, 1, 7, 0 }, "2:1 3:7 1:0 4:0" },
    { "255 levels", 255, { 254, 255, 0, 128 }, "2:255 1:254 4:128 3:0" },
    { "all alike", 5, { 4, 4, 4, 4 }, "1:4 2:4 3:4 4:4" },
  } do
    it("gives out " .. row[1], function()
      local c = connect()
      local q = assert(c:queue(name "priority", own { max_priority = row[2] }))
      for i, p in ipairs(row[3]) do assert(c:publish("", q, tostring(i), p and { priority = p } or nil)) end
      local seen = {}
      for i, m in ipairs(broker.take(c, q, #row[3])) do seen[i] = m.body .. ":" .. (m.priority or "") end
      assert.equal(row[4], table.concat(seen, " "))
    end)
  end

  it("is no matter where the queue has none", function()
    local c = connect()
    local q = assert(c:queue(name "plain", own()))
    for i, p in ipairs { 1, 5, 3 } do assert(c:publish("", q, tostring(i), { priority = p })) end
    assert.equal("1 2 3", broker.bodies(c, q, 3))
  end)

  it("is no matter in a quorum queue of RabbitMQ 3", function()
    local c = connect()
    local q = assert(c:queue(name "quorum", { type = "quorum" }))
    for i, p in ipairs { 1, 5, 3 } do assert(c:publish("", q, tostring(i), { priority = p })) end
    assert.equal("1 2 3", broker.bodies(c, q, 3))
    assert(c:delete_queue(q))
  end)

  it("does not overtake what is delivered already", function()
    local c = connect()
    local q = assert(c:queue(name "priority", own { max_priority = 5 }))
    broker.fill(c, q, "low 1", "low 2", "low 3")
    local h = broker.hold(c, q, { prefetch = 2 })
    h.wait(2)
    assert(c:publish("", q, "high", { priority = 5 }))
    h.finish(true)
    broker.eventually(function() return #h.got == 4 end)
    assert.same({ "low 1", "low 2", "high", "low 3" }, { h.got[1].body, h.got[2].body, h.got[3].body, h.got[4].body })
    assert(h.consumer:stop())
  end)

  it("takes a requeued one back at its own level and in its place", function()
    local c = connect()
    local q = assert(c:queue(name "priority", own { max_priority = 5 }))
    for i, p in ipairs { 2, 2, 5, 1 } do assert(c:publish("", q, tostring(i), { priority = p })) end
    local h = broker.hold(c, q, { prefetch = 2 })
    h.wait(2)                                           -- 3 and 1
    local stopping = mx.spawn(function() h.consumer:stop() end)
    mx.sleep(0.02)
    h.finish "requeue"
    stopping:wait(5)
    broker.count(c, q, 4)
    local seen = {}
    for i, m in ipairs(broker.take(c, q, 4)) do seen[i] = m.body .. (m.redelivered and "r" or "") end
    assert.equal("3r 1r 2 4", table.concat(seen, " "))
  end)

  it("dead-letters in its order of levels", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", own()))
    local q = assert(c:queue(name "priority", own { max_priority = 5, ttl = 0.05,
      args = { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = dead } }))
    for i, p in ipairs { 1, 3, 2, 3 } do assert(c:publish("", q, tostring(i), { priority = p })) end
    broker.count(c, dead, 4)
    assert.equal(4, #broker.take(c, dead, 4))           -- the levels' timers race: which of them is first is open
  end)

  it("counts and purges all levels", function()
    local c = connect()
    local q = assert(c:queue(name "priority", own { max_priority = 5 }))
    for p = 0, 5 do assert(c:publish("", q, "x", { priority = p })) end
    assert.equal(6, broker.ready(c, q))
    assert.equal(6, c:purge(q))
    assert.equal(0, broker.ready(c, q))
  end)
end)

on_each_broker("consumer priorities", function(connect, name)
  it("give everything to the highest while it has room", function()
    local c = connect()
    local q = assert(c:queue(name "consumers", own()))
    local low = broker.hold(c, q, { priority = -1, prefetch = 10 })
    local none = broker.hold(c, q, { prefetch = 10 })
    local high = broker.hold(c, q, { priority = 10, prefetch = 10 })
    broker.fill(c, q, "1", "2", "3", "4")
    high.wait(4)
    assert.same({ 4, 0, 0 }, { #high.got, #none.got, #low.got })
    for _, h in ipairs { low, none, high } do h.finish(true) end
  end)

  it("go down by one when the highest is full", function()
    local c = connect()
    local q = assert(c:queue(name "consumers", own()))
    local low = broker.hold(c, q, { priority = 1, prefetch = 1 })
    local high = broker.hold(c, q, { priority = 2, prefetch = 2 })
    local middle = broker.hold(c, q, { args = { ["x-priority"] = 1 }, prefetch = 1 })
    broker.fill(c, q, "1", "2", "3", "4", "5")
    high.wait(2)
    low.wait(1)
    middle.wait(1)
    assert.same({ "1", "2" }, { high.got[1].body, high.got[2].body })
    assert.equal(1, broker.ready(c, q))
    for _, h in ipairs { low, high, middle } do h.finish(true) end
  end)

  it("share among equals in turn", function()
    local c = connect()
    local q = assert(c:queue(name "consumers", own()))
    local a = broker.hold(c, q, { priority = 5, prefetch = 10 })
    local b = broker.hold(c, q, { priority = 5, prefetch = 10 })
    local none = broker.hold(c, q, { prefetch = 10 })
    broker.fill(c, q, "1", "2", "3", "4")
    a.wait(2)
    b.wait(2)
    assert.equal(0, #none.got)
    for _, h in ipairs { a, b, none } do h.finish(true) end
  end)
end)

on_each_broker("a single active consumer", function(connect, name)
  local function three(c, q)
    local list = {}
    for i = 1, 3 do list[i] = broker.hold(c, q, { prefetch = 10 }) end
    return list
  end
  local function counts(list)
    local n = {}
    for i, h in ipairs(list) do n[i] = #h.got end
    return n
  end

  it("is the first that came; the others wait", function()
    local c = connect()
    local q = assert(c:queue(name "single", own { single_active_consumer = true }))
    local list = three(c, q)
    broker.fill(c, q, "1", "2", "3")
    list[1].wait(3)
    assert.same({ 3, 0, 0 }, counts(list))
    assert.equal(3, assert(c:queue_info(q)).consumers)
    for _, h in ipairs(list) do h.finish(true) end
  end)

  it("hands over to the next in age when it goes", function()
    local c = connect()
    local q = assert(c:queue(name "single", own { single_active_consumer = true }))
    local list = three(c, q)
    list[1].finish(true)
    broker.fill(c, q, "1")
    list[1].wait(1)
    assert(list[1].consumer:stop())
    broker.fill(c, q, "2", "3")
    list[2].wait(2)
    assert.same({ 1, 2, 0 }, counts(list))
    for _, h in ipairs(list) do h.finish(true) end
  end)

  it("does not share when it is full", function()
    local c = connect()
    local q = assert(c:queue(name "single", own { single_active_consumer = true }))
    local first = broker.hold(c, q, { prefetch = 1 })
    local second = broker.hold(c, q, { prefetch = 10 })
    broker.fill(c, q, "1", "2", "3")
    first.wait(1)
    mx.sleep(0.03)
    assert.same({ 1, 0 }, { #first.got, #second.got })
    assert.equal(2, broker.ready(c, q))
    first.finish(true)
    second.finish(true)
  end)

  it("is not displaced by a priority", function()
    local c = connect()
    local q = assert(c:queue(name "single", own { single_active_consumer = true }))
    local first = broker.hold(c, q, { prefetch = 10 })
    local second = broker.hold(c, q, { priority = 10, prefetch = 10 })
    broker.fill(c, q, "1", "2")
    first.wait(2)
    assert.equal(0, #second.got)
    first.finish(true)
    second.finish(true)
  end)

  it("goes on in a quorum queue", function()
    local c = connect()
    local q = assert(c:queue(name "single", { type = "quorum", single_active_consumer = true }))
    local list = three(c, q)
    broker.fill(c, q, "1", "2")
    list[1].wait(2)
    assert.same({ 2, 0, 0 }, counts(list))
    for _, h in ipairs(list) do h.finish(true) end
    assert(list[1].consumer:stop())
    broker.fill(c, q, "3")
    list[2].wait(1)
    for _, h in ipairs(list) do h.consumer:stop() end
    assert(c:delete_queue(q))
  end)
end)
