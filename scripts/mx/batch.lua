-- Batches: deliveries are gathered, all together or one batch a group, and handed to a handler that has many at once.
--
-- What is gathered is taken from the inbox and not settled, and keeps its subscription from closing. It is handed over when a
-- limit is reached, the policy says so, there are too many groups, the broker sends no more until something is settled, or
-- the consumer stops. While a batch waits for a handler nothing more is gathered.
local ffi = require "ffi"
local C, band = ffi.C, require "bit".band
local turn, check, consume, settle = require "mx.turn", require "mx.check", require "mx.consume", require "mx.settle"
local serve = require "mx.serve"
local verdict, msg, gather, isolate = require "mx.verdict", require "mx.msg", require "mx.gather", require "mx.isolate"
local memory, poison, stream, series = require "mx.memory", require "mx.poison", require "mx.stream", require "mx.series"
local error, ipairs = error, ipairs

local M = {}
local GROUPS = 1000                     -- batches that are gathered at once
local ROOM = 4096                       -- deliveries that lie here without a prefetch
local EVERY = 0.25                      -- seconds between two looks at the rate
local ALL = {}                          -- the group of what has none

-- Groups --------------------------------------------------------------------------------------------------------------

-- s: what a subscription has gathered: groups by key, and as a list from first to last, the oldest first; due and runs: what
-- waits for a handler, a queue and a stack.
local function unlink(s, g)
  if g.before then g.before.behind = g.behind else s.first = g.behind end
  if g.behind then g.behind.before = g.before else s.last = g.before end
  g.before, g.behind, s.groups[g.key], s.count = nil, nil, nil, s.count - 1
end

