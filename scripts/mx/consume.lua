-- Consuming: a consumer's inbox, its handler's decisions, retries and dead letters.
local ffi = require "ffi"
local C, band = ffi.C, require "bit".band
local turn, task, err, check = require "mx.turn", require "mx.task", require "mx.err", require "mx.check"
local publish, json, fieldtable, log = require "mx.publish", require "mx.json", require "mx.fieldtable", require "mx.log"
local topology = require "mx.topology"
local type, error, tostring, setmetatable = type, error, tostring, setmetatable

local M = { open = {} }                 -- open: consumers, for the exit rule and the drain

-- msg -----------------------------------------------------------------------------------------------------------

local scratch
local function props_of(m)
  scratch = scratch or ffi.new "mx_props"
  if C.mx_props_decode(m.props, m.props_size, scratch) ~= 0 then error("msg: broken properties", 0) end
  return scratch
end

local function text_field(name, bit)
  return function(m)
    local p = props_of(m)
    if band(p.flags, bit) == 0 then return nil end
    return ffi.string(p[name].p, p[name].n)
  end
end

local function number_field(name, bit)
  return function(m)
    local p = props_of(m)
    if band(p.flags, bit) == 0 then return nil end
    local v = p[name]
    return v <= 9007199254740992ULL and tonumber(v) or v
  end
end

-- Seconds; the text itself if some client sent no number.
local expiration_text = text_field("expiration", 0x100)
local function expiration_of(m)
  local text = expiration_text(m)
  return text and (text:find "^%d+$" and tonumber(text) / 1000 or text)
end

-- The headers | nil, err
local function read_headers(m)
  local p = props_of(m)
  if band(p.flags, 0x2000) == 0 then return {} end
  return fieldtable.decode(p.headers.p, p.headers.n)
end

local function headers_of(m)
  local headers, e = read_headers(m)
  if not headers then error(e, 0) end
  return headers
end

-- How often it was retried; nil when its headers cannot be read.
local function retries_of(m)
  local headers = read_headers(m)
  return headers and (tonumber(headers["x-mx-retries"]) or 0)
end

local content_type = text_field("content_type", 0x8000)

local function data_of(m)
  local kind = content_type(m)
  local body = ffi.string(m.body, m.size)
  if kind ~= "application/json" and not (kind and kind:find "^application/json%s*;") then
    if kind then return body end
    local first = body:match "^%s*(.)"
    if first ~= "{" and first ~= "[" then return body end
  end
  local value, e = json.decode(body)
  if e then error(e, 0) end
  return value
end

-- What is decoded once a delivery: kept by the task that serves it.
local function remembered(name, f)
  return function(m, self)
    local d = turn.current
    local memo = d and d.memo
    if not memo or memo.seq ~= self.seq or memo.consumer ~= self.consumer then
      memo = { seq = self.seq, consumer = self.consumer }
      if d and d.seq == self.seq and d.number == self.consumer then d.memo = memo end
    end
    if memo[name] == nil then memo[name] = f(m) end
    return memo[name]
  end
end

local readable = remembered("headers", function(m) return read_headers(m) or false end)

local getters = {
  size = function(m) return tonumber(m.size) end,
  body = function(m) return ffi.string(m.body, m.size) end,
  key = function(m) return ffi.string(m.key, m.key_size) end,
  exchange = function(m) return ffi.string(m.exchange, m.exchange_size) end,
  redelivered = function(m) return m.redelivered ~= 0 end,
  delivery_tag = function(m) return tonumber(m.tag) end,
  data = remembered("data", data_of),
  headers = function(m, self) return readable(m, self) or headers_of(m) end,
  id = text_field("message_id", 0x80),
  correlation_id = text_field("correlation_id", 0x400),
  reply_to = text_field("reply_to", 0x200),
  content_type = content_type,
  content_encoding = text_field("content_encoding", 0x4000),
  type = text_field("type", 0x20),
  app_id = text_field("app_id", 8),
  user_id = text_field("user_id", 0x10),
  priority = number_field("priority", 0x800),
  timestamp = number_field("timestamp", 0x40),
  expiration = expiration_of,
  persistent = function(m)
    local p = props_of(m)
    return band(p.flags, 0x1000) ~= 0 and p.delivery_mode == 2
  end,
}
function getters.attempt(m, self)
  local headers = readable(m, self)
  return (headers and tonumber(headers["x-mx-retries"]) or 0) + 1
