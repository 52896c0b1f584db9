-- The tasks that serve a subscription: they run its handler, within its time limit, and hear what it decided.
local ffi = require "ffi"
local C = ffi.C
local turn, err, msg, settle = require "mx.turn", require "mx.err", require "mx.msg", require "mx.settle"
local verdict, poison, log, profile = require "mx.verdict", require "mx.poison", require "mx.log", require "mx.profile"
local tonumber = tonumber

local M = {}

-- What a line of the log from a handler is about.
function log.context()
  local d = turn.current
  local sub = d and d.seq and d.consumer
  if sub and sub.attach then return { queue = sub.queue, batch = d.run and #d.run.batch } end
  local m = sub and settle.unsettled(sub, d.seq)
  if not m then return nil end
  local attempt = msg.Ref(m, d.seq, sub.number).attempt
  return { queue = sub.queue, key = ffi.string(m.key, m.key_size), tag = tonumber(m.tag), attempt = attempt > 1 and attempt or nil }
end

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
  sub.fail(d, e)
  turn.raise(d, e)
end

-- The handler of d has ended, and with it what its next wait was to raise: true when its delivery was settled before, and
-- the receipts of what it published.
function M.end_of(d)
  local late, sent = d.late, d.sent
  if d.limit then turn.forget(d.limit) end
  if d.mark then poison.leave(d) end
  if d.raise then d.raise = nil end
  d.limit, d.sent, d.late, d.look = nil, nil, false, d.consumer.manual
  return late, sent
end
local end_of = M.end_of

local function place_of(f)
  local info = debug.getinfo(f, "S")
  return ("%s:%d"):format(info.short_src, info.linedefined)
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
    labels = profile.labels({ queue = tostring(sub.queue), handler = place_of(sub.handler) }, turn.labels),
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
local function failed(d, _, e)
  if not end_of(d) then d.consumer.fail(d, e) end
  return d.consumer.over
end

local function fail(d, e) verdict.fail(d.consumer, d.seq, e) end

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
  d.loop = function(raised)
    if raised or d.once == "done" then return end
    d.once, d.seq = "done", seq
    local m = settle.unsettled(sub, seq)
    if m then decide(d, seq, sub.handler(msg.Ref(m, seq, sub.number))) end
  end
  count_in(sub)
  return d
end

-- Runs a task of the subscription until it has nothing to do or waits.
function M.run(sub)
  local d = table.remove(sub.idle) or new_task(sub)
  count_in(sub)
  turn.run(d, d)
end

local function drain(sub)
  local inbox, t, c = sub.inbox, turn.t, sub.consumer
  local tick = t.tick
  while not sub.stopping and c.active < c.concurrency and (inbox.head ~= inbox.tail or sub.ready and sub.ready()) do
    M.run(sub)
    if t.tick ~= tick then
      t.again = 1
      return
    end
  end
end

-- What a subscription does with its deliveries, one by one.
function M.equip(sub)
  sub.Ref, sub.decide, sub.failed, sub.fail, sub.task = msg.Ref, decide, failed, fail, shared(sub)
  sub.once = function(seq) return once(sub, seq) end
  sub.drain = function() drain(sub) end
end

return M
