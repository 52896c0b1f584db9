-- Delay queues, kinds of queues, and queues that are there with other arguments.
local on_each_broker, eventually = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

on_each_broker("a retry", function(connect, name)
  it("goes through a delay queue of the smallest tier that is long enough", function()
    local c = connect()
    local q = assert(c:queue(name "tier", { durable = false }))
    local seen = {}
    assert(c:publish("", q, "x"))
    assert(c:consume(q, function(m)
      seen[#seen + 1] = m.attempt
      if #seen == 1 then return "retry", 0.15 end
      if #seen == 2 then return "retry", "4s" end
    end))
    eventually(function() return #seen == 2 end)
    assert.equal(0, assert(c:queue_info(q .. ".retry.0.2s")).messages)
    eventually(function()
      local info = c:queue_info(q .. ".retry.5s")
      return info and info.messages == 1
    end)
    assert.is_nil(c:queue_info(q .. ".retry.2s"))
    assert.equal(0, assert(c:queue_info(q)).messages)            -- nothing is held unacked meanwhile
    assert.same({ 1, 2 }, seen)
  end)

  it("of more than a day goes through one of whole days, up to 49", function()
    local c = connect()
    local q = assert(c:queue(name "days", { durable = false }))
    for _, delay in ipairs { "24h", "25h", "3d", "31d", "49d", "60d" } do assert(c:publish("", q, delay)) end
    local consumer = assert(c:consume(q, function(m) return "retry", m.body end))
    for tier, n in pairs { ["24h"] = 1, ["48h"] = 1, ["72h"] = 1, ["744h"] = 1, ["1176h"] = 2 } do
      local delays = q .. ".retry." .. tier
      eventually(function()
        local info = c:queue_info(delays)
        return info and info.messages == n
      end)
      assert(c:delete_queue(delays))
    end
    assert(consumer:stop())
  end)

  it("makes its delay queue again when that has gone", function()
    local c = connect()
    local q = assert(c:queue(name "gone", { durable = false }))
    local n = 0
    assert(c:consume(q, function()
      n = n + 1
      if n % 2 == 1 then return "retry", 0.5 end
    end))
    assert(c:publish("", q, "x"))
    eventually(function() return n == 2 end)
    assert(c:delete_queue(q .. ".retry.0.5s"))
    assert(c:publish("", q, "y"))
    eventually(function() return n == 4 end)
  end)

  it("uses a delay queue that somebody made with other arguments", function()
    local c = connect()
    local q = assert(c:queue(name "other", { durable = false }))
    assert(c:queue(q .. ".retry.0.1s", { ttl = 0.05, args = {
      ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = q, ["x-expires"] = 60000 } }))
    local n = 0
    assert(c:publish("", q, "x"))
    assert(c:consume(q, function()
      n = n + 1
      if n == 1 then return "retry", 0.1 end
    end))
    eventually(function() return n == 2 end)
  end)

  it("waits here where no delay queue can be made, and still ends", function()
    local c = connect()
    local q = assert(c:queue(name(("q"):rep(225)), { durable = false }))
    assert.is_true(#q > 235 and #q <= 250)
    q = assert(c:queue(q .. ("x"):rep(248 - #q), { durable = false, dlq = "dead." .. name "local" }))
    local attempts = {}
    assert(c:publish("", q, "x"))
    local consumer = assert(c:consume(q, { retry = { max = 2, base = 0.02, factor = 1, jitter = false } }, function(m)
      attempts[#attempts + 1] = m.attempt
      return nil, "no"
    end))
    eventually(function() return consumer:stats().rejected == 1 end)
    assert.same({ 1, 2, 3 }, attempts)
  end)

  it("that waits here does not hold up a stop", function()
    local c = connect()
    local q = name(("s"):rep(225))
    q = assert(c:queue(q .. ("x"):rep(250 - #q), { durable = false }))
    local n = 0
    assert(c:publish("", q, "x"))
    local consumer = assert(c:consume(q, function() n = n + 1 return "retry", 3600 end))
    eventually(function() return n == 1 end)
    mx.sleep(0.05)
    assert(consumer:stop(5))
    eventually(function() return c:queue_info(q).messages == 1 end)
  end)
end)

on_each_broker("a queue", function(connect, name)
  it("of which only the dead-letter arguments differ is kept; rejects go where the script says", function()
    local c = connect()
    local q = name "kept"
    assert(c:queue(q, { durable = false, args = { ["x-dead-letter-exchange"] = "amq.direct" } }))
    assert(c:queue(q, { durable = false, dlq = true }))
    assert(c:publish("", q, "x"))
    assert(c:consume(q, function() return "reject", "bad" end))
    eventually(function() return c:queue_info(q .. ".dlq").messages == 1 end)
    local plain = name "plain"
    assert(c:queue(plain, { durable = false }))
    assert(c:queue(plain, { durable = false, dlq = true }))
  end)

  it("of which more differs is refused, with what differs", function()
    local c = connect()
    local q = name "differs"
    assert(c:queue(q, { durable = false, ttl = 5 }))
    local ok, e = c:queue(q, { durable = false, ttl = 7, dlq = true })
    assert.is_nil(ok)
    assert.equal(406, e.reply_code)
    assert.matches("x%-message%-ttl", tostring(e))
    assert.matches("5000", tostring(e))
    assert.matches("7000", tostring(e))
  end)

  it("of type quorum retries and dead-letters through queues of its type", function()
    local c = connect()
    local q = name "quorum"
    assert(c:queue(q, { type = "quorum", dlq = true }))
    assert(c:publish("", q, "x"))
    local n, dead = 0, nil
    local a = assert(c:consume(q, { retry = { max = 1, base = 0.1, jitter = false } }, function()
      n = n + 1
      return nil, "no"
    end))
    local b = assert(c:consume(q .. ".dlq", function(m) dead = m.headers["x-mx-retries"] end))
    eventually(function() return dead end)
    assert.same({ 2, 1 }, { n, dead })
    local ok, e = c:queue(q .. ".retry.0.1s", { type = "classic", passive = false })
    assert.is_nil(ok)
    assert.equal(406, e.reply_code)
    assert(a:stop())
    assert(b:stop())
    for _, s in ipairs { "", ".dlq", ".retry.0.1s" } do c:delete_queue(q .. s) end
  end)
end)

on_each_broker("a stream", function(connect, name)
  local function stream(c, base, n)
    local q = name(base)
    if not c:queue(q, { type = "stream", dlq = true }) then return nil end      -- not on mem://
    for i = 1, n do assert(c:publish("", q, tostring(i))) end
    return q
  end
  local first = { args = { ["x-stream-offset"] = "first" } }
  local function with(options)
    for k, v in pairs(first) do options[k] = v end
    return options
  end

  it("is read from its offset, and a resume goes on behind what was settled", function()
    local c = connect()
    local q = stream(c, "read", 6)
    if not q then return end
    local seen, consumer = {}, nil
    consumer = assert(c:consume(q, with { prefetch = 10 }, function(m)
      seen[#seen + 1] = m.body
      if #seen == 3 then mx.spawn(function() consumer:stop() end) mx.sleep(0.1) end
    end))
    eventually(function() return #seen >= 3 and not consumer.sub end)
    assert(consumer:resume())
    eventually(function() return #seen >= 6 end)
    mx.sleep(0.1)
    assert.same({ "1", "2", "3", "4", "5", "6" }, seen)
    assert(consumer:stop())
    c:delete_queue(q)
  end)

  it("runs a failed delivery again in place, and copies what stays bad to the dead letters", function()
    local c = connect()
    local q = stream(c, "again", 3)
    if not q then return end
    local attempts, dead = {}, nil
    local consumers = {}
    consumers[1] = assert(c:consume(q, with { retry = { max = 2, base = 0.02, jitter = false } }, function(m)
      if m.body ~= "2" then return end
      attempts[#attempts + 1] = m.attempt
      mx.sleep(0.001)
      error "boom"
    end))
    consumers[2] = assert(c:consume(q .. ".dlq", function(m) dead = { m.body, m.headers["x-mx-error"] } end))
    eventually(function() return dead end)
    assert.same({ 1, 2, 3 }, attempts)
    assert.equal("2", dead[1])
    assert.matches("boom", dead[2])
    for _, consumer in ipairs(consumers) do assert(consumer:stop()) end
    c:delete_queue(q)
    c:delete_queue(q .. ".dlq")
  end)

  it("is read in batches: a failed one is halved in place, and a resume goes on behind what was settled", function()
    local c = connect()
    local q = stream(c, "batch", 20)
    if not q then return end
    local seen, dead, n = {}, {}, 0
    local consumers = {}
    consumers[1] = assert(c:consume_batch(q, with { size = 8, prefetch = 20, timeout = 0.1, retry = { max = 1, base = 0.02 } }, function(b)
      for _, m in ipairs(b) do
        if m.body == "11" then return nil, "bad row" end
      end
      for _, m in ipairs(b) do
        seen[m.body], n = (seen[m.body] or 0) + 1, n + 1
      end
      if n == 8 then return "retry", 0.02 end
    end))
    consumers[2] = assert(c:consume(q .. ".dlq", function(m) dead[#dead + 1] = m.body end))
    eventually(function() return n == 27 and #dead == 1 and consumers[1]:stats().in_flight == 0 end)
    for i = 1, 20 do assert.equal(i <= 8 and 2 or i ~= 11 and 1 or nil, seen[tostring(i)]) end
    assert.same({ "11" }, dead)
    assert(consumers[1]:stop())
    assert(c:publish("", q, "21"))
    assert(consumers[1]:resume())
    eventually(function() return seen["21"] end)
    assert.equal(28, n)
    for _, consumer in ipairs(consumers) do assert(consumer:stop()) end
    c:delete_queue(q)
    c:delete_queue(q .. ".dlq")
  end)

  it("keeps nothing of what ran again", function()
    local c = connect()
    local q = stream(c, "kept", 20)
    if not q then return end
    local done = 0
    local consumer = assert(c:consume(q, with { retry = { max = 2, base = 0, jitter = false } }, function(m)
      if m.attempt == 1 then error "boom" end
      if m.attempt == 2 then return "retry", 0 end
      done = done + 1
    end))
    eventually(function() return done == 20 end)
    local sub, tasks = consumer.sub, 0
    eventually(function() return sub.busy == 0 end)
    for _ in pairs(sub.tasks) do tasks = tasks + 1 end
    assert.equal(#sub.idle, tasks)
    assert.is_nil(next(sub.again))
    assert(consumer:stop())
    c:delete_queue(q)
    c:delete_queue(q .. ".dlq")
  end)

  it("cannot be requeued to, nor be read without an offset or acks", function()
    local c = connect()
    local q = stream(c, "not", 1)
    if not q then return end
    local dead
    local consumers = { assert(c:consume(q, with {}, function() return "requeue" end)) }
    consumers[2] = assert(c:consume(q .. ".dlq", function(m) dead = m.headers["x-mx-error"] end))
    eventually(function() return dead end)
    assert.matches("nothing can be requeued", dead)
    for text, options in pairs {
      ["x%-stream%-offset"] = {}, ["auto_ack"] = with { auto_ack = true }, ["prefetch"] = with { prefetch = 0 },
    } do
      local ok, e = pcall(c.consume, c, q, options, function() end)
      assert.is_false(ok)
      assert.matches(text, e)
    end
    for _, consumer in ipairs(consumers) do assert(consumer:stop()) end
    c:delete_queue(q)
    c:delete_queue(q .. ".dlq")
  end)
end)