end
function getters.age(m)
  local at = getters.timestamp(m)
  return at and math.max(0, os.time() - tonumber(at))
end
-- A retried delivery comes back over a delay queue: the handler sees where it was published first.
local function original(name)
  local plain = getters[name]
  getters[name] = function(m, self)
    if m.exchange_size == 0 and m.props_size > 2 then
      local headers = readable(m, self)
      local was = headers and headers["x-mx-origin-" .. name]
      if was then return was end
    end
    return plain(m)
  end
end
original "exchange"
original "key"

local function json_method(self)
  local value, e = json.decode(self.body)
  if e then return nil, e end
  return value
end

-- What a handler holds: a slot, its position (a slot is reused), and the consumer's number. One type for all consumers.
local Ref
local by_number = {}

local function of_consumer(field)
  return function(_, self) return by_number[self.consumer][field] end
end
getters.queue, getters.consumer_tag = of_consumer "queue", of_consumer "tag"

function M.setup()
  Ref = ffi.metatype(ffi.typeof "struct { mx_msg *m; uint32_t seq, consumer; }", {
    __index = function(self, name)
      local m = self.m
      if m.seq ~= self.seq or m.verdict ~= 0 then error("msg." .. tostring(name) .. ": already settled", 2) end
      local get = getters[name]
      if get then return get(m, self) end
      if name == "json" then return json_method end
      error("msg has no field '" .. tostring(name) .. "'", 2)
    end,
    __tostring = function(self) return "msg " .. self.seq .. " of " .. by_number[self.consumer].queue end,
  })
end

-- Settling --------------------------------------------------------------------------------------------------------

local ACK, REJECT, REQUEUE = 1, 2, 3

local function slot_of(c, seq) return c.inbox.slot + band(seq, c.inbox.mask) end

local function settle(c, seq, verdict)
  local m = slot_of(c, seq)
  if m.seq ~= seq or m.verdict ~= 0 then return end
  m.verdict = verdict
  turn.t.again = 1
end

-- An error's text and its traceback, also for one that is not an error object.
local function explain(e)
  if err.is(e) then return tostring(e), e.traceback end
  if type(e) == "table" and e.traceback then return err.tostring(e.raised), e.traceback end
  return err.tostring(e)
end

-- Failures are logged, at most ten a second a consumer.
local function complain(c, what, e)
  local text, trace = explain(e)
  local now = C.mx_now()
  if now - c.log_since > 1 then
    if c.log_count > 10 then log.warn("more failures of this kind", { queue = c.queue, count = c.log_count - 10 }) end
    c.log_since, c.log_count = now, 0
  end
  c.log_count = c.log_count + 1
  if c.log_count <= 10 then log.error(what, { queue = c.queue, error = text, traceback = trace }) end
end

-- Properties as options of a publish; what must not travel on moves into x-mx-* headers.
local function options_of(m, extra)
  local headers = read_headers(m) or {}
  if headers["x-death"] then headers["x-mx-death"], headers["x-death"] = headers["x-death"], nil end
  for _, name in ipairs { "CC", "BCC" } do
    if headers[name] then headers["x-mx-" .. name], headers[name] = headers[name], nil end
  end
  local expiration = expiration_text(m)
  if expiration then headers["x-mx-expiration"] = expiration end
  local user = getters.user_id(m)
  if user then headers["x-mx-user-id"] = user end
  for k, v in pairs(extra) do headers[k] = v end
  return {
    headers = headers, id = getters.id(m), correlation_id = getters.correlation_id(m), reply_to = getters.reply_to(m),
    content_type = content_type(m), content_encoding = getters.content_encoding(m), type = getters.type(m),
    app_id = getters.app_id(m), priority = getters.priority(m), timestamp = getters.timestamp(m), persistent = true,
    mandatory = true,
  }
end

local function origin(m, headers)
  headers["x-mx-first-seen"] = headers["x-mx-first-seen"] or os.date "!%Y-%m-%dT%H:%M:%SZ"
  return {
    ["x-mx-first-seen"] = headers["x-mx-first-seen"],
    ["x-mx-origin-exchange"] = headers["x-mx-origin-exchange"] or ffi.string(m.exchange, m.exchange_size),
    ["x-mx-origin-key"] = headers["x-mx-origin-key"] or ffi.string(m.key, m.key_size),
  }
end

