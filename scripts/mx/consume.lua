-- Consuming: a consumer's life and its subscriptions.
--
-- Each start makes a subscription of its own: an inbox, and who still needs it. A stop ends it: nothing new is taken, and
-- the inbox closes when the last handler and the last aside have left, whoever waits for that or not.
local ffi = require "ffi"
local C, band = ffi.C, require "bit".band
local turn, task, err, check = require "mx.turn", require "mx.task", require "mx.err", require "mx.check"
local msg, settle, order, serve = require "mx.msg", require "mx.settle", require "mx.order", require "mx.serve"
local topology, fieldtable, stream = require "mx.topology", require "mx.fieldtable", require "mx.stream"
local wait, log, event, poison = require "mx.wait", require "mx.log", require "mx.event", require "mx.poison"
local series, generation = require "mx.series", require "mx.generation"
local hold, trace = require "mx.hold", require "mx.trace"
local type, error, setmetatable, ipairs = type, error, setmetatable, ipairs

-- open: consumers, for the exit rule and the drain; starting: how many wait for their subscription; hists: what is
-- measured of a queue, while one of its consumers is there; on_leave is told of a consumer before it leaves open
local M = { open = hold.open, starting = 0, hists = setmetatable({}, { __mode = "v" }), on_leave = function() end }
function M.setup()
  msg.setup()
  poison.setup()
end

-- Subscriptions -------------------------------------------------------------------------------------------------------

local tags = 0

local function closed(sub)
  local c = sub.consumer
  sub.closed = true
  if c.sub == sub then c.sub = nil end
  M.on_leave(c)
  hold.leave(c)
  topology.leave(c.conn, c.queue)
  sub.line:wake_all(true)
end

-- What the inbox counted, with the acks that are still to leave.
local function counted(sub, to)
  local ib = sub.inbox
  for _, name in ipairs { "delivered", "acked", "requeued" } do to[name] = to[name] + ib[name] end
  for i = 0, settle.taken(ib) - 1 do
    local m = ib.slot + band(ib.settled + i, ib.mask)
    if m.verdict == settle.ACK and m.sent == 0 then to.acked = to.acked + 1 end
  end
end

-- What nobody has settled, and nobody is about to, goes back.
local function give_back(sub)
  for i = 0, settle.taken(sub.inbox) - 1 do
    local seq = settle.position(sub.inbox, i)
    if not sub.asides[seq] then settle.settle(sub, seq, settle.REQUEUE) end
  end
end

local function close(sub)
  if sub.over then return end
  if sub.stream and sub.consumer.sub == sub then stream.note(sub) end    -- nobody has gone on yet
  turn.remove_drain(sub.drain)
  give_back(sub)
  counted(sub, sub.counts)
  settle.sum_up(sub)
  sub.over = true
  msg.subs[sub.number] = nil
  local ticket = C.mx_wait_new(turn.waits, -1)
  turn.notify(ticket, function() closed(sub) end)
  C.mx_inbox_close(sub.inbox, ticket)
end

-- Nothing is taken any more; what is under way goes on.
local function stop(sub)
  if sub.stopping then return end
  sub.stopping = true
  if sub.starting then return end
  if sub.flush then sub.flush() else turn.remove_drain(sub.drain) end
  settle.hurry(sub)
  local ticket = C.mx_wait_new(turn.waits, -1)
  turn.notify(ticket, function()
    sub.cancelled = true
    sub.left()
  end)
  C.mx_inbox_cancel(sub.inbox, ticket)
end

-- Its handlers are not waited for any more: what they hold goes back, and what they do later settles nothing.
local function give_up(sub)
  for d in pairs(sub.tasks) do d.look, d.late = true, true end
  if sub.drop then sub.drop() end
  give_back(sub)
  return sub.busy
end

local function request(sub)
  tags = tags + 1
  sub.tag = ("mxrun-%d"):format(tags)
  local args = {}
  for k, v in pairs(sub.args) do args[k] = v end
  if sub.priority then args["x-priority"] = sub.priority end
  if sub.stream then stream.arguments(sub, args) end
  local bytes, e, misuse = fieldtable.encode(args, "args")
  if misuse then check.fail("mx.consume: " .. e) end
  if not bytes then return nil, e end
  return ffi.new("mx_consume", {
    queue = topology.span(sub.queue), tag = topology.span(sub.tag), args = topology.span(bytes),
    prefetch = sub.auto_ack and 0 or sub.prefetch,
    flags = (sub.auto_ack and C.MX_F_NO_ACK or 0) + (sub.exclusive and C.MX_F_EXCLUSIVE or 0) + (sub.stream and C.MX_F_STREAM or 0),
  }), bytes
