local on_each_broker, eventually = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

on_each_broker("consuming", function(connect, name)
  it("hands a message to the handler with its fields", function()
    local c = connect()
    local q = assert(c:queue(name "fields", { durable = false }))
    local got
    assert(c:publish("", q, "hello", { headers = { tenant = "x", n = 7 }, id = "id-1", correlation_id = "c", priority = 3,
      reply_to = "r", type = "t", app_id = "a", timestamp = 1700000000, content_type = "text/plain" }))
    assert(c:consume(q, function(m)
      got = { m.body, m.data, m.size, m.key, m.exchange, m.queue, m.headers.tenant, m.headers.n, m.id, m.correlation_id,
              m.priority, m.reply_to, m.type, m.app_id, m.timestamp, m.content_type, m.redelivered, m.attempt }
    end))
    eventually(function() return got end)
    assert.same({ "hello", "hello", 5, q, "", q, "x", 7, "id-1", "c", 3, "r", "t", "a", 1700000000, "text/plain", false, 1 }, got)
  end)

  it("round-trips a table as JSON", function()
    local c = connect()
    local q = assert(c:queue(name "json", { durable = false }))
    local got
    assert(c:publish("", q, { id = 12345678901234567LL, list = mx.json.array {}, map = {}, text = "ü" }))
    assert(c:consume(q, function(m) got = { m.data, m.body } end))
    eventually(function() return got end)
    assert.equal("12345678901234567", tostring(got[1].id):gsub("LL", ""))
    assert.matches('"list":%[%]', got[2])
    assert.matches('"map":{}', got[2])
  end)

  it("keeps order with concurrency 1, also when handlers wait", function()
    local c = connect()
    local q = assert(c:queue(name "order", { durable = false }))
    local seen = {}
    for i = 1, 20 do assert(c:publish("", q, tostring(i))) end
    assert(c:consume(q, function(m)
      mx.sleep(0.001)
      seen[#seen + 1] = tonumber(m.body)
    end))
    eventually(function() return #seen == 20 end)
    for i = 1, 20 do assert.equal(i, seen[i]) end
  end)

  it("runs at most `concurrency` handlers at once", function()
    local c = connect()
    local q = assert(c:queue(name "concurrency", { durable = false }))
    local inside, most, done = 0, 0, 0
    for i = 1, 30 do assert(c:publish("", q, tostring(i))) end
    assert(c:consume(q, { concurrency = 5 }, function()
      inside = inside + 1
      most = math.max(most, inside)
      mx.sleep(0.005)
      inside = inside - 1
      done = done + 1
    end))
    eventually(function() return done == 30 end)
    assert.equal(5, most)
  end)

  it("rejects to the dead-letter queue with the reason", function()
    local c = connect()
    local q = assert(c:queue(name "reject", { durable = false, dlq = true }))
    local dead
    assert(c:publish("", q, "bad", { headers = { a = 1 } }))
    assert(c:consume(q, function() return "reject", "too bad" end))
    assert(c:consume(q .. ".dlq", function(m) dead = { m.body, m.headers["x-mx-error"], m.headers["x-mx-retries"], m.headers.a } end))
    eventually(function() return dead end)
    assert.same({ "bad", "too bad", 0, 1 }, dead)
  end)

  it("sends undecodable JSON to the dead-letter queue at once", function()
    local c = connect()
    local q = assert(c:queue(name "garbage", { durable = false, dlq = true }))
    local dead, runs = nil, 0
    assert(c:publish("", q, "{broken", { content_type = "application/json" }))
    assert(c:consume(q, function(m)
      runs = runs + 1
      return m.data and nil
    end))
    assert(c:consume(q .. ".dlq", function(m) dead = m.headers["x-mx-error"] end))
    eventually(function() return dead end)
    assert.equal(1, runs)
  end)

  it("runs a failed message again after a delay, then gives it to the dead-letter queue", function()
    local c = connect()
    local q = assert(c:queue(name "retry", { durable = false, dlq = true }))
    local attempts, dead = {}, nil
    assert(c:publish("", q, "x"))
    assert(c:consume(q, { retry = { max = 2, base = 0.1, factor = 1, jitter = false } }, function(m)
      attempts[#attempts + 1] = m.attempt
      error("boom")
    end))
    assert(c:consume(q .. ".dlq", function(m) dead = { m.headers["x-mx-retries"], m.headers["x-mx-error"] } end))
    eventually(function() return dead end)
    assert.same({ 1, 2, 3 }, attempts)
    assert.equal(2, dead[1])
    assert.matches("boom", dead[2])
  end)

  it("requeues, and marks what comes back as redelivered", function()
    local c = connect()
    local q = assert(c:queue(name "requeue", { durable = false }))
    local seen = {}
    assert(c:publish("", q, "x"))
    assert(c:consume(q, function(m)
      seen[#seen + 1] = m.redelivered
      if #seen == 1 then return "requeue" end
    end))
    eventually(function() return #seen == 2 end)
    assert.same({ false, true }, seen)
  end)

  it("takes an answer that it does not know as a failure", function()
    local c = connect()
    local q = assert(c:queue(name "odd", { durable = false, dlq = true }))
    local dead
    assert(c:publish("", q, "x"))
    assert(c:consume(q, { retry = { max = 0 } }, function() return "akc" end))
    assert(c:consume(q .. ".dlq", function(m) dead = m.headers["x-mx-error"] end))
    eventually(function() return dead end)
    assert.matches("the handler returned akc", dead)
  end)

  it("raises in a wait past the handler's timeout and settles the delivery as failed", function()
    local c = connect()
    local q = assert(c:queue(name "timeout", { durable = false, dlq = true }))
    local caught, dead
    assert(c:publish("", q, "x"))
    assert(c:consume(q, { timeout = 0.05, retry = { max = 0 } }, function()
      local ok, e = pcall(mx.sleep, 5)
      caught = not ok and e.code
    end))
    assert(c:consume(q .. ".dlq", function(m) dead = m.headers["x-mx-error"] end))
    eventually(function() return dead and caught end)
    assert.equal("timeout", caught)
    assert.matches("time limit", dead)
  end)

  it("answers `already settled` for a message that outlived its handler", function()
    local c = connect()
    local q = assert(c:queue(name "stale", { durable = false }))
    local kept
    assert(c:publish("", q, "x"))
    assert(c:consume(q, function(m) kept = m end))
    eventually(function() return kept end)
    mx.sleep(0.05)
    local ok, e = pcall(function() return kept.body end)
    assert.is_false(ok)
    assert.matches("already settled", e)
  end)

  it("stops, gives back what it had not handled, and resumes", function()
    local c = connect()
    local q = assert(c:queue(name "stop", { durable = false }))
    local n = 0
    for i = 1, 50 do assert(c:publish("", q, tostring(i))) end
    local consumer = assert(c:consume(q, function() n = n + 1 mx.sleep(0.002) end))
    eventually(function() return n >= 3 end)
    assert(consumer:stop())
    local at = n
    mx.sleep(0.05)
    assert.equal(at, n)
    eventually(function() return c:queue_info(q).messages == 50 - at end)
    assert(consumer:resume())
    eventually(function() return n == 50 end)
  end)

  it("auto_ack takes without settling", function()
    local c = connect()
    local q = assert(c:queue(name "auto", { durable = false }))
    local n = 0
    for i = 1, 1000 do assert(c:publish_async("", q, tostring(i))) end
    assert(c:consume(q, { auto_ack = true }, function() n = n + 1 end))
    eventually(function() return n == 1000 end)
    assert.equal(0, c:queue_info(q).messages)
  end)

  it("stops an auto_ack consumer in the middle without a word about acks", function()
    local c = connect()
    local q = assert(c:queue(name "auto-stop", { durable = false }))
    local n = 0
    for i = 1, 5000 do assert(c:publish_async("", q, tostring(i))) end
    local consumer = assert(c:consume(q, { auto_ack = true }, function()
      n = n + 1
      if n % 100 == 0 then mx.sleep(0.001) end
    end))
    eventually(function() return n > 100 end)
    assert(consumer:stop())
    assert.is_true(c:publish("", q, "the connection lives"))
  end)

  it("auto_ack holds the broker back while handlers are slow, and loses nothing", function()
    local c = connect()
    local q = assert(c:queue(name "auto-slow", { durable = false }))
    local n = 0
    for i = 1, 12000 do assert(c:publish_async("", q, tostring(i))) end
    assert(c:consume(q, { auto_ack = true }, function(m)
      n = n + 1
      assert(m.body == tostring(n))
      if n % 3000 == 0 then mx.sleep(0.05) end
    end))
    eventually(function() return n == 12000 end)
  end)

  it("says what is wrong when the queue is missing", function()
    local c = connect()
    local consumer, e = c:consume(name "missing", function() end)
    assert.is_nil(consumer)
    assert.equal(404, e.reply_code)
    assert.matches("NOT_FOUND %- no queue", tostring(e))
  end)

  it("runs 20,000 messages through handlers that wait now and then, each exactly once", function()
    local c = connect()
    local q = assert(c:queue(name "many", { durable = false }))
    local seen, n = {}, 0
    assert(c:consume(q, { concurrency = 16 }, function(m)
      local i = tonumber(m.body)
      if i % 64 == 0 then mx.sleep(0.001) end
      assert(not seen[i])
      seen[i] = true
      n = n + 1
    end))
    for i = 1, 20000 do assert(c:publish_async("", q, tostring(i))) end
    eventually(function() return n == 20000 end)
    mx.sleep(0.1)
    assert.equal(0, c:queue_info(q).messages)
  end)
end)

describe("mx.consume", function()
  it("names a misspelt option and the caller's line", function()
    local ok, e = pcall(mx.consume, "q", { prefech = 1 }, function() end)
    assert.is_false(ok)
    assert.matches("unknown option 'prefech', did you mean 'prefetch'%?", e)
  end)
end)
