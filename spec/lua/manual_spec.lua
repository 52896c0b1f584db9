-- manual = true: the script settles, when and where it likes; msg:keep() and order_by.
local on_each_broker, eventually = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

on_each_broker("a message settled by hand", function(connect, name)
  local function setup(base, n)
    local c = connect()
    local q = assert(c:queue(name(base), { durable = false, dlq = true }))
    for i = 1, n do assert(c:publish("", q, tostring(i))) end
    return c, q
  end
  local function messages(c, q) return assert(c:queue_info(q)).messages end

  it("stays unacked until then, also long after its handler, in any order", function()
    local c, q = setup("later", 5)
    local held = {}
    local consumer = assert(c:consume(q, { manual = true }, function(m) held[#held + 1] = m end))
    eventually(function() return #held == 5 end)
    mx.sleep(0.1)
    assert.equal(0, consumer:stats().acked)
    assert.equal("4", held[4].body)
    for _, i in ipairs { 4, 2, 5 } do assert.is_true(held[i]:ack()) end
    eventually(function() return consumer:stats().acked == 3 end)
    assert(consumer:stop())
    eventually(function() return messages(c, q) == 2 end)
    assert.same({ nil, "msg:ack: already settled" }, { held[1]:ack() and 1, tostring(select(2, held[1]:ack())) })
    local back = {}
    assert(c:consume(q, function(m) back[#back + 1] = m.body end))
    eventually(function() return #back == 2 end)
    assert.same({ "1", "3" }, back)
  end)

  it("can be acked, rejected, retried and requeued", function()
    local c, q = setup("four", 4)
    local seen, dead = {}, nil
    local consumer = assert(c:consume(q, { manual = true }, function(m)
      local body = m.body
      seen[#seen + 1] = body
      if m.redelivered or m.attempt > 1 or body == "1" then return assert(m:ack()) and nil end
      if body == "2" then assert(m:reject "bad") end
      if body == "3" then assert(m:retry(0.1)) end
      if body == "4" then assert(m:requeue()) end
    end))
    assert(c:consume(q .. ".dlq", function(m) dead = { m.body, m.headers["x-mx-error"] } end))
    eventually(function() return #seen == 6 and dead end)
    assert.same({ "2", "bad" }, dead)
    assert(consumer:stop())
    eventually(function() return messages(c, q) == 0 end)
    assert.same({ 5, 1, 1 }, { consumer:stats().acked, consumer:stats().rejected, consumer:stats().retried })
  end)

  it("is settled once: a second time raises at the script's line, also later and through what was kept", function()
    local c, q = setup("twice", 1)
    local first, kept, said = nil, nil, {}
    local function again(method)
      said[#said + 1] = select(2, pcall(function() kept[method](kept) end))
    end
    local consumer = assert(c:consume(q, { manual = true }, function(m)
      kept = m:keep()
      first = m:reject "bad"                            -- its copy is under way
      again "ack"
      mx.sleep(0.05)
      again "requeue"
    end))
    eventually(function() return #said == 2 end)
    eventually(function() return messages(c, q .. ".dlq") == 1 end)
    assert(consumer:stop())
    again "retry"
    assert.is_true(first)
    assert.equal("1", kept.body)
    for i, method in ipairs { "ack", "requeue", "retry" } do
      assert.matches("^spec/lua/manual_spec.lua:%d+: msg:" .. method .. ": already settled by this script$", said[i])
    end
  end)

  it("that the runtime settled first answers `already settled`", function()
    local c, q = setup("late", 1)
    local late
    assert(c:consume(q, { manual = true, timeout = 0.05, retry = { max = 0 } }, function(m)
      pcall(mx.sleep, 5)
      late = { m:ack() }
    end))
    eventually(function() return late end)
    assert.is_nil(late[1])
    assert.equal("closed", late[2].code)
    assert.matches("msg:ack: already settled", tostring(late[2]))
  end)

  it("cannot be kept any more once it is settled", function()
    local c, q = setup("too late", 2)
    local said = {}
    assert(c:consume(q, { manual = true }, function(m)
      if m.body == "1" then m:ack() else m:reject() end
      said[#said + 1] = select(2, pcall(function() m:keep() end))
    end))
    eventually(function() return #said == 2 end)
    for i = 1, 2 do assert.matches("^spec/lua/manual_spec.lua:%d+: msg.keep: already settled$", said[i]) end
  end)

  it("is read-only", function()
    local c, q = setup("read-only", 1)
    local said = {}
    assert(c:consume(q, function(m)
      for i, field in ipairs { "body", "note" } do said[i] = select(2, pcall(function() m[field] = "x" end)) end
    end))
    eventually(function() return said[2] end)
    assert.matches("^spec/lua/manual_spec.lua:%d+: msg.body cannot be set: messages are read%-only$", said[1])
    assert.matches("^spec/lua/manual_spec.lua:%d+: msg.note cannot be set: messages are read%-only$", said[2])
  end)

  it("has failed when its handler fails before", function()
    local c, q = setup("fails", 2)
    assert(c:consume(q, { manual = true, retry = { max = 0 } }, function(m)
      if m.body == "2" then m:ack() end
      error "boom"
    end))
    eventually(function() return messages(c, q .. ".dlq") == 1 end)
    mx.sleep(0.05)
    assert.equal(1, messages(c, q .. ".dlq"))
  end)

  it("has its methods only with manual = true", function()
    local c, q = setup("automatic", 1)
    local text
    assert(c:consume(q, function(m) text = select(2, pcall(m.ack, m)) end))
    eventually(function() return text end)
    assert.matches("manual = true", text)
  end)

  it("can be read after it was settled when it was kept", function()
    local c = connect()
    local q = assert(c:queue(name "kept", { durable = false }))
    local kept = {}
    local consumer = assert(c:consume(q, function(m) kept[#kept + 1] = m:keep():keep() end))
    for i = 1, 3 do assert(c:publish("", q, { i = i }, { headers = { n = i } })) end
    for _ = 1, 300 do assert(c:publish("", q, ("z"):rep(2000))) end
    eventually(function() return consumer:stats().acked == 303 end)
    assert(consumer:stop())
    collectgarbage()
    for i = 1, 3 do
      assert.same({ i, i, q, q }, { kept[i].data.i, kept[i].headers.n, kept[i].queue, kept[i].key })
      assert.matches("^msg %d+ of ", tostring(kept[i]))
    end
  end)
end)

on_each_broker("order_by", function(connect, name)
  it("keeps each key in order while different keys run side by side", function()
    local c = connect()
    local q = assert(c:queue(name "keys", { durable = false }))
    local last, running, most, n = {}, {}, 0, 0
    local inside = 0
    for i = 1, 2000 do assert(c:publish_async("", q, tostring(i), { headers = { key = "k" .. i % 50 } })) end
    assert(c:consume(q, { concurrency = 16, order_by = function(m) return m.headers.key end }, function(m)
      local key, i = m.headers.key, tonumber(m.body)
      assert(not running[key])
      running[key], inside = true, inside + 1
      most = math.max(most, inside)
      if i % 3 == 0 then mx.sleep(math.random() * 0.002) end
      assert((last[key] or 0) < i)
      last[key], running[key], inside = i, nil, inside - 1
      n = n + 1
    end))
    eventually(function() return n == 2000 end)
    assert.equal(16, most)
    mx.sleep(0.1)
    eventually(function() return c:queue_info(q).messages == 0 end)
  end)

  it("goes on with a key when a message of it fails", function()
    local c = connect()
    local q = assert(c:queue(name "failing", { durable = false, dlq = true }))
    local seen = {}
    for i = 1, 9 do assert(c:publish("", q, tostring(i))) end
    assert(c:consume(q, { concurrency = 4, retry = { max = 0 }, order_by = function() return "one" end }, function(m)
      mx.sleep(0.002)
      seen[#seen + 1] = m.body
      if m.body == "2" then error "boom" end
      if m.body == "5" then return nil, "no" end
    end))
    eventually(function() return #seen == 9 end)
    assert.equal("123456789", table.concat(seen))
    eventually(function() return c:queue_info(q .. ".dlq").messages == 2 end)
  end)

  it("that raises fails its message, and gives back what waits in line at a stop", function()
    local c = connect()
    local q = assert(c:queue(name "raises", { durable = false, dlq = true }))
    for i = 1, 10 do assert(c:publish("", q, tostring(i))) end
    local started
    local consumer = assert(c:consume(q, { retry = { max = 0 }, concurrency = 4, order_by = function(m)
      if m.body == "1" then error "no key" end
      return "one"
    end }, function()
      started = true
      mx.sleep(0.1)
    end))
    eventually(function() return started end)
    assert(consumer:stop())
    eventually(function() return c:queue_info(q).messages == 8 end)
    eventually(function() return c:queue_info(q .. ".dlq").messages == 1 end)
  end)
end)