end

-- Sends basic.consume and waits for the answer. inbox | nil, err
local function subscribe(sub)
  local link, e = sub.conn:link("consume", sub.queue)
  if not link then return nil, e end
  local o, anchor = request(sub)
  if not o then return nil, anchor end
  local ticket = C.mx_wait_new(turn.waits, -1)
  local inbox = C.mx_link_consume(link, o, ticket)
  if inbox == nil then
    turn.forget(ticket)
    return nil, err.of_code(err.number.validation, "consume", "consume: " .. ffi.string(C.mx_refusal()))
  end
  local ok, a, reply = pcall(turn.await, ticket, "consume")
  if ok and not (reply and reply.code < 0) then
    sub.link = link
    return inbox
  end
  C.mx_inbox_close(inbox, 0)
  if not ok then error(a, 0) end                        -- the task was cancelled
  if link.state ~= C.MX_OPEN and not sub.stopping then return subscribe(sub) end
  return nil, err.of_reply("consume", reply), anchor
end

local function new_subscription(c)
  local sub = setmetatable({
    consumer = c, starting = true, active = 0, busy = 0, idle = {}, tasks = {}, line = wait.line(),
    asides = {}, acks = {}, pauses = {}, again = {},
    refused = 0, pace = 0.01, requeued_at = 0, log_since = 0, log_count = 0,
  }, { __index = c })
  sub.number = msg.number()
  serve.equip(sub)
  sub.cease = function() stop(sub) end
  sub.queued = function() return 0 end                  -- how much waits for a handler's place
  sub.left = function()
    if sub.cancelled and sub.busy == 0 then close(sub) else sub.line:wake_all(true) end
  end
  return sub
end

local function opened(sub, inbox)
  local c = sub.consumer
  sub.inbox, sub.starting, inbox.wait = inbox, false, c.measures.wait
  msg.subs[sub.number] = sub
  hold.join(c)
  if sub.order_by then sub.serve = order.serve(sub, sub.order_by) end
  if sub.attach then sub.attach(sub) end
  turn.add_drain(sub.drain)
  turn.t.again = 1
  sub.line:wake_all(true)
end

-- true | nil, err
local function start(c)
  local sub = new_subscription(c)
  c.sub = sub
  topology.use(c.conn, c.queue)
  M.starting = M.starting + 1
  local ok, inbox, e = pcall(subscribe, sub)
  M.starting = M.starting - 1
  if not ok or not inbox then
    sub.closed, c.sub = true, nil
    topology.leave(c.conn, c.queue)
    sub.line:wake_all(true)
    if not ok then error(inbox, 0) end
    return nil, e
  end
  local unwanted = sub.stopping or task.stopping
  sub.stopping = false
  opened(sub, inbox)
  if not unwanted then return true end
  stop(sub)
  return nil, err.new("closed", "consume: stopped before the broker answered")
end

-- Consumers -------------------------------------------------------------------------------------------------------

local SCHEMA = {
  prefetch = "integer>=0", concurrency = "integer>0", timeout = "seconds", auto_ack = "boolean", exclusive = "boolean",
  priority = "integer", args = "table", retry = "table", manual = "boolean", order_by = "function",
}
M.OPTIONS = SCHEMA
local RETRY = {
  max = "integer>=0", base = "seconds", factor = "number>0", max_delay = "seconds", jitter = "boolean", delay = "function",
}

local Consumer = {}
Consumer.__index = Consumer

-- A histogram, and the series that it lies in; nil when there is no room for one.
local function hist_of(name, queue)
  local s = series.new("histogram", name, series.labels({ "queue" }, { queue }))
  return s and C.mx_series_hist(s) or ffi.gc(C.mx_hist_new(), C.mx_hist_free), s
end

