-- Plays a workload: sets up, sends and consumes, looks each second, lets what is under way arrive, and makes the result.
--
-- Design: of several processes each plays its share by the same schedule and counts in shared memory (measure/tally.h). The first
-- is the one that was started; it alone sets up, starts and ends the run, looks, and reports. The others follow its marks.
local ffi = require "ffi"
local C = ffi.C
local turn, task, conns, log, err = require "mx.turn", require "mx.task", require "mx.conn", require "mx.log", require "mx.err"
local workloads, producer, consumer = require "mx.bench.workload", require "mx.bench.producer", require "mx.bench.consumer"
local measure, thresholds = require "mx.bench.measure", require "mx.bench.thresholds"
local verify, verdict, rows = require "mx.bench.verify", require "mx.bench.verdict", require "mx.bench.rows"

local M = {}

local LEAD = 0.05                       -- seconds between saying when it starts and the start
local LEAVING = 5                       -- how long a process may take to close its connections
local GRACE = 5                         -- how long what is overdue at the end may still leave
local SAMPLE, LOOK = 0.1, 1             -- seconds between looks at what is behind, and between rows
local COMPLAINTS = 10

-- One process's part ------------------------------------------------------------------------------------------------------

local function new_part(w, tallies, number)
  local run = { workload = w, tallies = tallies, number = number, mine = C.mx_tally_of(tallies, number), conns = {}, failed_runs = 0,
                producers = {}, consumers = {}, complaints = 0 }
  run.queues, run.stream_of = workloads.queues(w)
  run.has_consumers = #run.queues > 0
  run.streams = verify.streams(w)
  run.total = verify.producers(w)
  function run.connect()
    local c = assert(conns.new { urls = conns.default_urls(), pool = { min = 1, max = 1 } })
    run.conns[#run.conns + 1] = c
    return c
  end
  function run.fail(e) run.failure = run.failure or e end
  function run.complain(e)
    run.complaints = run.complaints + 1
    if run.complaints <= COMPLAINTS then log.warn("a run of the producer's function failed", { error = task.text_of(e) }) end
  end
  function run.pump() end
  return run
end

-- Each share: what has this place among all of its kind is ours.
local function is_ours(run, place) return place % run.tallies.workers == run.number - 1 end

local function open_all(run)
  local place = 0
  for _, group in ipairs(run.workload.consumers) do
    for i = 0, group.count - 1 do
      if is_ours(run, place) then run.consumers[#run.consumers + 1] = assert(consumer.new(run, group, i)) end
      place = place + 1
    end
  end
  place = 0
  for _, group in ipairs(run.workload.producers) do
    for i = 0, group.count - 1 do
      if is_ours(run, place) then run.producers[#run.producers + 1] = assert(producer.new(run, group, i, place)) end
      place = place + 1
    end
  end
end

local usage, held = ffi.new "mx_usage", ffi.new "mx_memory"

local function count_costs(run)
  local mine, t = run.mine, turn.t
  C.mx_usage_read(usage)
  C.mx_memory_read(held)
  mine.user, mine.system, mine.peak_rss = usage.user, usage.system, usage.peak_rss
  mine.rss, mine.lua_peak = held.rss, held.lua_peak
  mine.gc_cycles, mine.gc_seconds = t.gc_cycles, t.gc_seconds
  mine.failed = run.failed_runs
  for _, p in ipairs(run.producers) do mine.failed = mine.failed + (p.pub and p.pub.failed or 0) end
  mine.in_flight = producer.pending(run.producers)
end

-- Sleeps until a moment in small steps, which a stop or a failure ends. whether it came to that moment
local function sleep_until(run, moment, step)
  while true do
    if run.failure then turn.again(run.failure) end
    local left = moment - C.mx_now()
    if left <= 0 then return true end
    task.sleep(math.min(left, step or left))
    if run.tallies.stop ~= 0 then return false end
  end
end

-- How long some message was overdue, how much of that we worked, and how much we waited for a processor: the rest we slept, and
-- then it was the broker who held it up.
local function watch_behind(run)
  local mine, last = run.mine, C.mx_now()
  C.mx_usage_read(usage)
  local ran, waited = usage.ran, usage.waited
  return function()
    local now = C.mx_now()
    C.mx_usage_read(usage)
    if now >= run.tallies.from and producer.behind(run.producers, now) > SAMPLE / 2 then
      mine.behind = mine.behind + (now - last)
      mine.behind_ran, mine.behind_waited = mine.behind_ran + (usage.ran - ran), mine.behind_waited + (usage.waited - waited)
    end
    last, ran, waited = now, usage.ran, usage.waited
  end
end

local function have_consumed(consumers)
  for _, c in ipairs(consumers) do
    if not c.over then return false end
  end
  return #consumers > 0
end

-- Sends by the schedule; returns when nothing is to be sent any more. on_sample(now): ten times a second
local function send(run, on_sample)
  local tallies, start, w = run.tallies, run.tallies.start, run.workload
  local look, done, stop = watch_behind(run), false, start + w.duration
  run.pump = producer.pump(run, run.producers, start, stop + GRACE)
  run.pump()
  local due = math.max(start, C.mx_now())
  while not done do
    due = due + SAMPLE
    sleep_until(run, due, #run.producers > 0 and 0.02 or nil)
    local now = C.mx_now()
    if now <= stop then look() end
    if now > start then on_sample(now) end
    if have_consumed(run.consumers) then tallies.stop = 1 end
    -- what we cannot send in time we can not send later either
    if now > stop and verdict.was_busy(run.mine.behind, verdict.busy(run.mine), w.duration - w.warmup) then tallies.stop = 2 end
    done = tallies.stop ~= 0 or now > stop + GRACE or producer.is_over(run.producers) and (#run.producers > 0 or now >= stop)
  end
  run.mine.ended = producer.finish(run.producers)
  run.ended_sending = C.mx_now()
  if tallies.stop == 1 then return end
  for _, p in ipairs(run.producers) do run.mine.unsent = run.mine.unsent + producer.count_unsent(p, run, start, run.ended_sending) end
end

-- Until every publish has ended; their time limit ends those that the broker forgets.
local function settle(run, on_sample)
  while producer.pending(run.producers) > 0 do
    task.sleep(0.005)
    on_sample(C.mx_now())
  end
end

local function close_all(run)
  for _, c in ipairs(run.consumers) do c.consumer:stop(5) end
  consumer.handlers(run.consumers, C.mx_tally_hist(run.tallies, run.number, C.MX_TALLY_HANDLER))
  C.mx_hist_merge(C.mx_tally_hist(run.tallies, run.number, C.MX_TALLY_GC), turn.t.gc)
  local excused = 0
  for _, p in ipairs(run.producers) do excused = excused + producer.excused(p, run, run.streams) end
  run.mine.excused = excused
end

local function disconnect(run)
  for _, c in ipairs(run.conns) do c:close() end
end

-- Of a process that the first one started: plays its share. Exit code
function M.follow(w)
  local number = ffi.new "uint32_t[1]"
  local tallies = C.mx_tallies_attach(number)
  if tallies == nil then return nil end
  local run = new_part(w, tallies, number[0])
  function turn.on_signal() end                         -- the first process hears of it, too, and ends the run
  open_all(run)
  run.mine.state = C.MX_TALLY_READY
  while tallies.start == 0 and tallies.over == 0 do task.sleep(0.005) end
  local due = 0
  local function on_sample(now)
    if now < due then return end
    due = now + 0.5
    count_costs(run)
  end
  if tallies.over == 0 then
    send(run, on_sample)
    settle(run, on_sample)
  end
  count_costs(run)
  run.mine.state = C.MX_TALLY_SENT
  while tallies.over == 0 do
    task.sleep(0.01)
    on_sample(C.mx_now())
  end
  close_all(run)
  count_costs(run)
  run.mine.state = C.MX_TALLY_DONE
  disconnect(run)
  return 0
end

-- The first process -------------------------------------------------------------------------------------------------------

local function each_other(run, f)
  for number = 2, run.tallies.workers do f(number, C.mx_tally_of(run.tallies, number)) end
end

-- Waits until the others are as far; raises when one has ended instead.
local function await_others(run, state, on_sample)
  each_other(run, function(number, t)
    while t.state < state do
      local code = C.mx_child_ended(run.children[number])
      if code >= 0 and t.state < state then error(("worker %d ended with exit code %d"):format(number, code), 0) end
      task.sleep(0.01)
      if on_sample then on_sample(C.mx_now()) end
    end
  end)
end

local function spawn_others(run, argv)
  run.children = {}
  if run.tallies.workers == 1 then return end
  local list = ffi.new("const char *[?]", #argv + 1)
  for i, word in ipairs(argv) do list[i - 1] = word end
  local urls = require "mx.url".environment(conns.default_urls())
  each_other(run, function(number)
    local pid = C.mx_tallies_spawn(run.tallies, number, list, urls)
    if pid < 0 then error("cannot start a worker", 0) end
    run.children[number] = pid
  end)
end

-- Results of the last so many seconds, by that number: of_window(seconds, now, set) → result, nil while there was no whole window.
local function windows_of(from, result_of)
  local list = {}
  return function(seconds, now, set)
    local w = list[seconds] or { set = measure.new_set(), difference = measure.new_set(), at = from }
    list[seconds] = w
    if w.looked ~= now and now - w.at >= seconds - LOOK / 2 then
      w.result = result_of(measure.difference(set, w.set, w.difference), now - w.at)
      measure.copy(set, w.set)
      w.at, w.looked = now, now
    end
    return w.looked == now and w.result or nil
  end
end

-- Looks once a second: a row for the series and the observer, and the thresholds.
local function watch(run, observer)
  local w, tallies = run.workload, run.tallies
  local judge, series = thresholds.watch(w.thresholds), rows.new()
  local set, last, second = measure.new_set(), measure.new_set(), measure.new_set()
  local open, next_row, last_at = verdict.is_open(w), tallies.start + LOOK, tallies.start
  local function result_of(of, seconds) return measure.result(of, { duration = seconds, open = open }) end
  local of_window = windows_of(tallies.from, result_of)

  local function look_at_thresholds(now)
    local elapsed = now - tallies.from
    local t = judge.look(elapsed, function() return result_of(set, elapsed) end, function(s) return of_window(s, now, set) end)
    if t then run.aborted, tallies.stop = { at = elapsed, name = t.name }, 1 end
  end

  local function look(now)
    count_costs(run)
    measure.read(tallies, set)
    measure.difference(set, last, second)
    local measured = now - math.max(last_at, tallies.from)
    local row = measure.row(second, now - tallies.from, now - last_at, C.mx_hist_recent(turn.t.lag, 99))
    row.elapsed, row.duration = now - tallies.start, w.duration
    row.stage = run.ended_sending and "draining" or verdict.stage(w, row.elapsed)
    if measured > LOOK / 2 and not run.ended_sending then series.add(row) end
    if observer.tick then observer.tick(row) end
    if now > tallies.from and not run.ended_sending then look_at_thresholds(now) end
    set, last, last_at = last, set, now
  end

  return {
    judge = judge, series = series,
    sample = function(now)
      if not run.base and now >= tallies.from then
        count_costs(run)
        run.base = measure.count(tallies)
      end
      if now < next_row then return end
      next_row = math.max(next_row + LOOK, now)
      look(now)
    end,
  }
end

-- What is on its way may arrive while something does, at most for workload.drain seconds.
local PATIENCE = 2
local function drain(run, on_sample)
  if not run.has_consumers then return end
  local counts, due = {}, C.mx_now() + run.workload.drain
  local most, since = -1, C.mx_now()
  while C.mx_now() < due do
    measure.count(run.tallies, counts)
    if verify.missing(run, counts) <= 0 then return end
    if counts.arrived > most then most, since = counts.arrived, C.mx_now() end
    if C.mx_now() - since > PATIENCE then return end
    task.sleep(0.02)
    on_sample(C.mx_now())
  end
end

-- Sending takes as long as the schedule, longer when some left late; shorter when it was aborted, or each had so many to send.
local function seconds_of(run)
  local w, tallies, ended = run.workload, run.tallies, 0
  for number = 1, tallies.workers do ended = math.max(ended, C.mx_tally_of(tallies, number).ended) end
  local bounded = #w.producers > 0
  for _, group in ipairs(w.producers) do bounded = bounded and group.messages ~= nil end
  if bounded and ended > tallies.from then return ended - tallies.from end
  if run.aborted or tallies.stop == 1 then return math.max(run.ended_sending - tallies.from, 0) end
  local planned, took = w.duration - w.warmup, ended - tallies.from
  return took > planned + SAMPLE and took or planned
end

-- received: by when sending ended; spent: by when all of it was settled.
local function make_result(run, watching, received, spent)
  local w = run.workload
  local set = measure.read(run.tallies, measure.new_set())
  for _, name in ipairs { "user", "system" } do set[name] = spent[name] - (run.base and run.base[name] or 0) end
  local r = measure.result(set, { duration = seconds_of(run), open = verdict.is_open(w), received = received,
                                  received_in = run.ended_sending - run.tallies.from })
  r.name, r.config, r.series, r.aborted = w.name or "bench", w.config, watching.series.list(), run.aborted
  r.verify = verify.result(run, set)
  r.system = verdict.system(run.tallies.workers)
  r.histograms = {}
  for _, name in ipairs { "confirm", "confirm_raw", "e2e", "e2e_raw" } do r.histograms[name] = measure.buckets(set.hists[name]) end
  r.thresholds = watching.judge.judge(r)
  r.verdict = verdict.of(r)
  if w.done then w.done(r) end
  return r
end

local function play(run, observer, argv)
  local w, tallies = run.workload, run.tallies
  local mx = require "mx"
  if w.topology then assert(mx.topology(w.topology)) end
  if w.setup then w.setup() end
  spawn_others(run, argv)
  open_all(run)
  await_others(run, C.MX_TALLY_READY)
  tallies.from = C.mx_now() + LEAD + w.warmup
  tallies.start = tallies.from - w.warmup
  local watching = watch(run, observer)
  function turn.on_signal()
    run.aborted = run.aborted or { at = math.max(0, C.mx_now() - tallies.from), name = "signal" }
    tallies.stop = 1
  end
  send(run, watching.sample)
  local received = measure.count(tallies).received
  settle(run, watching.sample)
  run.mine.state = C.MX_TALLY_SENT
  await_others(run, C.MX_TALLY_SENT, watching.sample)
  count_costs(run)
  local spent = measure.count(tallies)
  drain(run, watching.sample)
  tallies.over = 1
  close_all(run)
  count_costs(run)
  await_others(run, C.MX_TALLY_DONE)
  local due = C.mx_now() + LEAVING
  each_other(run, function(number)
    while C.mx_child_ended(run.children[number]) < 0 and C.mx_now() < due do task.sleep(0.01) end
  end)
  turn.on_signal = nil
  return make_result(run, watching, received, spent)
end

-- Plays a workload. observer = { tick =, done = } as of mx/bench/report; o: workers (1), argv: what starts another worker.
-- result | nil, err
function M.run(w, observer, o)
  o = o or {}
  local windows = math.max(1, verify.producers(w) * verify.streams(w))
  local tallies = C.mx_tallies_new(o.workers or 1, windows)
  if tallies == nil then return nil, err.new("memory", "bench: no memory for its figures") end
  local run = new_part(w, tallies, 1)
  local ok, result = xpcall(play, turn.on_error, run, observer or {}, o.argv)
  tallies.over = 1
  if ok and run.failure then ok, result = false, run.failure end
  disconnect(run)
  if ok then return result end
  return nil, result
end

return M
