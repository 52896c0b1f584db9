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

  it("names a server-named queue", function()
    local c = connect()
    local q = assert(c:queue "")
    assert.matches("^amq%.gen", q)
    assert.is_true(c:publish("", q, "x"))
  end)

  it("says 404 for a queue that is missing", function()
    local c = connect()
    local info, e = c:queue_info(name "missing")
    assert.is_nil(info)
    assert.equal(404, e.reply_code)
  end)
end)
