-- Consuming: a consumer's life, its subscriptions and the tasks that serve them.
--
-- Each start makes a subscription of its own: an inbox, and who still needs it. A stop ends it: nothing new is taken, and
-- the inbox closes when the last handler and the last aside have left, whoever waits for that or not.
local ffi = require "ffi"
local C, band = ffi.C, require "bit".band
local turn, task, err, check = require "mx.turn", require "mx.task", require "mx.err", require "mx.check"
local msg, settle, verdict, order = require "mx.msg", require "mx.settle", require "mx.verdict", require "mx.order"
local topology, fieldtable, stream = require "mx.topology", require "mx.fieldtable", require "mx.stream"
local wait, log, event, poison = require "mx.wait", require "mx.log", require "mx.event", require "mx.poison"
local series, generation = require "mx.series", require "mx.generation"
local type, error, setmetatable, ipairs = type, error, setmetatable, ipairs

-- open: consumers, for the exit rule and the drain; starting: how many wait for their subscription; hists: what is
-- measured of a queue, while one of its consumers is there; on_leave is told of a consumer before it leaves open
local M = { open = {}, starting = 0, hists = setmetatable({}, { __mode = "v" }), on_leave = function() end }
function M.setup()
  msg.setup()
  poison.setup()
end

-- What a line of the log from a handler is about.
function log.context()
  local d = turn.current
  local sub = d and d.seq and d.consumer
  local m = sub and settle.unsettled(sub, d.seq)
  if not m then return nil end
  local attempt = msg.Ref(m, d.seq, sub.number).attempt
  return { queue = sub.queue, key = ffi.string(m.key, m.key_size), tag = tonumber(m.tag), attempt = attempt > 1 and attempt or nil }
end

-- Handlers and their time limit -------------------------------------------------------------------------------------

-- The time limit of a handler that waits, counted from its first wait. Called at each wait.
local function limit(d)
  if d.mark then poison.park() end
  if d.limit or d.late then return end
  d.limit = C.mx_wait_new(turn.waits, d.consumer.timeout)
  turn.notify(d.limit, d)
end

-- A server task is called by the post of its limit: the delivery has failed, and the wait raises.
local function on_limit(d)
  local sub = d.consumer
  d.limit, d.late, d.look = nil, true, true
  local e = err.new("timeout", "the handler ran past its time limit of " .. sub.timeout .. " s")
  verdict.fail(sub, d.seq, e)
  turn.raise(d, e)
end

-- The handler of d has ended, and with it what its next wait was to raise: true when its delivery was settled before, and
-- the receipts of what it published.
local function end_of(d)
  local late, sent = d.late, d.sent
  if d.limit then turn.forget(d.limit) end
  if d.mark then poison.leave(d) end
  if d.raise then d.raise = nil end
  d.limit, d.sent, d.late, d.look = nil, nil, false, d.consumer.manual
  return late, sent
end

