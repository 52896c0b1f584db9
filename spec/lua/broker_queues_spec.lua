-- Queues as such: names, declaring, binding, counting, purging, deleting; brokers by name.
local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)
local broker = dofile "spec/lua/broker.lua"

local OWN = { durable = false, exclusive = true }

on_each_broker("a queue without a name", function(connect, name, again)
  it("gets one that nobody else has", function()
    local c, seen = connect(), {}
    for _ = 1, 5 do
      local q = assert(c:queue "")
      assert.matches("^mx%.gen%-.", q)
      assert.is_nil(seen[q])
      seen[q] = true
    end
  end)

  it("is exclusive unless it is told otherwise", function()
    local c = connect()
    local other, q = again(c), assert(c:queue "")
    broker.refused(405, "RESOURCE_LOCKED", other:queue_info(q))
    q = assert(c:queue("", { exclusive = false }))
    assert.same({ messages = 0, consumers = 0 }, other:queue_info(q))
    assert(c:delete_queue(q))
  end)

  it("takes, binds and answers by its name", function()
    local c = connect()
    local q = assert(c:queue("", { bind = { { "amq.direct", name "k" } } }))
    broker.fill(c, q, "x")
    assert.equal("x", broker.bodies(c, q, 1))
    assert(c:delete_queue(q))
    assert.equal("unroutable", select(2, c:publish("", q, "x")).code)
  end)

  for _, row in ipairs {
    { "a TTL", { ttl = 0.02 }, 0 }, { "a maximal length", { max_length = 1 }, 1 },
  } do
    it("may have " .. row[1], function()
      local c = connect()
      local q = assert(c:queue("", row[2]))
      broker.fill(c, q, "1", "2")
      broker.count(c, q, row[3])
    end)
  end
end)

on_each_broker("declaring a queue", function(connect, name, again)
  for _, o in ipairs {
    { "durable", {} }, { "transient", { durable = false } }, { "auto_delete", { durable = false, auto_delete = true } },
    { "exclusive", OWN }, { "exclusive and durable", { exclusive = true } }, { "lazy", { args = { ["x-queue-mode"] = "lazy" } } },
    { "of version 2", { args = { ["x-queue-version"] = 2 } } }, { "classic", { type = "classic" } }, { "quorum", { type = "quorum" } },
    { "with every limit", { ttl = 60, expires = 60, max_length = 10, max_bytes = "1MB", overflow = "drop-head", max_priority = 4 } },
    { "with a dead-letter exchange that is missing", { args = { ["x-dead-letter-exchange"] = "x.none" } } },
    { "quorum with every limit", { type = "quorum", ttl = 60, expires = 60, max_length = 10, max_bytes = "1MB", delivery_limit = 3,
      overflow = "drop-head", single_active_consumer = true } },
    { "quorum, at least once", { type = "quorum", overflow = "reject-publish",
      args = { ["x-dead-letter-exchange"] = "", ["x-dead-letter-strategy"] = "at-least-once" } } },
  } do
    it("works for one that is " .. o[1] .. ", twice", function()
      local c, q = connect(), name "declared"
      assert.equal(q, assert(c:queue(q, o[2])))
      assert.equal(q, assert(c:queue(q, o[2])))
      broker.fill(c, q, "x")
      assert.equal("x", broker.bodies(c, q, 1))
      c:delete_queue(q)
    end)
  end

  it("keeps what is in it", function()
    local c = connect()
    local q = assert(c:queue(name "declared", OWN))
    broker.fill(c, q, "1", "2")
    assert(c:queue(q, OWN))
    assert.equal(2, broker.ready(c, q))
  end)

  it("passively changes and compares nothing", function()
    local c = connect()
    local q = assert(c:queue(name "declared", { durable = false, exclusive = true, max_length = 5 }))
    assert.equal(q, assert(c:queue(q, { passive = true, max_length = 7, durable = true })))
  end)

  it("binds it as told, once for each", function()
    local c, k = connect(), name "k"
    local o = { durable = false, exclusive = true, bind = { { "amq.direct", k .. "1" }, { "amq.direct", k .. "2" }, { "amq.topic", k } } }
    local q = assert(c:queue(name "bound", o))
    assert(c:queue(q, o))
    for _, to in ipairs { { "amq.direct", k .. "1" }, { "amq.direct", k .. "2" }, { "amq.topic", k } } do
      assert(c:publish(to[1], to[2], "x"))
    end
    assert.equal(3, broker.ready(c, q))
  end)

  it("says what is wrong with a binding, and the queue is there", function()
    local c, q = connect(), name "bound"
    broker.refused(404, "NOT_FOUND - no exchange 'x.none' in vhost '/'",
                   c:queue(q, { durable = false, exclusive = true, bind = { { "x.none", "k" } } }))
    assert(c:queue_info(q))
  end)

  it("by topology makes exchanges before queues", function()
    local c, x, q = connect(), name "x", name "q"
    assert.is_true(c:topology {
      queues = { [q] = { durable = false, exclusive = true, bind = { { x, "a.#" } } } },
      exchanges = { [x] = { type = "topic", durable = false, auto_delete = true } },
    })
    assert(c:publish(x, "a.b", "x"))
    assert.equal(1, broker.ready(c, q))
  end)

  it("is seen by every connection", function()
    local c = connect()
    local other, q = again(c), assert(c:queue(name "shared", { durable = false }))
    broker.fill(other, q, "x")
    assert.equal("x", broker.bodies(c, q, 1))
    assert(other:delete_queue(q))
    broker.refused(404, "NOT_FOUND", c:queue_info(q))
  end)

  it("outlives the connection that made it", function()
    local c = connect()
    local other, q = again(c), assert(c:queue(name "stays", { durable = false }))
    broker.fill(c, q, "x")
    c:close()
    assert.equal(1, broker.ready(other, q))
    assert(other:delete_queue(q))
  end)
end)

