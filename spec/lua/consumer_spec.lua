-- A consumer's life: who may stop it, when, and what becomes of what its handlers hold.
local on_each_broker, eventually = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

on_each_broker("a consumer", function(connect, name)
  local function queue_of(c, base, n)
    local q = assert(c:queue(name(base), { durable = false }))
    for i = 1, n do assert(c:publish("", q, tostring(i))) end
    return q
  end

  local function left(c, q) return assert(c:queue_info(q)).messages end

  it("may be stopped by its own handler, which then ends as usual", function()
    local c = connect()
    local q = queue_of(c, "own", 5)
    local stopped, body, consumer
    consumer = assert(c:consume(q, function(m)
      stopped = consumer:stop()
      mx.sleep(0.01)
      body = m.body
    end))
    eventually(function() return body end)
    assert.is_true(stopped)
    assert.equal("1", body)
    eventually(function() return left(c, q) == 4 end)
  end)

  it("may be stopped by a handler of another", function()
    local c = connect()
    local q, other = queue_of(c, "stopped", 3), queue_of(c, "stopper", 1)
    local started, body, stopped
    local consumer = assert(c:consume(q, function(m)
      started = true
      mx.sleep(0.05)
      body = m.body
    end))
    eventually(function() return started end)
    assert(c:consume(other, function() stopped = consumer:stop() end))
    eventually(function() return stopped end)
    assert.equal("1", body)
    eventually(function() return left(c, q) == 2 end)
  end)

  it("gives back what handlers hold past the timeout of a stop; they read nothing any more", function()
    local c = connect()
    local q = queue_of(c, "late", 3)
    local started, go, answer, text
    local consumer = assert(c:consume(q, { concurrency = 2 }, function(m)
      started = true
      while not go do mx.sleep(0.01) end
      if m then answer, text = pcall(function() return m.body end) end
    end))
    eventually(function() return started end)
    local ok, e = consumer:stop(0.05)
    assert.is_nil(ok)
    assert.equal("timeout", e.code)
    assert.matches("2 handlers", tostring(e))
    eventually(function() return left(c, q) == 3 end)
    go = true
    eventually(function() return answer ~= nil end)
    assert.is_false(answer)
    assert.matches("already settled", text)
    local again = 0
    assert(consumer:resume())
    eventually(function() return consumer:stats().acked == 3 end)
    assert.equal(0, again)
  end)

  it("keeps no handler from going on when its connection is closed", function()
    local c = connect()
    local q = queue_of(c, "closed", 2)
    local answer, text
    assert(c:consume(q, function(m)
      c:close()
      answer, text = pcall(function() return m.body end)
    end))
    eventually(function() return answer ~= nil end)
    assert.is_false(answer)
    assert.matches("already settled", text)
  end)

  it("may be paused and resumed by its own handler, in order and without a loss", function()
    local c = connect()
    local q = queue_of(c, "pause", 6)
    local seen, consumer = {}, nil
    consumer = assert(c:consume(q, function(m)
      seen[#seen + 1] = m.body
      if #seen % 2 == 0 then
        assert(consumer:pause())
        assert(consumer:resume())
        mx.sleep(0.01)
      end
    end))
    eventually(function() return #seen == 6 end)
    assert.same({ "1", "2", "3", "4", "5", "6" }, seen)
    eventually(function() return consumer:stats().acked == 6 end)
  end)

  it("waits with a resume for the stop that is under way", function()
    local c = connect()
    local q = queue_of(c, "both", 4)
    local seen, running, most = 0, 0, 0
    local consumer = assert(c:consume(q, function()
      running = running + 1
      most = math.max(most, running)
      mx.sleep(0.05)
      running, seen = running - 1, seen + 1
    end))
    eventually(function() return running == 1 end)
    local stopping = mx.spawn(function() return consumer:stop() end)
    mx.sleep(0)
    assert.is_true(consumer:resume())
    assert.is_true(select(2, stopping:wait(5)))
    eventually(function() return seen == 4 end)
    assert.equal(1, most)
  end)

  it("stays stopped when a resume fails, and may be resumed later", function()
    local c = connect()
    local q = queue_of(c, "gone", 1)
    local n = 0
    local consumer = assert(c:consume(q, function() n = n + 1 end))
    eventually(function() return n == 1 end)
    assert(consumer:stop())
    assert(c:delete_queue(q))
    local ok, e = consumer:resume()
    assert.is_nil(ok)
    assert.equal(404, e.reply_code)
    assert(c:queue(q, { durable = false }))
    assert(c:publish("", q, "x"))
    assert(consumer:resume())
    eventually(function() return n == 2 end)
  end)

  it("takes nothing when its making was cancelled", function()
    local c = connect()
    local q = queue_of(c, "cancelled", 1)
    local n = 0
    eventually(function()                               -- on a busy machine it may be made before it is cancelled
      local t = mx.spawn(function() return c:consume(q, { auto_ack = false }, function() n = n + 1 return "requeue" end) end)
      mx.spawn(function() t:cancel() end)
      local made, consumer = t:wait(5)
      if made then consumer:stop() end
      n = made and 0 or n
      return not made
    end)
    mx.sleep(0.05)
    eventually(function() return assert(c:queue_info(q)).consumers == 0 end)
    assert.equal(1, left(c, q))
    assert.equal(0, n)
  end)

  it("adds its figures to those of the others on its queue", function()
    local c = connect()
    local q = queue_of(c, "figures", 40)
    local function slow() mx.sleep(0.002) end
    local a = assert(c:consume(q, { prefetch = 1 }, slow))
    local b = assert(c:consume(q, { prefetch = 1 }, slow))
    eventually(function() return a:stats().acked + b:stats().acked == 40 end)
    local s = mx.stats().consume[q]
    assert.is_true(a:stats().count > 0 and b:stats().count > 0)
    assert.equal(40, s.count)
    assert.equal(40, s.acked)
    assert.is_true(s.handler.p50 >= 0.001 and s.handler.max >= s.handler.p99)
    assert(a:stop())
    assert(b:stop())
    assert.equal(40, a:stats().acked + b:stats().acked)
  end)

  it("takes along what was remembered of its queue, when both are gone", function()
    local c, consume = connect(), require "mx.consume"
    local q = assert(c:queue("", { durable = false }))
    local done = false
    local consumer = assert(c:consume(q, function(m)
      done = m.attempt == 2
      return not done and "retry" or nil, not done and 0.1 or nil
    end))
    assert(c:publish("", q, "x"))
    eventually(function() return done end)
    assert.is_true(consume.hists[q] ~= nil and mx.stats().consume[q] ~= nil and c.exclusive[q] and c.declared[q .. ".retry.0.1s"] ~= nil)
    assert(c:delete_queue(q))
    eventually(function() return not consumer.sub end)
    consumer = nil -- luacheck: ignore
    eventually(function()
      collectgarbage()
      return not consume.hists[q]
    end)
    assert.is_nil(mx.stats().consume[q])
    for _, list in ipairs { c.queues, c.exclusive, c.deleted, c.declared, c.users } do
      for k in pairs(list) do assert.is_nil(k:find(q, 1, true)) end
    end
    c:delete_queue(q .. ".retry.0.1s")
  end)
end)