-- What all server tasks of a subscription share; thousands may be parked, so each holds little of its own.
local function shared(sub)
  local function on_idle(d)
    end_of(d)
    sub.active, sub.consumer.active, sub.busy = sub.active - 1, sub.consumer.active - 1, sub.busy - 1
    if d.once then sub.tasks[d] = nil else sub.idle[#sub.idle + 1] = d end
    turn.t.again = 1
    if sub.stopping then sub.left() end
  end
  return { __call = on_limit, __index = {
    consumer = sub, number = sub.number, generation = sub.generation, delivery = true,
    on_park = limit, on_idle = on_idle, on_publish = verdict.on_publish,
    on_wake = poison.is_watched(sub) and poison.on_wake or nil,
  } }
end

-- A handler returned: true when its loop has to leave, since the inbox is gone.
local function decide(d, seq, answer, why)
  local sub = d.consumer
  local late, sent = end_of(d)
  if not late then verdict.decided(sub, seq, answer, why, sent) end
  return sub.over
end

-- A handler raised.
local function failed(d, seq, e)
  if not end_of(d) then verdict.fail(d.consumer, seq, e) end
  return d.consumer.over
end

local function count_in(sub)
  sub.active, sub.consumer.active, sub.busy = sub.active + 1, sub.consumer.active + 1, sub.busy + 1
end

local function new_task(sub)
  local d = turn.serve(sub)
  d.look = sub.manual
  sub.tasks[d] = true
  return d
end

-- A task that runs the handler once more, for a delivery that was taken before.
local function once(sub, seq)
  local d = new_task(sub)
  d.once = "to do"
  d.loop = function()
    if d.once == "done" then return end
    d.once, d.seq = "done", seq
    local m = settle.unsettled(sub, seq)
    if m then decide(d, seq, sub.handler(msg.Ref(m, seq, sub.number))) end
  end
  count_in(sub)
  return d
end

local function drain(sub)
  local inbox, t, c = sub.inbox, turn.t, sub.consumer
  local tick = t.tick
  while not sub.stopping and c.active < c.concurrency and (inbox.head ~= inbox.tail or sub.ready and sub.ready()) do
    local d = table.remove(sub.idle) or new_task(sub)
    count_in(sub)
    turn.run(d, d)
    if t.tick ~= tick then
      t.again = 1
      return
    end
  end
end

-- Subscriptions -------------------------------------------------------------------------------------------------------

local tags = 0

local function remove(list, x)
  for i = #list, 1, -1 do
    if list[i] == x then table.remove(list, i) end
  end
end

local function closed(sub)
  local c = sub.consumer
  sub.closed = true
  if c.sub == sub then c.sub = nil end
  c.live = c.live - 1
  M.on_leave(c)
  if c.live == 0 then remove(M.open, c) end
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
  if sub.stream then stream.note(sub) end
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
  turn.remove_drain(sub.drain)
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
  local ok, a, reply = pcall(turn.await, ticket)
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
    refused = 0, pace = 0.01, requeued_at = 0, log_since = 0, log_count = 0, Ref = msg.Ref, decide = decide, failed = failed,
  }, { __index = c })
  sub.number = msg.number()
  sub.task = shared(sub)
  sub.once = function(seq) return once(sub, seq) end
  sub.drain = function() drain(sub) end
  sub.left = function()
    if sub.cancelled and sub.busy == 0 then close(sub) else sub.line:wake_all(true) end
  end
  return sub
end

