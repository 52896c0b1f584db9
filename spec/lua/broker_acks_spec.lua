-- Deliveries and what becomes of them: prefetch, order, requeues, consumers that come and go, quorum queues' counts.
local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)
local broker = dofile "spec/lua/broker.lua"
local own = broker.own

-- Stops a holding consumer with a verdict for what it holds.
local function stop(h, verdict)
  local stopping = mx.spawn(function() h.consumer:stop() end)
  mx.sleep(0.02)                                        -- the cancel goes before the verdicts
  h.finish(verdict)
  assert(stopping:wait(5))
end

-- "1 2r": bodies, r for redelivered.
local function marked(list)
  local t = {}
  for i, m in ipairs(list) do t[i] = m.body .. (m.redelivered and "r" or "") end
  return table.concat(t, " ")
end

on_each_broker("deliveries", function(connect, name)
  it("come in the order of publishing, numbered from 1", function()
    local c = connect()
    local q = assert(c:queue(name "acks", own()))
    for i = 1, 50 do assert(c:publish_async("", q, tostring(i))) end
    local list = broker.take(c, q, 50)
    for i = 1, 50 do assert.same({ tostring(i), i }, { list[i].body, list[i].tag }) end
  end)

  for _, n in ipairs { 1, 2, 5 } do
    it("are at most the prefetch at once: " .. n, function()
      local c = connect()
      local q = assert(c:queue(name "acks", own()))
      local h = broker.hold(c, q, { prefetch = n })
      for i = 1, 8 do assert(c:publish("", q, tostring(i))) end
      h.wait(n)
      mx.sleep(0.02)
      assert.equal(n, #h.got)
      assert.equal(8 - n, broker.ready(c, q))
      h.finish(true)
      broker.eventually(function() return #h.got == 8 end)
    end)
  end

  it("go on when one of those held is settled, whichever", function()
    local c = connect()
    local q = assert(c:queue(name "acks", own()))
    local got, free = {}, {}
    assert(c:consume(q, { prefetch = 3, concurrency = 10 }, function(m)
      got[#got + 1] = m.body
      while not free[m.body] do mx.sleep(0.002) end
    end))
    broker.fill(c, q, "1", "2", "3", "4", "5")
    broker.eventually(function() return #got == 3 end)
    free["2"] = true
    broker.eventually(function() return #got == 4 end)
    assert.equal("4", got[4])
    for i = 1, 5 do free[tostring(i)] = true end
    broker.eventually(function() return #got == 5 end)
  end)

  it("are shared among consumers in turn", function()
    local c = connect()
    local q = assert(c:queue(name "acks", own()))
    local list = {}
    for i = 1, 3 do list[i] = broker.hold(c, q, { prefetch = 10 }) end
    for i = 1, 9 do assert(c:publish("", q, tostring(i))) end
    for i, h in ipairs(list) do assert.equal(({ "1 4 7", "2 5 8", "3 6 9" })[i], marked(h.wait(3))) end
    for _, h in ipairs(list) do h.finish(true) end
  end)

  it("pass over a consumer that is full", function()
    local c = connect()
    local q = assert(c:queue(name "acks", own()))
    local a, b = broker.hold(c, q, { prefetch = 1 }), broker.hold(c, q, { prefetch = 10 })
    for i = 1, 4 do assert(c:publish("", q, tostring(i))) end
    assert.equal("1", marked(a.wait(1)))
    assert.equal("2 3 4", marked(b.wait(3)))
    a.finish(true)
    b.finish(true)
  end)

  it("are counted as ready only while nobody has them", function()
    local c = connect()
    local q = assert(c:queue(name "acks", own()))
    broker.fill(c, q, "1", "2", "3")
    assert.same({ messages = 3, consumers = 0 }, c:queue_info(q))
    local h = broker.hold(c, q, { prefetch = 2 })
    h.wait(2)
    assert.same({ messages = 1, consumers = 1 }, c:queue_info(q))
    h.finish(true)
    broker.eventually(function() return #h.got == 3 end)
    assert(h.consumer:stop())
    assert.same({ messages = 0, consumers = 0 }, c:queue_info(q))
  end)

  it("without acks are gone when they are delivered", function()
    local c = connect()
    local q = assert(c:queue(name "acks", own()))
    broker.fill(c, q, "1", "2")
    local h = broker.hold(c, q, { auto_ack = true })
    h.wait(2)
    stop(h, true)
    assert.equal(0, broker.ready(c, q))
  end)

  it("carry all properties", function()
    local c = connect()
    local q = assert(c:queue(name "acks", own()))
    local got
    assert(c:publish("", q, "x", { id = "i", correlation_id = "c", reply_to = "r", content_type = "t/p", content_encoding = "e",
      type = "t", app_id = "a", timestamp = 1700000000, priority = 7, headers = { h = 1 } }))
    assert(c:consume(q, function(m)
      got = { m.id, m.correlation_id, m.reply_to, m.content_type, m.content_encoding, m.type, m.app_id, m.timestamp, m.priority,
              m.headers.h }
    end))
    broker.eventually(function() return got end)
    assert.same({ "i", "c", "r", "t/p", "e", "t", "a", 1700000000, 7, 1 }, got)
  end)
end)

on_each_broker("what comes back", function(connect, name, again)
  it("stands where it stood, marked as redelivered", function()
    local c = connect()
    local q = assert(c:queue(name "acks", own()))
    broker.fill(c, q, "1", "2", "3", "4")
    local h = broker.hold(c, q, { prefetch = 2 })
    h.wait(2)
    stop(h, "requeue")
    broker.count(c, q, 4)
    assert.equal("1r 2r 3 4", marked(broker.take(c, q, 4)))
  end)

  it("stands where it stood although others were settled in between", function()
    local c = connect()
    local q = assert(c:queue(name "acks", own()))
    broker.fill(c, q, "1", "2", "3", "4", "5")
    local verdicts, done, seen = { ["1"] = "requeue", ["2"] = true, ["3"] = "requeue", ["4"] = true }, false, 0
    local consumer = assert(c:consume(q, { prefetch = 4, concurrency = 10 }, function(m)
      local verdict = verdicts[m.body]
      seen = seen + 1
      while not done do mx.sleep(0.002) end
      return verdict
    end))
    broker.eventually(function() return seen == 4 end)
    local stopping = mx.spawn(function() consumer:stop() end)
    mx.sleep(0.02)
    done = true
    assert(stopping:wait(5))
    broker.count(c, q, 3)
    assert.equal("1r 3r 5", marked(broker.take(c, q, 3)))
  end)

  it("is what was delivered and never handled", function()
    local c = connect()
    local q = assert(c:queue(name "acks", own()))
    broker.fill(c, q, "1", "2", "3")
    local h = broker.hold(c, q, { concurrency = 1, prefetch = 3 })
    h.wait(1)
    stop(h, true)
    broker.count(c, q, 2)
    local list = broker.take(c, q, 2)
    assert.same({ "2", "3" }, { list[1].body, list[2].body })
  end)

  it("is seen by another connection", function()
    local c = connect()
    local q = assert(c:queue(name "acks", { durable = false }))
    broker.fill(c, q, "1", "2")
    local h = broker.hold(c, q)
    h.wait(2)
    stop(h, "requeue")
    assert.equal("1r 2r", marked(broker.take(again(c), q, 2)))
    assert(c:delete_queue(q))
  end)

  it("goes to another consumer that has room", function()
    local c = connect()
    local q = assert(c:queue(name "acks", own()))
    local a = broker.hold(c, q, { prefetch = 1 })
    broker.fill(c, q, "1")
    a.wait(1)
    local b = broker.hold(c, q, { prefetch = 1 })
    stop(a, "requeue")
    assert.equal("1r", marked(b.wait(1)))
    b.finish(true)
  end)

  it("may be refused then", function()
    local c = connect()
    local q = assert(c:queue(name "acks", own()))
    local seen = {}
    broker.fill(c, q, "x")
    assert(c:consume(q, function(m)
      seen[#seen + 1] = m.redelivered
      return #seen < 3 and "requeue" or "reject"
    end))
    broker.eventually(function() return #seen == 3 end)
    mx.sleep(0.02)
    assert.same({ false, true, true }, seen)
    assert.equal(0, broker.ready(c, q))
  end)

  it("in one queue is not redelivered in another", function()
    local c = connect()
    local x = assert(c:exchange(name "x", { type = "fanout", durable = false, auto_delete = true }))
    local a = assert(c:queue(name "acks", own { bind = { { x } } }))
    local b = assert(c:queue(name "acks", own { bind = { { x } } }))
    assert(c:publish(x, "", "x"))
    local h = broker.hold(c, a)
    h.wait(1)
    stop(h, "requeue")
    assert.equal("x", marked(broker.take(c, b, 1)))
    assert.equal("xr", marked(broker.take(c, a, 1)))
  end)

  it("does not when its queue is gone", function()
    local c = connect()
    local q = assert(c:queue(name "acks", { durable = false }))
    broker.fill(c, q, "x")
    local h = broker.hold(c, q)
    h.wait(1)
    stop(h, true)
    assert(c:delete_queue(q))
    assert(c:queue(q, { durable = false }))
    assert.equal(0, broker.ready(c, q))
    assert(c:delete_queue(q))
  end)

  it("is not purged while it is out", function()
    local c = connect()
    local q = assert(c:queue(name "acks", own()))
    broker.fill(c, q, "1", "2", "3")
    local h = broker.hold(c, q, { prefetch = 1 })
    h.wait(1)
    assert.equal(2, c:purge(q))
    stop(h, "requeue")
    broker.count(c, q, 1)
    assert.equal("1r", marked(broker.take(c, q, 1)))
  end)
end)

on_each_broker("a quorum queue", function(connect, name)
  -- The x-delivery-count of each delivery until f says something else than requeue.
  local function counts(c, q, n, last)
    local seen = {}
    local consumer = assert(c:consume(q, function(m)
      seen[#seen + 1] = m.headers["x-delivery-count"] or "none"
      return #seen < n and "requeue" or last
    end))
    broker.eventually(function() return #seen >= n end)
    mx.sleep(0.03)
    assert(consumer:stop())
    return seen
  end

  it("counts how often a message came back", function()
    local c = connect()
    local q = assert(c:queue(name "quorum", { type = "quorum" }))
    broker.fill(c, q, "x")
    assert.same({ "none", 1, 2, 3 }, counts(c, q, 4, true))
    assert(c:delete_queue(q))
  end)

  it("keeps the other headers and the body", function()
    local c = connect()
    local q = assert(c:queue(name "quorum", { type = "quorum" }))
    local seen = {}
    assert(c:publish("", q, "x", { headers = { mine = 1 }, id = "i", priority = 2 }))
    assert(c:consume(q, function(m)
      seen[#seen + 1] = { m.body, m.headers.mine, m.id, m.priority, m.redelivered, m.key }
      if #seen < 3 then return "requeue" end
    end))
    broker.eventually(function() return #seen == 3 end)
    assert.same({ "x", 1, "i", 2, false, q }, seen[1])
    assert.same({ "x", 1, "i", 2, true, q }, seen[3])
  end)

  it("drops a message beyond its delivery limit", function()
    local c = connect()
    local q = assert(c:queue(name "quorum", { type = "quorum", delivery_limit = 2 }))
    broker.fill(c, q, "x")
    assert.same({ "none", 1, 2 }, counts(c, q, 3, "requeue"))
    broker.count(c, q, 0)
    assert(c:delete_queue(q))
  end)

  it("with a limit of 0 or below delivers once", function()     -- RabbitMQ 4 takes -1 for no limit, 3.x does not
    for _, limit in ipairs { 0, -1 } do
      local c = connect()
      local q = assert(c:queue(name "quorum", { type = "quorum", args = { ["x-delivery-limit"] = limit } }))
      broker.fill(c, q, "x")
      assert.same({ "none" }, counts(c, q, 1, "requeue"))
      broker.count(c, q, 0)
      assert(c:delete_queue(q))
    end
  end)

  it("names the limit in the dead letter, which does not carry the count", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", own()))
    local q = assert(c:queue(name "quorum", { type = "quorum", delivery_limit = 1,
      args = { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = dead } }))
    broker.fill(c, q, "x")
    assert.same({ "none", 1 }, counts(c, q, 2, "requeue"))
    local h = broker.take(c, dead, 1)[1].headers
    local d = h["x-death"][1]
    assert.same({ "delivery_limit", q, 1, "", { q } }, { d.reason, d.queue, d.count, d.exchange, d["routing-keys"] })
    assert.equal("delivery_limit", h["x-first-death-reason"])
    assert.is_nil(h["x-delivery-count"])
    assert(c:delete_queue(q))
  end)

  it("says rejected for what is rejected", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", own()))
    local q = assert(c:queue(name "quorum", { type = "quorum",
      args = { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = dead } }))
    broker.fill(c, q, "x")
    assert.same({ "none", 1 }, counts(c, q, 2, "reject"))
    local h = broker.take(c, dead, 1)[1].headers
    assert.equal("rejected", h["x-death"][1].reason)
    assert.is_nil(h["x-delivery-count"])
    assert(c:delete_queue(q))
  end)

  it("says expired for what expired", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", own()))
    local q = assert(c:queue(name "quorum", { type = "quorum", ttl = 0.05,
      args = { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = dead } }))
    broker.fill(c, q, "x")
    assert.equal("expired", broker.take(c, dead, 1)[1].headers["x-death"][1].reason)
    assert(c:delete_queue(q))
  end)

  for _, row in ipairs {
    { "puts what was requeued at its end", { type = "quorum" }, "2 3 1r" },
    { "puts what was requeued at its head when it has a delivery limit", { type = "quorum", delivery_limit = 5 }, "1r 2 3" },
  } do
    it(row[1], function()
      local c = connect()
      local q = assert(c:queue(name "quorum", row[2]))
      broker.fill(c, q, "1", "2", "3")
      local h = broker.hold(c, q, { prefetch = 1 })
      h.wait(1)
      stop(h, "requeue")
      broker.count(c, q, 3)
      assert.equal(row[3], marked(broker.take(c, q, 3)))
      assert(c:delete_queue(q))
    end)
  end

  it("lets exclusive consumers share: it does not know them", function()
    local c = connect()
    local q = assert(c:queue(name "quorum", { type = "quorum" }))
    local a = assert(c:consume(q, { exclusive = true }, function() end))
    local b = assert(c:consume(q, {}, function() end))
    assert(a:stop())
    assert(b:stop())
    assert(c:delete_queue(q))
  end)
end)
