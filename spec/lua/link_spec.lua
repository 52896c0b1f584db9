local on_each_broker, eventually = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

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

  it("that a full auto_ack inbox keeps from reading lives on, and calls and publishes are answered meanwhile", function()
    local c = connect { heartbeat = 1, rpc_timeout = 1 }
    local q = assert(c:queue(name "full", { durable = false }))
    local body, go, n = ("x"):rep(1000), false, 0
    for _ = 1, 6000 do assert(c:publish_async("", q, body)) end
    assert(c:consume(q, { auto_ack = true }, function()
      while not go do mx.sleep(0.01) end
      n = n + 1
    end))
    local other
    mx.spawn(function() other = c:consume(assert(c:queue(name "other", { durable = false })), function() end) end)
    for _ = 1, 5 do                       -- beyond two heartbeats, and beyond rpc_timeout
      mx.sleep(0.5)
      assert(c:queue_info(q))
      assert(c:publish("", q, body))
    end
    go = true
    eventually(function() return n == 6005 and other end)
  end)

  it("keeps exclusive queues where they are consumed", function()
    local c = connect()
    local q = assert(c:queue(name "mine", { exclusive = true, durable = false }))
    local own = assert(c:queue "")
    local seen = {}
    for _, queue in ipairs { q, own } do
      assert(c:bind(queue, "amq.direct", queue))
      assert(c:queue_info(queue))
      assert(c:purge(queue))
      assert(c:consume(queue, function(m) seen[#seen + 1] = m.queue end))
      assert(c:publish("amq.direct", queue, "x"))
    end
    eventually(function() return #seen == 2 end)
    assert(c:delete_queue(name "not there"))
  end)

  it("closes a consumer whose first handler never ends, and what others settled behind it does not come again", function()
    local c = connect()
    local q = assert(c:queue(name "closing", { durable = false }))
    for i = 1, 9 do assert(c:publish("", q, tostring(i))) end
    local n = 0
    local consumer = assert(c:consume(q, { concurrency = 9, prefetch = 9 }, function(m)
      if m.body == "1" then mx.sleep(60) end
      n = n + 1
    end))
    eventually(function() return n == 8 end)
    assert.is_nil((consumer:stop(0)))
    local again = {}
    assert(c:consume(q, function(m) again[#again + 1] = m.body end))
    eventually(function() return #again > 0 end)
    mx.sleep(0.1)
    assert.same({ "1" }, again)
  end)
end)

local amqp = os.getenv "MXRUN_SPEC_AMQP"
if not amqp then return end

describe("a publisher on RabbitMQ", function()
  it("keeps the reason why its channel closed only until it is open again", function()
    local c = assert(mx.connect { url = amqp })
    local p = c:publisher()
    local _, e = c:publish("spec.no.such.exchange", "k", "x")
    assert.equal(404, e.reply_code)
    assert.is_true(p.pub.error ~= nil)
    assert(c:publish("amq.direct", "", "x", { mandatory = false }))
    assert.is_true(p.pub.error == nil)
    assert.equal(0, p.pub.reply_code)
    c:close()
  end)

  it("takes times without end as very long ones", function()
    local c = assert(mx.connect { url = amqp, heartbeat = 1e9, connect_timeout = 1e300, rpc_timeout = 1e300 })
    assert(c:delete_queue "spec.no.such.queue")
    assert.is_true(c:publish("amq.direct", "", "x", { mandatory = false }))
    c:close()
  end)
end)
