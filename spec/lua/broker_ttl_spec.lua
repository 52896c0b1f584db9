-- Time: how long messages and queues live. Times are short, and nothing here asks for an exact one.
local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)
local broker = dofile "spec/lua/broker.lua"
local own = broker.own

on_each_broker("a message's life", function(connect, name)
  for _, row in ipairs {
    { "ends with the queue's TTL", { ttl = 0.05 }, nil },
    { "ends with its own expiration", {}, 0.05 },
    { "ends with its own expiration where that is less", { ttl = 60 }, 0.05 },
    { "ends with the queue's TTL where that is less", { ttl = 0.05 }, 60 },
    { "ends in a quorum queue too", { durable = true, exclusive = false, type = "quorum", ttl = 0.05 }, nil },
    { "ends in a quorum queue by its own expiration", { durable = true, exclusive = false, type = "quorum" }, 0.05 },
    { "ends in a queue with priorities", { max_priority = 3, ttl = 0.05 }, nil },
  } do
    it(row[1], function()
      local c = connect()
      local q = assert(c:queue(name "ttl", own(row[2])))
      assert(c:publish("", q, "x", row[3] and { expiration = row[3] }))
      broker.count(c, q, 0)
      assert(c:delete_queue(q))
    end)
  end

  for _, row in ipairs {
    { "of TTL 0 ends at once where nobody waits for it", { ttl = 0 }, nil },
    { "of expiration 0 ends at once where nobody waits for it", {}, 0 },
  } do
    it(row[1], function()
      local c = connect()
      local q = assert(c:queue(name "ttl", own(row[2])))
      assert(c:publish("", q, "x", row[3] and { expiration = row[3] }))
      broker.count(c, q, 0)
    end)

    it((row[1]:gsub("ends at once where nobody", "reaches a consumer that")), function()
      local c = connect()
      local q = assert(c:queue(name "ttl", own(row[2])))
      local got = {}
      assert(c:consume(q, function(m) got[#got + 1] = m.body end))
      assert(c:publish("", q, "x", row[3] and { expiration = row[3] }))
      broker.eventually(function() return got[1] == "x" end)
    end)
  end

  it("goes on behind one that lives longer: expiry is looked for at the head", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", own()))
    local q = assert(c:queue(name "ttl", own { args = { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = dead } }))
    assert(c:publish("", q, "long"))
    assert(c:publish("", q, "short", { expiration = 0.02 }))
    mx.sleep(0.1)
    assert.equal(2, broker.ready(c, q))
    assert.equal("long", broker.bodies(c, q, 1))
    assert.equal("short", broker.bodies(c, dead, 1))
  end)

  it("ends for several at once, in their order", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", own()))
    local q = assert(c:queue(name "ttl", own { ttl = 0.05, args = { ["x-dead-letter-exchange"] = "",
      ["x-dead-letter-routing-key"] = dead } }))
    broker.fill(c, q, "1", "2", "3", "4")
    assert.equal("1 2 3 4", broker.bodies(c, dead, 4))
  end)

  it("does not end in a consumer's hands", function()
    local c = connect()
    local q = assert(c:queue(name "ttl", own { ttl = 0.05 }))
    local h = broker.hold(c, q)
    broker.fill(c, q, "x")
    h.wait(1)
    mx.sleep(0.1)
    assert.equal("x", h.got[1].body)
    h.finish(true)
    assert(h.consumer:stop())
  end)

  it("is over when it comes back late", function()
    local c = connect()
    local q = assert(c:queue(name "ttl", own { ttl = 0.05 }))
    local h = broker.hold(c, q, { prefetch = 1 })
    broker.fill(c, q, "x")
    h.wait(1)
    mx.sleep(0.1)
    h.finish "requeue"
    mx.sleep(0.05)
    assert.equal(1, #h.got)
    assert.equal(0, broker.ready(c, q))
    assert(h.consumer:stop())
  end)

  it("of a long one is not ended", function()
    local c = connect()
    local q = assert(c:queue(name "ttl", own { ttl = 60 }))
    assert(c:publish("", q, "x", { expiration = 3600 }))
    mx.sleep(0.05)
    assert.equal("x", broker.bodies(c, q, 1))
  end)

  it("starts again where it is sent on as a dead letter", function()
    local c = connect()
    local last = assert(c:queue(name "last", own()))
    local middle = assert(c:queue(name "middle", own { ttl = 0.1, args = { ["x-dead-letter-exchange"] = "",
      ["x-dead-letter-routing-key"] = last } }))
    local q = assert(c:queue(name "q", own { ttl = 0.02, args = { ["x-dead-letter-exchange"] = "",
      ["x-dead-letter-routing-key"] = middle } }))
    broker.fill(c, q, "x")
    assert.equal("x", broker.bodies(c, last, 1))
  end)
end)

on_each_broker("a queue's life", function(connect, name)
  -- Looking at a queue counts as use: it is asked for only now and then.
  local function gone(c, q, expires)
    broker.eventually(function()
      mx.sleep(3 * expires)
      local info, e = c:queue_info(q)
      return not info and e.reply_code == 404
    end)
  end

  -- A quorum queue's ends too, at the next of RabbitMQ's ticks of 5 s: too long for a spec.
  it("ends when it is not used for its time", function()
    local c = connect()
    local q = assert(c:queue(name "expires", { durable = false, expires = 0.1 }))
    broker.fill(c, q, "kept", "nevertheless")
    gone(c, q, 0.1)
  end)

  it("goes on while somebody consumes, and starts again when the last one leaves", function()
    local c = connect()
    local q = assert(c:queue(name "expires", { durable = false, expires = 0.1 }))
    local h = broker.hold(c, q)
    mx.sleep(0.25)
    broker.fill(c, q, "x")
    h.wait(1)
    h.finish(true)
    assert(h.consumer:stop())
    gone(c, q, 0.1)
  end)

  it("goes on while somebody asks for it", function()
    local c = connect()
    local q = assert(c:queue(name "expires", { durable = false, expires = 0.4 }))
    for _ = 1, 4 do
      mx.sleep(0.15)
      assert(c:queue_info(q))
    end
    for _ = 1, 4 do
      mx.sleep(0.15)
      assert(c:queue(q, { durable = false, expires = 0.4 }))
    end
  end)

  it("ends although somebody publishes to it", function()
    local c = connect()
    local q = assert(c:queue(name "expires", { durable = false, expires = 0.15 }))
    broker.eventually(function()
      local ok, e = c:publish("", q, "x")
      return not ok and e.code == "unroutable"
    end)
  end)

  it("is longer than its messages' may be", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", own()))
    local q = assert(c:queue(name "expires", { durable = false, expires = 0.3, ttl = 0.05,
      args = { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = dead } }))
    broker.fill(c, q, "x")
    assert.equal("x", broker.bodies(c, dead, 1))
    gone(c, q, 0.3)
  end)

  it("ends with its last consumer when it is auto_delete, not before it had one", function()
    local c = connect()
    local q = assert(c:queue(name "auto", { durable = false, auto_delete = true }))
    broker.fill(c, q, "x")
    local a, b = broker.hold(c, q), broker.hold(c, q)
    a.finish(true)
    b.finish(true)
    assert(a.consumer:stop())
    assert(c:queue_info(q))
    assert(b.consumer:stop())
    broker.eventually(function()
      local info, e = c:queue_info(q)
      return not info and e.reply_code == 404
    end)
  end)

  it("ends with the consumer's connection when it is auto_delete", function()
    local c = connect()
    local q = assert(c:queue(name "auto", { durable = false, auto_delete = true }))
    local b = broker.hold(c, q)
    b.finish(true)
    c:close()
    local other = connect()
    broker.eventually(function() return not other:queue_info(q) end)
  end)
end)
