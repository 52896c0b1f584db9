-- Queues with a maximum: by messages, by bytes, and what each overflow does.
local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)
local broker = dofile "spec/lua/broker.lua"
local own = broker.own

local function dead_to(q) return { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = q } end

-- "confirmed" or "nacked" of each.
local function states(c, q, ...)
  local list = {}
  for i, body in ipairs { ... } do
    local ok, e = c:publish("", q, body)
    list[i] = ok and "confirmed" or e.code
  end
  return list
end

on_each_broker("a full queue", function(connect, name)
  for _, row in ipairs {
    { "of 3 messages drops its head", { max_length = 3 }, { "1", "2", "3", "4", "5" }, "3 4 5" },
    { "of 3 messages drops its head when told so", { max_length = 3, overflow = "drop-head" }, { "1", "2", "3", "4", "5" }, "3 4 5" },
    { "of 1 message keeps the last", { max_length = 1 }, { "1", "2", "3" }, "3" },
    { "of 0 messages keeps none", { max_length = 0 }, { "1", "2" }, "" },
    { "of 10 bytes drops as many as it takes", { max_bytes = 10 }, { "aaaa", "bbbb", "cc", "dddd" }, "bbbb cc dddd" },
    { "of 10 bytes drops several for one", { max_bytes = 10 }, { "aaa", "bbb", "ccc", "ddddddddd" }, "ddddddddd" },
    { "of 10 bytes drops one that is larger itself", { max_bytes = 10 }, { "aaa", ("b"):rep(11) }, "" },
    { "of 10 bytes counts no empty bodies", { max_bytes = 10 }, { "", "", "aaaaaaaaaa", "", "" }, "  aaaaaaaaaa  " },
    { "with both counts what is less", { max_length = 3, max_bytes = 8 }, { "aaaa", "bbbb", "c", "d", "e" }, "c d e" },
    { "with both counts bytes too", { max_length = 10, max_bytes = 8 }, { "aaaa", "bbbb", "cccc" }, "bbbb cccc" },
    { "that rejects keeps what was first", { max_length = 2, overflow = "reject-publish" }, { "1", "2", "3" }, "1 2" },
    { "that rejects by bytes takes what still fits", { max_bytes = 10, overflow = "reject-publish" }, { "aaaaaa", "bbbbb", "cccc" },
      "aaaaaa cccc" },
    { "of 0 messages that rejects takes none", { max_length = 0, overflow = "reject-publish" }, { "1" }, "" },
  } do
    it(row[1], function()
      local c = connect()
      local q = assert(c:queue(name "full", own(row[2])))
      for _, body in ipairs(row[3]) do c:publish("", q, body) end
      local expected = select(2, row[4]:gsub(" ", "")) + 1
      if row[4] == "" then expected = 0 end
      assert.equal(expected, broker.ready(c, q))
      if expected > 0 then assert.equal(row[4], broker.bodies(c, q, expected)) end
    end)
  end

  for _, row in ipairs {
    { "confirms what displaces others", { max_length = 1 }, { "confirmed", "confirmed", "confirmed" } },
    { "confirms what is dropped at once", { max_length = 0 }, { "confirmed", "confirmed", "confirmed" } },
    { "nacks what it rejects", { max_length = 1, overflow = "reject-publish" }, { "confirmed", "nacked", "nacked" } },
    { "nacks what it rejects by bytes", { max_bytes = 1, overflow = "reject-publish" }, { "confirmed", "nacked", "nacked" } },
    { "nacks what it rejects to its dead letters", { max_length = 1, overflow = "reject-publish-dlx" },
      { "confirmed", "nacked", "nacked" } },
  } do
    it(row[1], function()
      local c = connect()
      local q = assert(c:queue(name "full", own(row[2])))
      assert.same(row[3], states(c, q, "1", "2", "3"))
    end)
  end

  it("takes again when there is room", function()
    local c = connect()
    local q = assert(c:queue(name "full", own { max_length = 2, overflow = "reject-publish" }))
    assert.same({ "confirmed", "confirmed", "nacked" }, states(c, q, "1", "2", "3"))
    assert.equal("1 2", broker.bodies(c, q, 2))
    assert.same({ "confirmed", "confirmed", "nacked" }, states(c, q, "4", "5", "6"))
    c:purge(q)
    assert.same({ "confirmed" }, states(c, q, "7"))
  end)

  it("does not count what is delivered and not acked", function()
    local c = connect()
    local q = assert(c:queue(name "full", own { max_length = 2, overflow = "reject-publish" }))
    local h = broker.hold(c, q, { prefetch = 2 })
    assert.same({ "confirmed", "confirmed" }, states(c, q, "1", "2"))
    h.wait(2)
    assert.same({ "confirmed", "confirmed", "nacked" }, states(c, q, "3", "4", "5"))
    h.finish(true)
  end)

  it("gives a burst to a consumer that has room for it before it drops any", function()
    local c = connect()
    local q = assert(c:queue(name "full", own { max_length = 1 }))
    local h = broker.hold(c, q, { prefetch = 5 })
    for i = 1, 5 do assert(c:publish_async("", q, tostring(i))) end
    h.wait(5)
    assert.same({ "1", "5" }, { h.got[1].body, h.got[5].body })
    h.finish(true)
  end)

  it("makes room for what comes back at its head, by what stands there first", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", own()))
    local q = assert(c:queue(name "full", own { max_length = 2, args = dead_to(dead) }))
    local h = broker.hold(c, q, { prefetch = 1 })
    broker.fill(c, q, "1", "2", "3")
    h.wait(1)
    local stopping = mx.spawn(function() h.consumer:stop() end)
    mx.sleep(0.02)
    h.finish "requeue"
    stopping:wait(5)
    assert.equal("1", broker.bodies(c, dead, 1))
    assert.equal("2 3", broker.bodies(c, q, 2))
  end)

  it("nacks a message that one of its queues rejects; the others have it", function()
    local c = connect()
    local x = assert(c:exchange(name "x", { type = "fanout", durable = false, auto_delete = true }))
    local full = assert(c:queue(name "full", own { max_length = 1, overflow = "reject-publish", bind = { { x } } }))
    local other = assert(c:queue(name "other", own { bind = { { x } } }))
    assert.is_true(c:publish(x, "", "1"))
    local _, e = c:publish(x, "", "2")
    assert.equal("nacked", e.code)
    assert.is_true(e.retryable)
    assert.same({ 1, 2 }, { broker.ready(c, full), broker.ready(c, other) })
  end)

  it("drops silently what nobody wants confirmed", function()
    local c = connect()
    local q = assert(c:queue(name "full", own { max_length = 1, overflow = "reject-publish" }))
    local p = mx.publisher { conn = c, confirm = false, mandatory = false }
    for i = 1, 3 do assert(p:publish_async(q, tostring(i))) end
    broker.count(c, q, 1)
    mx.sleep(0.02)
    assert.equal("1", broker.bodies(c, q, 1))
  end)
end)