-- Publishes a copy, confirmed, before the delivery is acked; the target is declared again when it was returned.
local function hand_over(c, seq, exchange, key, extra, declare)
  local m = slot_of(c, seq)
  local headers = read_headers(m) or {}
  for k, v in pairs(origin(m, headers)) do if extra[k] == nil then extra[k] = v end end
  local body, options = ffi.string(m.body, m.size), options_of(m, extra)
  local pause = 0.1
  while true do
    local ok, e = publish.send_and_wait(c.conn:publisher(), exchange, key, body, options)
    if ok then
      settle(c, seq, ACK)
      return
    end
    if e.code == "unroutable" then
      local made, why = declare()
      if not made then log.error("cannot declare a queue for what failed", { queue = c.queue, error = tostring(why) }) end
    else
      log.error("cannot hand a failed message on", { queue = c.queue, key = key, error = tostring(e) })
    end
    if task.stopping or e.code == "closed" then
      settle(c, seq, REQUEUE)
      return
    end
    task.sleep(pause)
    pause = math.min(pause * 2, 5)
  end
end

-- Runs f(c, seq, ...) beside the handlers; the drain waits for it.
local function aside(c, seq, f, ...)
  c.aside = c.aside + 1
  local t = turn.start(f, function(ok, e)
    c.aside = c.aside - 1
    if not ok then
      complain(c, "settling failed", e)
      settle(c, seq, REQUEUE)
    end
  end, c, seq, ...)
  t.delivery = seq
end

local function dead_letter(c, seq, reason, retries)
  local target = c.conn.dlq[c.queue]
  if not target then
    settle(c, seq, REJECT)
    return
  end
  hand_over(c, seq, target.exchange, target.key, {
    ["x-mx-error"] = reason, ["x-mx-retries"] = retries, ["x-mx-origin"] = c.queue,
  }, function() return topology.redeclare(c.conn, target.queue) end)
end

local function reject(c, seq, reason)
  c.rejected = c.rejected + 1
  local target, retries = c.conn.dlq[c.queue], retries_of(slot_of(c, seq))
  if not target or target.wire and not retries then    -- the broker can keep headers that we cannot read
    settle(c, seq, REJECT)
    return
  end
  aside(c, seq, dead_letter, reason or "rejected", retries)
end

local function jittered(delay, jitter)
  if not jitter then return delay end
  return delay * (0.5 + math.random())
end

local function backoff(c, n, m, e)
  local r = c.retry
  if r.delay then return r.delay(n, m, e) end
  return jittered(math.min(r.base * r.factor ^ (n - 1), r.max_delay), r.jitter)
end

local function retry_later(c, seq, delay, retries, reason)
  local tier = topology.tier(delay)
  local key
  local function declare()
    local name, e = topology.retry_queue(c.conn, c.queue, tier)
    key = name
    return name, e
  end
  local name, e = declare()
  if not name then
    if not c.warned then
      c.warned = true
      log.warn("cannot declare a delay queue; retries wait here instead", { queue = c.queue, error = tostring(e) })
    end
    task.sleep(tier.seconds)
    settle(c, seq, REQUEUE)
    return
  end
  hand_over(c, seq, "", key, { ["x-mx-retries"] = retries, ["x-mx-error"] = reason, ["x-mx-origin"] = c.queue }, declare)
end

local function retry(c, seq, delay, reason)
  local retries = retries_of(slot_of(c, seq))
  if not retries then return reject(c, seq, reason) end
  c.retried = c.retried + 1
  aside(c, seq, retry_later, delay or c.retry.base, retries + 1, reason)
end

local function requeue(c, seq)
  local now = C.mx_now()
  c.pace = now - c.requeued_at < 1 and math.min(c.pace * 2, 1) or 0.01
  c.requeued_at = now
  aside(c, seq, function()
    task.sleep(c.pace)
    settle(c, seq, REQUEUE)
  end)
end

-- The retry policy, then as reject.
local function fail(c, seq, e)
  c.failures = c.failures + 1
  local m = slot_of(c, seq)
  if m.seq ~= seq or m.verdict ~= 0 then return end
  local text = explain(e)
  complain(c, "handler failed", e)
  if c.auto_ack then return settle(c, seq, ACK) end
  local retries = retries_of(m)
  local final = not retries or err.is(e) and e.retryable == false
  local delay = not final and retries < c.retry.max and backoff(c, retries + 1, nil, e)
  if delay then retry(c, seq, delay, text) else reject(c, seq, text) end
end

