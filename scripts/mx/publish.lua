-- Publishing: publishers, their windows, and receipts.
local ffi = require "ffi"
local C = ffi.C
local turn, task, err, check = require "mx.turn", require "mx.task", require "mx.err", require "mx.check"
local json, fieldtable = require "mx.json", require "mx.fieldtable"
local type, error, setmetatable, tostring = type, error, setmetatable, tostring

local M = { open = {} }                 -- open: every publisher, for the exit rule and the drain

local EAGAIN, ECLOSED = -15, -12
local MANDATORY, TRANSIENT = 1, 2       -- mx_publish's flags

-- Receipts ------------------------------------------------------------------------------------------------------
-- A receipt is a number and its publisher: nothing to free, nothing to resolve (DATAPATH part 4).

local STATES = { [0] = "pending", "confirmed", "nacked", "returned", "timeout", "closed" }
local receipt = {}

local function failure(self, state)
  local pub = self.pub
  if state == "nacked" then return err.new("nacked", "publish: the broker refused the message") end
  if state == "returned" then
    return err.new("unroutable", "publish: no queue is bound for this key", { reply_code = 312 })
  end
  if state == "timeout" then return err.new("timeout", "publish: no confirm in time") end
  if pub.error ~= nil then
    return err.new(pub.reply_code == 403 and "access" or "channel", "publish: " .. ffi.string(pub.error),
                   { reply_code = pub.reply_code ~= 0 and pub.reply_code or nil })
  end
  return err.new("closed", "publish: closed before the broker confirmed")
end

-- Parks until the publish has ended, at most until the deadline of limit (a ticket or nil).
local function watch(self, limit)
  local ticket = C.mx_wait_new(turn.waits, -1)
  C.mx_receipt_watch(self.pub, self.seq, ticket)
  turn.expect(ticket)
  if limit then turn.expect(limit) end
  local a, e = turn.try_park()
  turn.forget(ticket)
  if limit then turn.forget(limit) end
  if a == turn.RAISE then error(e, 0) end
end

-- true | nil, err
local function wait(self, timeout)
  local state = C.mx_receipt_state(self.pub, self.seq)
  if state == 0 then
    watch(self, timeout and C.mx_wait_new(turn.waits, check.seconds(timeout)))
    state = C.mx_receipt_state(self.pub, self.seq)
    if state == 0 then return nil, err.new("timeout", "receipt:wait: not confirmed within " .. timeout .. " s") end
  end
  if state == 1 then return true end
  return nil, failure(self, STATES[state])
end

function receipt.__index(self, key)
  if key == "state" then return STATES[C.mx_receipt_state(self.pub, self.seq)] end
  if key == "wait" then return wait end
  error("a receipt has .state and :wait(), not '" .. tostring(key) .. "'", 2)
end
receipt.__tostring = function(self) return ("receipt %d (%s)"):format(self.seq, self.state) end

local Receipt                           -- the ctype, once the FFI knows mx_pub

function M.setup()
  Receipt = ffi.metatype(ffi.typeof "struct { mx_pub *pub; double seq; }", receipt)
end

