local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

on_each_broker("publishing", function(connect, name)
  it("returns true once the broker confirmed", function()
    local c = connect()
    local q = assert(c:queue(name "confirm", { durable = false }))
    assert.is_true(c:publish("", q, "x"))
    assert.equal(1, c:queue_info(q).messages)
  end)

  it("returns unroutable when no queue is bound, and leaves the others confirmed", function()
    local c = connect()
    local q = assert(c:queue(name "some", { durable = false }))
    local a = assert(c:publish_async("", q, "a"))
    local b = assert(c:publish_async("", name "nowhere", "b"))
    local d = assert(c:publish_async("", q, "d"))
    local ok, failed = mx.wait_all({ a, b, d }, 5)
    assert.is_nil(ok)
    assert.equal(1, #failed)
    assert.equal("confirmed", a.state)
    assert.equal("returned", b.state)
    assert.equal("confirmed", d.state)
    local _, e = b:wait()
    assert.equal("unroutable", e.code)
    assert.equal(312, e.reply_code)
    assert.is_true(c:publish("", name "nowhere", "x", { mandatory = false }))
  end)

  it("matches returns to messages with ids of the script's own", function()
    local c = connect()
    local q = assert(c:queue(name "ids", { durable = false }))
    local receipts = {}
    for i = 1, 20 do
      receipts[i] = assert(c:publish_async("", i % 2 == 0 and q or name "nowhere", "x", { id = "same" }))
    end
    mx.wait_all(receipts, 5)
    for i = 1, 20 do assert.equal(i % 2 == 0 and "confirmed" or "returned", receipts[i].state) end
  end)

  it("refuses what AMQP cannot carry before a byte is sent", function()
    local c = connect()
    local _, e = c:publish("", ("k"):rep(256), "x")
    assert.equal("validation", e.code)
    assert.matches("256", tostring(e))
    local _, e2 = c:publish("", "k", ("b"):rep(16 * 1024 * 1024 + 1))
    assert.equal("validation", e2.code)
    local q = assert(c:queue(name "after", { durable = false }))
    assert.is_true(c:publish("", q, "still well"))
  end)

  it("goes on after a 404 closed the channel", function()
    local c = connect()
    local q = assert(c:queue(name "after404", { durable = false }))
    local ok, e = c:publish(name "no-exchange", "k", "x")
    assert.is_nil(ok)
    assert.equal(404, e.reply_code)
    assert.matches("NOT_FOUND %- no exchange", tostring(e))
    assert.is_true(c:publish("", q, "x"))
  end)

  it("carries bodies byte by byte: empty, binary, at frame boundaries, 1 MiB", function()
    local c = connect()
    local q = assert(c:queue(name "bodies", { durable = false }))
    local sizes = { 0, 1, 4087, 4088, 131063, 131064, 131065, 262128, 1048576 }
    local got = {}
    assert(c:consume(q, function(m) got[#got + 1] = m.body end))
    for i, n in ipairs(sizes) do
      local body = ("\0\206\1%d|"):format(i):rep(math.ceil(n / 5)):sub(1, n)
      assert(c:publish("", q, body))
      while #got < i do mx.sleep(0.001) end
      assert.is_true(got[i] == body)
    end
  end)

  it("parks a publisher whose window is full, and loses nothing", function()
    local c = connect()
    local q = assert(c:queue(name "window", { durable = false }))
    local p = mx.publisher { conn = c, max_in_flight = 8 }
    local receipts = {}
    for i = 1, 500 do receipts[i] = assert(p:publish_async(q, "x")) end
    assert.is_true(mx.wait_all(receipts, 10))
    assert.equal(500, c:queue_info(q).messages)
  end)

  it("answers backpressure at once with on_full = error", function()
    local c = connect()
    local q = assert(c:queue(name "full", { durable = false }))
    local p = mx.publisher { conn = c, max_in_flight = 4, on_full = "error" }
    assert(p:publish(q, "opens the channel"))
    local refused
    for _ = 1, 10 do
      local r, e = p:publish_async(q, "x")
      if not r then refused = e end
    end
    assert.equal("backpressure", refused.code)
  end)

  it("answers for its receipts after it closed", function()
    local c = connect()
    local q = assert(c:queue(name "closed", { durable = false }))
    local p = mx.publisher { conn = c }
    local good, bad = assert(p:publish_async(q, "x")), assert(p:publish_async(name "nowhere", "x"))
    assert.is_true(p:close())
    assert.is_true(p:close())
    assert.equal("confirmed", good.state)
    assert.is_true(good:wait())
    assert.equal("returned", bad.state)
    assert.equal("unroutable", select(2, bad:wait()).code)
    local ok, e = p:publish(q, "late")
    assert.is_nil(ok)
    assert.equal("closed", e.code)
    assert.equal("publish", e.op)
  end)

  it("ends receipts when their connection closes; each still answers", function()
    local c = connect()
    local q = assert(c:queue(name "conn-closed", { durable = false }))
    local receipts, states = {}, { confirmed = true, closed = true }
    for i = 1, 100 do receipts[i] = assert(c:publish_async("", q, "x")) end
    c:close()
    for _ = 1, 3 do collectgarbage() end
    for _, r in ipairs(receipts) do
      assert.is_true(states[r.state])
      local ok, e = r:wait()
      assert.equal(r.state == "confirmed", ok or false)
      if not ok then assert.equal("closed", e.code) end
    end
  end)

  it("wakes who waits when the publisher closes", function()
    local c = connect()
    local q = assert(c:queue(name "wakes", { durable = false }))
    local p = mx.publisher { conn = c, max_in_flight = 1 }
    assert(p:publish(q, "opens the channel"))
    local tasks, ended = {}, 0
    for i = 1, 20 do
      tasks[i] = mx.spawn(function()
        p:publish(q, "x")
        ended = ended + 1
      end)
    end
    mx.sleep(0)
    p:close()
    for _, t in ipairs(tasks) do assert.is_true(t:wait(5)) end
    assert.equal(20, ended)
    assert.is_true(p.line:is_empty())
  end)

  it("opens its channel for the others when the task that began it is cancelled", function()
    local c = connect()
    local q = assert(c:queue(name "opener", { durable = false }))
    assert(c:link "publish")
    local p = mx.publisher { conn = c }
    local first = mx.spawn(function() return p:publish(q, "x") end)
    local second = mx.spawn(function() return p:publish(q, "y") end)
    mx.sleep(0)
    first:cancel()
    assert.equal("interrupted", select(2, first:wait(5)).code)
    assert.same({ true, true }, { second:wait(5) })
    assert.is_true(p:publish(q, "z"))
  end)

  it("gives every message an id of the same form, and keeps the script's own", function()
    local c = connect()
    local q = assert(c:queue(name "id", { durable = false }))
    local ids = {}
    assert(c:consume(q, function(m) ids[#ids + 1] = m.id end))
    assert(c:publish("", q, "plain"))
    assert(c:publish("", q, { a = 1 }))
    assert(c:publish("", q, "options", { headers = { x = 1 } }))
    assert(c:publish("", q, "own", { id = "mine" }))
    while #ids < 4 do mx.sleep(0.001) end
    for i = 1, 3 do assert.matches("^" .. ("[%w_-]"):rep(20) .. "$", ids[i]) end
    assert.equal(ids[1]:sub(1, -8), ids[3]:sub(1, -8))
    assert.equal("mine", ids[4])
  end)

  it("matches a return to a message with options and an id of ours", function()
    local c = connect()
    local q = assert(c:queue(name "id-return", { durable = false }))
    local a = assert(c:publish_async("", q, "x", { type = "t" }))
    local b = assert(c:publish_async("", name "nowhere", "x", { type = "t" }))
    local d = assert(c:publish_async("", q, "x", { type = "t" }))
    mx.wait_all({ a, b, d }, 5)
    assert.same({ "confirmed", "returned", "confirmed" }, { a.state, b.state, d.state })
  end)

  it("keeps a buffer's bytes while the publish waits", function()
    local c = connect()
    local q, got = assert(c:queue(name "buffer", { durable = false })), nil
    local p = mx.publisher { conn = c }
    do
      local buffer = require "string.buffer".new()
      buffer:put(("abc"):rep(1000))
      local t = mx.spawn(function() return p:publish_async(q, buffer) end)
      mx.sleep(0)                                          -- it opens the channel now
      buffer:reset():put(("xyz"):rep(100000))
      buffer:free()
      collectgarbage()
      assert.is_true(t:wait(5))
    end
    assert(p:publish(q, require("ffi").new("uint8_t[3]", { 65, 66, 67 })))
    local second
    assert(c:consume(q, function(m) got, second = got or m.body, got and m.body end))
    while not second do mx.sleep(0.001) end
    assert.equal(("abc"):rep(1000), got)
    assert.equal("ABC", second)
  end)

  it("says what is wrong at the script's line", function()
    local c = connect()
    for _, f in ipairs {
      function() return (c:publish("", "k", 5)) end, function() return (c:publish("", nil, "x")) end,
      function() return (c:publish("", "k", "x", { perstent = true })) end, function() return (c:purge()) end,
      function() return (c:bind("q")) end, function() return (c:queue(5)) end, function() return (c:consume(5, print)) end,
      function() return (c:queue("q", { tpye = "classic" })) end, function() return (c:consume("q", { prefech = 1 }, print)) end,
      function() return (mx.publisher { conn = c, max_in_flight = 0 }) end, function() return (mx.wait_all { 1 }) end,
      function() return (mx.purge()) end, function() return (mx.on("blokced", print)) end,
      function() return (mx.connect { urls = {} }) end, function() return (mx.spawn(5)) end, function() return (mx.every("x", print)) end,
    } do
      local line = debug.getinfo(f, "S").linedefined
      local ok, e = pcall(f)
      assert.is_false(ok)
      assert.matches("publish_spec.lua:" .. line .. ": ", e)
    end
  end)

  it("tells of returned messages with mx.on", function()
    local c, seen = connect(), {}
    mx.on("returned", function(conn, e) if conn == c then seen[#seen + 1] = e end end)
    assert(c:publish_async("", name "nowhere", "x"))
    assert(c:publish_async("", name "nowhere", "x"))
    while #seen < 2 do mx.sleep(0.001) end
    assert.equal("unroutable", seen[1].code)
    assert.equal("returned", seen[2].receipt.state)
  end)
end)

on_each_broker("topology", function(connect, name)
  it("routes by direct, fanout and topic exchanges", function()
    local c = connect()
    local d, f, t, q = name "d", name "f", name "t", name "q"
    assert(c:topology {
      exchanges = { [d] = { type = "direct", auto_delete = true }, [f] = "fanout", [t] = "topic" },
      queues = { [q] = { durable = false, bind = { { d, "one" }, { f, "" }, { t, "a.*.c" }, { t, "x.#" } } } },
    })
    assert.is_true(c:publish(d, "one", "1"))
    assert.equal("unroutable", select(2, c:publish(d, "two", "2")).code)
    assert.is_true(c:publish(f, "any", "3"))
    assert.is_true(c:publish(t, "a.b.c", "4"))
    assert.is_true(c:publish(t, "x", "5"))
    assert.is_true(c:publish(t, "x.y.z", "6"))
    assert.equal("unroutable", select(2, c:publish(t, "a.c", "7")).code)
    assert.equal(5, c:queue_info(q).messages)
    assert.equal(5, c:purge(q))
    assert(c:unbind(q, f, ""))
    assert.equal("unroutable", select(2, c:publish(f, "any", "8")).code)
    for _, x in ipairs { d, f, t } do assert.is_true(c:delete_exchange(x)) end
    assert.is_true(c:delete_queue(q))
    assert.is_true(c:delete_queue(q))
  end)

  it("explains a queue that exists with other arguments", function()
    local c = connect()
    local q = assert(c:queue(name "other", { durable = false }))
    local ok, e = c:queue(q, { durable = true })
    assert.is_nil(ok)
    assert.equal(406, e.reply_code)
    assert.matches("PRECONDITION_FAILED", tostring(e))
    assert.is_true(c:delete_queue(q))
  end)

  it("gives a queue without a name its own", function()
    local c = connect()
    local q = assert(c:queue "")
    assert.matches("^mx%.gen", q)
    assert.is_true(c:publish("", q, "x"))
  end)

  it("says 404 for a queue that is missing", function()
    local c = connect()
    local info, e = c:queue_info(name "missing")
    assert.is_nil(info)
    assert.equal(404, e.reply_code)
  end)
end)

local amqp = os.getenv "MXRUN_SPEC_AMQP"
on_each_broker("a publisher with batches", function(connect, name)
  local function setup(base, batch, options)
    local c = connect()
    local q = assert(c:queue(name(base), { durable = false }))
    local o = { conn = c, batch = batch }
    for k, v in pairs(options or {}) do o[k] = v end
    local p = mx.publisher(o)
    local function send(body, opts) return assert(p:publish_async(q, body or "x", opts)) end
    local function count() return assert(c:queue_info(q)).messages end
    return send, count, p, c
  end

  local function pending(...)
    for _, r in ipairs { ... } do assert.equal("pending", r.state) end
  end

  it("keeps what is published until there are enough", function()
    local send, count = setup("size", { size = 3, timeout = 60 })
    local a, b = send(), send()
    mx.sleep(0.02)
    pending(a, b)
    assert.equal(0, count())
    assert.is_true(send():wait(10))
    assert.same({ "confirmed", "confirmed", 3 }, { a.state, b.state, count() })
    local d = send()
    mx.sleep(0.02)
    pending(d)
    assert.equal(3, count())
  end)

  it("or enough bytes, or the first is old enough", function()
    local send, count = setup("bytes", { bytes = 10, timeout = 60 })
    local a = send "12345"
    mx.sleep(0.02)
    pending(a)
    assert.is_true(send("67890"):wait(10))
    assert.equal(2, count())
    send = setup("time", { timeout = 0.05 })
    assert.is_true(send():wait(10))
  end)

  it("or its policy says so, at once or when it is asked again", function()
    local looks = {}
    local send = setup("policy", { size = 1000, timeout = 60, policy = function(b)
      looks[#looks + 1] = { b.count, b.bytes, b.depth, b.in_flight }
      assert(b.age < 60 and b.idle <= b.age and b.memory >= 0 and b.rate >= 0)
      return b.count == 2
    end })
    local a = send "abc"
    pending(a)
    assert.is_true(send("de"):wait(10))
    assert.same({ { 1, 3, 0, 0 }, { 2, 5, 0, 0 } }, looks)
    send = setup("again", { timeout = 60, policy = function(b) return b.age > 0.05 or 0.01 end })
    assert.is_true(send():wait(10))
    send = setup("raises", { size = 2, timeout = 60, policy = function() error "oops" end })
    send()
    assert.is_true(send():wait(10))
  end)

  it("waits with publish for what is kept, and tells what came of each", function()
    local send, count, p = setup("each", { size = 2, timeout = 60 })
    local a = send()
    local ok, e = p:publish("no such queue", "x")
    assert.is_nil(ok)
    assert.equal("unroutable", e.code)
    assert.same({ true, 1 }, { a:wait(10), count() })
  end)

  it("lets nothing wait when the window is full, or it closes", function()
    local send, count, p = setup("window", { size = 4, timeout = 60 }, { max_in_flight = 4 })
    for _ = 1, 50 do send() end
    assert.is_true(p:close())
    assert.equal(50, count())
  end)

  it("carries what a message can have", function()
    local c = connect()
    local q = assert(c:queue(name "options", { durable = false }))
    local p = mx.publisher { conn = c, batch = { size = 2, timeout = 60 } }
    local got = {}
    assert(c:consume(q, function(m) got[#got + 1] = { m.data, m.headers.tenant, m.expiration, m.id:sub(1, 3), m.persistent } end))
    assert(p:publish_async(q, { id = 7 }, { headers = { tenant = "x" }, expiration = 60, id = "o-7", persistent = false }))
    assert(p:publish(q, ("y"):rep(300000)))
    mx.test.eventually(function() return got[2] end, 10)
    assert.same({ { id = 7 }, "x", 60, "o-7", false }, got[1])
    assert.equal(300000, #got[2][1])
    assert.is_true(got[2][5])
  end)

  it("sends without confirms, too", function()
    local send, count = setup("once", { size = 3, timeout = 60 }, { confirm = false })
    send() send()
    mx.sleep(0.02)
    assert.equal(0, count())
    send()
    assert.is_true(mx.test.eventually(function() return count() == 3 end, 10))
  end)

  it("holds up the ack of the handler that published", function()
    local c = connect()
    local q, from = assert(c:queue(name "to", { durable = false })), assert(c:queue(name "from", { durable = false }))
    local p = mx.publisher { conn = c, batch = { size = 2, timeout = 60 } }
    local consumer = assert(c:consume(from, function(m) assert(p:publish_async(q, m.body)) end))
    assert(c:publish("", from, "1"))
    assert.is_true(mx.test.eventually(function() return consumer:stats().count == 1 end, 10))
    mx.sleep(0.02)
    assert.same({ 0, 1 }, { consumer:stats().acked, consumer:stats().in_flight })
    assert(c:publish("", from, "2"))
    assert.is_true(mx.test.eventually(function() return consumer:stats().acked == 2 end, 10))
  end)

  it("cannot have larger ones than its window", function()
    local ok, e = pcall(setup, "refused", { size = 500 }, { max_in_flight = 100 })
    assert.is_false(ok)
    assert.matches("size is 500, at most 100: max_in_flight counts what is gathered, too", e)
  end)
end)

describe("a publisher's retry", function()
  if not amqp then return end

  local function full_queue(c, name)
    local q = assert(c:queue(("%s.%d"):format(name, os.time()), { durable = false, max_length = 1, overflow = "reject-publish" }))
    assert(c:publish("", q, "fills it"))
    local ok, e = c:publish("", q, "too many")
    assert.is_nil(ok)
    assert.equal("nacked", e.code)
    return q
  end

  it("publishes again what the broker refused, with the same id", function()
    local c = assert(mx.connect { url = amqp })
    local q, got = full_queue(c, "retry-again"), nil
    local p = mx.publisher { conn = c, retry = { attempts = 1000, base = 0.01, max = 0.01 } }
    local t = mx.spawn(function() return p:publish(q, { n = 7 }, { headers = { x = 1 } }) end)
    mx.sleep(0.05)
    assert(c:purge(q))
    assert.same({ true, true }, { t:wait(10) })
    assert(c:consume(q, function(m) got = { m.body, m.headers.x, m.content_type, m.id } end))
    while not got do mx.sleep(0.001) end
    assert.same({ '{"n":7}', 1, "application/json" }, { got[1], got[2], got[3] })
    assert.matches("0000001$", got[4])
    c:close()
  end)

  it("gives up after its attempts, and at once for what no retry mends", function()
    local c = assert(mx.connect { url = amqp })
    local q = full_queue(c, "retry-ends")
    local p = mx.publisher { conn = c, retry = { attempts = 3, base = 0.001 } }
    assert.equal("nacked", select(2, p:publish(q, "x")).code)
    assert.equal(3, p.live.seq)
    assert.equal("unroutable", select(2, p:publish("retry-nowhere", "x")).code)
    assert.equal(4, p.live.seq)
    c:close()
  end)
end)
