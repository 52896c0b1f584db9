-- Several links of one connection: who gets which, how many there are, and what they tell of themselves (R44).
local on_each_broker, eventually = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

local function channels(conn, purpose)
  local list = {}
  for _, l in ipairs(conn:stats().links) do
    if l.purpose == purpose then list[#list + 1] = l.channels end
  end
  return list
end

on_each_broker("a pool of connections", function(connect, name)
  it("opens as many as pool.min says, and gives each new channel to the least used", function()
    local c, q = connect { pool = { min = 3 } }, name "spread"
    assert(c:queue(q, { durable = false }))
    for _ = 1, 6 do assert(c:consume(q, function() end)) end
    assert.same({ 2, 2, 2 }, channels(c, "consume"))
    assert.same({ 0 }, channels(c, "publish"))
  end)

  it("opens one more when all channels are in use, and at pool.max waits for one", function()
    local c, q = connect { pool = { max = 2 }, channels = { max = 2, borrow_timeout = 5 } }, name "full"
    assert(c:queue(q, { durable = false }))
    local consumers = {}
    for i = 1, 4 do consumers[i] = assert(c:consume(q, function() end)) end
    assert.same({ 2, 2 }, channels(c, "consume"))
    local late = mx.spawn(function() return c:consume(q, function() end) end)
    mx.sleep(0.02)
    consumers[2]:stop()
    local ok, consumer = late:wait(5)
    assert.is_true(ok)
    assert.is_table(consumer)
    assert.same({ 2, 2 }, channels(c, "consume"))
  end)

  it("says that all channels are in use after channels.borrow_timeout", function()
    local c, q = connect { pool = { max = 1 }, channels = { max = 1, borrow_timeout = 0.05 } }, name "none"
    assert(c:queue(q, { durable = false }))
    assert(c:consume(q, function() end))
    local consumer, e = c:consume(q, function() end)
    assert.is_nil(consumer)
    assert.equal("backpressure", e.code)
    assert.match("1 connections with 1 channels each are in use %(pool.max, channels.max%)", e.message)
    assert.same(0, c:queue_info(q).messages)             -- calls share a channel of their own
    assert(c:publish("", q, "publishing has links of its own"))
  end)

  it("gives a publisher its channel back when it closes", function()
    local c, q = connect { pool = { max = 1 }, channels = { max = 1, borrow_timeout = 0.05 } }, name "publisher"
    assert(c:queue(q, { durable = false }))
    for i = 1, 3 do
      local p = mx.publisher { conn = c }
      assert(p:publish(q, "message " .. i))
      assert.same({ 1 }, channels(c, "publish"))
      p:close()
    end
    assert(eventually(function() return channels(c, "publish")[1] == 0 end))
  end)

  it("closes what nobody used for pool.idle seconds, down to pool.min", function()
    local c, q = connect { pool = { min = 1, idle = 0.05 }, channels = { max = 1 } }, name "idle"
    assert(c:queue(q, { durable = false }))
    local consumers = {}
    for i = 1, 4 do consumers[i] = assert(c:consume(q, function() end)) end
    assert.equal(4, #channels(c, "consume"))
    consumers[2]:stop()
    consumers[4]:stop()
    assert(eventually(function() return #channels(c, "consume") == 2 end))
    assert.same({ 1, 1 }, channels(c, "consume"))
    consumers[1]:stop()
    consumers[3]:stop()
    assert(eventually(function() return #channels(c, "consume") == 1 end))
    assert(consumers[1]:resume())
  end)

  it("keeps an exclusive queue and its consumers on the link that it belongs to", function()
    local c, q = connect { pool = { min = 3 } }, name "exclusive"
    assert(c:queue(q, { exclusive = true, durable = false }))
    local seen = 0
    for _ = 1, 4 do assert(c:consume(q, function() seen = seen + 1 end)) end
    for _ = 1, 8 do assert(c:publish("", q, "x")) end
    assert(eventually(function() return seen == 8 end))
    assert.same({ 4 }, channels(c, "consume"))
  end)

  it("tells in mx.pool.stats() what all connections have", function()
    local before = mx.pool.stats()
    local c, q = connect { pool = { max = 4 }, channels = { max = 10 } }, name "stats"
    assert(c:queue(q, { durable = false }))
    assert(c:consume(q, function() end))
    assert(c:publish("", q, "x"))
    local s = mx.pool.stats()
    assert.equal(2, s.connections.total - before.connections.total)
    assert.equal(2, s.connections.active - before.connections.active)
    assert.equal(0, s.connections.idle - before.connections.idle)
    assert.equal(20, s.channels.total - before.channels.total)
    assert.equal(2, s.channels.borrowed - before.channels.borrowed)
    assert.equal(8, c:stats().connections.max)
    for _, l in ipairs(c:stats().links) do
      assert.equal("open", l.state)
      assert.equal(0, l.errors)
      assert.is_true(l.age >= 0 and l.round_trip >= 0)
    end
    assert.same(mx.pool.stats().channels, mx.stats().pool.channels)
  end)
end)

describe("the options of a pool", function()
  it("are checked", function()
    assert.has_error(function() mx.connect { url = "mem://x", pool = { min = 3, max = 2 } } end,
                     "mx.connect: pool: min is 3, max 2")
    assert.has_error(function() mx.connect { url = "mem://x", pool = { mix = 3 } } end)
    assert.has_error(function() mx.connect { url = "mem://x", channels = { max = 0 } } end)
  end)

  it("let pool.max follow a larger pool.min", function()
    local c = assert(mx.connect { url = "mem://x", pool = { min = 12 } })
    assert.equal(24, c:stats().connections.max)
    c:close()
  end)
end)
