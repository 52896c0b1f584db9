-- Batches: what is gathered, when it is handed over, and what becomes of it.
local on_each_broker, eventually = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

on_each_broker("a batch", function(connect, name)
  local function queue_of(c, base, n, options)
    local q = assert(c:queue(name(base), options or { durable = false, dlq = true }))
    local receipts = {}
    for i = 1, n or 0 do receipts[i] = assert(c:publish_async("", q, tostring(i))) end
    assert(mx.wait_all(receipts))
    return q
  end

  local function ready(c, q) return assert(c:queue_info(q)).messages end

  -- Consumes batches; the bodies of each, as text, and the consumer.
  local function take(c, q, options)
    local got = {}
    return got, assert(c:consume_batch(q, options, function(batch) got[#got + 1] = table.concat(batch:bodies(), " ") end))
  end

  describe("is handed over", function()
    it("when it has its size, in the queue's order", function()
      local c = connect()
      local q = queue_of(c, "size", 9)
      local got, consumer = take(c, q, { size = 3, timeout = 60 })
      eventually(function() return #got == 3 end)
      assert.same({ "1 2 3", "4 5 6", "7 8 9" }, got)
      eventually(function() return consumer:stats().acked == 9 end)
      assert.same({ size = 3 }, consumer.batches)
    end)

    it("when its first has waited long enough", function()
      local c = connect()
      local q = queue_of(c, "time", 2)
      local got, consumer = take(c, q, { size = 100, timeout = 0.05 })
      eventually(function() return got[1] end)
      assert(c:publish("", q, "3"))
      eventually(function() return got[2] end)
      assert.equal("1 2 3", table.concat(got, " "))
      assert.is_nil(consumer.batches.size)
    end)

    it("before one more would be too many bytes; what is larger goes alone", function()
      local c = connect()
      local q = queue_of(c, "bytes")
      for _, n in ipairs { 4, 4, 4, 30, 4 } do assert(c:publish("", q, ("x"):rep(n))) end
      local got = take(c, q, { bytes = "10B", timeout = 0.3 })
      eventually(function() return #got == 4 end)
      for i, n in ipairs { 9, 4, 30, 4 } do assert.equal(n, #got[i]) end
    end)

    it("when its policy says true, or a number that is not above 0", function()
      local c = connect()
      local q = queue_of(c, "policy", 6)
      local got, consumer = take(c, q, { timeout = 60, policy = function(b) return b.count == 2 or b.count == 3 and 0 end })
      eventually(function() return #got == 3 end)
      assert.same({ "1 2", "3 4", "5 6" }, got)
      assert.same({ policy = 3 }, consumer.batches)
    end)

    it("when its policy says so as it is asked again", function()
      local c = connect()
      local q = queue_of(c, "again", 2)
      local asked = 0
      local got = take(c, q, { timeout = 60, policy = function(b)
        asked = asked + 1
        return b.age >= 0.05 or 0.01
      end })
      eventually(function() return got[1] end)
      assert.equal("1 2", table.concat(got, " "))
      assert.is_true(asked > 2)
    end)

    it("when the broker sends no more before something is settled", function()
      local c = connect()
      local q = queue_of(c, "prefetch", 20)
      local got, consumer = take(c, q, { size = 10, prefetch = 10, timeout = 60, group_by = function(m) return m.body % 2 end })
      eventually(function() return #got > 0 end)
      eventually(function() return consumer.batches.prefetch end)
    end)

    it("when its consumer stops: what was gathered is handled, the rest goes back", function()
      local c = connect()
      local q = queue_of(c, "stop", 5)
      local got, consumer = take(c, q, { size = 5, prefetch = 5, timeout = 60, policy = function() return false end })
      eventually(function() return consumer:stats().acked == 5 end)
      for i = 6, 8 do assert(c:publish("", q, tostring(i))) end
      eventually(function() return consumer:stats().in_flight == 3 end)
      assert.is_true(consumer:stop())
      assert.same({ "1 2 3 4 5", "6 7 8" }, got)
      assert.equal(0, ready(c, q))
      for i = 9, 10 do assert(c:publish("", q, tostring(i))) end
      assert.is_true(consumer:resume())
      eventually(function() return consumer:stats().in_flight == 2 end)
      assert.is_true(consumer:pause())
      assert.equal("9 10", got[3])
    end)

    it("with nothing of it lost or twice when it stops again and again", function()
      local c = connect()
      local q = queue_of(c, "often", 400)
      local seen, n = {}, 0
      local consumer = assert(c:consume_batch(q, { size = 7, timeout = 0.005, prefetch = 20, concurrency = 3 }, function(batch)
        mx.sleep(0.001)
        for _, m in ipairs(batch) do
          assert.is_nil(seen[m.body])
          seen[m.body], n = true, n + 1
        end
      end))
      for _ = 1, 10 do
        mx.sleep(0.01)
        assert.is_true(consumer:pause())
        assert.is_true(consumer:resume())
      end
      eventually(function() return n == 400 end)
      assert.is_true(consumer:stop())
      assert.equal(0, ready(c, q))
    end)
  end)

  it("is asked about with what its policy may want to know", function()
    local c = connect()
    local q = queue_of(c, "look", 4)
    local looks, text = {}, nil
    local got = take(c, q, { timeout = 60, policy = function(b)
      looks[#looks + 1] = { count = b.count, bytes = b.bytes, age = b.age, idle = b.idle, rate = b.rate, depth = b.depth,
                            memory = b.memory, in_flight = b.in_flight }
      if b.count == 4 then text = select(2, pcall(function() return b.cuont end)) end
      return b.count == 4
    end })
    eventually(function() return got[1] end)
    assert.equal(4, #looks)
    for i, look in ipairs(looks) do
      assert.equal(i, look.count)
      assert.equal(i, look.bytes)
      assert.is_true(look.age >= 0 and look.age < 60 and look.idle <= look.age and look.depth <= 4 - i)
      assert.is_true(look.rate >= 0 and look.memory >= 0 and look.in_flight == 0)
    end
    assert.matches("cuont", text)
  end)

  it("is gathered by its limits when the policy raises, answers nonsense or wants to wait", function()
    for _, policy in ipairs { function() error "oops" end, function() return {} end, function() return 0 / 0 end,
                              function() mx.sleep(0.001) end } do
      local c = connect()
      local q = queue_of(c, "bad", 4)
      local got = take(c, q, { size = 2, timeout = 60, policy = policy })
      eventually(function() return #got == 2 end)
      assert.same({ "1 2", "3 4" }, got)
    end
  end)

  it("says where its functions wanted to wait", function()
    local c = connect()
    local q = queue_of(c, "waits", 2)
    local said, got = nil, take(c, q, { size = 2, timeout = 60, policy = function() return (select(2, pcall(mx.sleep, 0.001))) end })
    eventually(function() return #got == 1 end)
    q = queue_of(c, "waits too", 1)
    take(c, q, { size = 1, group_by = function() said = select(2, pcall(mx.sleep, 0.001)) end })
    eventually(function() return said end)
    assert.matches("batch_spec%.lua:%d+: cannot wait inside what gathers a batch", said)
  end)

  it("has its messages as an array, and says so when they are settled", function()
    local c = connect()
    local q = queue_of(c, "array", 3)
    local first, n, sum, kept, batch, ended
    assert(c:consume_batch(q, { size = 3, timeout = 60 }, function(b)
      batch, first, n, sum = b, b[1], #b, 0
      for i, m in ipairs(b) do sum = sum + i * m.body end
      kept = b[2]:keep()
      mx.sleep(0.001)
      ended = b.group == nil and b[3].queue == q and b[3].attempt == 1
    end))
    eventually(function() return ended end)
    assert.same({ 3, 14, "2" }, { n, sum, kept.body })
    eventually(function() return not pcall(function() return first.body end) end)
    assert.matches("already settled", select(2, pcall(batch.bodies, batch)))
    local ok, e = batch:fail(1, "late")
    assert.is_nil(ok)
    assert.equal("closed", e.code)
  end)

  describe("of a group", function()
    it("has the messages of one group only, each in order", function()
      local c = connect()
      local q = queue_of(c, "group", 12)
      local groups, n = {}, 0
      assert(c:consume_batch(q, { size = 3, timeout = 60, group_by = function(m) return m.body % 2 == 0 and "even" or "odd" end },
        function(batch)
          groups[batch.group] = (groups[batch.group] or "") .. table.concat(batch:bodies(), " ") .. "; "
          n = n + #batch
        end))
      eventually(function() return n == 12 end)
      assert.same({ odd = "1 3 5; 7 9 11; ", even = "2 4 6; 8 10 12; " }, groups)
    end)

    it("is handed over when there are too many groups", function()
      local c = connect()
      local q = queue_of(c, "many", 1010)
      local got, consumer = take(c, q, { size = 2, prefetch = 2000, timeout = 60, group_by = function(m) return m.body end })
      eventually(function() return #got >= 10 end)
      assert.equal("1", got[1])
      assert.is_true(consumer.batches.groups >= 10)
    end)

    it("is none when group_by fails: that message does, and the others go on", function()
      local c = connect()
      local q = queue_of(c, "fails", 4)
      local got = take(c, q, { size = 3, timeout = 60, retry = { max = 0 }, group_by = function(m)
        if m.body == "2" then error "no group" end
      end })
      eventually(function() return got[1] end)
      assert.same({ "1 3 4" }, got)
      eventually(function() return ready(c, q .. ".dlq") == 1 end)
    end)
  end)

  it("runs beside others up to the concurrency", function()
    local c = connect()
    local q = queue_of(c, "beside", 8)
    local running, most, n = 0, 0, 0
    assert(c:consume_batch(q, { size = 2, timeout = 60, concurrency = 3 }, function(batch)
      running = running + 1
      most = math.max(most, running)
      mx.sleep(0.02)
      running, n = running - 1, n + #batch
    end))
    eventually(function() return n == 8 end)
    assert.equal(3, most)
  end)

  it("may stop its own consumer; what was gathered behind it is handled then", function()
    local c = connect()
    local q = queue_of(c, "own", 3)
    local got, consumer, stopped = {}, nil, nil
    consumer = assert(c:consume_batch(q, { size = 2, timeout = 60 }, function(batch)
      got[#got + 1] = table.concat(batch:bodies(), " ")
      if #got > 1 then return end
      while consumer:stats().in_flight < 3 do mx.sleep(0.001) end
      stopped = consumer:stop()
      mx.sleep(0.01)
    end))
    eventually(function() return #got == 2 and not consumer.sub end)
    assert.is_true(stopped)
    assert.same({ "1 2", "3" }, got)
    assert.equal(0, ready(c, q))
  end)

  it("leaves nothing behind", function()
    local c = connect()
    local q = queue_of(c, "weak", 40)
    local kept, n = setmetatable({}, { __mode = "k" }), 0
    local consumer = assert(c:consume_batch(q, { size = 4, timeout = 60, group_by = function() return "g" end }, function(batch)
      kept[batch], n = true, n + #batch
      if n == 20 then return nil, "bad" end
    end))
    eventually(function() return consumer:stats().acked >= 36 end)
    local sub = consumer.sub
    eventually(function() return sub.busy == 0 end)
    assert.is_true(consumer:stop())
    consumer, sub = nil, nil
    eventually(function()
      collectgarbage()
      return not next(kept)
    end)
  end)

  it("is settled at once without acks", function()
    local c = connect()
    local q = queue_of(c, "auto", 6)
    local got, n = take(c, q, { size = 3, timeout = 60, auto_ack = true }), 0
    eventually(function() return #got == 2 end)
    assert.same({ "1 2 3", "4 5 6" }, got)
    local other = queue_of(c, "auto", 4)
    assert(c:consume_batch(other, { size = 2, timeout = 60, auto_ack = true }, function(b)
      n = n + #b
      return n == 2 and "reject" or nil, "bad"
    end))
    eventually(function() return n == 4 end)
    assert.equal(0, ready(c, other .. ".dlq"))
  end)

  it("may be answered for as a whole", function()
    local c = connect()
    local q = queue_of(c, "answer", 9)
    local answers, n = { { "reject", "no good" }, { "requeue" }, { "retry", 0.1 } }, 0
    local consumer = assert(c:consume_batch(q, { size = 3, timeout = 0.05 }, function()
      n = n + 1
      if answers[n] then return unpack(answers[n]) end
    end))
    eventually(function() return consumer:stats().acked >= 12 and ready(c, q .. ".dlq") == 3 and consumer:stats().in_flight == 0 end)
    local s = consumer:stats()
    assert.same({ 3, 3, 3, 0 }, { s.rejected, s.requeued, s.retried, s.failed })
  end)

  it("may be told apart: some fail, are rejected, tried again or given back, the others are done", function()
    local c = connect()
    local q = queue_of(c, "apart", 6)
    local attempts, reasons, text = {}, {}, nil
    assert(c:consume_batch(q, { size = 6, timeout = 0.05, retry = { max = 1, base = 0.1, jitter = false } }, function(batch)
      for i, m in ipairs(batch) do
        attempts[m.body] = (attempts[m.body] or 0) + 1
        if m.body == "2" then assert(batch:fail(i, "bad row")) end
        if m.body == "3" then assert(batch:reject(i, "no id")) end
        if m.body == "4" and m.attempt == 1 then assert(batch:retry(i, 0.1)) end
        if m.body == "5" and not m.redelivered then assert(batch:requeue(i)) end
      end
      text = text or { select(2, pcall(batch.fail, batch, 7, "x")), select(2, pcall(batch.retry, batch, 1, "soon")) }
    end))
    assert(c:consume(q .. ".dlq", function(m) reasons[m.body] = m.headers["x-mx-error"] end))
    eventually(function() return reasons["2"] and reasons["3"] and attempts["4"] == 2 and attempts["5"] == 2 end)
    assert.same({ ["2"] = "bad row", ["3"] = "no id" }, reasons)
    assert.same({ ["1"] = 1, ["2"] = 2, ["3"] = 1, ["4"] = 2, ["5"] = 2, ["6"] = 1 }, attempts)
    assert.matches("argument #1 to batch:fail: expected an integer from 1 to 6", text[1])
    assert.matches("batch:retry: .*expected seconds", text[2])
  end)

  describe("that fails", function()
    -- Runs batches over n messages of which some are bad until all is settled: the runs, how often each body was in one that
    -- ended well, and the dead letters with their reasons.
    local function run(n, bad, options, fail)
      local c = connect()
      local q = queue_of(c, "fails", n)
      local runs, good, dead = 0, {}, {}
      local o = { size = n, timeout = 60 }
      for k, v in pairs(options or {}) do o[k] = v end
      local consumer = assert(c:consume_batch(q, o, function(batch)
        runs = runs + 1
        for _, m in ipairs(batch) do
          if bad[m.body] then return fail(m) end
        end
        for _, m in ipairs(batch) do good[m.body] = (good[m.body] or 0) + 1 end
      end))
      local count = 0
      for _ in pairs(bad) do count = count + 1 end
      assert(c:consume(q .. ".dlq", function(m) dead[m.body] = m.headers["x-mx-error"] end))
      eventually(function() return consumer:stats().rejected == count and consumer:stats().in_flight == 0 end)
      eventually(function()
        local seen = 0
        for _ in pairs(dead) do seen = seen + 1 end
        return seen == count
      end)
      return runs, good, dead, consumer
    end

    local function all_but(n, bad)
      local all = {}
      for i = 1, n do all[tostring(i)] = not bad[tostring(i)] and 1 or nil end
      return all
    end

    for _, at in ipairs { "1", "333", "500" } do
      it("of 500 loses its one bad message to the dead letters within 19 runs, and nothing else: number " .. at, function()
        local runs, good, dead, consumer = run(500, { [at] = true }, nil, function() return nil, "bad row" end)
        assert.is_true(runs <= 19)
        assert.same(all_but(500, { [at] = true }), good)
        assert.same({ [at] = "bad row" }, dead)
        assert.equal(1, consumer:stats().failed)
        assert.equal(500, consumer:stats().acked)
      end)
    end

    it("loses each of its bad messages, however it fails", function()
      local bad = { ["3"] = true, ["4"] = true, ["17"] = true, ["40"] = true }
      for _, fail in ipairs { function() error("bad row", 0) end, function() return false, "bad row" end } do
        local _, good, dead = run(40, bad, nil, fail)
        assert.same(all_but(40, bad), good)
        assert.same({ ["3"] = "bad row", ["4"] = "bad row", ["17"] = "bad row", ["40"] = "bad row" }, dead)
      end
    end)

    it("has no bad message when none is good alone: each is tried again as a failed one", function()
      local c = connect()
      local q = queue_of(c, "outage", 4)
      local attempts, up = {}, false
      local consumer = assert(c:consume_batch(q, { size = 4, timeout = 0.05, retry = { base = 0.1, jitter = false } }, function(batch)
        for _, m in ipairs(batch) do
          if not up then return nil, "the database is down" end
          attempts[m.body] = m.attempt
        end
      end))
      eventually(function() return consumer:stats().retried == 4 end)
      up = true
      eventually(function() return consumer:stats().acked == 8 end)
      assert.same({ ["1"] = 2, ["2"] = 2, ["3"] = 2, ["4"] = 2 }, attempts)
      assert.equal(0, ready(c, q .. ".dlq"))
    end)

    it("is tried again message by message with on_error = retry, and is dead with reject", function()
      local c = connect()
      local q, runs = queue_of(c, "retry", 3), 0
      local consumer = assert(c:consume_batch(q, { size = 3, timeout = 0.3, on_error = "retry", retry = { max = 1, base = 0.1,
                                                   jitter = false } }, function()
        runs = runs + 1
        error "never"
      end))
      eventually(function() return ready(c, q .. ".dlq") == 3 end)
      assert.same({ 3, 3, 6 }, { consumer:stats().retried, consumer:stats().rejected, consumer:stats().failed })
      local dead = queue_of(c, "reject", 3)
      assert(c:consume_batch(dead, { size = 3, timeout = 60, on_error = "reject" }, function() error "never" end))
      eventually(function() return ready(c, dead .. ".dlq") == 3 end)
    end)

    it("fails, too, when its handler runs past the time limit", function()
      local c = connect()
      local q = queue_of(c, "limit", 4)
      local code, n, late = nil, 0, nil
      assert(c:consume_batch(q, { size = 4, timeout = 60, handler_timeout = 0.1, retry = { max = 0 } }, function(batch)
        for _, m in ipairs(batch) do
          if m.body == "3" then
            local ok, e = pcall(mx.sleep, 60)
            code = not ok and e.code
            late = batch:fail(1, "late")
            return true                                 -- counts for nothing
          end
        end
        n = n + #batch
      end))
      eventually(function() return n == 3 and ready(c, q .. ".dlq") == 1 end)
      assert.equal("timeout", code)
      assert.is_nil(late)
    end)

    it("stops with its consumer: what was being looked for is found first", function()
      local c = connect()
      local q = queue_of(c, "stop", 32)
      local runs, n = 0, 0
      local consumer = assert(c:consume_batch(q, { size = 32, timeout = 60 }, function(batch)
        runs = runs + 1
        mx.sleep(0.005)
        for _, m in ipairs(batch) do
          if m.body == "20" then return nil, "bad" end
        end
        n = n + #batch
      end))
      eventually(function() return runs == 2 end)
      assert.is_true(consumer:stop())
      assert.same({ 31, 1, 0 }, { n, ready(c, q .. ".dlq"), ready(c, q) })
    end)

    it("goes back whole when a stop does not wait for it", function()
      local c = connect()
      local q = queue_of(c, "give up", 6)
      local runs, go = 0, false
      local consumer = assert(c:consume_batch(q, { size = 3, timeout = 60 }, function()
        runs = runs + 1
        while not go do mx.sleep(0.01) end
      end))
      eventually(function() return runs == 1 and consumer:stats().in_flight == 6 end)
      local ok, e = consumer:stop(0.05)
      assert.is_nil(ok)
      assert.equal("timeout", e.code)
      eventually(function() return ready(c, q) == 6 end)
      go = true
      assert(consumer:resume())
      eventually(function() return runs == 3 and consumer:stats().acked == 6 end)
    end)
  end)

  describe("with publishes in its handler", function()
    it("is acked once they are confirmed", function()
      local c = connect()
      local q, other = queue_of(c, "sends", 200), queue_of(c, "sent")
      local consumer = assert(c:consume_batch(q, { size = 50, timeout = 60 }, function(batch)
        for _, m in ipairs(batch) do assert(c:publish_async("", other, m.body)) end
      end))
      eventually(function() return consumer:stats().acked == 200 end)
      assert.equal(200, ready(c, other))
      assert.is_true(consumer:stop())
    end)

    it("fails when one of them did, unless it returns true", function()
      local c = connect()
      local q, sure = queue_of(c, "sends", 4), queue_of(c, "sure", 4)
      local alone = 0
      local function send(batch)
        for _, m in ipairs(batch) do
          if m.body == "3" then assert(c:publish_async("", "no such queue", "x")) end
        end
      end
      assert(c:consume_batch(q, { size = 4, timeout = 60, retry = { max = 0 } }, function(batch)
        send(batch)
        alone = alone + (#batch == 1 and 1 or 0)
      end))
      local consumer = assert(c:consume_batch(sure, { size = 4, timeout = 60 }, function(batch)
        send(batch)
        return true
      end))
      eventually(function() return ready(c, q .. ".dlq") == 1 end)
      assert.equal(2, alone)
      eventually(function() return consumer:stats().acked == 4 end)
      assert.equal(0, consumer:stats().failed)
    end)
  end)

  it("is refused when it cannot be had, with the reason", function()
    local c = connect()
    local q = queue_of(c, "refused")
    local function refused(text, options)
      local ok, e = pcall(c.consume_batch, c, q, options, function() end)
      assert.is_false(ok)
      assert.matches(text, e)
    end
    refused("size is 500, at most 256: the broker sends no more than prefetch ahead", { size = 500, prefetch = 256 })
    refused("size is 5000, at most 4096", { size = 5000, auto_ack = true })
    refused("size is 70000, at most 65535", { size = 70000 })
    refused("unknown option 'manual'", { manual = true })
    refused("on_error.*did you mean 'isolate'", { on_error = "isolat" })
    assert.matches("the handler must be a function", select(2, pcall(c.consume_batch, c, q, {}, {})))
  end)
end)
