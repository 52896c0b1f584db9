-- What a lost connection costs: nothing. Through a proxy that cuts it (spec/fault/proxy); R numbers are of the failures that
-- RabbitMQ's clients are known for: 1 to 3, 6 and 15 publishing, 18, 26, 28 and 29 consuming.
local amqp = os.getenv "MXRUN_SPEC_AMQP"
if not amqp then return end

local function eventually(f) return mx.test.eventually(f, 20) end

local Proxy = {}
Proxy.__index = Proxy

function Proxy:order(...)
  self.pipe:write(table.concat({ ... }, "\n"), "\n")
  self.pipe:flush()
end

local function proxy()
  local file = os.tmpname()
  local pipe = assert(io.popen(("spec/fault/proxy --to %s --port-file %s 2>/dev/null"):format(amqp:match ":(%d+)[^:]*$", file), "w"))
  local port
  assert(eventually(function()
    local f = io.open(file)
    port = f and f:read "*n"
    if f then f:close() end
    return port
  end))
  os.remove(file)
  return setmetatable({ pipe = pipe, port = port }, Proxy)
end

local heard = {}                        -- events by connection: there is no taking back of mx.on
for _, event in ipairs { "down", "recovered", "cancelled" } do
  mx.on(event, function(x)
    local conn = x.conn or x
    heard[conn] = heard[conn] or {}
    heard[conn][event] = (heard[conn][event] or 0) + 1
  end)
end
local function count(conn, event) return (heard[conn] or {})[event] or 0 end