local function opened(sub, inbox)
  local c = sub.consumer
  sub.inbox, sub.starting = inbox, false
  msg.subs[sub.number] = sub
  c.live = c.live + 1
  if c.live == 1 then M.open[#M.open + 1] = c end
  if sub.order_by then sub.serve = order.serve(sub, sub.order_by) end
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
local RETRY = {
  max = "integer>=0", base = "seconds", factor = "number>0", max_delay = "seconds", jitter = "boolean", delay = "function",
}

local Consumer = {}
Consumer.__index = Consumer

-- { hist =, series = what it lies in; nil when there is no room for one }
local function measures_of(queue)
  if M.hists[queue] then return M.hists[queue] end
  local s = series.new("histogram", "messaging_consume_duration_seconds", series.labels({ "queue" }, { queue }))
  M.hists[queue] = { queue = queue, series = s, hist = s and C.mx_series_hist(s) or ffi.gc(C.mx_hist_new(), C.mx_hist_free) }
  return M.hists[queue]
end

-- consumer | nil, err
function M.consume(conn, queue, options, handler)
  if type(options) == "function" and handler == nil then options, handler = nil, options end
  if type(handler) ~= "function" then check.fail("mx.consume: the handler must be a function, got " .. type(handler)) end
  local o = check.options("mx.consume", options or {}, SCHEMA)
  local r = check.options("mx.consume: retry", o.retry or {}, RETRY)
  if o.prefetch and o.prefetch > 65535 then check.fail("mx.consume: prefetch is " .. o.prefetch .. ", at most 65535") end
  if o.manual and o.auto_ack then check.fail "mx.consume: manual and auto_ack exclude each other" end
  local c = setmetatable({
    conn = conn, queue = queue, generation = generation.mine(),
    handler = handler, script = handler, prefetch = o.prefetch or 256, concurrency = o.concurrency or 1,
    timeout = o.timeout or 30, auto_ack = o.auto_ack or false, exclusive = o.exclusive or false, priority = o.priority,
    args = o.args or {}, manual = o.manual or false, order_by = o.order_by, active = 0, live = 0, measures = measures_of(queue),
    counts = { rejected = 0, retried = 0, failed = 0, stuck = 0, delivered = 0, acked = 0, requeued = 0 },
    retry = { max = r.max or 5, base = r.base or 1, factor = r.factor or 2, max_delay = r.max_delay or 60,
              jitter = r.jitter ~= false, delay = r.delay },
  }, Consumer)
  c.hist = c.measures.hist
  if stream.is(conn, queue, o) then c.stream, c.handler = true, stream.noting(c, handler) end
  if poison.is_watched(c) then c.handler = poison.watching(c, handler) end
  local ok, e = start(c)
  if not ok then return nil, e end
  return c
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
  M.release(self)
  if not sub then return true end
  stop(sub)
  if sub.starting then return true end                  -- it ends as soon as the broker has answered
  local own = is_own(sub) and 1 or 0
  sub.inside = (sub.inside or 0) + own
  local ok = wait_until(sub, function()
    return sub.closed or own == 1 and sub.cancelled and sub.busy <= sub.inside
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
  return { count = counts.delivered, in_flight = ib and settle.taken(ib) or 0, acked = counts.acked,
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

-- Holding: taking nothing for a while, though the script did not say so ----------------------------------------------

-- Nothing is taken until each reason that there was is over; what is under way goes on.
function M.hold(c, why)
  if c.unwanted then return end
  if c.held then
    c.held[why] = true
    return
  end
  c.held, c.live = { [why] = true }, c.live + 1          -- it stays in M.open meanwhile
  topology.use(c.conn, c.queue)
  if c.sub then stop(c.sub) end
end

-- Without a reason: of all.
function M.release(c, why)
  if not c.held then return end
  if why then
    c.held[why] = nil
    if next(c.held) then return end
  end
  c.held = nil
  turn.start(function()
    if not c.unwanted and not c.conn.closing and not task.stopping then c:resume() end
  end, function(ok, e)
    if not ok and not task.stopping then log.error("consuming again failed", { queue = c.queue, error = task.text_of(e) }) end
    c.live = c.live - 1
    if c.live == 0 then remove(M.open, c) end
    topology.leave(c.conn, c.queue)
  end)
end

-- Subscribes again with another prefetch: that of a subscription never changes.
local function prefetch(c, n)
  if c.prefetch == n then return end
  c.prefetch = n
  if c.held or c.unwanted then return end
  M.hold(c, "prefetch")
  M.release(c, "prefetch")
end

function M.lower(c, factor)
  if c.lowered or c.prefetch == 0 then return end
  c.lowered = c.prefetch
  prefetch(c, math.max(1, math.floor(c.prefetch / factor)))
end

function M.raise(c)
  if not c.lowered then return end
  local n = c.lowered
  c.lowered = nil
  prefetch(c, n)
end

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
  c.live = c.live + 1                                    -- it stays in M.open meanwhile
  topology.use(c.conn, c.queue)
  stop(sub)
  c.sub = nil
  turn.start(recover, function(ok, e)
    if not ok and not task.stopping then log.error("consuming again failed", { queue = c.queue, error = task.text_of(e) }) end
    c.live = c.live - 1
    if c.live == 0 then remove(M.open, c) end
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
