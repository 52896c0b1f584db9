-- mx.dlq: dead letters are counted, looked at, replayed and purged.
local on_each_broker, eventually = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

on_each_broker("dead letters", function(connect, name)
  -- A queue, n of whose messages failed.
  local function setup(base, n)
    local c = connect()
    local x = assert(c:exchange(name "ex", { type = "topic", durable = false }))
    local q = assert(c:queue(name(base), { durable = false, dlq = true, bind = { { x, "#" } } }))
    local consumer = assert(c:consume(q, function(m) return "reject", "bad " .. m.body end))
    assert(c:publish("", q, "the first, whose dead letter waits for a channel"))
    eventually(function() return c:queue_info(q .. ".dlq").messages == 1 end)
    assert(c:purge(q .. ".dlq"))
    for i = 1, n do assert(c:publish(x, "key." .. i, tostring(i), { id = "id-" .. i, headers = { n = i } })) end
    eventually(function() return c:queue_info(q .. ".dlq").messages == n end)
    assert(consumer:stop())
    return c, q, assert(c:dlq(q))
  end

  local function bodies(d, n)
    local list = {}
    for m in assert(d:peek(n)) do list[#list + 1] = m.body end
    return table.concat(list, " ")
  end

  it("are counted and purged", function()
    local _, _, d = setup("count", 3)
    assert.equal(3, d:count())
    assert.equal(3, d:purge())
    assert.equal(0, d:count())
    assert.equal("", bodies(d, 5))
  end)

  it("of a quorum queue are all there again after a look", function()
    local c = connect()
    local q = assert(c:queue(name "quorum", { type = "quorum", dlq = true }))
    finally(function() c:delete_queue(q) c:delete_queue(q .. ".dlq") end)
    for i = 1, 200 do assert(c:publish_async("", q .. ".dlq", tostring(i))) end
    local d = assert(c:dlq(q))
    eventually(function() return d:count() == 200 end)
    for _ = 1, 5 do
      local n = 0
      for _ in assert(d:peek(200)) do n = n + 1 end
      assert.same({ 200, 200 }, { n, d:count() })
    end
  end)

  it("of a quorum queue have no delivery limit where there would be one", function()
    local c = connect()
    local function limit_of(q, asked)
      local ok, e = c:queue(q, { type = "quorum", args = { ["x-delivery-limit"] = asked } })
      return ok and "none" or e.differs and e.differs.there or tostring(e)
    end
    local before = assert(c:queue(name "before", { type = "quorum", dlq = true }))
    finally(function() c:delete_queue(before) c:delete_queue(before .. ".dlq") end)
    assert.equal("none", limit_of(before .. ".dlq", 7))
    local link = assert(c:control(before))
    link.rabbit = 4                                       -- RabbitMQ 4 has a limit of 20, unless the queue says -1
    local after = assert(c:queue(name "after", { type = "quorum", dlq = true }))
    finally(function() c:delete_queue(after) c:delete_queue(after .. ".dlq") end)
    assert.equal("-1", limit_of(after .. ".dlq", 7))
    assert.equal(before, c:queue(before, { type = "quorum", dlq = true }))        -- it is kept as it is
    assert.equal("none", limit_of(before .. ".dlq", 7))
  end)

  it("are looked at without losing one or its place", function()
    local _, _, d = setup("peek", 6)
    local m = assert(d:peek(2))()
    assert.equal("bad 1", m.headers["x-mx-error"])
    assert.equal("key.1", m.key)
    assert.equal("1 2 3 4", bodies(d, 4))
    assert.equal("1 2 3 4 5 6", bodies(d, 100))
    eventually(function() return d:count() == 6 end)
  end)

  it("are replayed where they came from, as they were", function()
    local c, q, d = setup("replay", 3)
    local got = {}
    assert.equal(3, d:replay())
    assert.equal(0, d:count())
    assert(c:consume(q, function(m) got[#got + 1] = { m.body, m.key, m.id, m.attempt, m.headers } end))
    eventually(function() return #got == 3 end)
    for i = 1, 3 do assert.same({ tostring(i), "key." .. i, "id-" .. i, 1, { n = i } }, got[i]) end
  end)

  it("are chosen, limited and edited; the others keep their places", function()
    local c, q, d = setup("some", 8)
    assert.equal(2, d:replay {
      limit = 2, rate = 1000, where = function(m) return m.headers.n % 2 == 0 end,
      edit = function(t)
        t.headers.fixed = true
        return t.body .. "!"
      end,
    })
    assert.equal("1 3 5 6 7 8", bodies(d, 10))
    local got = {}
    assert(c:consume(q, function(m) got[#got + 1] = m.body .. tostring(m.headers.fixed) end))
    eventually(function() return #got == 2 end)
    assert.same({ "2!true", "4!true" }, got)
  end)

  it("stay when they cannot be replayed, and when a function given raises", function()
    local c, q, d = setup("stay", 3)
    local n, e = d:replay { edit = function(t) if t.body == "2" then t.exchange, t.key = "", name "nowhere" end end }
    assert.is_nil(n)
    assert.equal("unroutable", e.code)
    assert.equal(1, e.count)
    assert.equal(2, d:count())
    assert.equal("2 3", bodies(d, 10))
    local ok, text = pcall(d.replay, d, { where = function() error "oops" end })
    assert.is_false(ok)
    assert.matches("oops", text)
    assert.equal(2, d:count())
    assert.equal("2 3", bodies(d, 10))
    assert.equal(1, c:queue_info(q).messages)
  end)

  it("that the broker made are replayed as well", function()
    local c = connect()
    local q = assert(c:queue(name "expired", { durable = false, dlq = true, ttl = 0.05 }))
    assert(c:publish("", q, "x"))
    local d = assert(c:dlq(q))
    eventually(function() return d:count() == 1 end)
    local got
    assert(c:consume(q, function(m) got = { m.body, m.key, m.headers["x-death"] } end))
    assert.equal(1, d:replay())
    eventually(function() return got end)
    assert.same({ "x", q }, got)
  end)

  it("say what is wrong when there is no such queue, or they go elsewhere", function()
    local c = connect()
    local n, e = assert(c:dlq(name "none")):count()
    assert.is_nil(n)
    assert.equal(404, e.reply_code)
    local q = assert(c:queue(name "foreign", { durable = false, dlq = { exchange = "amq.topic", key = "k", wire = false } }))
    local d, why = c:dlq(q)
    assert.is_nil(d)
    assert.matches("amq.topic", tostring(why))
  end)
end)