-- true | nil, failed: the receipts that did not end as confirmed
function M.wait_all(receipts, timeout)
  if type(receipts) ~= "table" then error("mx.wait_all: expected a list of receipts, got " .. type(receipts), 2) end
  local due = timeout and C.mx_now() + check.seconds(timeout)
  local failed = {}
  for i = 1, #receipts do
    if not wait(receipts[i], due and math.max(0, due - C.mx_now())) then failed[#failed + 1] = receipts[i] end
  end
  if #failed > 0 then return nil, failed end
  return true
end

-- Properties ------------------------------------------------------------------------------------------------------

local FIELDS = {
  id = { "message_id", 0x80 }, correlation_id = { "correlation_id", 0x400 }, reply_to = { "reply_to", 0x200 },
  content_type = { "content_type", 0x8000 }, content_encoding = { "content_encoding", 0x4000 }, type = { "type", 0x20 },
  app_id = { "app_id", 8 }, user_id = { "user_id", 0x10 },
}
local SCHEMA = {
  headers = "table", id = "string", correlation_id = "string", reply_to = "string", content_type = "string",
  content_encoding = "string", type = "string", app_id = "string", user_id = "string", timestamp = "number>=0",
  priority = "integer>=0", expiration = "seconds", persistent = "boolean", mandatory = "boolean", timeout = "seconds",
}

local props, id_buffer, counter         -- one of each: a publish copies what it needs before it returns

local function set(name, bit, text, anchor)
  local span = props[name]
  span.p, span.n = ffi.cast("const uint8_t *", text), #text
  props.flags = props.flags + bit
  anchor[#anchor + 1] = text
end

local function own_id()
  counter = counter + 1
  return id_buffer .. string.format("%x", counter)
end

-- Fills props from the options of one publish. Returns it and what must stay alive until it was sent; nil, err
local function properties(p, o, content_type)
  if not props then
    props, counter = ffi.new "mx_props", 0
    id_buffer = ("%08x%08x-"):format(math.random(0, 2 ^ 31), (C.mx_now() * 1e6) % 2 ^ 31)
  end
  local anchor = {}
  props.flags = 0x1000
  local persistent = p.persistent
  if o.persistent ~= nil then persistent = o.persistent end
  props.delivery_mode = persistent and 2 or 1
  if not o.id then set("message_id", 0x80, own_id(), anchor) end
  if content_type and not o.content_type then set("content_type", 0x8000, content_type, anchor) end
  for name, field in pairs(FIELDS) do
    if o[name] then set(field[1], field[2], o[name], anchor) end
  end
  if o.expiration then set("expiration", 0x100, ("%d"):format(math.ceil(o.expiration * 1000)), anchor) end
  if o.priority then
    if o.priority > 255 then return nil, err.new("validation", "publish: priority is " .. o.priority .. ", at most 255") end
    props.priority, props.flags = o.priority, props.flags + 0x800
  end
  if o.timestamp then props.timestamp, props.flags = o.timestamp, props.flags + 0x40 end
  if o.headers then
    local bytes, why = fieldtable.encode(o.headers)
    if not bytes then return nil, why end
    set("headers", 0x2000, bytes, anchor)
  end
  return props, anchor
end

-- Publishers --------------------------------------------------------------------------------------------------------

local Publisher = {}
Publisher.__index = Publisher

local OPTIONS = {
  exchange = "string", max_in_flight = "integer>0", on_full = { "wait", "error", "drop" }, timeout = "seconds",
  mandatory = "boolean", persistent = "boolean", confirm = "boolean",
}

function M.publisher(conn, options)
  local o = check.options("mx.publisher", options or {}, OPTIONS, 3)
  local self = setmetatable({
    conn = conn, exchange = o.exchange or "", window = o.max_in_flight or 10000, on_full = o.on_full or "wait",
    timeout = o.timeout or 30, persistent = o.persistent ~= false, confirm = o.confirm ~= false, waiters = {},
  }, Publisher)
  self.flags = (o.mandatory ~= false and MANDATORY or 0) + (self.persistent and 0 or TRANSIENT)
  M.open[#M.open + 1] = self
  return self
end

-- Opens the channel, or opens it again after the broker closed it. Parks until the broker is there. true | nil, err
local function ready(self)
  if self.conn.closed then return nil, err.new("closed", "publish: the connection is closed") end
  local link, why = self.conn:link("publish")
  if not link then return nil, why end
  if self.pub and self.pub.state == 1 and self.link == link then return true end
  if self.opening then
    table.insert(self.opening, { task = turn.current, no = turn.current.no })
    turn.park()
    return ready(self)
  end
  self.opening = {}
  local ticket = C.mx_wait_new(turn.waits, -1)
  if self.pub then
    C.mx_pub_reopen(self.pub, ticket)
  else
    self.pub = C.mx_pub_open(link, self.window, self.confirm and 1 or 0, self.timeout, ticket)
    self.link = link
  end
  local _, reply = turn.await(ticket)
  local waiters = self.opening
  self.opening = nil
  for _, w in ipairs(waiters) do turn.wake(w.task, w.no) end
  if reply and reply.code < 0 then return nil, M.error_of("publish", reply) end
  return true
end

function M.error_of(op, reply)
  local name = ffi.string(C.mx_error_name(reply.code))
  local text = #reply.text > 0 and reply.text or ffi.string(C.mx_error_text(reply.code))
  return err.new(name, op .. ": " .. text, { op = op, reply_code = reply.reply_code ~= 0 and reply.reply_code or nil })
end

-- Parks until the window has room. true | nil, err
local function room(self, due)
  local waiters = self.waiters
  waiters[#waiters + 1] = { task = turn.current, no = turn.current.no }
  if not self.watching then
    local ticket = C.mx_wait_new(turn.waits, -1)
    self.watching = true
    turn.notify(ticket, function()
      self.watching = false
      local list = self.waiters
      self.waiters = {}
      for _, w in ipairs(list) do turn.wake(w.task, w.no, true) end
    end)
    C.mx_pub_watch(self.pub, ticket)
  end
  local left = due - C.mx_now()
  if left <= 0 or not task.pause(left, "publish") then
    return nil, err.new("backpressure", "publish: the window stayed full for " .. self.timeout .. " s")
  end
  return true
end

local function full(self)
  if self.on_full == "wait" then return nil end
  return err.new("backpressure", ("publish: %d are in flight"):format(self.window))
end

-- The way of a publish that the fast one refused with seq: wait, open, or explain. seq | nil, err
local function slow(self, seq, exchange, key, body, size, p, flags, timeout)
  local due = C.mx_now() + self.timeout
  while true do
    if task.stopping and not turn.current.delivery then return nil, err.new("closed", "publish: mxrun is stopping") end
    local ok, e
    if seq == ECLOSED then
      ok, e = ready(self)
    elseif seq == EAGAIN then
      e = full(self)
      if not e then ok, e = room(self, due) end
    else
      local name = C.mx_error_name(seq)
      e = err.new(name ~= nil and ffi.string(name) or "internal", "publish: " .. ffi.string(C.mx_pub_refusal()))
    end
    if not ok then return nil, e end
    seq = C.mx_publish(self.pub, exchange, #exchange, key, #key, body, size, p, flags, timeout)
    if seq >= 0 then return seq end
  end
end

local function body_of(body)
  local kind = type(body)
  if kind == "table" then
    local text, e = json.encode(body)
    if not text then return nil, e end
    return text, #text, "application/json"
  end
  if kind == "userdata" and body.ref then
    local p, n = body:ref()
    return p, n
  end
  error("publish: body must be a string, a table or a buffer, got " .. kind, turn.level() - 1)
end

local function strings(exchange, key)
  if type(exchange) ~= "string" then error("publish: exchange must be a string, got " .. type(exchange), turn.level() - 1) end
  if type(key) ~= "string" then error("publish: key must be a string, got " .. type(key), turn.level() - 1) end
end

-- The general way: options, tables, closed channels, full windows.
local function careful(self, seq, exchange, key, body, opts)
  strings(exchange, key)
  local size, content_type
  if type(body) == "string" then
    size = #body
  else
    body, size, content_type = body_of(body)
    if not body then return nil, size end
  end
  local o = opts and check.options("publish", opts, SCHEMA, turn.level()) or {}
  local flags = self.flags
  if o.mandatory ~= nil then flags = flags - flags % 2 + (o.mandatory and MANDATORY or 0) end
  if not self.pub then
    local ok, e = ready(self)
    if not ok then return nil, e end
  end
  local p, anchor
  if opts or content_type then
    p, anchor = properties(self, o, content_type)
    if not p then return nil, anchor end
    seq = nil
  end
  seq = seq or C.mx_publish(self.pub, exchange, #exchange, key, #key, body, size, p, flags, o.timeout or 0)
  if seq < 0 then
    if p then p = ffi.new("mx_props", p) end        -- the shared one may be used by others while this waits
    local e
    seq, e = slow(self, seq, exchange, key, body, size, p, flags, o.timeout or 0)
    if not seq then return nil, e, anchor end
  end
  return Receipt(self.pub, seq)
end

-- receipt | nil, err
function M.send(self, exchange, key, body, opts)
  local pub = self.pub
  if pub and not opts and type(body) == "string" and type(key) == "string" and type(exchange) == "string" then
    local seq = C.mx_publish(pub, exchange, #exchange, key, #key, body, #body, nil, self.flags, 0)
    if seq >= 0 then return Receipt(pub, seq) end
    return careful(self, seq, exchange, key, body)
  end
  return careful(self, nil, exchange, key, body, opts)
end
local send = M.send

-- true | nil, err
function M.send_and_wait(self, exchange, key, body, opts)
  local r, e = send(self, exchange, key, body, opts)
  if not r then
    if self.on_full == "drop" and e.code == "backpressure" then return true end
    return nil, e
  end
  return wait(r)
end

function Publisher:publish_async(key, body, opts) return send(self, self.exchange, key, body, opts) end
function Publisher:publish(key, body, opts) return M.send_and_wait(self, self.exchange, key, body, opts) end

-- Before a connection closes: waits for confirms, then the publishers go.
function M.close_all(conn)
  for i = #M.open, 1, -1 do
    local p = M.open[i]
    if p.conn == conn then
      table.remove(M.open, i)
      local due = C.mx_now() + p.timeout
      while p.pub and p.pub.seq ~= p.pub.settled and p.pub.state == 1 and C.mx_now() < due do
        turn.await(C.mx_wait_new(turn.waits, 0.002))
      end
      p.pub = nil
    end
  end
end

-- How many publishes of all publishers have not ended.
function M.pending()
  local n = 0
  for _, p in ipairs(M.open) do
    if p.pub then n = n + (p.pub.seq - p.pub.settled) end
  end
  return n
end
return M