describe("a connection that is lost", function()
  local p, conn, direct, names = nil, nil, nil, 0

  local function name()
    names = names + 1
    return ("spec.recovery.%d.%d"):format(os.time(), names)
  end

  before_each(function()
    p = proxy()
    conn = assert(mx.connect { url = ("amqp://guest:guest@127.0.0.1:%d/"):format(p.port), reconnect = { base = 0.02, max = 0.2 },
                               heartbeat = 2 })
    direct = assert(mx.connect { url = amqp })
  end)

  after_each(function()
    p:order "calm"
    conn:close()
    direct:close()
    p.pipe:close()
    heard = setmetatable({}, { __index = heard })
  end)

  local function cut(how)
    local before = count(conn, "recovered")
    p:order("kill " .. (how or "rst"))
    assert(eventually(function() return count(conn, "recovered") > before end))
  end

  it("costs the others of its pool nothing: what it did goes on there, and it comes back", function()
    local many = assert(mx.connect { url = conn.addresses[1].text:gsub("%*%*%*", "guest"), pool = { min = 3 },
                                     reconnect = { base = 0.02, max = 0.2 }, heartbeat = 2 })
    local q, handled = name(), 0
    assert(many:queue(q, { durable = false }))
    for _ = 1, 6 do assert(many:consume(q, function() handled = handled + 1 end)) end
    local publishers, receipts = {}, {}
    for i = 1, 3 do publishers[i] = mx.publisher { conn = many } end
    for i = 1, 3000 do
      receipts[i] = assert(publishers[i % 3 + 1]:publish_async(q, "x"))
      if i % 1000 == 0 then
        local down = count(many, "down")
        p:order "kill rst"
        assert(eventually(function() return count(many, "down") > down end))
        assert(eventually(function() return count(many, "recovered") > down end))
      end
    end
    assert(mx.wait_all(receipts, 20))
    assert(eventually(function() return handled >= 3000 and direct:queue_info(q).messages == 0 end))
    for _, l in ipairs(many:stats().links) do
      assert.equal("open", l.state)
      assert.is_true(l.errors >= 3, l.errors)
    end
    many:close()
  end)

  it("loses no publish, and each ends once (R1, R2, R3)", function()
    local q, seen, twice, marked = name(), {}, 0, 0
    assert(conn:queue(q, { durable = false }))
    assert(direct:consume(q, function(m)
      if seen[m.id] then twice = twice + 1 end
      if m.headers["x-mx-attempt"] then marked = marked + 1 end
      seen[m.id] = m.body
    end))
    local receipts = {}
    for i = 1, 20000 do
      receipts[i] = assert(conn:publish_async("", q, "body " .. i, i % 7 == 0 and { id = "own-" .. i } or nil))
      if i % 4000 == 0 then p:order(i % 8000 == 0 and "kill rst" or "kill fin") end
      if i % 100 == 0 then mx.sleep(0.005) end
    end
    assert(mx.wait_all(receipts, 20))
    assert(eventually(function()
      local n = 0
      for _ in pairs(seen) do n = n + 1 end
      return n == 20000
    end))
    for i = 7, 20000, 7 do assert.equal("body " .. i, seen["own-" .. i]) end
    assert.is_true(twice <= marked)     -- what came twice says so
    assert.is_true(count(conn, "down") >= 1)
    direct:delete_queue(q)
  end)

  it("sends large bodies and many frames again as they were", function()
    local q, bodies, got = name(), {}, {}
    assert(conn:queue(q, { durable = false }))
    p:order "rate 3000000"
    local receipts = {}
    for i = 1, 20 do
      bodies[i] = string.char(96 + i):rep(i * 40000 + i)
      receipts[i] = assert(conn:publish_async("", q, bodies[i], { id = tostring(i), headers = { n = i } }))
    end
    mx.sleep(0.2)
    p:order("kill rst", "calm")
    assert(mx.wait_all(receipts, 20))
    assert(direct:consume(q, function(m) got[tonumber(m.id)] = m.headers.n == tonumber(m.id) and m.body end))
    assert(eventually(function() return #got == 20 end))
    for i = 1, 20 do assert.is_true(bodies[i] == got[i]) end
    direct:delete_queue(q)
  end)

  it("takes publishes until the window is full, and sends them when it is back", function()
    local q, order = name(), {}
    assert(conn:queue(q, { durable = false }))
    local pub = conn:publisher()
    assert(conn:publish("", q, "before"))
    p:order("refuse", "kill rst")
    assert(eventually(function() return count(conn, "down") == 1 end))
    local receipts = {}
    for i = 1, 1000 do receipts[i] = assert(conn:publish_async("", q, tostring(i), { timeout = 20 })) end
    assert.equal("pending", receipts[1].state)
    pub.timeout = 0.1
    for _ = 1001, pub.window do assert(conn:publish_async("", q, "", { timeout = 0.2 })) end
    local ok, e = conn:publish_async("", q, "one more", { timeout = 0.1 })
    assert.same({ nil, "backpressure" }, { ok, e.code })
    mx.sleep(0.3)                       -- those of 0.2 s are over: they are not sent (R6)
    p:order "accept"
    assert(mx.wait_all(receipts, 20))
    assert(direct:consume(q, function(m)
      if m.body ~= "before" then order[#order + 1] = m.body end
      assert(m.headers["x-mx-attempt"] == nil)
    end))
    assert(eventually(function() return #order >= 1000 end))
    for i = 1, 1000 do assert.equal(tostring(i), order[i]) end
    assert.equal(1000, #order)
    direct:delete_queue(q)
  end)

  it("settles nothing with what its handlers held, and they get it again (R18)", function()
    local q, runs, go = name(), {}, mx.chan(1)
    assert(conn:queue(q, { durable = false }))
    assert(conn:consume(q, { concurrency = 8 }, function(m)
      runs[m.body] = (runs[m.body] or 0) + 1
      if m.body ~= "held" then return end
      assert(m.redelivered == (runs.held == 2))
      if runs.held == 1 then
        go:get()
        assert(m.body == "held" and m.headers.k == "v")
      end
    end))
    assert(direct:publish("", q, "held", { headers = { k = "v" } }))
    assert(eventually(function() return runs.held == 1 end))
    cut()
    assert(eventually(function() return runs.held == 2 end))
    go:put(true)
    for i = 1, 50 do assert(direct:publish("", q, "after" .. i)) end
    assert(eventually(function() return runs.after50 == 1 end))
    assert(eventually(function()
      local info = assert(direct:queue_info(q))
      return info.messages == 0
    end))
    assert.equal(0, count(conn, "cancelled"))
    direct:delete_queue(q)
  end)

  it("has its own queues, bindings and exchanges again, under their names (R28)", function()
    local x, got = name(), 0
    assert(conn:exchange(x, { type = "fanout", durable = false, auto_delete = true }))
    local q = assert(conn:queue("", {}))
    assert(conn:bind(q, x, ""))
    assert(conn:consume(q, function() got = got + 1 end))
    for i = 1, 3 do
      cut(i % 2 == 0 and "fin" or "rst")
      assert(eventually(function() return (direct:queue_info(q) or {}).consumers ~= 0 or true end))
      assert(conn:publish(x, "", "n"))
      assert(eventually(function() return got == i end))
    end
  end)

  it("does not bring back what was deleted (R29)", function()
    local q, x = name(), name()
    assert(conn:exchange(x, { type = "fanout", durable = false }))
    assert(conn:queue(q, { durable = false }))
    assert(conn:bind(q, x, ""))
    assert(conn:delete_queue(q))
    assert(conn:delete_exchange(x))
    cut()
    local _, e = direct:queue_info(q)
    assert.equal(404, e.reply_code)
    _, e = direct:exchange(x, { passive = true })
    assert.equal(404, e.reply_code)
  end)

  it("takes what a batch had gathered along: it comes again, and is handled once", function()
    local q, got, sizes = name(), {}, {}
    assert(direct:queue(q, { durable = false }))
    local enough = false
    local consumer = assert(conn:consume_batch(q, { size = 50, timeout = 60, policy = function() return enough or 0.02 end }, function(b)
      sizes[#sizes + 1] = #b
      for _, m in ipairs(b) do got[m.body] = (got[m.body] or 0) + 1 end
    end))
    for round = 1, 3 do
      for i = 1, 4 do assert(direct:publish("", q, round .. "." .. i)) end
      assert(eventually(function() return consumer:stats().in_flight == 4 * round end))
      cut(round == 2 and "fin" or "rst")
      assert(eventually(function() return consumer:stats().in_flight == 4 * round end))
    end
    enough = true
    assert(eventually(function() return consumer:stats().acked == 12 end))
    for round = 1, 3 do
      for i = 1, 4 do assert.equal(1, got[round .. "." .. i]) end
    end
    for i = 1, 3 do assert(direct:publish("", q, "after " .. i)) end
    assert(eventually(function() return consumer:stats().acked == 15 end))
    assert.is_true(consumer:stop())
    direct:delete_queue(q)
  end)

  it("makes what a batch's handler settles afterwards count for nothing", function()
    local q, runs, go, second = name(), 0, false, nil
    assert(direct:queue(q, { durable = false }))
    for i = 1, 8 do assert(direct:publish("", q, tostring(i))) end
    local consumer = assert(conn:consume_batch(q, { size = 4, timeout = 60 }, function(b)
      runs = runs + 1
      if runs > 1 then return end
      while not go do mx.sleep(0.01) end
      second = b:fail(1, "late")
      return nil, "stale"
    end))
    assert(eventually(function() return runs == 1 end))
    cut()
    go = true
    assert(eventually(function() return consumer:stats().acked == 8 end))
    assert.is_true(second)                              -- nobody knows better before it is settled
    local s = consumer:stats()
    assert.same({ 3, 0, 0, 0 }, { runs, s.retried, s.rejected, s.failed })
    assert(eventually(function() return direct:queue_info(q).messages == 0 end))
    direct:delete_queue(q)
  end)

  it("makes what a handler that fails afterwards decided count for nothing, too: no copy of it goes out", function()
    local q, runs, go = name(), 0, false
    assert(direct:queue(q, { durable = false, dlq = true }))
    assert(direct:publish("", q, "x"))
    local consumer = assert(conn:consume(q, { retry = { max = 0 } }, function()
      runs = runs + 1
      if runs > 1 then return end
      while not go do mx.sleep(0.01) end
      return "reject", "stale"
    end))
    assert(eventually(function() return runs == 1 end))
    cut()
    go = true
    assert(eventually(function() return consumer:stats().acked == 1 and runs == 2 end))
    assert.equal(0, consumer:stats().rejected)
    assert.equal(0, direct:queue_info(q .. ".dlq").messages)
    direct:delete_queue(q)
    direct:delete_queue(q .. ".dlq")
  end)

  it("reads a stream on from what was not settled", function()
    local q, seen, go, waited = name(), {}, false, false
    assert(direct:queue(q, { type = "stream" }))
    for i = 1, 8 do assert(direct:publish("", q, tostring(i))) end
    local consumer = assert(conn:consume(q, { prefetch = 8, args = { ["x-stream-offset"] = "first" } }, function(m)
      seen[#seen + 1] = m.body
      if m.body ~= "4" or go then return end
      waited = true
      while not go do mx.sleep(0.01) end
    end))
    assert(eventually(function() return waited end))
    cut()
    go = true
    assert(eventually(function() return seen[#seen] == "8" end))
    assert.same({ "1", "2", "3", "4", "4", "5", "6", "7", "8" }, seen)
    assert.is_true(consumer:stop())
    direct:delete_queue(q)
  end)

  it("takes no publish that a batch had kept: they go out once it is back", function()
    local q, seen, n = name(), {}, 0
    assert(direct:queue(q, { durable = false }))
    assert(direct:consume(q, function(m)
      if not seen[m.id] then seen[m.id], n = true, n + 1 end
    end))
    local publisher = mx.publisher { conn = conn, batch = { size = 100, timeout = 60 } }
    local receipts = {}
    for round = 1, 3 do
      for _ = 1, 10 do receipts[#receipts + 1] = assert(publisher:publish_async(q, "x")) end
      cut(round == 2 and "fin" or "rst")
    end
    for _ = 1, 100 do receipts[#receipts + 1] = assert(publisher:publish_async(q, "x")) end
    assert.is_true(publisher:close())
    assert.is_true(mx.wait_all(receipts, 20))
    assert(eventually(function() return n == 130 end))
    direct:delete_queue(q)
  end)

  it("does not bring back an auto-delete queue that had its last consumer (R29)", function()
    local q = name()
    assert(conn:queue(q, { durable = false, auto_delete = true }))
    local consumer = assert(conn:consume(q, function() end))
    assert(consumer:stop())
    cut()
    local _, e = direct:queue_info(q)
    assert.equal(404, e.reply_code)
  end)

  it("consumes again from a queue that somebody deleted (R26)", function()
    local q, got = name(), 0
    assert(conn:queue(q, { durable = false }))
    assert(conn:consume(q, function() got = got + 1 end))
    assert(direct:delete_queue(q))
    assert(eventually(function() return (direct:queue_info(q) or { consumers = 0 }).consumers == 1 end))
    assert(direct:publish("", q, "x"))
    assert(eventually(function() return got == 1 end))
    assert.equal(1, count(conn, "cancelled"))
    direct:delete_queue(q)
  end)

  it("says that it cannot consume any more what it did, until it can (R26)", function()
    local q, got = name(), 0
    assert(direct:queue(q, { durable = false }))
    assert(conn:consume(q, function() got = got + 1 end))
    p:order("refuse", "kill rst")
    assert(eventually(function() return count(conn, "down") == 1 end))
    assert(direct:delete_queue(q))
    p:order "accept"
    assert(eventually(function() return count(conn, "cancelled") == 1 end))
    assert(direct:queue(q, { durable = false }))
    assert(direct:publish("", q, "x"))
    assert(eventually(function() return got == 1 end))
    assert.equal(1, count(conn, "cancelled"))
    direct:delete_queue(q)
  end)

  it("does not send a call twice", function()
    local q, served = name(), 0
    assert(conn:queue(q, { durable = false }))
    assert(direct:consume(q, { timeout = 20 }, function(m)
      served = served + 1
      mx.sleep(0.3)
      m:reply "late"
    end))
    local call = mx.spawn(function() return conn:call("", q, "ask", { timeout = 10 }) end)
    assert(eventually(function() return served == 1 end))
    cut()
    local _, answer, e = call:wait()
    assert.same({ nil, "closed" }, { answer, e.code })
    assert.equal("late", conn:call("", q, "ask", { timeout = 10 }).body)
    assert.equal(2, served)
    direct:delete_queue(q)
  end)

  it("is still there to drain: closing waits for what is not confirmed", function()
    local q = name()
    assert(direct:queue(q, { durable = false }))
    assert(conn:publish("", q, "0"))
    p:order("refuse", "kill rst")
    assert(eventually(function() return count(conn, "down") == 1 end))
    local r = assert(conn:publish_async("", q, "1"))
    mx.after(0.3, function() p:order "accept" end)
    conn:close()
    assert.equal("confirmed", r.state)
    direct:delete_queue(q)
  end)
end)

describe("a channel that the broker closes", function()
  it("takes only what was to blame along (R15)", function()
    local conn = assert(mx.connect { url = amqp })
    local q = assert(conn:queue("", {}))
    local good, bad = {}, {}
    for i = 1, 200 do
      good[i] = assert(conn:publish_async("", q, "good"))
      if i % 50 == 0 then bad[#bad + 1] = assert(conn:publish_async("spec.no.such.exchange", "k", "bad")) end
    end
    assert(mx.wait_all(good, 10))
    for _, r in ipairs(bad) do
      local _, e = r:wait(10)
      assert.same({ "closed", 404 }, { r.state, e.reply_code })
    end
    assert(eventually(function() return conn:queue_info(q).messages >= 200 end))
    conn:close()
  end)
end)

describe("a broker that refuses us", function()
  local wrong = amqp:gsub("guest:guest@", "guest:wrong@")

  it("is asked again, for the password may come to be right", function()
    local call = mx.spawn(mx.connect, { url = wrong, reconnect = { base = 0.05, max = 0.05 } })
    local done, e = call:wait(0.5)
    assert.same({ nil, "timeout" }, { done, e.code })
    call:cancel()
    assert.equal("interrupted", select(2, call:wait()).code)
  end)

  it("is not asked again by a command", function()
    local pipe = io.popen(("timeout 5 %s pub -u '%s' '' q x 2>&1; echo $?"):format(os.getenv "MXRUN" or "build/mxrun", wrong))
    local text = pipe:read "*a"
    pipe:close()
    assert.matches("ACCESS_REFUSED.*\n1\n$", text)
  end)
end)