on_each_broker("purging and deleting", function(connect, name)
  for _, n in ipairs { 0, 1, 7 } do
    it("a purge says how many it was: " .. n, function()
      local c = connect()
      local q = assert(c:queue(name "purged", OWN))
      for i = 1, n do assert(c:publish("", q, tostring(i))) end
      assert.equal(n, c:purge(q))
      assert.equal(0, c:purge(q))
    end)
  end

  it("a purge of a quorum queue too", function()
    local c = connect()
    local q = assert(c:queue(name "purged", { type = "quorum" }))
    broker.fill(c, q, "1", "2")
    broker.count(c, q, 2)
    assert.equal(2, c:purge(q))
    assert(c:delete_queue(q))
  end)

  it("a purge sends no dead letters", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", OWN))
    local q = assert(c:queue(name "purged", { durable = false, exclusive = true,
      args = { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = dead } }))
    broker.fill(c, q, "x")
    assert.equal(1, c:purge(q))
    assert.equal(0, broker.ready(c, dead))
  end)

  it("a deleted queue sends no dead letters either, and its bindings are gone", function()
    local c, k = connect(), name "k"
    local dead = assert(c:queue(name "dead", OWN))
    local q = assert(c:queue(name "deleted", { durable = false, exclusive = true, bind = { { "amq.direct", k } },
      args = { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = dead } }))
    broker.fill(c, q, "x")
    assert.is_true(c:delete_queue(q))
    assert.equal(0, broker.ready(c, dead))
    assert.equal("unroutable", select(2, c:publish("amq.direct", k, "x")).code)
    assert(c:queue(q, OWN))
    assert.equal("unroutable", select(2, c:publish("amq.direct", k, "x")).code)
  end)

  it("what was deleted may be declared otherwise", function()
    local c, q = connect(), name "other"
    assert(c:queue(q, { durable = false }))
    assert(c:delete_queue(q))
    assert(c:queue(q, { durable = true, max_length = 1 }))
    assert(c:delete_queue(q))
  end)

  it("a deleted exchange takes its bindings with it", function()
    local c, x = connect(), name "x"
    assert(c:exchange(x, { type = "fanout", durable = false }))
    local q = assert(c:queue(name "q", { durable = false, exclusive = true, bind = { { x } } }))
    assert(c:delete_exchange(x))
    assert(c:exchange(x, { type = "fanout", durable = false }))
    assert.equal("unroutable", select(2, c:publish(x, "", "x")).code)
    assert(c:queue_info(q))
    assert(c:delete_exchange(x))
  end)
end)

describe("mem://NAME", function()
  local open = {}
  local function connect(url)
    open[#open + 1] = assert(mx.connect { url = url })
    return open[#open]
  end
  after_each(function()
    for i, c in ipairs(open) do
      c:close()
      open[i] = nil
    end
  end)

  it("is one broker for all who name it, and another for all who do not", function()
    local a, b, other = connect "mem://one", connect "mem://one", connect "mem://two"
    assert(a:queue("q", { durable = false }))
    assert(b:queue_info "q")
    assert.is_nil(other:queue_info "q")
    assert(a:delete_queue "q")
  end)

  it("keeps what it holds while nobody is connected", function()
    local a = connect "mem://kept"
    assert(a:queue("q", { durable = false }))
    assert(a:publish("", "q", "x"))
    a:close()
    assert.equal("x", broker.bodies(connect "mem://kept", "q", 1))
  end)

  it("ends what came due meanwhile when somebody comes", function()
    local a = connect "mem://slept"
    assert(a:queue("dead", { durable = false }))
    assert(a:queue("q", { durable = false, ttl = 0.02, dlq = "dead" }))
    assert(a:queue("unused", { durable = false, expires = 0.02 }))
    assert(a:publish("", "q", "x"))
    a:close()
    mx.sleep(0.05)
    local b = connect "mem://slept"
    assert.same({ messages = 1, consumers = 0 }, b:queue_info "dead")
    assert.is_nil(b:queue_info "unused")
  end)
end)
