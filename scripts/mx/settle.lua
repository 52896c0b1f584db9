-- Settling: the verdict in a delivery's slot, and what goes on beside the handlers until there is one.
--
-- A subscription counts in `busy` the handlers and the asides (retries, dead letters, pauses) that still need its
-- inbox; whoever leaves last lets it close.
local ffi = require "ffi"
local C, band = ffi.C, require "bit".band
local turn, err, log = require "mx.turn", require "mx.err", require "mx.log"

local UNSETTLED, CLOSED = C.MX_UNSETTLED, C.MX_CLOSED
local M = { ACK = C.MX_ACK, REJECT = C.MX_REJECT, REQUEUE = C.MX_REQUEUE }

-- The slot of a delivery that nobody has settled; nil otherwise.
local function slot_of(ib, seq)
  local m = ib.slot + band(seq, ib.mask)
  if m.seq == seq and m.verdict == UNSETTLED then return m end
end
M.slot_of = slot_of

-- The same; nil also when its inbox is gone, or its channel: then it comes again, to somebody else.
local function unsettled(sub, seq)
  if sub.over then return nil end
  local ib = sub.inbox
  if ib.state == CLOSED and ib.cancelled == 0 then return nil end
  return slot_of(ib, seq)
end
M.unsettled = unsettled

-- How many deliveries an inbox holds that Lua took and that are not all settled. Positions wrap at 2^32.
function M.taken(ib) return (ib.head - ib.settled) % 4294967296 end

-- The position of the i-th of them, from 0.
function M.position(ib, i) return (ib.settled + i) % 4294967296 end

function M.settle(sub, seq, verdict)
  local m = unsettled(sub, seq)
  if not m then return end
  m.verdict = verdict
  sub.again[seq] = nil
  turn.t.again = 1
end
local settle = M.settle

-- Says how many failures were left out of the log, if any.
function M.sum_up(sub)
  if not sub.log_ticket then return end
  turn.forget(sub.log_ticket)
  log.warn("more failures of this kind", { queue = sub.queue, count = sub.log_count - 10 })
  sub.log_ticket, sub.log_count = nil, 0
end

-- Failures are logged, at most ten a second a subscription.
function M.complain(sub, what, e)
  local text, trace = err.explain(e)
  local now = C.mx_now()
  if now - sub.log_since > 1 then
    M.sum_up(sub)
    sub.log_since, sub.log_count = now, 0
  end
  sub.log_count = sub.log_count + 1
  if sub.log_count <= 10 then return log.error(what, { queue = sub.queue, error = text, traceback = trace }) end
  if sub.log_ticket or sub.over then return end
  sub.log_ticket = C.mx_wait_new(turn.waits, sub.log_since + 1 - now)
  turn.notify(sub.log_ticket, function() M.sum_up(sub) end)
end

-- Asides ------------------------------------------------------------------------------------------------------------

function M.enter(sub, seq)
  sub.busy = sub.busy + 1
  sub.asides[seq] = (sub.asides[seq] or 0) + 1
end

function M.leave(sub, seq)
  sub.busy = sub.busy - 1
  sub.asides[seq] = sub.asides[seq] > 1 and sub.asides[seq] - 1 or nil
  if sub.stopping then sub.left() end
end

-- Calls f() after a pause, which a stop cuts short.
function M.after(sub, seconds, f)
  if sub.stopping then return f() end
  local ticket = C.mx_wait_new(turn.waits, seconds)
  local function go()
    sub.pauses[ticket] = nil
    f()
  end
  sub.pauses[ticket] = go
  turn.notify(ticket, go)
end

function M.nap(sub, seconds)
  if sub.stopping then return end
  local t, no = turn.current, turn.current.no
  M.after(sub, seconds, function() turn.wake(t, no) end)
  turn.park "pause"
end

-- Ends the pauses of a subscription that stops.
function M.hurry(sub)
  for ticket, go in pairs(sub.pauses) do
    turn.forget(ticket)
    go()
  end
end

-- Gives deliveries back, after a pause that doubles from 10 ms to 1 s while this happens again and again.
function M.requeue_all(sub, seqs)
  local now = C.mx_now()
  sub.pace = now - sub.requeued_at < sub.pace + 1 and math.min(sub.pace * 2, 1) or 0.01
  sub.requeued_at = now
  for i = 1, #seqs do M.enter(sub, seqs[i]) end
  M.after(sub, sub.pace, function()
    for i = 1, #seqs do
      settle(sub, seqs[i], M.REQUEUE)
      M.leave(sub, seqs[i])
    end
  end)
end

function M.requeue(sub, seq) M.requeue_all(sub, { seq }) end

-- Runs f(sub, seq, ...) in a task beside the handlers. Should it raise, the delivery goes back.
function M.aside(sub, seq, f, ...)
  M.enter(sub, seq)
  local t = turn.start(f, function(ok, e)
    if not ok and not sub.over then
      M.complain(sub, "settling failed", e)
      M.requeue(sub, seq)
    end
    M.leave(sub, seq)
  end, sub, seq, ...)
  t.delivery = seq
end

return M
