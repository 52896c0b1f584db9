-- Publishing: publishers, their windows, and receipts.
local ffi = require "ffi"
local C = ffi.C
local turn, task, wait = require "mx.turn", require "mx.task", require "mx.wait"
local err, check, receipt = require "mx.err", require "mx.check", require "mx.receipt"
local json, fieldtable, log = require "mx.json", require "mx.fieldtable", require "mx.log"
local trace = require "mx.trace"
local gather, memory = require "mx.gather", require "mx.memory"
local type, setmetatable = type, setmetatable

local M = { open = {} }                 -- open: every publisher, for the exit rule and the drain

local EAGAIN, ECLOSED = err.number.again, err.number.closed
local MANDATORY, TRANSIENT = C.MX_MANDATORY, C.MX_TRANSIENT
local Receipt, await_receipt = receipt.new, receipt.wait

local function failed(code, text) return nil, err.new(code, "publish: " .. text, { op = "publish" }) end

-- Properties ------------------------------------------------------------------------------------------------------

local FIELDS = {
  id = { "message_id", C.MX_P_MESSAGE_ID }, correlation_id = { "correlation_id", C.MX_P_CORRELATION_ID },
  reply_to = { "reply_to", C.MX_P_REPLY_TO }, content_type = { "content_type", C.MX_P_CONTENT_TYPE },
  content_encoding = { "content_encoding", C.MX_P_CONTENT_ENCODING }, type = { "type", C.MX_P_TYPE },
  app_id = { "app_id", C.MX_P_APP_ID }, user_id = { "user_id", C.MX_P_USER_ID },
}
local SCHEMA = {
  headers = "table", id = "string", correlation_id = "string", reply_to = "string", content_type = "string",
  content_encoding = "string", type = "string", app_id = "string", user_id = "string", timestamp = "timestamp",
  priority = "integer>=0", expiration = "seconds", persistent = "boolean", mandatory = "boolean", timeout = "seconds",
}

local MOST_EXPIRATION = 4294967.295      -- RabbitMQ closes the channel for more than 32 bits of milliseconds
local props                             -- one for all: a publish copies what it needs before it returns

