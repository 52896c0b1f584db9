-- A script under test: run with no network, its consumers, publishes, topology and timers captured; messages come by
-- h:deliver and go through the real handler, the real msg and the real time limit.
--
-- Design: the script gets an `mx` of its own: mx.lua loaded once more, over doubles of the modules that would reach the
-- network or the clock. Below them two private mem:// brokers, so that what checks, encodes and waits is the code that
-- runs in production: one (wire) brings the deliveries, the other confirms what the script publishes, all into one sink
-- (drain); h.broker makes that one fail.
local turn, task, err, check = require "mx.turn", require "mx.task", require "mx.err", require "mx.check"
local conns, publish, consume = require "mx.conn", require "mx.publish", require "mx.consume"
local strict, json, generation = require "mx.strict", require "mx.json", require "mx.generation"
local capture, decision, batches = require "mx.test.capture", require "mx.test.decision", require "mx.test.batches"
local paths = require "mx.paths"

local M = {}
local Harness = {}
Harness.__index = Harness
local SINK, ANSWERS = "mx.test.sink", "mx.test.answers"
local count = 0

-- A wrong argument raises at the line of the script, wherever it was noticed.
local function at_script(f, ...)
  local r = { pcall(f, ...) }
  if r[1] then return unpack(r, 2, table.maxn(r)) end
  local e = r[2]
  if type(e) ~= "string" or e:find "^[^%s:]+:%d+: " and not e:find "^mx/" then error(e, 0) end
  check.fail((e:gsub("^mx/[^:]*:%d+: ", "")))
end

-- Publishes -------------------------------------------------------------------------------------------------------

local function data_of(body, content_type)
  if content_type ~= "application/json" and (content_type or not body:find "^%s*[{%[]") then return body end
  local value, e = json.decode(body)
  if e then return body end
  return value
end