local DECISIONS = {
  reject = function(c, seq, why) reject(c, seq, why and tostring(why)) end,
  retry = function(c, seq, seconds) retry(c, seq, seconds and check.seconds(seconds), "retry") end,
  requeue = function(c, seq) requeue(c, seq) end,
}

local function decided(c, seq, verdict, why)
  if c.auto_ack and verdict ~= false then return settle(c, seq, ACK) end
  if verdict == nil and why ~= nil then return fail(c, seq, why) end
  if verdict == nil or verdict == true then return settle(c, seq, ACK) end
  if verdict == false then return fail(c, seq, why or err.new("internal", "the handler returned false")) end
  local f = DECISIONS[verdict]
  if f then return f(c, seq, why) end
  local info = debug.getinfo(c.handler, "S")
  fail(c, seq, err.new("validation", ("%s:%d: the handler returned %s; expected nothing, true, \"reject\", \"retry\", "
    .. "\"requeue\", or nil and an error"):format(info.short_src, info.linedefined, tostring(verdict))))
end

-- Consumers -------------------------------------------------------------------------------------------------------

-- After a handler that ran late or waited: its time limit's ticket goes, and what its next wait was to raise.
local function unlimit(d)
  d.late = false
  if d.raise then d.raise = nil end
  if d.limit then
    turn.forget(d.limit)
    d.limit = nil
  end
end

-- The time limit of a handler that waits, counted from its first wait.
local function limit(d)
  if d.limit or d.late then return end
  d.limit = C.mx_wait_new(turn.waits, d.consumer.timeout)
  turn.notify(d.limit, d)
end

-- A server task is called by the post of its limit: the delivery has failed, and the wait raises.
local function on_limit(d)
  local c = d.consumer
  d.limit = nil
  d.late = true
  local e = err.new("timeout", "the handler ran past its time limit of " .. c.timeout .. " s")
  fail(c, d.seq, e)
  turn.raise(d, e)
end

-- What all server tasks of a consumer share; thousands may be parked, so each holds little of its own.
local function shared(c)
  return { __call = on_limit, __index = { consumer = c, number = c.number, delivery = true, on_park = limit, on_idle = c.on_idle } }
end

local function drain(c)
  local inbox, t = c.inbox, turn.t
  local tick = t.tick
  while inbox.head ~= inbox.tail and c.active < c.concurrency and not c.stopping do
    local d = table.remove(c.idle) or turn.serve(c)
    c.active = c.active + 1
    turn.run(d, d)
    if t.tick ~= tick then
      t.again = 1
      return
    end
  end
end

local SCHEMA = {
  prefetch = "integer>=0", concurrency = "integer>0", timeout = "seconds", auto_ack = "boolean", exclusive = "boolean",
  priority = "integer", args = "table", retry = "table",
}
local RETRY = {
  max = "integer>=0", base = "seconds", factor = "number>0", max_delay = "seconds", jitter = "boolean", delay = "function",
}

local Consumer = {}
Consumer.__index = Consumer

local tags, numbers = 0, 0

local function subscribe(c)
  local link, e = c.conn:link("consume")
  if not link then return nil, e end
  tags = tags + 1
  c.tag = ("mxrun-%d"):format(tags)
  local args = {}
  for k, v in pairs(c.args) do args[k] = v end
  if c.priority then args["x-priority"] = c.priority end
  local bytes = next(args) and fieldtable.encode(args) or ""
  local request = ffi.new("mx_consume", {
    queue = topology.span(c.queue), tag = topology.span(c.tag), args = topology.span(bytes), prefetch = c.auto_ack and 0 or c.prefetch,
    flags = (c.auto_ack and 32 or 0) + (c.exclusive and 4 or 0),
  })
  local ticket = C.mx_wait_new(turn.waits, -1)
  local inbox = C.mx_link_consume(link, request, ticket)
  local _, reply = turn.await(ticket)
  if reply and reply.code < 0 then
    C.mx_inbox_close(inbox, 0)
    return nil, err.of_reply("consume", reply)
  end
  c.inbox = inbox
  return true
end