-- { hist =, wait =, what they lie in }
local function measures_of(queue)
  local m = M.hists[queue]
  if m then return m end
  m = { queue = queue }
  m.hist, m.hist_series = hist_of("messaging_consume_duration_seconds", queue)
  m.wait, m.wait_series = hist_of("messaging_consume_wait_seconds", queue)
  M.hists[queue] = m
  return m
end

-- What consume and consume_batch have in common; o: checked options, more: what the consumer has besides. consumer | nil, err
function M.make(what, conn, queue, o, handler, more)
  local r = check.options(what .. ": retry", o.retry or {}, RETRY)
  if o.prefetch and o.prefetch > 65535 then check.fail(what .. ": prefetch is " .. o.prefetch .. ", at most 65535") end
  local c = setmetatable({
    conn = conn, queue = queue, generation = generation.mine(),
    handler = handler, script = handler, prefetch = o.prefetch or 256, concurrency = o.concurrency or 1,
    timeout = o.timeout or 30, auto_ack = o.auto_ack or false, exclusive = o.exclusive or false, priority = o.priority,
    args = o.args or {}, manual = o.manual or false, order_by = o.order_by, active = 0, live = 0, measures = measures_of(queue),
    counts = { rejected = 0, retried = 0, failed = 0, stuck = 0, delivered = 0, acked = 0, requeued = 0 },
    retry = { max = r.max or 5, base = r.base or 1, factor = r.factor or 2, max_delay = r.max_delay or 60,
              jitter = r.jitter ~= false, delay = r.delay },
  }, Consumer)
  c.hist, c.stream = c.measures.hist, stream.is(what, conn, queue, o)
  c.stopwatch = ffi.new("mx_pace", c.hist, 63)
  for k, v in pairs(more or {}) do c[k] = v end
  if not c.attach and c.stream then c.handler = stream.noting(c, handler) end
  if not c.attach and poison.is_watched(c) then c.handler = poison.watching(c, c.handler) end
  if trace.on then c.handler = trace.handling(c, c.handler) end
  local ok, e = start(c)
  if not ok then return nil, e end
  return c
end

-- The options and the handler that a consumer is made with: options may be left out.
function M.arguments(what, options, handler, schema)
  if type(options) == "function" and handler == nil then options, handler = nil, options end
  if type(handler) ~= "function" then check.fail(what .. ": the handler must be a function, got " .. type(handler)) end
  return check.options(what, options or {}, schema), handler
end

-- consumer | nil, err
function M.consume(conn, queue, options, handler)
  local o, f = M.arguments("mx.consume", options, handler, SCHEMA)
  if o.manual and o.auto_ack then check.fail "mx.consume: manual and auto_ack exclude each other" end
  return M.make("mx.consume", conn, queue, o, f)
end

-- Whether the current task is a handler of the subscription.
local function is_own(sub) return turn.current.consumer == sub end

-- Waits until done(), asked again at each event of the subscription. true | nil, err
local function wait_until(sub, done, due)
  while not done() do
    local ok, e = sub.line:wait(due and math.max(0, due - C.mx_now()), "consumer:stop")
    if not ok then return nil, e end
  end
  return true
end

-- Cancels, waits for its handlers, flushes settlements, requeues the rest; past the timeout also what handlers still
-- hold. Inside one of its handlers it does not wait for that one. true | nil, err
function Consumer:stop(timeout)
  local sub = self.sub
  local due = timeout and C.mx_now() + check.seconds(timeout)
  turn.here()
  self.unwanted = true
  hold.release(self)
  if not sub then return true end
  stop(sub)
  if sub.starting then return true end                  -- it ends as soon as the broker has answered
  local own = is_own(sub) and 1 or 0
  sub.inside = (sub.inside or 0) + own
  local ok = wait_until(sub, function()
    return sub.closed or own == 1 and sub.cancelled and sub.busy - sub.queued() <= sub.inside
  end, due)
  sub.inside = sub.inside - own
  if ok then return true end
  local left = sub.over and 0 or give_up(sub)
  return nil, err.new("timeout", ("%d handlers of %s still ran"):format(left, self.queue))
end

function Consumer:pause() return self:stop() end