local function note(h, receipt, exchange, key, body, opts)
  local p = {}
  for k, v in pairs(opts or {}) do p[k] = v end
  p.exchange, p.key = exchange, key
  if type(body) == "table" then
    p.body, p.content_type = json.encode(body), p.content_type or "application/json"
  else
    p.body = tostring(body)
  end
  p.data, p.headers = data_of(p.body, p.content_type), p.headers or {}
  h.published[#h.published + 1] = p
  h.targets[#h.targets + 1] = { exchange = exchange, key = key, where = capture.where() }
  local run = h.running[turn.current]
  if run then run.published[#run.published + 1], run.receipts[#run.receipts + 1] = p, receipt end
end

-- Sends into the sink whatever the target: the answer is that of a real publish. receipt | nil, err
local function send(h, publisher, exchange, key, body, opts)
  if type(exchange) ~= "string" or type(key) ~= "string" then
    check.fail(("publish: exchange and key must be strings, got %s and %s"):format(type(exchange), type(key)))
  end
  local r, e = publish.send(publisher, "", SINK, body, opts)
  if r then note(h, r, exchange, key, body, opts) end
  return r, e
end

local function send_and_wait(h, publisher, ...)
  local r, e = send(h, publisher, ...)
  if not r then return nil, e end
  return r:wait()
end

local function tapped(h, publisher)
  publisher.batch = nil                   -- a test does not wait for more
  function publisher.publish_async(p, key, body, opts) return send(h, p, p.exchange, key, body, opts) end
  function publisher.publish(p, key, body, opts) return send_and_wait(h, p, p.exchange, key, body, opts) end
  return publisher
end

-- Consumers -------------------------------------------------------------------------------------------------------

-- What the private broker calls: the script's handler, observed; the delivery itself is acked.
local function observed(h, number, handler)
  local Ref = require "mx.msg".Ref
  return function(msg)
    local run = h.runs[msg.id]
    if not run then return true end
    local c, me, attempt = h.consumers[number].consumer, turn.current, msg.attempt
    local copy = c.test_retry.delay and Ref(msg.m, msg.seq, msg.sub):keep() or msg     -- past the time limit msg is settled
    local function decide(result)
      result.published = run.published
      run.done:put(result, 0)                           -- the first decision counts
    end
    h.running[me] = run
    local seen = c.manual and decision.manual(c, msg, decide) or msg
    local ok, verdict, why = xpcall(handler, turn.on_error, seen)
    h.running[me] = nil
    if me.late then
      ok, verdict = false, err.new("timeout", "the handler ran past its time limit of " .. c.timeout .. " s")
    end
    local result = decision.of(c, copy, attempt, run.receipts, ok, verdict, why)
    if not (c.manual and result.decision == "ack") then decide(result) end
    return true
  end
end

local function add_consumer(h, queue, options, handler, make)
  if type(options) == "function" and handler == nil then options, handler = nil, options end
  local o = {}
  for k, v in pairs(options or {}) do o[k] = v end
  local name, number = tostring(queue), #h.consumers + 1
  local entry = { queue = name, options = options or {}, handler = handler, line = capture.where() }
  if type(queue) == "string" then assert(h.wire:queue(name, { durable = false })) end
  o.args, o.exclusive = type(o.args) ~= "table" and o.args or nil, nil
  local watched = type(handler) == "function" and observed(h, number, handler) or handler
  h.consumers[number] = entry
  local c
  if make then c = at_script(make, h, entry, h.wire, queue, o, handler) else c = at_script(consume.consume, h.wire, queue, o, watched) end
  entry.consumer, c.test_retry, c.script = c, c.retry, handler
  c.retry = { max = 0 }                   -- what follows a failure is answered, not done
  h.consumers[name] = entry
  return c
end

local function add_batch_consumer(h, queue, options, handler)
  if type(options) == "function" and handler == nil then options, handler = nil, options end
  return add_consumer(h, queue, options, handler, batches.consume)
end

-- mx.call ---------------------------------------------------------------------------------------------------------

-- Goes over the private broker to h.answer(request), which returns the reply's body [, options of a publish], or nothing.
local function answered(h, exchange, key, body, opts)
  note(h, nil, exchange, key, body, opts)
  local request = h.published[#h.published]
  if not h.answer then return nil, err.new("timeout", "call: the test has no h.answer to reply to " .. key, { op = "call" }) end
  if not h.answers then
    assert(h.wire:queue(ANSWERS, { durable = false }))
    h.answers = assert(consume.consume(h.wire, ANSWERS, { concurrency = 100, retry = { max = 0 } }, function(msg)
      local reply, options = h.answer(h.requests[msg.id])
      if reply ~= nil then msg:reply(reply, options) end
    end))
  end
  local o = {}
  for k, v in pairs(opts or {}) do o[k] = v end
  count = count + 1
  o.id = "call-" .. count
  h.requests[o.id] = request
  return require "mx.call".call(h.wire, "", ANSWERS, body, o)
end

-- The script's mx -------------------------------------------------------------------------------------------------

-- A connection whose topology is captured and whose publishes end in the sink.
local function connection(h, options)
  local o = {}
  for k, v in pairs(options or {}) do o[k] = v end
  o.password_env = nil                    -- no secret is needed where nothing is dialled
  local conn, e = at_script(conns.new, o)
  if not conn then return nil, e end
  conn.addresses, conn.text = h.drain.addresses, h.drain.text
  h.connections[#h.connections + 1] = conn
  conn.capture = function(op, request) return capture.operation(h.topology, op, request) end
  local default
  function conn.publisher(self)
    default = default or tapped(h, publish.publisher(self))
    return default
  end
  function conn.publish(self, ...) return send_and_wait(h, self:publisher(), ...) end
  function conn.publish_async(self, ...) return send(h, self:publisher(), ...) end
  function conn.consume(_, queue, opts, handler) return add_consumer(h, queue, opts, handler) end
  function conn.consume_batch(_, ...) return add_batch_consumer(h, ...) end
  function conn.call(_, ...) return answered(h, ...) end
  return conn
end

local function timer(h, kind, start)
  return function(seconds, f)
    local real = start(seconds, h.options.timers and f or function() end)
    if h.options.timers then return real end
    real:cancel()
    h.timers[#h.timers + 1] = { [kind] = check.seconds(seconds), fire = f }
    return { cancel = function() end }
  end
end

local function spawn(h)
  return function(f, ...)
    if h.options.tasks == false then f = function() end end
    local t = task.spawn(f, ...)
    h.tasks[#h.tasks + 1] = t
    return t
  end
end

local function doubles(h)
  local calls = {}
  for name, call in pairs(conns.calls) do calls[name] = { unpack(call) } end
  calls.consume[1] = function(_, queue, options, handler) return add_consumer(h, queue, options, handler) end
  calls.consume_batch[1] = function(_, ...) return add_batch_consumer(h, ...) end
  return {
    ["mx.conn"] = setmetatable({
      new = function(options) return connection(h, options) end, calls = calls,
      has_urls = true, default_urls = function() return { h.url } end,
    }, { __index = conns }),
    ["mx.publish"] = setmetatable({
      send = function(...) return send(h, ...) end, send_and_wait = function(...) return send_and_wait(h, ...) end,
      publisher = function(c, o)
        local p = tapped(h, at_script(publish.publisher, c, o))
        if p.exchange ~= "" then h.targets[#h.targets + 1] = { exchange = p.exchange, where = capture.where() } end
        return p
      end,
    }, { __index = publish }),
    ["mx.task"] = setmetatable({
      every = timer(h, "every", task.every), after = timer(h, "after", task.after), spawn = spawn(h),
    }, { __index = task }),
  }
end

-- A workload is not played: what it would declare, publish to and consume.
local function workload(h, mx, make)
  return function(description)
    local w, where = at_script(make, description), capture.where()
    if w.topology then assert(at_script(mx.topology, w.topology)) end
    for _, group in ipairs(w.producers) do
      for _, key in ipairs(type(group.key) == "table" and group.key or { group.key }) do
        h.targets[#h.targets + 1] = { exchange = group.exchange, key = type(key) == "string" and key or nil, where = where }
      end
    end
    for _, queue in ipairs((require "mx.bench.workload".queues(w))) do
      h.consumers[#h.consumers + 1] = { queue = queue, options = {}, line = where }
    end
    return w
  end
end

-- mx.lua once more, over the doubles; what else it loads is not kept.
local function instance(h)
  local loaded, before = package.loaded, {}
  for name, module in pairs(loaded) do before[name] = module end
  for name, double in pairs(doubles(h)) do loaded[name] = double end
  for _, own in ipairs { "mx", "mx.event", "mx.metrics", "mx.health" } do loaded[own] = nil end
  local ok, mx = pcall(require, "mx")
  h.emitter = loaded["mx.event"].emit
  for name in pairs(loaded) do loaded[name] = before[name] end
  if not ok then error(mx, 0) end
  for k, v in pairs(h.options.config or before.mx.config) do mx.config[k] = v end
  mx.stop = function() h.stopped = true end
  mx.workload = workload(h, mx, mx.workload)
  mx.tcp = function(...)
    if h.tcp then return h.tcp(...) end
    return nil, err.new("connection", "mx.tcp: a script under test has no network, and the test no h.tcp", { op = "connect" })
  end
  return mx
end

-- The script's globals: its own modules are loaded afresh, so that they see its mx.
local function environment(h, mx, file, args)
  local env, modules = { mx = mx, arg = { [0] = file, unpack(args) } }, { mx = mx }
  env._G = env
  env.os = setmetatable({ exit = function(code)
    h.exit_code = code == false and 1 or tonumber(code) or 0
    error(h, 0)                         -- ends the main chunk: see run_main
  end }, { __index = os })
  local function chunk(path)
    local f, e = loadfile(path)
    if not f then error(e, 0) end
    return setfenv(f, env)
  end
  local beside, beside_c = paths.beside(file)
  if not package.cpath:find(beside_c, 1, true) then package.cpath = beside_c .. package.cpath end
  function env.require(name)
    if modules[name] ~= nil then return modules[name] end
    local own = package.searchpath(name, beside)
    local path = own or package.searchpath(name, package.path)
    if not path or path:sub(1, 1) == "/" and not own and not generation.modules[name] then return require(name) end
    local value = chunk(path)(name)
    modules[name] = value == nil or value
    return modules[name]
  end
  function env.dofile(path) return chunk(path)() end
  h.env = env
  return strict(env, generation.pristine)
end

-- Runs the main chunk until it ends, or waits for longer than options.timeout (1 s): then h.waiting is true.
local function run_main(h, f, args)
  local done = task.chan(1)
  h.main = turn.start(f, function(ok, e) done:put { ok, e } end, unpack(args))
  local r = done:get(h.options.timeout or 1)
  h.waiting = not r
  if r and not r[1] and r[2].raised ~= h then
    local text, trace = err.explain(r[2])
    return nil, text, trace
  end
  return h
end

local OPTIONS = { timers = "boolean", tasks = "boolean", config = "table", args = "table", timeout = "seconds", name = "string" }

-- A harness, or nil, the error's text, its traceback and the harness as far as it got. Options: timers = true starts
-- them, tasks = false starts no mx.spawn; config is mx.config, args the script's arguments, timeout how long its main
-- chunk may wait.
function M.load(file, options)
  check.arg(1, "mx.test.load", file, "string")
  local o = check.options("mx.test.load", options or {}, OPTIONS)
  local f, e = loadfile(file)
  if not f then return nil, e end
  count = count + 1
  local h = setmetatable({
    url = "mem://test.harness." .. (o.name or count), options = o,
    consumers = {}, published = {}, timers = {}, tasks = {}, runs = {}, requests = {},
    running = {}, topology = capture.topology(), connections = {}, targets = {},
  }, Harness)
  h.broker = require "mx.test.broker".of(h.url:match "^mem://(.*)$")
  h.wire, h.drain = assert(conns.new({ url = h.url .. ".wire" })), assert(conns.new({ url = h.url }))
  assert(h.drain:queue(SINK, { durable = false, ttl = 0 }))
  local args = o.args or {}
  setfenv(f, environment(h, instance(h), file, args))
  local ok, why, trace = run_main(h, f, args)
  if ok then return h end
  return nil, why, trace, h
end

-- What tests do ---------------------------------------------------------------------------------------------------

local FIELDS = {
  body = true, data = true, exchange = true, key = true, attempt = true, headers = true, id = true, correlation_id = true,
  reply_to = true, content_type = true, content_encoding = true, type = true, app_id = true, timestamp = true, priority = true,
}

local function is_message(t)
  if type(t) ~= "table" or (t.body == nil and t.data == nil) then return false end
  for k in pairs(t) do
    if not FIELDS[k] then return false end
  end
  return true
end

-- body, exchange, key and the options of the publish that brings the message
local function message(queue, value, fields)
  local m = {}
  if is_message(value) then
    for k, v in pairs(value) do m[k] = v end
  else
    m.body = value
  end
  for k, v in pairs(fields or {}) do
    if not FIELDS[k] then error("h:deliver: a message has no '" .. tostring(k) .. "'" .. check.nearest(tostring(k), FIELDS), 3) end
    m[k] = v
  end
  local body, exchange, key = m.body, m.exchange or "", m.key or queue
  if m.data ~= nil then body = m.data end
  local headers = {}
  for k, v in pairs(m.headers or {}) do headers[k] = v end
  if m.attempt then headers["x-mx-retries"] = m.attempt - 1 end
  m.body, m.data, m.exchange, m.key, m.attempt = nil, nil, nil, nil, nil
  m.headers = next(headers) and headers or nil
  return body, exchange, key, m
end

-- What msg:reply sent there, as it would arrive.
local function replies(h, queue)
  local list, left = {}, assert(h.wire:queue_info(queue)).messages
  if left == 0 then return list end
  local got = task.chan(left)
  local c = assert(consume.consume(h.wire, queue, { auto_ack = true }, function(m)
    got:put { body = m.body, data = m.data, headers = m.headers, correlation_id = m.correlation_id }
  end))
  for i = 1, left do list[i] = got:get() end
  c:stop()
  return list
end

local function consumer_of(self, method, queue)
  local entry = self.consumers[queue]
  if entry and type(queue) == "string" then return entry end
  local names = {}
  for _, c in ipairs(self.consumers) do names[#names + 1] = c.queue end
  error(("h:%s: nothing consumes %q%s"):format(method, tostring(queue), check.nearest(tostring(queue), names)), 3)
end

-- Publishes a message that belongs to the run. The options that it went with | nil, err
local function bring(self, run, queue, value, fields)
  local body, exchange, key, opts = message(queue, value, fields)
  count = count + 1
  opts.id = opts.id or "test-" .. count
  if self.runs[opts.id] then error("h:deliver: a message with the id " .. opts.id .. " is being handled", 3) end
  self.runs[opts.id], run.ids[#run.ids + 1] = run, opts.id
  if opts.reply_to then assert(self.wire:queue(opts.reply_to, { durable = false })) end
  if exchange ~= "" then
    if exchange:sub(1, 4) ~= "amq." then assert(self.wire:exchange(exchange, "direct")) end
    assert(self.wire:bind(queue, exchange, key))
  else
    key = queue
  end
  local ok, e = publish.send_and_wait(self.wire:publisher(), exchange, key, body, opts)
  if ok and exchange ~= "" then self.wire:unbind(queue, exchange, key) end
  if not ok then return nil, e end
  return opts
end

local function new_run() return { published = {}, receipts = {}, ids = {}, done = task.chan(1) } end

local function result_of(self, run, entry)
  local result, e = run.done:get(entry.consumer.timeout + 10)
  for _, id in ipairs(run.ids) do self.runs[id] = nil end
  if not result then error(e, 0) end
  return result
end

-- Hands a message to the handler of the queue's consumer: a string or a table as body, fields as of msg beside it
-- (headers, key, attempt ...); or one table of fields with body or data in it. Waits for the handler. Answers
-- { decision = "ack" | "reject" | "retry" | "requeue" | "failed", reason, delay (without its jitter), published = { ... } },
-- with reply_to also replies = { ... }.
function Harness:deliver(queue, value, fields)
  local entry = consumer_of(self, "deliver", queue)
  if entry.turn then error(("h:deliver: %q is consumed in batches: h:deliver_batch"):format(queue), 2) end
  local run = new_run()
  local opts, e = bring(self, run, queue, value, fields)
  if not opts then
    for _, id in ipairs(run.ids) do self.runs[id] = nil end
    error(e, 0)
  end
  local result = result_of(self, run, entry)
  if opts.reply_to then result.replies = replies(self, opts.reply_to) end
  return result
end

local function deliver_all(self, entry, queue, list)
  local run = new_run()
  entry.expected = #list
  for i = 1, #list do assert(bring(self, run, queue, list[i])) end
  return result_of(self, run, entry)
end

-- Hands messages to the handler of the queue's mx.consume_batch as one batch, whatever its limits and its policy are; each a
-- body or a table of fields. Waits for one run of the handler. Answers what deliver does of the batch, messages = { ... }
-- with the same of each, and halved = true when it failed and would be run again by halves.
function Harness:deliver_batch(queue, list)
  local entry = consumer_of(self, "deliver_batch", queue)
  if not entry.turn then error(("h:deliver_batch: %q is not consumed in batches: h:deliver"):format(queue), 2) end
  if type(list) ~= "table" or list[1] == nil then error("h:deliver_batch: expected a list of messages", 2) end
  entry.turn:acquire()
  local ok, result = pcall(deliver_all, self, entry, queue, list)
  entry.turn:release()
  if not ok then error(result, 0) end
  if result.failure then error(result.failure, 2) end
  return result
end

-- Runs what the script gave to mx.on(event).
function Harness:emit(event, ...)
  self.emitter(event, ...)
end

-- Ends its consumers and tasks.
function Harness:close()
  for _, t in ipairs(self.tasks) do t:cancel() end
  if self.waiting then turn.raise(self.main, err.new("closed", "the test is over")) end
  for _, c in ipairs(self.connections) do c:close() end
  for _, c in ipairs(self.consumers) do
    if c.consumer then
      c.consumer:stop(5)
      self.wire:delete_queue(c.queue)
    end
  end
  self.wire:close()
  self.drain:close()
end

return M
