-- Dead letters: where they go, and what x-death says about them.
local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)
local broker = dofile "spec/lua/broker.lua"

-- A queue whose dead letters go to `to` by the default exchange; more: further arguments.
local function dead_to(to, more)
  local args = { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = to }
  for k, v in pairs(more or {}) do args[k] = v end
  return { durable = false, exclusive = true, args = args }
end
local OWN = { durable = false, exclusive = true }

-- Rejects n messages of a queue.
local function reject(c, q, n)
  local seen = 0
  local consumer = assert(c:consume(q, function()
    seen = seen + 1
    return "reject"
  end))
  broker.eventually(function() return seen >= (n or 1) end)
  assert(consumer:stop())
end

-- What does not change from run to run.
local function entry(e)
  local e2 = {}
  for k, v in pairs(e) do e2[k] = v end
  assert.is_true(math.abs(e.time.value - os.time()) < 60)
  e2.time = nil
  return e2
end

on_each_broker("a rejected message", function(connect, name, again)
  it("goes to the dead-letter exchange with the queue's key, and says what happened", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", OWN))
    local q = assert(c:queue(name "q", dead_to(dead)))
    assert(c:publish("", q, "bad", { headers = { mine = 1 }, id = "id-1", correlation_id = "c-1", priority = 3 }))
    reject(c, q)
    local m = broker.take(c, dead, 1)[1]
    assert.same({ "bad", dead, "", false, "id-1", 3 }, { m.body, m.key, m.exchange, m.redelivered, m.id, m.priority })
    local h = m.headers
    assert.equal(1, #h["x-death"])
    assert.same({ count = 1, reason = "rejected", queue = q, exchange = "", ["routing-keys"] = { q } }, entry(h["x-death"][1]))
    assert.same({ "rejected", q, "" }, { h["x-first-death-reason"], h["x-first-death-queue"], h["x-first-death-exchange"] })
    assert.equal(1, h.mine)
  end)

  it("keeps its own key where the queue names none", function()
    local c = connect()
    local x = assert(c:exchange(name "dlx", { type = "topic", durable = false, auto_delete = true }))
    local dead = assert(c:queue(name "dead", { durable = false, exclusive = true, bind = { { x, "order.#" } } }))
    local q = assert(c:queue(name "q", { durable = false, exclusive = true, args = { ["x-dead-letter-exchange"] = x } }))
    assert(c:bind(q, "amq.topic", q .. ".#"))
    assert(c:publish("", q, "not for topic"))
    assert(c:bind(q, "amq.direct", "order." .. q))
    assert(c:publish("amq.direct", "order." .. q, "bad"))
    reject(c, q, 2)
    local m = broker.take(c, dead, 1)[1]
    assert.same({ "bad", x, "order." .. q }, { m.body, m.exchange, m.key })
    local d = entry(m.headers["x-death"][1])
    assert.same({ "amq.direct", { "order." .. q } }, { d.exchange, d["routing-keys"] })
    assert.equal("amq.direct", m.headers["x-first-death-exchange"])
    assert.equal(0, broker.ready(c, dead))
  end)

  it("is dropped where the queue has no dead-letter exchange", function()
    local c = connect()
    local q = assert(c:queue(name "q", OWN))
    broker.fill(c, q, "bad")
    reject(c, q)
    assert.equal(0, broker.ready(c, q))
  end)

  it("is dropped where that exchange is missing", function()
    local c = connect()
    local q = assert(c:queue(name "q", { durable = false, exclusive = true, args = { ["x-dead-letter-exchange"] = name "none" } }))
    broker.fill(c, q, "bad", "worse")
    reject(c, q, 2)
    assert.equal(0, broker.ready(c, q))
  end)

  it("is dropped where nothing is bound there, and goes to an alternate exchange if there is one", function()
    local c = connect()
    local ae = assert(c:exchange(name "ae", { type = "fanout", durable = false, auto_delete = true }))
    local dead = assert(c:queue(name "dead", { durable = false, exclusive = true, bind = { { ae } } }))
    local x = assert(c:exchange(name "dlx", { durable = false, alternate = ae }))
    local q = assert(c:queue(name "q", { durable = false, exclusive = true, args = { ["x-dead-letter-exchange"] = x } }))
    broker.fill(c, q, "bad")
    reject(c, q)
    assert.equal("bad", broker.bodies(c, dead, 1))
    assert(c:delete_exchange(x))
  end)

  it("finds a dead-letter exchange that came later", function()
    local c, x = connect(), name "later"
    local q = assert(c:queue(name "q", { durable = false, exclusive = true, args = { ["x-dead-letter-exchange"] = x } }))
    broker.fill(c, q, "bad")
    assert(c:exchange(x, { type = "fanout", durable = false, auto_delete = true }))
    local dead = assert(c:queue(name "dead", { durable = false, exclusive = true, bind = { { x } } }))
    reject(c, q)
    assert.equal("bad", broker.bodies(c, dead, 1))
  end)

  it("may go through an internal exchange", function()
    local c = connect()
    local x = assert(c:exchange(name "dlx", { type = "fanout", internal = true, durable = false, auto_delete = true }))
    local dead = assert(c:queue(name "dead", { durable = false, exclusive = true, bind = { { x } } }))
    local q = assert(c:queue(name "q", { durable = false, exclusive = true, args = { ["x-dead-letter-exchange"] = x } }))
    broker.fill(c, q, "bad")
    reject(c, q)
    assert.equal("bad", broker.bodies(c, dead, 1))
  end)

  it("is found by its headers, x-death among them", function()
    local c = connect()
    local x = assert(c:exchange(name "dlx", { type = "headers", durable = false, auto_delete = true }))
    local dead = assert(c:queue(name "dead", { durable = false, exclusive = true,
      bind = { { x, "", { ["x-match"] = "all-with-x", ["x-first-death-reason"] = "rejected", mine = 1 } } } }))
    local q = assert(c:queue(name "q", { durable = false, exclusive = true, args = { ["x-dead-letter-exchange"] = x } }))
    assert(c:publish("", q, "other", { headers = { mine = 2 } }))
    assert(c:publish("", q, "bad", { headers = { mine = 1 } }))
    reject(c, q, 2)
    assert.equal("bad", broker.bodies(c, dead, 1))
  end)

  it("comes to every queue bound there", function()
    local c = connect()
    local x = assert(c:exchange(name "dlx", { type = "fanout", durable = false, auto_delete = true }))
    local one = assert(c:queue(name "dead", { durable = false, exclusive = true, bind = { { x } } }))
    local two = assert(c:queue(name "dead", { durable = false, exclusive = true, bind = { { x } } }))
    local q = assert(c:queue(name "q", { durable = false, exclusive = true, args = { ["x-dead-letter-exchange"] = x } }))
    broker.fill(c, q, "bad")
    reject(c, q)
    assert.equal("bad", broker.bodies(c, one, 1))
    assert.equal("bad", broker.bodies(c, two, 1))
  end)

  it("keeps the order in which it was rejected", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", OWN))
    local q = assert(c:queue(name "q", dead_to(dead)))
    broker.fill(c, q, "1", "2", "3", "4", "5")
    reject(c, q, 5)
    assert.equal("1 2 3 4 5", broker.bodies(c, dead, 5))
  end)

  it("may come back to its own queue, for ever", function()
    local c, q = connect(), name "self"
    assert(c:queue(q, dead_to(q)))
    broker.fill(c, q, "again")
    local counts = {}
    local consumer = assert(c:consume(q, function(m)
      local deaths = m.headers["x-death"]
      counts[#counts + 1] = deaths and deaths[1].count or 0
      if #counts < 4 then return "reject" end
    end))
    broker.eventually(function() return #counts == 4 end)
    assert(consumer:stop())
    assert.same({ 0, 1, 2, 3 }, counts)
  end)

  it("that comes back for ever leaves confirms, timers and other queues their turn", function()
    local before, q = connect(), name "self"
    assert(before:exchange("amq.direct", { passive = true }))           -- its link is older than the consumer's
    local c, after = again(before), again(before)
    local other, runs, rang, got = assert(c:queue(name "other", OWN)), 0, false, 0
    assert(c:queue(q, dead_to(q)))
    local consumer = assert(c:consume(q, function()
      runs = runs + 1
      return "reject"
    end))
    assert(c:consume(other, function() got = got + 1 end))
    for _, publisher in ipairs { before, c, after } do
      assert(publisher:publish("", q, "again", { timeout = 10 }))
      broker.eventually(function() return runs > 100 end)
      assert(publisher:publish("", other, "for somebody else", { timeout = 10 }))
    end
    mx.after(0.01, function() rang = true end)
    broker.eventually(function() return rang and got == 3 end)
    assert(consumer:stop())
  end)

  it("is not what a requeued one is", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", OWN))
    local q = assert(c:queue(name "q", dead_to(dead)))
    broker.fill(c, q, "x")
    local h = broker.hold(c, q)
    h.wait(1)
    h.finish "requeue"
    broker.eventually(function() return h.got[2] end)
    assert(h.consumer:stop())
    assert.is_true(h.got[2].redelivered)
    assert.is_nil(h.got[2].headers["x-death"])
    assert.equal(0, broker.ready(c, dead))
  end)

  for _, row in ipairs {
    { "keeps what the headers held, of every type", { a = true, b = -5, c = 1.5, d = "text", e = { 1, "two", { f = 3 } }, g = mx.null } },
    { "keeps an x-death that is no list out", { ["x-death"] = "text" }, { } },
    { "keeps x-first-death that the publisher wrote, as long as there is x-death",
      { ["x-death"] = { { queue = "old", reason = "expired", count = 2 } }, ["x-first-death-reason"] = "mine" } },
  } do
    it(row[1], function()
      local c = connect()
      local dead = assert(c:queue(name "dead", OWN))
      local q = assert(c:queue(name "q", dead_to(dead)))
      assert(c:publish("", q, "bad", { headers = row[2] }))
      reject(c, q)
      local h = broker.take(c, dead, 1)[1].headers
      for k, v in pairs(row[3] or row[2]) do
        if k ~= "x-death" then assert.same(v, h[k]) end
      end
      assert.equal("rejected", h["x-death"][1].reason)
      assert.equal(type(row[2]["x-death"]) == "table" and 2 or 1, #h["x-death"])
    end)
  end
end)

on_each_broker("x-death", function(connect, name)
  it("counts deaths of the same queue and reason in one entry, the latest first", function()
    local c = connect()
    local a, b = name "a", name "b"
    assert(c:queue(a, dead_to(b)))
    assert(c:queue(b, dead_to(a)))
    broker.fill(c, a, "x")
    for _ = 1, 2 do
      reject(c, a)
      reject(c, b)
    end
    reject(c, a)
    local d = broker.take(c, b, 1)[1].headers["x-death"]
    assert.equal(2, #d)
    assert.same({ count = 3, reason = "rejected", queue = a, exchange = "", ["routing-keys"] = { a } }, entry(d[1]))
    assert.same({ count = 2, reason = "rejected", queue = b, exchange = "", ["routing-keys"] = { b } }, entry(d[2]))
  end)

  it("leaves the first death's marks as they are", function()
    local c = connect()
    local a, b, last = name "a", name "b", assert(c:queue(name "last", OWN))
    assert(c:queue(a, dead_to(b)))
    assert(c:queue(b, dead_to(last)))
    broker.fill(c, a, "x")
    reject(c, a)
    reject(c, b)
    local h = broker.take(c, last, 1)[1].headers
    assert.same({ a, "rejected", "" }, { h["x-first-death-queue"], h["x-first-death-reason"], h["x-first-death-exchange"] })
    assert.same({ b, a }, { h["x-death"][1].queue, h["x-death"][2].queue })
  end)

  it("has an entry for each reason", function()
    local c = connect()
    local q, wait = name "q", name "wait"
    assert(c:queue(q, dead_to(wait)))
    assert(c:queue(wait, dead_to(q, { ["x-message-ttl"] = 20 })))
    broker.fill(c, q, "x")
    reject(c, q)
    broker.count(c, q, 1)
    local d = broker.take(c, q, 1)[1].headers["x-death"]
    assert.same({ "expired", wait, 1 }, { d[1].reason, d[1].queue, d[1].count })
    assert.same({ "rejected", q, 1 }, { d[2].reason, d[2].queue, d[2].count })
  end)

  it("counts through a retry loop of reject and wait", function()
    local c = connect()
    local q, wait = name "q", name "wait"
    assert(c:queue(q, dead_to(wait)))
    assert(c:queue(wait, dead_to(q, { ["x-message-ttl"] = 10 })))
    broker.fill(c, q, "x")
    local seen = {}
    local consumer = assert(c:consume(q, function(m)
      local d = m.headers["x-death"]
      seen[#seen + 1] = d and d[1].count .. d[1].reason .. d[2].count .. d[2].reason or "new"
      if #seen < 4 then return "reject" end
    end))
    broker.eventually(function() return #seen == 4 end)
    assert(consumer:stop())
    assert.same({ "new", "1expired1rejected", "2expired2rejected", "3expired3rejected" }, seen)
  end)

  it("lists the keys of CC; with a key of the queue's own CC goes", function()
    local c = connect()
    local dead, other = assert(c:queue(name "dead", OWN)), assert(c:queue(name "other", OWN))
    local q = assert(c:queue(name "q", dead_to(dead)))
    assert(c:publish("", q, "x", { headers = { CC = { other } } }))
    reject(c, q)
    local h = broker.take(c, dead, 1)[1].headers
    assert.same({ q, other }, h["x-death"][1]["routing-keys"])
    assert.is_nil(h.CC)
    assert.equal(1, broker.ready(c, other))
  end)

  it("without a key of the queue's own goes by CC too", function()
    local c = connect()
    local x = assert(c:exchange(name "dlx", { durable = false, auto_delete = true }))
    local dead = assert(c:queue(name "dead", { durable = false, exclusive = true, bind = { { x, "cc" } } }))
    local q = assert(c:queue(name "q", { durable = false, exclusive = true, args = { ["x-dead-letter-exchange"] = x } }))
    assert(c:publish("", q, "x", { headers = { CC = { "cc" } } }))
    reject(c, q)
    local m = broker.take(c, dead, 1)[1]
    assert.same({ q, { "cc" } }, { m.key, m.headers.CC })
  end)
end)

on_each_broker("an expired message", function(connect, name)
  it("says so, with the queue's TTL", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", OWN))
    local q = assert(c:queue(name "q", dead_to(dead, { ["x-message-ttl"] = 20 })))
    broker.fill(c, q, "x")
    local h = broker.take(c, dead, 1)[1].headers
    assert.same({ count = 1, reason = "expired", queue = q, exchange = "", ["routing-keys"] = { q } }, entry(h["x-death"][1]))
    assert.equal("expired", h["x-first-death-reason"])
  end)

  it("says what its own expiration was, and has none any more", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", OWN))
    local q = assert(c:queue(name "q", dead_to(dead)))
    assert(c:publish("", q, "x", { expiration = 0.02 }))
    broker.count(c, dead, 1)
    mx.sleep(0.05)
    local h = broker.take(c, dead, 1)[1].headers
    assert.equal("20", h["x-death"][1]["original-expiration"])
  end)

  it("that was rejected before its time says what its expiration was too", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", OWN))
    local q = assert(c:queue(name "q", dead_to(dead)))
    assert(c:publish("", q, "x", { expiration = 60 }))
    reject(c, q)
    assert.equal("60000", broker.take(c, dead, 1)[1].headers["x-death"][1]["original-expiration"])
  end)

  it("does not come back to a queue it expired in: nobody did that by hand", function()
    local c, q = connect(), name "self"
    assert(c:queue(q, dead_to(q, { ["x-message-ttl"] = 20 })))
    broker.fill(c, q, "x")
    broker.count(c, q, 0)
    mx.sleep(0.05)
    assert.equal(0, broker.ready(c, q))
  end)

  it("does not go round between queues by itself", function()
    local c = connect()
    local a, b = name "a", name "b"
    assert(c:queue(a, dead_to(b, { ["x-message-ttl"] = 10 })))
    assert(c:queue(b, dead_to(a, { ["x-message-ttl"] = 10 })))
    broker.fill(c, a, "x")
    broker.eventually(function() return broker.ready(c, a) + broker.ready(c, b) == 0 end)
    mx.sleep(0.05)
    assert.equal(0, broker.ready(c, a) + broker.ready(c, b))
  end)

  it("goes along a chain of queues", function()
    local c = connect()
    local last = assert(c:queue(name "last", OWN))
    local names = { last }
    for i = 2, 4 do names[i] = assert(c:queue(name "chain", dead_to(names[i - 1], { ["x-message-ttl"] = 10 }))) end
    broker.fill(c, names[4], "x")
    local d = broker.take(c, last, 1)[1].headers["x-death"]
    assert.equal(3, #d)
    -- The latest is first; RabbitMQ turns the others round whenever there are two or more of them.
    assert.same({ names[2], names[4], names[3] }, { d[1].queue, d[2].queue, d[3].queue })
  end)
end)
