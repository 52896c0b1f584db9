-- mx.call and msg:reply.
local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

on_each_broker("a call", function(connect, name)
  local function server(c, handler, options)
    local q = assert(c:queue(name "rpc", { durable = false }))
    assert(c:consume(q, options or {}, handler))
    return q
  end

  it("returns the answer, decoded as any message", function()
    local c = connect()
    local q = server(c, function(m) assert(m:reply({ sum = m.data.a + m.data.b }, { headers = { by = "server" } })) end)
    local answer = assert(c:call("", q, { a = 2, b = 3 }, { timeout = 5 }))
    assert.same({ 5, "server", true }, { answer.data.sum, answer.headers.by, answer.correlation_id ~= nil })
  end)

  it("finds its own answer among many at once, also when they come in another order", function()
    local c = connect()
    local q = server(c, function(m)
      mx.sleep(math.random() * 0.01)
      m:reply("re: " .. m.body)
    end, { concurrency = 50 })
    local tasks = {}
    for i = 1, 200 do tasks[i] = mx.spawn(function() return assert(c:call("", q, "q" .. i, { timeout = 10 })).body end) end
    for i = 1, 200 do
      local ok, body = tasks[i]:wait(10)
      assert.is_true(ok)
      assert.equal("re: q" .. i, body)
    end
  end)

  it("times out, and takes no answer that comes later for that of the next", function()
    local c = connect()
    local q = server(c, function(m)
      if m.body == "slow" then mx.sleep(0.2) end
      m:reply(m.body)
    end)
    local answer, e = c:call("", q, "slow", { timeout = 0.05 })
    assert.is_nil(answer)
    assert.equal("timeout", e.code)
    assert.equal("fast", assert(c:call("", q, "fast", { timeout = 5 })).body)
  end)

  it("says what time it was given, not what was left of it", function()
    local c = connect()
    local q = assert(c:queue(name "silent", { durable = false }))
    local long = {}
    for i = 1, 2e5 do long[i] = i end                                   -- that takes its time to become JSON
    local _, e = c:call("", q, long, { timeout = 0.2 })
    assert.equal("call: no answer within 0.2 s", tostring(e))
  end)

  it("fails at once when nobody is there, and goes on to work", function()
    local c = connect()
    local answer, e = c:call("", name "nobody", "x", { timeout = 30 })
    assert.is_nil(answer)
    assert.equal("unroutable", e.code)
    answer, e = c:call(name "no-exchange", "k", "x", { timeout = 30 })
    assert.is_nil(answer)
    assert.is_true(e.code == "channel" or e.code == "closed")
    local q = server(c, function(m) m:reply "yes" end)
    assert.equal("yes", assert(c:call("", q, "x", { timeout = 5 })).body)
  end)

  it("ends as closed with its connection", function()
    local c, other = connect(), connect()
    local q = assert(other:queue(name "silent", { durable = false }))
    assert(c:queue(q, { durable = false }))
    local t = mx.spawn(function() return select(2, c:call("", q, "x", { timeout = 30 })) end)
    mx.sleep(0.1)
    c:close()
    local ok, e = t:wait(5)
    assert.is_true(ok)
    assert.equal("closed", e.code)
  end)

  it("may be cancelled, and may be made by a handler", function()
    local c = connect()
    local q = server(c, function(m) if m.body ~= "never" then m:reply "inner" end end)
    local t = mx.spawn(function() return c:call("", q, "never", { timeout = 30 }) end)
    mx.sleep(0.05)
    t:cancel()
    local _, e = t:wait(5)
    assert.equal("interrupted", e.code)
    local outer = server(c, function(m) m:reply(assert(c:call("", q, "x", { timeout = 5 })).body .. " and outer") end)
    assert.equal("inner and outer", assert(c:call("", outer, "x", { timeout = 5 })).body)
  end)

  it("counts its deadline once connected", function()
    local c = connect()
    local q = server(c, function(m) m:reply "yes" end)
    local link, first = c.link, true
    function c.link(...)
      local slow
      slow, first = first, false
      if slow then mx.sleep(1.2) end
      return link(...)
    end
    assert.equal("yes", assert(c:call("", q, "x", { timeout = 1 })).body)
  end)

  it("may wait for longer than a message can take to expire", function()
    local c = connect()
    local q = server(c, function(m) m:reply(tostring(m.expiration)) end)
    assert.equal("4294967", assert(c:call("", q, "x", { timeout = 5e6 })).body)
  end)

  it("that cannot be published leaves nothing behind", function()
    local c = connect()
    local q = server(c, function(m) m:reply "yes" end)
    assert(c:call("", q, "x", { timeout = 5 }))
    assert.is_false(pcall(c.call, c, "", q, print))
    assert.equal("validation", select(2, c:call("", q, "x", { type = ("x"):rep(256) })).code)
    assert.is_nil(next(c.caller.pending))
  end)

  it("to a message without reply_to cannot be answered", function()
    local c = connect()
    local text
    local q = server(c, function(m) text = tostring(select(2, m:reply "x")) end)
    assert(c:publish("", q, "x"))
    while not text do mx.sleep(0.01) end
    assert.matches("no reply_to", text)
  end)
end)
