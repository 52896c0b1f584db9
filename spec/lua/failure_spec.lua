-- What becomes of a message whose handler fails, also when the policy itself does.
local on_each_broker, eventually = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

on_each_broker("a failed message", function(connect, name)
  -- A queue with what is to be in it, and what came to its dead letters.
  local function setup(base, options, body, opts)
    local c = connect()
    local q = assert(c:queue(name(base), options or { durable = false, dlq = true }))
    assert(c:publish("", q, body or "x", opts))
    local dead = {}
    if not options then
      assert(c:consume(q .. ".dlq", function(m) dead[#dead + 1] = { body = m.body, headers = m.headers } end))
    end
    return c, q, dead
  end

  it("asks retry.delay with the count, the message and the error", function()
    local c, q, dead = setup("asks", nil, "body")
    local got = {}
    assert(c:consume(q, { retry = { delay = function(n, m, e)
      got[#got + 1] = { n, m.body, e.code, tostring(e):match "boom" }
      return n == 1 and 0.1 or nil
    end } }, function() error "boom" end))
    eventually(function() return dead[1] end)
    assert.same({ { 1, "body", "internal", "boom" }, { 2, "body", "internal", "boom" } }, got)
    assert.equal(1, dead[1].headers["x-mx-retries"])
  end)

  it("survives a retry.delay that raises, or answers nonsense", function()
    for _, delay in ipairs { function() error "oops" end, function() return {} end, function() mx.sleep(-1) end } do
      local c, q, dead = setup "raises"
      local runs = 0
      assert(c:consume(q, { retry = { max = 1, base = 0.1, jitter = false, delay = delay } }, function()
        runs = runs + 1
        return nil, "no"
      end))
      eventually(function() return dead[1] end)
      assert.equal(2, runs)
    end
  end)

  it("names the handler whose answer means nothing, and is dead at once", function()
    for expected, answer in pairs {
      ['returned "retry": expected seconds, .*, got %-1$'] = function() return "retry", -1 end,
      ['returned "retry": expected seconds, .*, got "x"$'] = function() return "retry", "x" end,
      ["returned rejct; expected nothing, true, "] = function() return "rejct" end,
    } do
      local c, q, dead = setup "nonsense"
      assert(c:consume(q, answer))
      eventually(function() return dead[1] end)
      local line = debug.getinfo(answer, "S").linedefined
      assert.matches("^spec/lua/failure_spec.lua:" .. line .. ": the handler " .. expected, dead[1].headers["x-mx-error"])
    end
  end)

  it("is logged, ten a second; how many more there were is said without another one", function()
    local log, told, summed = require "mx.log", 0, 0
    local write = log.write
    function log.write(line)
      if line:find "handler failed" then told = told + 1 end
      local n = tonumber(line:match "more failures of this kind count=(%d+)")
      if n then told, summed = told + n, summed + n end
    end
    finally(function() log.write = write end)
    local c, q = setup "more"
    local consumer = assert(c:consume(q, { retry = { max = 0 } }, function() return nil, "no" end))
    for _ = 1, 99 do assert(c:publish_async("", q, "x")) end
    eventually(function() return told == 100 end)       -- by itself
    assert.is_true(summed > 0)
    for _ = 1, 100 do assert(c:publish_async("", q, "x")) end
    eventually(function() return consumer:stats().failed == 200 end)
    assert(consumer:stop())                             -- at the end
    assert.equal(200, told)
  end)

  it("names the order_by that returned no key", function()
    local c, q, dead = setup "nan"
    local function key() return 0 / 0 end
    assert(c:consume(q, { order_by = key }, function() end))
    eventually(function() return dead[1] end)
    local line = debug.getinfo(key, "S").linedefined
    assert.equal(("spec/lua/failure_spec.lua:%d: order_by returned NaN, which is no key"):format(line), dead[1].headers["x-mx-error"])
  end)

  it("survives it at the handler's time limit as well", function()
    local c, q, dead = setup "limit"
    assert(c:consume(q, { timeout = 0.05, retry = { max = 1, base = 0.1, jitter = false, delay = function() error "oops" end } },
      function() mx.sleep(5) end))
    eventually(function() return dead[1] end)
    assert.matches("time limit", dead[1].headers["x-mx-error"])
  end)

  it("is told that retry.delay cannot wait where no task runs", function()
    local c, q, dead = setup "waits"
    local said = {}
    local consumer
    consumer = assert(c:consume(q, { timeout = 0.05, retry = { max = 1, base = 0.1, jitter = false, delay = function()
      for _, wait in ipairs {
        function() mx.sleep(0.01) end, function() mx.chan():get() end, function() c:queue_info(q) end, function() consumer:stop() end,
      } do
        said[#said + 1] = select(2, pcall(wait))
      end
    end } }, function() mx.sleep(5) end))
    eventually(function() return dead[1] end)
    assert.equal(4, #said)
    for _, text in ipairs(said) do assert.matches("failure_spec.lua:%d+: cannot wait here: no task is running", text) end
  end)

  it("may carry anything as x-mx-retries", function()
    for _, odd in ipairs { "abc", {}, -7, true } do
      local c, q, dead = setup("odd", nil, "x", { headers = { ["x-mx-retries"] = odd } })
      local attempt
      assert(c:consume(q, { retry = { max = 0 } }, function(m)
        attempt = m.attempt
        return nil, "no"
      end))
      eventually(function() return dead[1] end)
      assert.equal(1, attempt)
      assert.equal(0, dead[1].headers["x-mx-retries"])
    end
  end)

  it("goes back, slowly, when the exchange of its dead letters is missing; publishes of the script go on", function()
    local c, q = setup("missing", { durable = false, dlq = { exchange = name "nobody", wire = false } })
    local other = assert(c:queue(name "other", { durable = false }))
    local runs = 0
    local consumer = assert(c:consume(q, { retry = { max = 0 } }, function()
      runs = runs + 1
      return "reject", "bad"
    end))
    eventually(function() return consumer:stats().stuck >= 3 end)
    assert.is_true(c:publish("", other, "x"))
    assert(consumer:stop())
    eventually(function() return c:queue_info(q).messages == 1 end)
    assert.is_true(runs < 30)
  end)

  it("waits until somebody binds a queue to the exchange of its dead letters", function()
    local x = name "dlx"
    local c, q = setup("foreign", { durable = false, dlq = { exchange = x, key = "k", wire = false } })
    assert(c:exchange(x, { type = "direct", durable = false }))
    local runs, dead = 0, nil
    assert(c:consume(q, function()
      runs = runs + 1
      return "reject", "bad"
    end))
    eventually(function() return runs == 1 end)
    mx.sleep(0.3)
    assert.equal(1, runs)
    local d = assert(c:queue(name "dead", { durable = false }))
    assert(c:bind(d, x, "k"))
    assert(c:consume(d, function(m) dead = m.headers["x-mx-error"] end))
    eventually(function() return dead end)
    assert.equal("bad", dead)
    assert.equal(1, runs)
  end)

  it("goes back at once when its consumer stops meanwhile", function()
    local c, q = setup("stops", { durable = false, dlq = { exchange = "amq.topic", key = name "k", wire = false } })
    local runs = 0
    local consumer = assert(c:consume(q, function()
      runs = runs + 1
      return "reject"
    end))
    eventually(function() return runs == 1 end)
    mx.sleep(0.5)
    assert(consumer:stop())
    eventually(function() return c:queue_info(q).messages == 1 end)
  end)

  it("loses our headers rather than itself when they are too large together", function()
    local c, q, dead = setup("large", nil, "x", { headers = { big = ("x"):rep(130500) } })
    assert(c:consume(q, function() return "reject", ("why"):rep(1000) end))
    eventually(function() return dead[1] end)
    assert.equal(130500, #dead[1].headers.big)
    assert.equal(q, dead[1].headers["x-mx-origin"])
  end)

  it("is counted also with auto_ack", function()
    local c, q = setup("auto", { durable = false })
    assert(c:publish("", q, "y"))
    assert(c:publish("", q, "z"))
    local answers = { { nil, "the database is down" }, { false }, { "requeue" } }
    local n = 0
    local consumer = assert(c:consume(q, { auto_ack = true }, function()
      n = n + 1
      return unpack(answers[n], 1, 2)
    end))
    eventually(function() return n == 3 and consumer:stats().failed == 3 end)
  end)

  it("comes back with the exchange and key it was published with, its expiration in a header", function()
    local x = name "ex"
    local c = connect()
    assert(c:exchange(x, { type = "topic", durable = false }))
    local q = assert(c:queue(name "origin", { durable = false, dlq = true, bind = { { x, "a.*" } } }))
    assert(c:publish(x, "a.b", "x", { expiration = 60, headers = { CC = { "other" }, mine = 1 } }))
    local seen, dead = {}, nil
    assert(c:consume(q, { retry = { max = 1, base = 0.1, jitter = false } }, function(m)
      seen[#seen + 1] = { m.exchange, m.key, m.attempt }
      return nil, "no"
    end))
    assert(c:consume(q .. ".dlq", function(m) dead = m.headers end))
    eventually(function() return dead end)
    assert.same({ { x, "a.b", 1 }, { x, "a.b", 2 } }, seen)
    assert.equal("60000", dead["x-mx-expiration"])
    assert.same({ "other" }, { dead["x-mx-CC"][1] })
    assert.is_nil(dead.CC)
    assert.equal(1, dead.mine)
    assert.equal(1, dead["x-mx-retries"])
    assert.equal(q, dead["x-mx-origin"])
    assert.equal(x, dead["x-mx-origin-exchange"])
    assert.equal("a.b", dead["x-mx-origin-key"])
    assert.truthy(dead["x-mx-first-seen"])
  end)
end)

on_each_broker("an error object that cannot be read", function(connect, name)
  it("fails its delivery as any other, when it is returned too", function()
    local c, n = connect(), 0
    local q = assert(c:queue(name "unreadable", { durable = false, dlq = true }))
    local function raise() error "unreadable" end
    local odd = setmetatable({}, { __index = raise, __tostring = raise })
    assert(c:consume(q, { retry = { max = 0 } }, function(m)
      n = n + 1
      if m.body == "raised" then error(odd) end
      return false, odd
    end))
    for _, how in ipairs { "raised", "returned" } do assert(c:publish("", q, how)) end
    eventually(function() return c:queue_info(q .. ".dlq").messages == 2 end)
    assert.equal(2, n)
  end)
end)

on_each_broker("a publish inside a handler", function(connect, name)
  local function setup(base)
    local c = connect()
    local q = assert(c:queue(name(base), { durable = false, dlq = true }))
    assert(c:publish("", q, "x"))
    return c, q, assert(c:queue(name "to", { durable = false }))
  end
  local function dead(c, q) return c:queue_info(q .. ".dlq").messages end

  it("that fails makes `returns nothing` a failure", function()
    for _, how in ipairs { "publish", "publish_async" } do
      local c, q = setup "fails"
      assert(c:consume(q, { retry = { max = 0 } }, function() c[how](c, "", name "nowhere", "lost") end))
      eventually(function() return dead(c, q) == 1 end)
    end
  end)

  it("that fails is overridden by `return true`", function()
    local c, q = setup "overrides"
    local receipt
    local consumer = assert(c:consume(q, { retry = { max = 0 } }, function()
      receipt = c:publish_async("", name "nowhere", "lost")
      return true
    end))
    eventually(function() return consumer:stats().acked == 1 end)
    assert.equal("returned", receipt.state)
    assert.equal(0, dead(c, q))
  end)

  it("is confirmed before its delivery is acked, each of many", function()
    local c, q, to = setup "many"
    local receipts, pending_at_ack = {}, nil
    local consumer
    consumer = assert(c:consume(q, function()
      for i = 1, 700 do receipts[i] = assert(c:publish_async("", to, tostring(i))) end
    end))
    eventually(function()
      if consumer:stats().acked == 0 then return false end
      pending_at_ack = 0
      for _, r in ipairs(receipts) do
        if r.state ~= "confirmed" then pending_at_ack = pending_at_ack + 1 end
      end
      return true
    end)
    assert.equal(700, #receipts)
    assert.equal(0, pending_at_ack)
    eventually(function() return c:queue_info(to).messages == 700 end)
  end)

  it("without confirms is no reason to wait", function()
    local c, q, to = setup "blind"
    local p = mx.publisher { conn = c, confirm = false }
    local consumer = assert(c:consume(q, function()
      for i = 1, 256 do assert(p:publish_async(to, tostring(i))) end
    end))
    eventually(function() return consumer:stats().acked == 1 end)
    eventually(function() return c:queue_info(to).messages == 256 end)
  end)

  it("over two publishers waits for both", function()
    local c, q, to = setup "two"
    local other = mx.publisher { conn = c }
    local consumer = assert(c:consume(q, { retry = { max = 0 } }, function()
      assert(c:publish_async("", name "nowhere", "lost"))
      assert(other:publish_async(to, "x"))
    end))
    eventually(function() return dead(c, q) == 1 end)
    assert.equal(1, consumer:stats().failed)
  end)

  it("that fails among many fails the delivery once", function()
    local c, q, to = setup "one"
    local consumer = assert(c:consume(q, { retry = { max = 0 } }, function()
      for i = 1, 600 do assert(c:publish_async("", i == 3 and name "nowhere" or to, tostring(i))) end
    end))
    eventually(function() return dead(c, q) == 1 end)
    assert.equal(1, consumer:stats().failed)
  end)

  it("by a task that the handler spawned belongs to nobody", function()
    local c, q = setup "spawned"
    local consumer = assert(c:consume(q, { retry = { max = 0 } }, function()
      mx.spawn(function() c:publish("", name "nowhere", "lost") end):wait()
    end))
    eventually(function() return consumer:stats().acked == 1 end)
    assert.equal(0, dead(c, q))
  end)
end)