-- Subscribes again; waits for a stop that is under way. true | nil, err
function Consumer:resume()
  self.unwanted = false
  if self.held then return true end                     -- it goes on when there is memory for it
  while self.sub do
    local sub = self.sub
    if not sub.stopping and not sub.starting then return true end
    if sub.stopping and is_own(sub) then break end
    wait_until(sub, function() return sub.closed or not sub.stopping and not sub.starting end)
  end
  return start(self)
end

function Consumer:stats()
  local counts = { delivered = self.counts.delivered, acked = self.counts.acked, requeued = self.counts.requeued }
  local sub = self.sub
  local ib = sub and not sub.over and sub.inbox
  if ib then counted(sub, counts) end
  local batches = self.batches and 0
  for _, n in pairs(self.batches or {}) do batches = batches + n end
  return { count = counts.delivered, batches = batches, in_flight = ib and settle.taken(ib) or 0, acked = counts.acked,
           rejected = self.counts.rejected, retried = self.counts.retried, failed = self.counts.failed,
           requeued = counts.requeued, stuck = self.counts.stuck }
end

-- Tells of what the connection could not take in.
local function look(sub)
  local ib = sub.inbox
  if ib.refused == sub.refused then return end
  log.error("a message was rejected unread", { queue = sub.queue, reason = ffi.string(ib.refusal), count = ib.refused - sub.refused })
  sub.refused = ib.refused
end

-- Recovery -----------------------------------------------------------------------------------------------------------

-- Until the consumer has a subscription again, or nobody wants one any more.
local function recover(c, ended)
  local r = c.conn.reconnect
  local delay, said = r.base, false
  while not c.sub and not c.unwanted and not c.held and not c.conn.closing and not task.stopping do
    if ended then task.sleep(wait.jittered(delay, r.jitter, 0.5)) end
    if ended and not c.conn.deleted[c.queue] then topology.redeclare_queue(c.conn, c.queue) end
    if c.sub or c.unwanted or task.stopping then return end
    local ok, e = start(c)
    if ok then log.info("consuming again", { queue = c.queue }) end
    if ok or c.conn.closing then return end
    if not said then
      log.warn("cannot consume again yet, trying until it works", { queue = c.queue, error = tostring(e) })
      if not ended then event.emit("cancelled", c, e) end
    end
    said, ended = true, true
    delay = math.min(delay * 2, r.max)
  end
end

-- Its subscription is gone; what its handlers still hold goes to somebody else, and what they do settles nothing.
local function resubscribe(c, sub, ended)
  hold.join(c)                                          -- it stays open meanwhile
  topology.use(c.conn, c.queue)
  if c.stream then stream.note(sub) end
  stop(sub)
  c.sub = nil
  turn.start(recover, function(ok, e)
    if not ok and not task.stopping then log.error("consuming again failed", { queue = c.queue, error = task.text_of(e) }) end
    hold.leave(c)
    topology.leave(c.conn, c.queue)
  end, c, ended)
end

-- Once a turn: consumers that lost their channel get another; one whose queue this connection deleted is over.
function M.look()
  for _, c in ipairs { unpack(M.open) } do
    local sub = c.sub
    local ib = sub and not sub.over and sub.inbox
    if ib then look(sub) end
    -- what was delivered without acks will not come again: it is handled first
    if ib and not sub.stopping and ib.state == C.MX_CLOSED and not (sub.auto_ack and ib.head ~= ib.tail) then
      local ended = ib.cancelled ~= 0 or ib.error ~= nil
      local e = err.new("channel", ("the broker ended the consumer of %q%s"):format(c.queue,
        ib.cancelled ~= 0 and ": the queue was deleted or moved" or ib.error ~= nil and ": " .. ffi.string(ib.error) or ""))
      local over = c.conn.deleted[c.queue]
      if ended and (sub.link.state == C.MX_OPEN or over) then
        log.warn(tostring(e), { again = not over })
        event.emit("cancelled", c, e)
      end
      if over then stop(sub) else resubscribe(c, sub, ended) end
    end
  end
end

-- Before a connection closes: afterwards no inbox of it is there, whatever its handlers do.
function M.close_all(conn)
  for _, c in ipairs { unpack(M.open) } do
    local sub = c.conn == conn and c.sub
    if sub then
      c:stop(5)
      if sub.inbox and not sub.closed then
        if not sub.over then give_up(sub) end
        close(sub)
        wait_until(sub, function() return sub.closed end)
      end
    end
  end
end

return M