local function start(c)
  local ok, e = subscribe(c)
  if not ok then return nil, e end
  c.idle, c.active, c.aside, c.stopping, c.serve = {}, 0, 0, false, nil
  c.refused = 0
  c.Ref, c.task = Ref, shared(c)
  c.drain = function() drain(c) end
  turn.add_drain(c.drain)
  M.open[#M.open + 1] = c
  return true
end

-- consumer | nil, err
function M.consume(conn, queue, options, handler)
  if type(options) == "function" and handler == nil then options, handler = nil, options end
  if type(handler) ~= "function" then check.fail("mx.consume: the handler must be a function, got " .. type(handler)) end
  local o = check.options("mx.consume", options or {}, SCHEMA)
  local r = check.options("mx.consume: retry", o.retry or {}, RETRY)
  if o.prefetch and o.prefetch > 65535 then check.fail("mx.consume: prefetch is " .. o.prefetch .. ", at most 65535") end
  local c = setmetatable({
    conn = conn, queue = queue, handler = handler, prefetch = o.prefetch or 256, concurrency = o.concurrency or 1,
    timeout = o.timeout or 30, auto_ack = o.auto_ack or false, exclusive = o.exclusive or false, priority = o.priority,
    args = o.args or {}, pace = 0.01, requeued_at = 0, log_since = 0, log_count = 0,
    rejected = 0, retried = 0, failures = 0,
    retry = { max = r.max or 5, base = r.base or 1, factor = r.factor or 2, max_delay = r.max_delay or 60,
              jitter = r.jitter ~= false, delay = r.delay },
  }, Consumer)
  numbers = numbers + 1
  c.number = numbers
  by_number[numbers] = c
  c.decide = function(d, seq, verdict, why)
    if d.late then
      unlimit(d)
    else
      if d.limit then unlimit(d) end
      decided(c, seq, verdict, why)
    end
  end
  c.failed = function(d, seq, e)
    local late = d.late
    unlimit(d)
    if not late then fail(c, seq, e) end
  end
  c.on_idle = function(d)
    if d.limit then unlimit(d) end
    c.active = c.active - 1
    c.idle[#c.idle + 1] = d
    turn.t.again = 1
  end
  local ok, e = start(c)
  if not ok then return nil, e end
  return c
end

-- Handlers in progress, and deliveries that are being handed on.
function Consumer:busy() return self.active + self.aside end

local function leave(c)
  turn.remove_drain(c.drain)
  for i = #M.open, 1, -1 do
    if M.open[i] == c then table.remove(M.open, i) end
  end
end

-- Cancels, waits for its handlers, flushes settlements, requeues the rest. true | nil, err
function Consumer:stop(timeout)
  if self.stopped or not self.inbox then return true end
  local due = timeout and C.mx_now() + check.seconds(timeout)
  self.stopping, self.stopped = true, true
  if self.inbox.state < 2 then
    local ticket = C.mx_wait_new(turn.waits, -1)
    C.mx_inbox_cancel(self.inbox, ticket)
    turn.await(ticket)
  end
  local mine = turn.current and turn.current.delivery == true and 1 or 0
  while self:busy() > mine and not (due and C.mx_now() > due) do
    turn.await(C.mx_wait_new(turn.waits, 0.002))
  end
  local left = self:busy() - mine
  local ticket = C.mx_wait_new(turn.waits, -1)
  leave(self)
  C.mx_inbox_close(self.inbox, ticket)
  self.inbox = nil
  turn.await(ticket)
  if left > 0 then return nil, err.new("timeout", left .. " handlers of " .. self.queue .. " still ran") end
  return true
end

-- A consumer that the broker ended (its queue was deleted, say), if any: consumer, err.
function M.lost()
  for _, c in ipairs(M.open) do
    if c.inbox and c.inbox.refused ~= c.refused then
      log.error("a message was rejected unread", { queue = c.queue, reason = ffi.string(c.inbox.refusal),
                                                   count = c.inbox.refused - c.refused })
      c.refused = c.inbox.refused
    end
    if c.inbox and c.inbox.state == 3 and not c.stopping then
      return c, err.new("channel", ("the broker ended the consumer of %q%s"):format(c.queue,
        c.inbox.cancelled ~= 0 and ": the queue was deleted or moved" or ""))
    end
  end
end

-- Before a connection closes.
function M.close_all(conn)
  for _, c in ipairs { unpack(M.open) } do
    if c.conn == conn then c:stop(5) end
  end
end

function Consumer:pause() return self:stop() end

-- true | nil, err
function Consumer:resume()
  if not self.stopped then return true end
  self.stopped = false
  return start(self)
end

function Consumer:stats()
  local ib = self.inbox
  return { count = ib and ib.delivered or 0, in_flight = ib and ib.head - ib.settled or 0, acked = ib and ib.acked or 0,
           rejected = self.rejected, retried = self.retried, failed = self.failures, requeued = ib and ib.requeued or 0 }
end

return M