local function set(name, bit, text, anchor)
  local span = props[name]
  span.p, span.n = ffi.cast("const uint8_t *", text), #text
  props.flags = props.flags + bit
  anchor[#anchor + 1] = text
end

-- Fills props from the options of one publish. Returns it and what must stay alive until it was sent; nil, err
local function properties(p, o, content_type)
  props = props or ffi.new "mx_props"
  local anchor = {}
  props.flags = C.MX_P_DELIVERY_MODE
  local persistent = p.persistent
  if o.persistent ~= nil then persistent = o.persistent end
  props.delivery_mode = persistent and 2 or 1
  if content_type and not o.content_type then set("content_type", C.MX_P_CONTENT_TYPE, content_type, anchor) end
  for name, field in pairs(FIELDS) do
    local text = o[name]
    if text then
      if #text > 255 then return failed("validation", name .. " is " .. #text .. " bytes, at most 255") end
      set(field[1], field[2], text, anchor)
    end
  end
  if o.expiration then
    if o.expiration > MOST_EXPIRATION then
      return failed("validation", "expiration is " .. o.expiration .. " s, at most " .. MOST_EXPIRATION)
    end
    set("expiration", C.MX_P_EXPIRATION, ("%.0f"):format(math.ceil(o.expiration * 1000)), anchor)
  end
  if o.priority then
    if o.priority > 255 then return failed("validation", "priority is " .. o.priority .. ", at most 255") end
    props.priority, props.flags = o.priority, props.flags + C.MX_P_PRIORITY
  end
  if o.timestamp then props.timestamp, props.flags = o.timestamp, props.flags + C.MX_P_TIMESTAMP end
  if o.headers then
    local bytes, why, misuse = fieldtable.encode(o.headers)
    if misuse then check.fail("publish: " .. why) end
    if not bytes then return nil, why end
    set("headers", C.MX_P_HEADERS, bytes, anchor)
  end
  return props, anchor
end

-- The same, of options as a script gives them. Raises what is a mistake in them.
function M.properties(p, opts, content_type) return properties(p, check.options("publish", opts, SCHEMA), content_type) end

-- Publishers --------------------------------------------------------------------------------------------------------

local Publisher = {}
Publisher.__index = Publisher

-- retry: a publish that the broker nacked is made again, with the same message id. Only publish, which waits for the
-- outcome, does this: what publish_async gives is the receipt of one attempt.
local OPTIONS = {
  exchange = "string", max_in_flight = "integer>0", on_full = { "wait", "error", "drop" }, timeout = "seconds",
  mandatory = "boolean", persistent = "boolean", confirm = "boolean", retry = "boolean|table", batch = "table",
}
M.PUBLISH, M.OPTIONS = SCHEMA, OPTIONS
local RETRY = { attempts = "integer>0", base = "seconds", max = "seconds", factor = "number>=1", jitter = "boolean" }

local function retry_of(option)
  if not option then return nil end
  local r = check.options("mx.publisher: retry", option == true and {} or option, RETRY)
  return { attempts = r.attempts or 5, base = r.base or 0.1, max = r.max or 5, factor = r.factor or 2, jitter = r.jitter ~= false }
end

local function batch_of(option, window)
  if not option then return nil end
  local limits = gather.limits(check.options("mx.publisher: batch", option, gather.SCHEMA))
  if limits.size > window then
    check.fail(("mx.publisher: batch: size is %d, at most %d: max_in_flight counts what is gathered, too"):format(limits.size, window))
  end
  return limits
end

function M.publisher(conn, options)
  local o = check.options("mx.publisher", options or {}, OPTIONS)
  local self = setmetatable({
    conn = conn, exchange = o.exchange or "", window = o.max_in_flight or 10000, on_full = o.on_full or "wait",
    timeout = o.timeout or 30, persistent = o.persistent ~= false, confirm = o.confirm ~= false, retry = retry_of(o.retry),
    line = wait.line(),
  }, Publisher)
  self.batch = batch_of(o.batch, self.window)
  if self.batch and self.batch.policy then M.ask_after(self) end
  self.flags = (o.mandatory ~= false and MANDATORY or 0) + (self.persistent and 0 or TRANSIENT)
  receipt.join(self)
  M.open[#M.open + 1] = self
  return self
end

-- Batches: C keeps what is published until its limits say that it goes out; a policy, which is asked after each publish, may say
-- so sooner.

local function release(self)
  local g = self.gathered
  if not g then return end
  g:rest()
  C.mx_pub_release(self.live)
end

local function refresh(self, g, now)
  local pub, look = self.live, g.look
  C.mx_batch_tell(g.b, nil, now)
  look.rate = (pub.seq - self.rate_from) / math.max(now - self.rate_since, 1e-3)
  if now - self.rate_since >= 1 then self.rate_from, self.rate_since = pub.seq, now end
  look.memory, look.in_flight = memory.share(), pub.seq - pub.settled - g.b.count
end

local function collect(self)
  self.rate_from, self.rate_since = 0, C.mx_now()
  self.gathered = gather.new(self.batch, function() release(self) end, function(g, now) refresh(self, g, now) end, function(o, look)
    return C.mx_pub_gather(self.live, o.size, o.bytes, o.timeout, look)
  end)
end

-- Nothing is kept back any more.
function M.hurry()
  for _, p in ipairs(M.open) do
    if p.gathered then
      p.gathered.b.size = 1
      release(p)
    end
  end
end

-- Opens the channel, or opens it again after the broker closed it: a line of those who wait for that. It goes on when they
-- do not wait any more.
local function open(self, link)
  local line = wait.line()
  local ticket = C.mx_wait_new(turn.waits, -1)
  self.opening = line
  turn.notify(ticket, function(_, reply)
    self.opening = nil
    line:wake_all(reply or { code = 0 })
  end)
  if self.live then
    receipt.keep_reason(self)
    C.mx_pub_reopen(self.live, link, ticket)
  else
    local mode = (self.confirm and C.MX_PUB_CONFIRM or 0) + (self.once and C.MX_PUB_ONCE or 0)
    self.pub = C.mx_pub_open(link, self.window, mode, self.timeout, ticket)
    self.live = self.pub
    if self.batch and not task.stopping then collect(self) end
  end
  return line
end

-- Parks until the channel is open. true | nil, err
local function ready(self)
  while true do
    local link, why
    if not self.opening then link, why = self.conn:link("publish") end
    if self.closing or self.conn.closed then return failed("closed", "the publisher is closed") end
    if self.pub and self.pub.state == C.MX_OPEN then return true end
    if not link and not self.opening then return nil, why end
    local reply = (self.opening or open(self, link)):wait()
    if self.pub and self.pub.state == C.MX_OPEN then return true end
    if reply.code < 0 and link and link.state == C.MX_OPEN and not self.closing then return nil, err.of_reply("publish", reply) end
  end
end

M.ready = ready

-- When the window has room, as many go on as fit into it.
local function watch_room(self)
  if self.watching or not self.pub then return end
  local ticket = C.mx_wait_new(turn.waits, -1)
  self.watching = true
  turn.notify(ticket, function()
    self.watching = false
    local pub = self.pub
    local free = pub and math.max(1, pub.window - (pub.seq - pub.settled)) or math.huge
    while free > 0 and self.line:wake(true) do free = free - 1 end
    if not self.line:is_empty() then watch_room(self) end
  end)
  C.mx_pub_watch(self.pub, ticket)
end

-- Parks until the window has room. true | nil, err
local function room(self, due)
  if self.on_full ~= "wait" then return failed("backpressure", self.window .. " are in flight") end
  local left = due - C.mx_now()
  turn.here()
  watch_room(self)
  if left > 0 and self.line:wait(left, "publish") then return true end
  return failed("backpressure", "the window stayed full")
end

-- The way of a publish that the fast one refused with seq: wait, open, or explain. seq | nil, err
local function slow(self, seq, r)
  local due = C.mx_now() + (r.timeout > 0 and r.timeout or self.timeout)
  while true do
    if task.stopping and not turn.here().delivery then return failed("closed", "mxrun is stopping") end
    local ok, e
    if seq == ECLOSED or not self.pub then
      ok, e = ready(self)
    elseif seq == EAGAIN then
      ok, e = room(self, due)
    else
      e = err.of_code(seq, "publish", "publish: " .. ffi.string(C.mx_refusal()))
    end
    if not ok then return nil, e end
    if self.pub then
      seq = C.mx_publish(self.pub, r.exchange, #r.exchange, r.key, #r.key, r.body, r.size, r.props, r.flags, r.timeout)
      if seq >= 0 then return seq end
    end
  end
end

-- What C reads as the body, its size, and a table's content type; nil, err
local function body_of(body)
  local kind = type(body)
  if kind == "string" then return body, #body end
  if kind == "table" then
    local text, e = json.encode(body)
    if not text then return nil, e end
    return text, #text, "application/json"
  end
  if kind == "userdata" and getmetatable(body) == "buffer" then return body:ref() end
  if kind == "cdata" and tostring(ffi.typeof(body)):find "^ctype<[%w_ ]+ %[" then return body, ffi.sizeof(body) end
  check.fail("publish: body must be a string, a table or a buffer, got " .. kind)
end

local function names(exchange, key)
  if type(exchange) ~= "string" then check.fail("publish: exchange must be a string, got " .. type(exchange)) end
  if type(key) ~= "string" then check.fail("publish: key must be a string, got " .. type(key)) end
end

-- The general way: options, tables, closed channels, full windows.
local function careful(self, seq, exchange, key, given, opts)
  names(exchange, key)
  local body, size, content_type = body_of(given)
  if not body then return nil, size end
  local o = opts and check.options("publish", opts, SCHEMA) or {}
  local flags, timeout = self.flags, o.timeout or 0
  if o.mandatory ~= nil then flags = flags - flags % 2 + (o.mandatory and MANDATORY or 0) end
  local p, anchor
  if opts or content_type then
    p, anchor = properties(self, o, content_type)
    if not p then return nil, anchor end
    seq = nil
  end
  if not seq and self.pub then
    seq = C.mx_publish(self.pub, exchange, #exchange, key, #key, body, size, p, flags, timeout)
  end
  if not seq or seq < 0 then
    -- while it waits others use the shared props, and the script its buffer
    local e
    seq, e = slow(self, seq or ECLOSED, {
      exchange = exchange, key = key, body = type(body) == "string" and body or ffi.string(body, size), size = size,
      props = p and ffi.new("mx_props", p), anchor = anchor, flags = flags, timeout = timeout,
    })
    if not seq then return nil, e end
  end
  return Receipt(seq, self.number)
end

-- What a handler publishes belongs to its delivery.
local function owned(r, e)
  local d = turn.current
  if r and d and d.on_publish then d:on_publish(r) end
  return r, e
end

-- receipt | nil, err
function M.send(self, exchange, key, body, opts)
  local pub = self.pub
  if pub and not opts and type(body) == "string" and type(key) == "string" and type(exchange) == "string" then
    local seq = C.mx_publish(pub, exchange, #exchange, key, #key, body, #body, nil, self.flags, 0)
    if seq >= 0 then return owned(Receipt(seq, self.number)) end
    return owned(careful(self, seq, exchange, key, body))
  end
  return owned(careful(self, nil, exchange, key, body, opts))
end
if trace.on then M.send = trace.publishing(M.send) end
local send = M.send

-- Of a publisher whose batches have a policy.
local function send_and_ask(self, ...)
  local r, e = send(self, ...)
  local g = r and self.gathered
  if g and g.b.count > 0 then
    local now = C.mx_now()
    refresh(self, g, now)
    if g:ask(now) then release(self) end
  end
  return r, e
end

function M.ask_after(self)
  self.send = send_and_ask
  function self.publish_async(p, key, body, opts) return send_and_ask(p, p.exchange, key, body, opts) end
end

local function once(self, exchange, key, body, opts)
  local r, e = (self.send or send)(self, exchange, key, body, opts)
  if not r then
    if self.on_full == "drop" and e.code == "backpressure" then return true end
    return nil, e
  end
  local ok, why = await_receipt(r)
  return ok, why, r
end

-- Again and again, the same bytes under the same id, while the broker says no.
local function repeatedly(self, exchange, key, given, opts)
  local body, size, content_type = body_of(given)
  if not body then return nil, size end
  if type(body) ~= "string" then body = ffi.string(body, size) end
  local o, retry = check.options("publish", opts or {}, SCHEMA), self.retry
  o.content_type = o.content_type or content_type
  for n = 1, retry.attempts do
    local ok, e, r = once(self, exchange, key, body, next(o) and o)
    if ok or e.code ~= "nacked" or n == retry.attempts or task.stopping then return ok, e end
    local delay = math.min(retry.base * retry.factor ^ (n - 1), retry.max)
    if not o.id and self.live then o.id = receipt.id(r) end
    task.sleep(wait.jittered(delay, retry.jitter, 0.5))
  end
end

-- true | nil, err
function M.send_and_wait(self, exchange, key, body, opts)
  if self.retry then return repeatedly(self, exchange, key, body, opts) end
  local ok, e = once(self, exchange, key, body, opts)
  return ok, e
end

if trace.on then M.send_and_wait = trace.publishing(M.send_and_wait) end

function Publisher:publish_async(key, body, opts) return send(self, self.exchange, key, body, opts) end
function Publisher:publish(key, body, opts) return M.send_and_wait(self, self.exchange, key, body, opts) end

-- Closing -------------------------------------------------------------------------------------------------------------

-- Parks until everything has ended, at most for the publisher's timeout. How many have not
local function settle(self)
  local due = C.mx_now() + self.timeout
  while self.live do
    local pub, left = self.live, due - C.mx_now()
    local pending = pub.seq - pub.settled
    if pending == 0 or left <= 0 then return pending end
    local ticket = C.mx_wait_new(turn.waits, left)
    C.mx_receipt_watch(pub, pub.settled + 1, ticket)
    turn.await(ticket, "confirm")
  end
  return 0
end

local ended = { count = 0, failed = 0 }                     -- of publishers that closed

local function retire(self)
  for i = #M.open, 1, -1 do
    if M.open[i] == self then table.remove(M.open, i) end
  end
  local pub = self.live
  if not pub then return end
  ended.count, ended.failed = ended.count + pub.seq, ended.failed + pub.failed + (pub.seq - pub.settled)
  receipt.retire(self)
  if self.gathered then self.gathered:rest() end
  self.gathered = nil
  C.mx_pub_close(pub, 0)
end

-- Takes nothing more, waits for confirms for at most its timeout, then closes. true | nil, err
function Publisher:close()
  turn.here()
  if self.closing then
    if not self.closed then self.closing:wait() end
    return true
  end
  self.closing, self.pub = wait.line(), nil
  release(self)
  local ok, left = pcall(settle, self)
  retire(self)
  self.closed = true
  self.closing:wake_all(true)
  self.line:wake_all(true)
  if not ok then error(left, 0) end
  if left > 0 then return failed("timeout", left .. " were not confirmed before the publisher closed") end
  return true
end

-- Calls f(conn, err) for each publish that came back since the last call.
function M.each_returned(f)
  for _, p in ipairs(M.open) do
    receipt.each_returned(p, function(e) f(p.conn, e) end)
  end
end

-- Channels that the broker closed are opened again, but not for ever at once.
local STORM, WITHIN, PAUSE = 5, 60, 10

local function is_storm(p)
  local now = C.mx_now()
  if now < (p.calm_at or 0) then return true end
  p.reopened = p.reopened or {}
  table.insert(p.reopened, 1, now)
  if (p.reopened[STORM + 1] or -WITHIN) < now - WITHIN then return false end
  p.reopened, p.calm_at = {}, now + PAUSE
  turn.notify(C.mx_wait_new(turn.waits, PAUSE), function() end)        -- so that somebody looks again
  log.warn("the broker closes the publisher's channel again and again; it rests", { seconds = PAUSE,
           error = p.pub.error ~= nil and ffi.string(p.pub.error) or nil })
  return true
end

-- Once a turn: what waits for a channel gets one, when there is a connection.
function M.look(conn)
  for _, p in ipairs(M.open) do
    local pub = p.conn == conn and p.live
    if pub and pub.adrift ~= 0 and pub.state == C.MX_CLOSED and pub.seq > pub.settled and not p.opening
       and (pub.reply_code == 0 or not is_storm(p)) then
      local link = C.mx_pool_least_used(conn.pools.publish.c, 1)
      if link ~= nil then open(p, link) end
    end
  end
end

-- Before a connection closes: waits for confirms, then the publishers go.
function M.close_all(conn)
  for _, p in ipairs { unpack(M.open) } do
    if p.conn == conn then p:close() end
  end
end

-- How many publishes of all publishers ended, how many of them otherwise than confirmed, and how many have not ended.
function M.totals()
  local count, bad, pending = ended.count, ended.failed, 0
  for _, p in ipairs(M.open) do
    local pub = p.live
    if pub then count, bad, pending = count + pub.settled, bad + pub.failed, pending + (pub.seq - pub.settled) end
  end
  return count, bad, pending
end

function M.pending() return (select(3, M.totals())) end

return M
