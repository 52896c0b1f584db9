-- mx.call and msg:reply: a request, and its answer to amq.rabbitmq.reply-to; on mem:// to a queue of the caller's own.
local ffi = require "ffi"
local C, band = ffi.C, require "bit".band
local turn, wait, err, check = require "mx.turn", require "mx.wait", require "mx.err", require "mx.check"
local msg, publish, receipt, topology = require "mx.msg", require "mx.publish", require "mx.receipt", require "mx.topology"
local setmetatable = setmetatable

local M = {}
local DIRECT = "amq.rabbitmq.reply-to"
local TIMEOUT = 30
local MOST_EXPIRATION = 4294967         -- seconds: what fits 32 bits of milliseconds

local Caller = {}
Caller.__index = Caller

local function failed(code, text) return err.new(code, "call: " .. text, { op = "call" }) end

-- Ends the caller's inbox, and the calls that wait for something of it.
local function drop(self, why)
  if self.over then return end
  self.over = why
  turn.remove_drain(self.drain)
  msg.subs[self.number] = nil
  C.mx_inbox_close(self.inbox, 0)
  if self.conn.caller == self then self.conn.caller = nil end
  for _, line in pairs(self.pending) do line:wake(false, why) end
end

local function drain(self)
  local ib = self.inbox
  while ib.head ~= ib.tail do
    local seq = ib.head
    local m = ib.slot + band(seq, ib.mask)
    ib.head = seq + 1
    local reply = msg.Ref(m, seq, self.number)
    local line = self.pending[reply.correlation_id or ""]
    if line then line:wake(reply:keep()) end
    m.verdict = C.MX_ACK
  end
  if ib.state == C.MX_CLOSED then drop(self, failed("closed", "the channel was closed before the answer came")) end
end

-- A queue that only this caller reads, where there is no direct reply-to. inbox | nil, err
local function own_queue(self)
  local name, e = topology.queue(self.conn, "")
  if not name then return nil, e end
  local link, why = self.conn:link("consume", name)
  if not link then return nil, why end
  self.reply_to = name
  local ticket = C.mx_wait_new(turn.waits, -1)
  local inbox = C.mx_link_consume(link, ffi.new("mx_consume", {
    queue = topology.span(name), tag = topology.span(name), flags = C.MX_F_NO_ACK,
  }), ticket)
  return inbox, ticket
end

-- inbox | nil, err
local function subscribe(self)
  local ok, e = publish.ready(self.publisher)
  if not ok then return nil, e end
  local ticket = C.mx_wait_new(turn.waits, -1)
  local inbox = C.mx_pub_replies(self.publisher.pub, ticket)
  if inbox == nil then
    turn.forget(ticket)
    inbox, ticket = own_queue(self)
    if not inbox then return nil, ticket end
  end
  local waited, a, reply = pcall(turn.await, ticket, "consume")
  if waited and not (reply and reply.code < 0) then return inbox end
  C.mx_inbox_close(inbox, 0)
  if not waited then error(a, 0) end
  return nil, err.of_reply("call", reply)
end

local function start(conn, line)
  local self = setmetatable({
    conn = conn, queue = DIRECT, reply_to = DIRECT, tag = "replies", pending = {}, asides = {}, number = msg.number(),
    publisher = conn.call_publisher or publish.publisher(conn),
  }, Caller)
  conn.call_publisher = self.publisher
  self.publisher.once = true                            -- a call is never sent twice
  local inbox, e = subscribe(self)
  if inbox and not conn.closed then
    self.inbox = inbox
    self.drain = function() drain(self) end
    msg.subs[self.number] = self
    turn.add_drain(self.drain)
    conn.caller = self
  end
  conn.caller_opening = nil
  line:wake_all(conn.caller or false, e or failed("closed", "the connection is closed"))
end

-- The connection's caller, made in a task of its own when there is none. caller | nil, err
local function caller_of(conn)
  if conn.caller then return conn.caller end
  local line = conn.caller_opening
  if not line then
    line = wait.line()
    conn.caller_opening = line
    turn.start(start, function(ok, e)
      if ok then return end
      conn.caller_opening = nil
      line:wake_all(false, err.wrap(e, "call"))
    end, conn, line)
  end
  local self, e = line:wait()
  if not self then return nil, e end
  return self
end

local calls, prefix = 0, nil

local function next_id()
  prefix = prefix or ("%08x%08x-"):format(math.random(0, 2 ^ 31), C.mx_now() * 1e6 % 2 ^ 31)
  calls = calls + 1
  return prefix .. calls
end

local function request(self, id, given, timeout)
  local o = { persistent = false, expiration = math.min(timeout, MOST_EXPIRATION) }
  for k, v in pairs(given) do o[k] = v end
  o.correlation_id, o.reply_to, o.mandatory = id, self.reply_to, true
  return o
end

-- msg | nil, err. Published once, whatever happens; opts: timeout, and those of a publish
function M.call(conn, exchange, key, body, opts)
  local given = opts or {}
  local timeout = check.seconds(given.timeout or TIMEOUT)
  local self, e = caller_of(conn)
  if not self then return nil, e end
  local due, id, line = C.mx_now() + timeout, next_id(), wait.line()
  local r, why = publish.send(self.publisher, exchange, key, body, request(self, id, given, timeout))
  if not r then return nil, why end
  if self.over then return nil, self.over end           -- while the publish waited
  self.pending[id] = line
  function line.on_empty() self.pending[id] = nil end
  receipt.when_ended(r, function()
    local ok, reason = r:wait()
    if not ok then line:wake(false, reason) end
  end)
  local reply, reason = line:wait(math.max(0, due - C.mx_now()), "call", nil, timeout)
  self.pending[id] = nil
  if reply then return reply end
  return nil, reason
end

-- Answers who asked. true | nil, err
function msg.methods.reply(self, body, opts)
  local to = self.reply_to
  if not to then return nil, err.new("validation", "msg:reply: the message has no reply_to", { op = "reply" }) end
  local o = { persistent = false, mandatory = false, correlation_id = self.correlation_id or self.id }
  for k, v in pairs(opts or {}) do o[k] = v end
  return publish.send_and_wait(msg.conn_of(self):publisher(), "", to, body, o)
end

-- Before a connection closes.
function M.close(conn)
  if conn.caller then drop(conn.caller, failed("closed", "the connection was closed before the answer came")) end
end

return M