local function due(s, g, why)
  if g.why then return end
  g.why = why
  g:rest()
  unlink(s, g)
  s.due[#s.due + 1] = g
  turn.t.again = 1
end

local function open(s, key)
  local g = table.remove(s.spare) or gather.new(s.limits, s.on_due, s.refresh)
  g.key, g.why, g.queue, s.groups[key], s.count = key, nil, s.sub.queue, g, s.count + 1
  g.before, s.last = s.last, g
  if g.before then g.before.behind = g else s.first = g end
  s.sub.busy = s.sub.busy + 1
  g:start()
  if s.count > GROUPS then due(s, s.first, "groups") end
  return g
end

local function discard(s, g)
  C.mx_batch_clear(g.b)
  s.spare[#s.spare + 1] = g
  s.sub.busy = s.sub.busy - 1
end

-- All of it goes back, or is gone with its channel.
local function drop(s)
  while s.first do due(s, s.first, "drop") end
  for i, g in ipairs(s.due) do s.due[i] = discard(s, g) end
  for i in ipairs(s.runs) do
    s.runs[i] = nil
    s.sub.busy = s.sub.busy - 1
  end
  if s.sub.stopping then s.sub.left() end
end

-- Gathering -----------------------------------------------------------------------------------------------------------

local function gathered(s)
  local n, g = 0, s.first
  while g do n, g = n + g.b.count, g.behind end
  return n
end

-- What a policy sees besides what C knows.
local function figures(s, now)
  local inbox = s.sub.inbox
  local passed = now - s.rate_at
  if passed >= EVERY then s.rate, s.rate_at, s.seen = (inbox.delivered - s.seen) / passed, now, inbox.delivered end
  s.memory, s.in_flight = memory.share(), math.max(0, settle.taken(inbox) - gathered(s))
end

local function show(s, look) look.rate, look.memory, look.in_flight = s.rate, s.memory, s.in_flight end

local function group_of(s, seq)
  local inbox = s.sub.inbox
  local key = s.group_by(msg.Ref(inbox.slot + band(seq, inbox.mask), seq, s.sub.number))
  if key ~= key then error(check.returned(s.group_by, "group_by returned NaN, which is no group"), 0) end
  if key == nil then key = ALL end
  return s.groups[key] or open(s, key)
end

-- Takes what is in the inbox, one by one, until something is due. Compiled for each consumer, as the loops of mx/turn.lua.
local ONE_BY_ONE = [[
local s, inbox, t, policy, group_of, open, ALL, take, now, enough, band, figures, show, due = ...
local groups = s.groups
return function()
  local tick, at = t.tick, now()
  figures(s, at)
  while inbox.head ~= inbox.tail and t.tick == tick do
    local seq = inbox.head
    if band(seq, 63) == 0 then at = now() end
    t.work = t.work + 1
    local g
    if s.group_by then
      s.grouping = seq
      g = group_of(s, seq)
      s.grouping = nil
    else
      g = groups[ALL] or open(s, ALL)
    end
    take(g.b, inbox, 1, at)
    if g.b.due ~= 0 then return due(s, g, g:reached()) end
    if policy then
      show(s, g.look)
      local say = policy(g.look)
      if say and (say == true or enough(g, say, at)) then return due(s, g, "policy") end
    end
  end
end
]]

local function one_by_one(s)
  local sub = s.sub
  return assert(loadstring(ONE_BY_ONE, "=mx/batch:gather"))(s, sub.inbox, turn.t, s.limits.policy, group_of, open, ALL,
    C.mx_batch_take, C.mx_now, gather.enough, band, figures, show, due)
end

-- Without a policy and groups C takes all there is at once.
local function in_bulk(s)
  local inbox = s.sub.inbox
  return function()
    local g = s.first or inbox.head ~= inbox.tail and open(s, ALL)
    if not g then return end
    C.mx_batch_take(g.b, inbox, 0xffffffff, C.mx_now())
    if g.b.due ~= 0 then due(s, g, g:reached()) end
  end
end

-- A delivery of which group_by failed fails itself; without a policy's answer the limits decide.
local function gather_failed(s, e)
  local sub, seq = s.sub, s.grouping
  s.grouping = nil
  if not seq then return gather.complain(s.limits, e, { queue = sub.queue }) end
  sub.inbox.head = seq + 1
  verdict.fail(sub, seq, e)
end

-- Until something is due, the inbox is empty, or it is time for others.
local function gather_more(s)
  local inbox, before = s.sub.inbox, turn.inside
  turn.inside = "what gathers a batch"
  local ok, e = turn.guard(s.take_in)
  turn.inside = before
  if not ok then gather_failed(s, e) end
  if inbox.head ~= inbox.tail then return end
  -- the broker sends no more before something is settled
  if s.first and s.sub.consumer.active == 0 and not s.due[1] and gathered(s) >= s.room then due(s, s.first, "prefetch") end
end

-- Handing over --------------------------------------------------------------------------------------------------------

-- What was redelivered has perhaps killed its worker: see mx/poison.lua. A batch runs under the mark of its first such message;
-- once one of them was at work in a crash, each runs alone. The run to begin with, or nil.
local function watched(s, d, run)
  local sub, inbox = s.sub, s.sub.inbox
  local rest, first, crashed = {}, nil, false
  for _, seq in ipairs(run.seqs) do
    local m = inbox.slot + band(seq, inbox.mask)
    local mark, crashes, why
    if m.redelivered ~= 0 then mark, crashes, why = poison.past(sub, m) end
    if why then
      verdict.reject(sub, seq, why)
    else
      rest[#rest + 1] = seq
      first, crashed = first or mark, crashed or mark and crashes > 0
    end
  end
  if not rest[1] then return isolate.decided(isolate.part(run, rest), true) end
  if crashed and #rest > 1 then
    for i = #rest, 1, -1 do s.add(isolate.part(run, { rest[i] })) end
    if run.of then run.of.left = run.of.left + #rest - 1 end
    return nil
  end
  if first then poison.enter(d, first) end
  return #rest == #run.seqs and run or isolate.part(run, rest)
end

local function run_of(s, g)
  local b, seqs = g.b, {}
  for i = 1, b.count do seqs[i] = b.seq[i - 1] end
  s.batches[g.why] = (s.batches[g.why] or 0) + 1
  C.mx_hist_record(s.ages.hist, C.mx_now() - b.since)
  local key = g.key
  if key == ALL then key = nil end
  local run = isolate.run(s.sub, seqs, key)
  discard(s, g)
  return run
end

-- What the task d is to run: parts of what failed first. Nil: there is nothing.
local function next_run(s, d)
  local sub = s.sub
  while true do
    if sub.inbox.state == C.MX_CLOSED and not sub.auto_ack then drop(s) end       -- it comes again, to somebody
    local run = table.remove(s.runs)
    if run then
      sub.busy = sub.busy - 1
    else
      local g = table.remove(s.due, 1)
      if not g then return nil end
      run = run_of(s, g)
    end
    if s.is_watched then run = watched(s, d, run) end
    if run then return run end
  end
end

local function decide(d, run, answer, why)
  local sub = d.consumer
  local late, sent = serve.end_of(d)
  d.run = nil
  if not late then isolate.decided(run, answer, why, sent) end
  return sub.over
end

local function fail(d, e)
  local run = d.run
  d.run = nil
  if run then isolate.failed(run, e) else verdict.fail(d.consumer, d.seq, e) end
end

-- As turn.serve's loop, a batch at a time.
local function loop_of(s)
  local sub, t = s.sub, turn.t
  return function(d)
    return function(raised)
      if raised then return end
      local tick = t.tick
      repeat
        local run = next_run(s, d)
        if not run then return end
        d.run, d.seq = run, run.seqs[1]
        if sub.stream then stream.seen(sub.consumer, sub.inbox.slot + band(run.seqs[#run.seqs], sub.inbox.mask)) end
        t.work = t.work + 1
        local from = C.mx_now()
        if decide(d, run, sub.handler(run.batch)) then return end
        C.mx_hist_record(sub.hist, C.mx_now() - from)
      until t.tick ~= tick
    end
  end
end

local function drain(s)
  local sub, inbox, c, t = s.sub, s.sub.inbox, s.sub.consumer, turn.t
  local tick = t.tick
  local function waits() return s.due[1] or s.runs[1] end
  repeat
    if not waits() and not sub.stopping then gather_more(s) end
    local more = inbox.head ~= inbox.tail and not sub.stopping
    while waits() and c.active < c.concurrency do serve.run(sub) end
    if sub.over then return end
    if t.tick ~= tick then
      t.again = 1
      return
    end
  until waits() or not more
end

-- Consumers -----------------------------------------------------------------------------------------------------------

-- How old batches of the queue are when they are handed over.
local function ages_of(measures)
  if not measures.ages then
    local record, hist = series.histogram("messaging_batch_age_seconds", series.labels({ "queue" }, { measures.queue }))
    measures.ages = { series = record, hist = hist }
  end
  return measures.ages
end

-- What a subscription to batches does otherwise than one to single messages.
local function attach(sub)
  local c = sub.consumer
  local s = {
    sub = sub, limits = c.limits, group_by = c.group_by, groups = {}, count = 0, due = {}, runs = {}, spare = {},
    rate = 0, rate_at = C.mx_now(), seen = 0, memory = 0, in_flight = 0, batches = c.batches, ages = ages_of(c.measures),
    room = sub.auto_ack and ROOM or sub.prefetch > 0 and sub.prefetch or ROOM, is_watched = poison.is_watched(c),
  }
  function s.on_due(g, why) due(s, g, why) end
  function s.refresh(g, now)
    C.mx_batch_tell(g.b, sub.inbox, now)
    figures(s, now)
    show(s, g.look)
  end
  function s.add(run)
    if sub.over then return end
    s.runs[#s.runs + 1] = run
    sub.busy, turn.t.again = sub.busy + 1, 1
  end
  s.take_in = (s.limits.policy or s.group_by) and one_by_one(s) or in_bulk(s)
  sub.serve, sub.fail, sub.sent_out = loop_of(s), fail, isolate.sent_out
  sub.run_next, sub.drop = s.add, function() drop(s) end
  function sub.drain() drain(s) end
  function sub.flush()
    while s.first do due(s, s.first, "stop") end
  end
  function sub.queued() return #s.due + #s.runs end
  function sub.once(seq) s.add(isolate.run(sub, { seq })) end
end

local SCHEMA = {
  prefetch = "integer>=0", concurrency = "integer>0", handler_timeout = "seconds", auto_ack = "boolean", exclusive = "boolean",
  priority = "integer", args = "table", retry = "table", group_by = "function", on_error = { "isolate", "retry", "reject" },
}
for name, kind in pairs(gather.SCHEMA) do SCHEMA[name] = kind end

-- A batch that never becomes full would only ever be ended by its time.
local function check_size(o, limits)
  local without = o.auto_ack or o.prefetch == 0
  local most = without and ROOM or o.prefetch or 65535
  if limits.size <= most then return end
  local why = without and "that is how many lie here without a prefetch"
    or o.prefetch and "the broker sends no more than prefetch ahead, so no batch would ever be full" or "the most that a prefetch can be"
  check.fail(("mx.consume_batch: size is %d, at most %d: %s"):format(limits.size, most, why))
end

-- The options, checked, and the handler.
function M.arguments(options, handler)
  local o, f = consume.arguments("mx.consume_batch", options, handler, SCHEMA)
  check_size(o, gather.limits(o))
  return o, f
end

-- consumer | nil, err
function M.consume(conn, queue, options, handler)
  local o, f = M.arguments(options, handler)
  local limits = gather.limits(o)
  o.prefetch = o.prefetch or math.min(65535, math.max(256, 2 * limits.size))
  o.timeout = o.handler_timeout
  return consume.make("mx.consume_batch", conn, queue, o, f, {
    attach = attach, limits = limits, group_by = o.group_by, on_error = o.on_error or "isolate", batches = {}, told = {},
  })
end

return M
