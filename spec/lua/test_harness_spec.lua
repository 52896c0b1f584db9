-- mx.test.load: a script runs with no network, and its handlers answer what they would have done.

local script = dofile("spec/cli/run.lua").file
local function load(text, options) return mx.test.load(script(text), options) end

describe("mx.test.load", function()
  it("shows what the script consumes and declares", function()
    local h = load [[
      mx.topology { exchanges = { app = "topic" },
                    queues = { orders = { type = "quorum", max_length = 10, bind = { { "app", "order.*" } } } } }
      mx.consume("orders", { concurrency = 8 }, function() end)
    ]]
    assert.equal("orders", h.consumers[1].queue)
    assert.equal(8, h.consumers.orders.options.concurrency)
    assert.equal("topic", h.topology.exchanges.app.type)
    assert.equal("quorum", h.topology.queues.orders.type)
    assert.equal(10, h.topology.queues.orders.args["x-max-length"])
    assert.equal("order.*", h.topology.bindings[1].key)
    assert.matches("^/tmp/.*:1$", h.topology.queues.orders.line)
    h:close()
  end)

  it("keeps what the main chunk publishes", function()
    local h = load [[
      assert(mx.publish("app", "a.b", { n = 1 }, { headers = { tenant = "x" }, priority = 3 }))
      local p = mx.publisher { exchange = "logs" }
      assert(assert(p:publish_async("k", "text")):wait())
      local rmq = assert(mx.connect { urls = { "amqp://u:p@rmq-1/prod" }, password_env = "NOT_SET_HERE" })
      assert(rmq:publish("", "q", "by a connection"))
    ]]
    local first = h.published[1]
    assert.same({ "app", "a.b", '{"n":1}', { n = 1 }, { tenant = "x" }, 3 },
                { first.exchange, first.key, first.body, first.data, first.headers, first.priority })
    assert.same({ "logs", "k", "text" }, { h.published[2].exchange, h.published[2].key, h.published[2].data })
    assert.equal("by a connection", h.published[3].body)
    h:close()
  end)

  it("checks as the real calls do, at the script's line", function()
    for text, expected in pairs {
      ['mx.queue("q", { max_lenght = 3 })'] = ":1: mx.queue: unknown option 'max_lenght', did you mean 'max_length'?",
      ['mx.consume("q", { prefech = 3 }, print)'] = ":1: mx.consume: unknown option 'prefech', did you mean 'prefetch'?",
      ['mx.publish("", "q", "x", { prioritty = 1 })'] = "unknown option 'prioritty', did you mean 'priority'?",
      ['mx.publish("", "q", 7)'] = "body must be a string, a table or a buffer, got number",
      ['mx.publisher { max_in_fligt = 1 }'] = "unknown option 'max_in_fligt', did you mean 'max_in_flight'?",
      ['mx.connect { urll = "mem://" }'] = ":1: mx.connect: unknown option 'urll', did you mean 'url'?",
    } do
      local ok, e = pcall(load, text)
      assert.is_false(ok)
      assert.is_truthy(tostring(e):find(expected, 1, true), tostring(e))
    end
  end)

  it("raises with the text and line of a main chunk that fails, or does not compile", function()
    local ok, e = pcall(load, "\nerror 'no luck'")
    assert.is_false(ok)
    assert.matches(":2: no luck", e)
    ok, e = pcall(load, "x = = 1")
    assert.is_false(ok)
    assert.matches("unexpected symbol", e)
    ok, e = pcall(mx.test.load, "nowhere.lua")
    assert.is_false(ok)
    assert.matches("cannot open nowhere.lua", e)
  end)

  it("gives each script its own mx, its own globals, strict ones, and fresh modules", function()
    local dir = os.tmpname()
    os.remove(dir)
    os.execute("mkdir " .. dir)
    local lib = dir:match "[^/]+$"
    local f = io.open("./" .. lib .. ".lua", "w")
    f:write "n = (n or 0) + 1 return { publish = function() return mx.publish('', 'from-lib', 'x') end }"
    f:close()
    local text = ([[n = 0 local lib = require %q assert(lib.publish()) seen = n ]]):format(lib)
    local one, two = load(text), load(text)
    os.remove("./" .. lib .. ".lua")
    assert.equal(1, one.env.seen)
    assert.equal(1, two.env.seen)
    assert.equal(1, #two.published)
    assert.is_nil(rawget(_G, "seen"))
    local ok, e = pcall(load, "print(undeclared_thing)")
    assert.is_false(ok)
    assert.matches("undeclared global 'undeclared_thing'", e)
  end)

  it("passes config and arguments", function()
    local h = load("got = { mx.config.limit, ..., arg[1] }", { config = { limit = 7 }, args = { "a" } })
    assert.same({ 7, "a", "a" }, h.env.got)
  end)

  it("starts timers only when asked", function()
    local text = "n = 0 mx.every(60, function() n = n + 1 end) mx.after(3600, function() n = n + 100 end)"
    local h = load(text)
    assert.equal(60, h.timers[1].every)
    h.timers[1].fire()
    assert.equal(1, h.env.n)
    h.timers[2].fire()
    assert.equal(101, h.env.n)
    h = load(text, { timers = true })
    mx.test.clock():advance(3601)
    assert.equal(160, h.env.n)
    h:close()
  end)

  it("lets os.exit end the script, not the test", function()
    local h = load "if #arg == 0 then os.exit(2) end n = os.time()"
    assert.equal(2, h.exit_code)
    h:close()
  end)

  it("says when the main chunk still waits, and stop does not stop the test", function()
    local h = load("mx.chan():get()", { timeout = 0.05 })
    assert.is_true(h.waiting)
    h = load "told = false mx.stop() mx.on('down', function(_, why) told = why end)"
    assert.is_true(h.stopped)
    h:emit("down", nil, "the cable")
    mx.test.eventually(function() return h.env.told == "the cable" end)
  end)
end)

describe("deliver", function()
  local function handler(code, options)
    return load(("mx.consume('q', %s, function(msg) %s end)"):format(options or "nil", code))
  end
  local function decide(code, value, fields)
    local h = handler(code)
    local r = h:deliver("q", value or "x", fields)
    h:close()
    return r
  end

  it("answers what the handler decided", function()
    assert.same({ decision = "ack", published = {} }, decide "")
    assert.same({ decision = "ack", published = {} }, decide "return true")
    assert.same({ decision = "reject", reason = "bad", published = {} }, decide "return 'reject', 'bad'")
    assert.same({ decision = "retry", delay = 5, published = {} }, decide "return 'retry', '5s'")
    assert.same({ decision = "requeue", published = {} }, decide "return 'requeue'")
  end)

  it("answers failed for errors, nil and an error, false, and what mxrun does not understand", function()
    local r = decide "error 'no luck'"
    assert.equal("failed", r.decision)
    assert.matches(":1: no luck", r.reason)
    assert.matches("stack traceback", r.traceback)
    assert.equal("db is down", decide "return nil, 'db is down'".reason)
    assert.equal("failed", decide "return false".decision)
    assert.matches("the handler returned rejct; expected nothing", decide "return 'rejct'".reason)
    local late = decide "return 'retry', -1"
    assert.same({ "failed", true }, { late.decision, late.dead })
    assert.matches("^%S+:%d+: the handler returned \"retry\": expected seconds, .*, got %-1$", late.reason)
  end)

  it("says what the retry policy makes of a failure", function()
    local h = handler("error 'x'", "{ retry = { max = 2, base = 3, factor = 10, jitter = false } }")
    local first, second, third = h:deliver("q", "x"), h:deliver("q", "x", { attempt = 2 }), h:deliver("q", "x", { attempt = 3 })
    assert.same({ 3, false }, { first.delay, first.dead })
    assert.same({ 30, false }, { second.delay, second.dead })
    assert.same({ nil, true }, { third.delay, third.dead })
    local broken = decide("return msg.data.x", "{", { content_type = "application/json" })
    assert.is_true(broken.dead)
    assert.is_false(broken.error.retryable)
  end)

  it("asks the script's own retry.delay as the runtime does: with the real msg, units and what it raises", function()
    local h = handler("error 'x'", [[{ retry = { max = 4, base = 3, factor = 1, jitter = false, delay = function(n, m, e)
      if n == 1 then return m.headers.wait end
      if n == 2 then return e.code == "internal" and 7 or nil end
      if n == 3 then error "oops" end
    end } }]])
    local function delay(attempt) return h:deliver("q", "x", { attempt = attempt, headers = { wait = "2s" } }).delay end
    assert.same({ 2, 7, 3 }, { delay(1), delay(2), delay(3) })
    assert.is_true(h:deliver("q", "x", { attempt = 4 }).dead)
    h:close()
  end)

  it("says that nothing follows a failure with auto_ack, and that a delivery cannot be rejected then", function()
    local h = handler("if msg.body == 'raise' then error 'x' end return 'reject', 'bad'", "{ auto_ack = true }")
    local raised, rejected = h:deliver("q", "raise"), h:deliver("q", "x")
    assert.same({ "failed", nil, false }, { raised.decision, raised.delay, raised.dead })
    assert.same({ "failed", false }, { rejected.decision, rejected.dead })
    assert.matches("cannot reject with auto_ack", rejected.reason)
    h:close()
    assert.matches("expected seconds", decide "return 'retry', 'soon'".reason)
  end)

  it("shows the handler the real msg", function()
    local r = decide([[
      return "reject", table.concat({ msg.data.id, msg.body, msg.key, msg.exchange, msg.headers.tenant, msg.attempt, msg.id,
        msg.priority, msg.content_type, msg.queue, msg.type, tostring(msg.redelivered) }, " ")]],
      { id = 7 }, { headers = { tenant = "x" }, key = "order.new", exchange = "app", attempt = 2, id = "o-7", priority = 4, type = "t" })
    assert.equal('7 {"id":7} order.new app x 2 o-7 4 application/json q t false', r.reason)
    local same = decide("return 'reject', msg.data.id .. msg.headers.tenant", { data = { id = 7 }, headers = { tenant = "x" } })
    assert.equal("7x", same.reason)
    local value = decide("return 'reject', msg.data.data .. msg.data.total", { data = "an order's own field ", total = 3 })
    assert.equal("an order's own field 3", value.reason)
  end)

  it("keeps what this delivery published, also after a wait", function()
    local h = handler([[
      mx.sleep(msg.data.wait)
      assert(mx.publish("app", "k" .. msg.data.id, { id = msg.data.id }))
    ]], "{ concurrency = 2 }")
    local slow = mx.spawn(function() return h:deliver("q", { id = 1, wait = 0.03 }) end)
    local quick = h:deliver("q", { id = 2, wait = 0 })
    local _, late = slow:wait()
    assert.equal("k2", quick.published[1].key)
    assert.equal("k1", late.published[1].key)
    assert.equal(1, #late.published)
    assert.equal(2, #h.published)
    h:close()
  end)

  it("fails a handler that waits past its time limit", function()
    local h = handler("pcall(mx.sleep, 3600)", "{ timeout = 30, retry = { delay = function(_, m) return m.data.wait end } }")
    local t = mx.spawn(function() return h:deliver("q", { wait = 7 }) end)
    mx.test.clock():advance(31)
    local _, r = t:wait()
    assert.same({ "failed", 7 }, { r.decision, r.delay })
    assert.equal("timeout", r.error.code)
    h:close()
  end)

  it("lets publishes fail as the test wants", function()
    local h = handler [[
      local ok, e = mx.publish("app", "k", "x")
      if not ok then return "retry", e.code == "nacked" and 1 or 2 end
    ]]
    h.broker:nack(1)
    assert.equal(1, h:deliver("q", "x").delay)
    h.broker:return_(1)
    assert.equal(2, h:deliver("q", "x").delay)
    assert.equal("ack", h:deliver("q", "x").decision)
    h:close()
  end)

  it("counts a publish that the handler did not wait for: failed, unless it says true", function()
    local h = handler 'mx.publish_async("app", "k", "x") if msg.body == "sure" then return true end'
    h.broker:nack(1)
    local r = h:deliver("q", "x")
    assert.same({ "failed", "nacked", 1 }, { r.decision, r.error.code, #r.published })
    h.broker:nack(1)
    assert.equal("ack", h:deliver("q", "sure").decision)
    assert.equal("ack", h:deliver("q", "x").decision)
    h:close()
  end)

  it("reaches consumers of server-named queues, through the broker's own exchanges too", function()
    local h = load "q = mx.queue '' mx.bind(q, 'amq.topic', 'a.*') mx.consume(q, function(msg) return 'reject', msg.exchange end)"
    assert.equal("amq.topic", h:deliver(h.env.q, "x", { exchange = "amq.topic", key = "a.b" }).reason)
    h:close()
  end)

  it("obeys a manual handler's methods, also after it returned", function()
    local h = handler([[
      if msg.body == "later" then mx.spawn(function() mx.sleep(0.01) msg:retry(5) end) end
      if msg.body == "bad" then msg:reject("no good " .. msg:json()[1]) end
      if msg.body == "error" then error "x" end
      if msg.body == "twice" then
        local kept = msg:keep()
        msg:ack()
        again = { select(2, pcall(function() kept:reject() end)), select(2, pcall(function() msg.note = 1 end)) }
      end]], "{ manual = true, concurrency = 4 }")
    rawset(h.env, "again", false)
    assert.same({ decision = "retry", delay = 5, published = {} }, h:deliver("q", "later"))
    assert.equal("failed", h:deliver("q", "error").decision)
    assert.equal("ack", h:deliver("q", "twice").decision)
    assert.matches("^%S+:%d+: msg:reject: already settled by this script$", h.env.again[1])
    assert.matches("^%S+:%d+: msg.note cannot be set: messages are read%-only$", h.env.again[2])
    h:close()
    h = handler("msg:reject('no ' .. msg:json()[1])", "{ manual = true }")
    assert.equal("no 7", h:deliver("q", "[7]").reason)
    h:close()
  end)

  it("shows what msg:reply sent", function()
    local h = handler "assert(msg:reply({ sum = msg.data.a + msg.data.b }))"
    local r = h:deliver("q", { a = 1, b = 2 }, { reply_to = "answers", correlation_id = "c-1" })
    assert.equal("ack", r.decision)
    assert.same({ { sum = 3 }, "c-1" }, { r.replies[1].data, r.replies[1].correlation_id })
    h:close()
  end)

  it("lets the test answer mx.call", function()
    local h = handler 'local reply, e = mx.call("rpc", "sum", { 1, 2 }) return "reject", reply and reply.data.sum or e.code'
    assert.equal("timeout", h:deliver("q", "x").reason)
    h.answer = function(request) return { sum = request.data[1] + request.data[2] } end
    local r = h:deliver("q", "x")
    assert.equal("3", r.reason)
    assert.same({ "rpc", "sum" }, { r.published[1].exchange, r.published[1].key })
    h:close()
  end)

  it("has no network but what the test gives it", function()
    local h = handler [[
      local s, e = mx.tcp("127.0.0.1", 1)
      if not s then return "reject", e.code end
      s:send(msg.body)
      return "reject", s:receive()
    ]]
    assert.equal("connection", h:deliver("q", "x").reason)
    local sent
    h.tcp = function(host, port)
      return { send = function(_, data) sent = data end, receive = function() return host .. ":" .. port end }
    end
    assert.equal("127.0.0.1:1", h:deliver("q", "x").reason)
    assert.equal("x", sent)
    h:close()
  end)

  it("says which queue may have been meant", function()
    local h = handler ""
    local ok, e = pcall(function() h:deliver("qq", "x") end)
    assert.is_false(ok)
    assert.matches("harness_spec.lua:%d+: h:deliver: nothing consumes \"qq\", did you mean 'q'", e)
    ok, e = pcall(function() h:deliver("q", "x", { header = {} }) end)
    assert.is_false(ok)
    assert.matches("a message has no 'header', did you mean 'headers'", e)
  end)
end)

describe("a batch handler under test", function()
  local h
  before_each(function()
    h = load [[
      local p = mx.publisher { batch = { size = 100, timeout = 600 } }
      mx.consume_batch("rows", { size = 2, group_by = function(m) return m.headers.tenant end, handler_timeout = 0.2,
                                 policy = function(b) return b.count > 7 end }, function(batch)
        for i, m in ipairs(batch) do
          local row = m.data
          if row == "wait" then mx.sleep(600) end
          if row == "bad" then return nil, "no row" end
          if row == "twice" then assert(batch:fail(i, "twice")) end
          if row == "drop" then assert(batch:reject(i, "dropped")) end
          if row == "later" then assert(batch:retry(i, 7)) end
        end
        assert(p:publish("sums", { n = #batch, tenant = batch.group }))
      end)
      mx.consume("single", function() end)
      mx.consume_batch("atomic", { on_error = "reject" }, function() error "no" end)
    ]]
  end)
  after_each(function() h:close() end)

  it("gets what is delivered together, whatever its limits say, and answers for all", function()
    local r = h:deliver_batch("rows", { "a", "b", { body = "c" }, "d", "e" })
    assert.equal("ack", r.decision)
    assert.same({ n = 5 }, r.published[1].data)
    assert.equal(5, #r.messages)
    assert.same({ "ack", "ack" }, { r.messages[1].decision, r.messages[5].decision })
    assert.is_true(h.consumers.rows.options.policy { count = 8 })
  end)

  it("may tell messages apart", function()
    local r = h:deliver_batch("rows", { "a", "twice", "drop", "later", { body = "twice", attempt = 6 } })
    assert.equal("ack", r.decision)
    local m = r.messages
    assert.same({ "ack", "failed", "reject", "retry", "failed" },
                { m[1].decision, m[2].decision, m[3].decision, m[4].decision, m[5].decision })
    assert.same({ "twice", 1, "dropped", 7, true }, { m[2].reason, m[2].delay, m[3].reason, m[4].delay, m[5].dead })
  end)

  it("fails as a whole, and says whether it would be halved", function()
    local r = h:deliver_batch("rows", { "a", "bad" })
    assert.same({ "failed", "no row", true, 1 }, { r.decision, r.reason, r.halved, r.messages[1].delay })
    assert.is_nil(h:deliver_batch("rows", { "bad" }).halved)
    r = h:deliver_batch("atomic", { "a", "b" })
    assert.same({ "failed", false }, { r.decision, r.halved })
    r = h:deliver_batch("rows", { "a", "wait" })
    assert.equal("failed", r.decision)
    assert.matches("time limit of 0.2 s", r.reason)
    assert.equal("ack", h:deliver_batch("rows", { "a" }).decision)
  end)

  it("has one group", function()
    local function of(tenant) return { body = "a", headers = { tenant = tenant } } end
    assert.equal("x", h:deliver_batch("rows", { of "x", of "x" }).published[1].data.tenant)
    local ok, e = pcall(h.deliver_batch, h, "rows", { of "x", of "y" })
    assert.is_false(ok)
    assert.matches("of different groups", e)
  end)

  it("is told from one for single messages", function()
    assert.matches("is consumed in batches: h:deliver_batch", select(2, pcall(h.deliver, h, "rows", "a")))
    assert.matches("is not consumed in batches: h:deliver", select(2, pcall(h.deliver_batch, h, "single", { "a" })))
    assert.matches("expected a list of messages", select(2, pcall(h.deliver_batch, h, "rows", {})))
    assert.matches("nothing consumes \"row\", did you mean 'rows'", select(2, pcall(h.deliver_batch, h, "row", { "a" })))
    local ok, e = pcall(load, 'mx.consume_batch("q", { size = 500, prefetch = 100 }, print)')
    assert.is_false(ok)
    assert.matches(":1: mx.consume_batch: size is 500, at most 100", tostring(e))
  end)
end)