on_each_broker("what a full queue gives up", function(connect, name)
  local function check(c, dead, q, bodies)
    local list = broker.take(c, dead, #bodies)
    for i, body in ipairs(bodies) do
      assert.equal(body, list[i].body)
      local d = list[i].headers["x-death"][1]
      assert.same({ "maxlen", q, 1, { q } }, { d.reason, d.queue, d.count, d["routing-keys"] })
      assert.equal("maxlen", list[i].headers["x-first-death-reason"])
    end
    assert.equal(#bodies, #list)
  end

  for _, row in ipairs {
    { "from its head", { max_length = 1 }, { "1", "2", "3" }, { "1", "2" } },
    { "for its bytes", { max_bytes = 6 }, { "aaa", "bbb", "cccc" }, { "aaa", "bbb" } },
    { "at once", { max_length = 0 }, { "1", "2" }, { "1", "2" } },
    { "by refusing it", { max_length = 1, overflow = "reject-publish-dlx" }, { "1", "2", "3" }, { "2", "3" } },
  } do
    it("is a dead letter: " .. row[1], function()
      local c = connect()
      local dead = assert(c:queue(name "dead", own()))
      row[2].args = dead_to(dead)
      local q = assert(c:queue(name "full", own(row[2])))
      for _, body in ipairs(row[3]) do c:publish("", q, body) end
      check(c, dead, q, row[4])
    end)
  end

  it("is gone with reject-publish: only the publisher knows", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", own()))
    local q = assert(c:queue(name "full", own { max_length = 1, overflow = "reject-publish", args = dead_to(dead) }))
    assert.same({ "confirmed", "nacked" }, states(c, q, "1", "2"))
    assert.equal(0, broker.ready(c, dead))
  end)

  it("does not come back to it by itself", function()
    local c, q = connect(), name "self"
    assert(c:queue(q, own { max_length = 1, args = dead_to(q) }))
    broker.fill(c, q, "1", "2")
    broker.count(c, q, 1)
    assert.equal("2", broker.bodies(c, q, 1))
  end)

  it("passes through a chain of full queues", function()
    local c = connect()
    local last = assert(c:queue(name "last", own()))
    local middle = assert(c:queue(name "middle", own { max_length = 1, args = dead_to(last) }))
    local q = assert(c:queue(name "full", own { max_length = 1, args = dead_to(middle) }))
    broker.fill(c, q, "1", "2", "3", "4")
    local list = broker.take(c, last, 2)
    assert.same({ "1", "2" }, { list[1].body, list[2].body })
    assert.same({ middle, q }, { list[1].headers["x-death"][1].queue, list[1].headers["x-death"][2].queue })
    assert.equal("3", broker.bodies(c, middle, 1))
    assert.equal("4", broker.bodies(c, q, 1))
  end)

  it("is what has the highest priority, as RabbitMQ drops from the head", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", own()))
    local q = assert(c:queue(name "full", own { max_length = 2, max_priority = 5, args = dead_to(dead) }))
    for i, p in ipairs { 1, 3, 2 } do assert(c:publish("", q, tostring(i), { priority = p })) end
    assert.equal("2", broker.bodies(c, dead, 1))
    assert.equal("3 1", broker.bodies(c, q, 2))
  end)
end)

on_each_broker("a full quorum queue", function(connect, name)
  for _, row in ipairs {
    { "of 3 messages drops its head", { max_length = 3 }, { "1", "2", "3", "4", "5" }, "3 4 5" },
    { "of 10 bytes drops its head", { max_bytes = 10 }, { "aaaa", "bbbb", "cc", "dddd" }, "bbbb cc dddd" },
  } do
    it(row[1], function()
      local c = connect()
      row[2].type = "quorum"
      local q = assert(c:queue(name "full", row[2]))
      for _, body in ipairs(row[3]) do assert(c:publish("", q, body)) end
      local expected = select(2, row[4]:gsub(" ", "")) + 1
      broker.count(c, q, expected)
      assert.equal(row[4], broker.bodies(c, q, expected))
      assert(c:delete_queue(q))
    end)
  end

  it("says maxlen in its dead letters", function()
    local c = connect()
    local dead = assert(c:queue(name "dead", own()))
    local q = assert(c:queue(name "full", { type = "quorum", max_length = 1, args = dead_to(dead) }))
    broker.fill(c, q, "1", "2")
    local m = broker.take(c, dead, 1)[1]
    assert.same({ "1", "maxlen" }, { m.body, m.headers["x-death"][1].reason })
    assert(c:delete_queue(q))
  end)
  -- With reject-publish RabbitMQ's quorum queues take some more before they reject: how many is open.
end)
