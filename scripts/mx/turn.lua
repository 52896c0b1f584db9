-- Who runs next: posts from C, tasks that woke, deliveries that wait; one call a loop turn.
--
-- A task is a coroutine that may wait. task.no counts its waits, so that of several wakers only the first one counts;
-- task.parked is set while it waits: only then may it be queued, so it is never queued twice.
-- This file's chunk name tells the watchdog that the runtime has control again (bindings/jitprofile.c): no function
-- that a user's code may call in a loop belongs here.
local ffi = require "ffi"
local C, band = ffi.C, require "bit".band
local err, check = require "mx.err", require "mx.check"

local co_create, co_resume, co_yield = coroutine.create, coroutine.resume, coroutine.yield
local can_yield = coroutine.isyieldable
local type, pcall, xpcall, error, traceback, rawequal = type, pcall, xpcall, error, debug.traceback, rawequal
local setfenv = debug.setfenv

-- inside: what runs now and must not wait, as text. alive: every task that has not ended, but for those that serve deliveries.
local M = { current = nil, tasks = 0, inside = nil, alive = {} }
local alive = M.alive
M.labels = 0            -- of what runs and has no others, see mx_profile_label
local PARK, IDLE, RAISE, REFUSE = {}, {}, {}, {}
M.PARK, M.RAISE, M.REFUSE = PARK, RAISE, REFUSE

local ready, first, last = {}, 1, 0     -- a queue of task, a, b triples
local waiting, waiting_no = {}, {}      -- by ticket: a task and its no, or a function(code, reply)
local drains = {}                       -- functions that hand deliveries to handlers
local t, waits

function M.setup(runtime)
  t = C.mx_runtime_turn(runtime)
  waits = t.waits
  M.t, M.waits = t, waits
end

-- Waking ------------------------------------------------------------------------------------------------------

-- Makes the task go on with a, b from the wait numbered no; false if that wait is over already.
function M.wake(task, no, a, b)
  if task.no ~= no or not task.parked then return false end
  task.no = no + 1
  task.parked = false
  ready[last + 1], ready[last + 2], ready[last + 3] = task, a, b
  last = last + 3
  t.again = 1
  return true
end

-- The task's wait raises e: the present one or, when it does not wait or is awake already, its next one.
function M.raise(task, e)
  if not M.wake(task, task.no, RAISE, e) and not task.done then task.raise = e end
end

local function take_reply(p)
  local r = p.reply
  if r == nil then return nil end
  local reply = { code = r.code, reply_code = r.reply_code, messages = r.messages, consumers = r.consumers,
                  text = ffi.string(r.text, r.text_size) }
  C.mx_reply_free(r)
  return reply
end

local function take_posts()
  while waits.head ~= waits.tail do
    local p = waits.post + band(waits.head, waits.mask)
    local ticket, code, reply = p.ticket, p.code, take_reply(p)
    waits.head = waits.head + 1
    local who, no = waiting[ticket], waiting_no[ticket]
    waiting[ticket], waiting_no[ticket] = nil, nil
    if no then
      M.wake(who, no, code, reply)
    elseif who then
      who(code, reply)
    end
  end
end

-- The current task is woken with code, reply when the ticket is posted; to be followed by try_park.
function M.expect(ticket)
  local task = M.current
  if not task then
    M.forget(ticket)
    M.here()
  end
  waiting[ticket], waiting_no[ticket] = task, task.no
end

-- f(code, reply) is called when the ticket is posted. It must not wait.
function M.notify(ticket, f) waiting[ticket] = f end

function M.forget(ticket)
  waiting[ticket], waiting_no[ticket] = nil, nil
  C.mx_wait_drop(waits, ticket)
end

-- Running -----------------------------------------------------------------------------------------------------

-- An error object, or { raised =, traceback = }. What was caught and is raised again keeps its first traceback.
local caught
local function on_error(e)
  local trace = caught and rawequal(caught.raised, e) and caught.traceback or traceback("", 2)
  caught = nil
  if not err.is(e) then return { raised = e, traceback = trace } end
  if not rawget(e, "traceback") then e.traceback = trace end
  return e
end
M.on_error = on_error

-- Raises again what on_error made.
function M.again(e)
  if not err.is(e) then
    caught = e
    e = e.raised
  end
  error(e, 0)
end

-- pcall with on_error; a script's loop in f that the turn limit stops ends here.
function M.guard(f, ...)
  local ok, a, b = xpcall(f, on_error, ...)
  return ok, a, b
end

local function body(f, finish, ...)
  finish(xpcall(f, on_error, ...))
end

-- The generation (mx/generation.lua) of a task, and the globals of what is loaded in it.
function M.own(task, generation)
  task.generation = generation
  if generation and generation.env then setfenv(task.co, generation.env) end
end

-- A new task that runs f(...); finish(ok, ...) is called with what came of it, ok as from pcall; not ok: an error
-- object, or { raised =, traceback = }.
function M.start(f, finish, ...)
  local task = { no = 1, co = co_create(body) }
  if M.current then
    task.labels, task.budget = M.current.labels, M.current.budget
    M.own(task, M.current.generation)
  end
  M.tasks = M.tasks + 1
  local n, args = select("#", ...), { ... }
  local function done(ok, ...)
    t.work = t.work + 1                     -- what comes of it has a turn limit of its own
    M.tasks = M.tasks - 1
    task.done, alive[task] = true, nil
    if not ok and type((...)) ~= "table" then       -- on_error itself had no stack left
      return finish(false, { raised = (...), traceback = "" })
    end
    return finish(ok, ...)
  end
  task.first = function() return f, done, unpack(args, 1, n) end
  alive[task] = true
  ready[last + 1], ready[last + 2], ready[last + 3] = task, nil, nil
  last = last + 3
  t.again = 1
  return task
end

-- A budget { ticks =, bytes = } bounds what a task may do at a time, in place of the turn limit and below the memory limit.
local function limit(ticks, bytes)
  t.limit = ticks
  C.mx_memory_cap(bytes)
end

function M.run(task, a, b)
  local budget = task.budget
  M.current = task
  t.work, t.labels = t.work + 1, task.labels or M.labels
  if budget then limit(budget.ticks, budget.bytes) end
  local ok, what
  if task.first then
    local start = task.first
    task.first = nil
    ok, what = co_resume(task.co, start())
  else
    ok, what = co_resume(task.co, a, b)
  end
  M.current, t.labels = nil, M.labels
  if budget then limit(0, 0) end
  if not ok then error("task: " .. tostring(what) .. traceback(task.co), 0) end
  if what == IDLE then task.on_idle(task) end
end
local run = M.run

local function run_ready()
  local tick = t.tick
  while first <= last do
    local task, a, b = ready[first], ready[first + 1], ready[first + 2]
    ready[first], ready[first + 1], ready[first + 2] = nil, nil, nil
    first = first + 3
    if first > last then first, last = 1, 0 end
    run(task, a, b)
    if t.tick ~= tick then return end
  end
end

-- Drains: each is called once a turn.
function M.add_drain(f) drains[#drains + 1] = f end
function M.remove_drain(f)
  for i = 1, #drains do
    if drains[i] == f then table.remove(drains, i) return end
  end
end

function M.turn()
  M.before()
  if t.stop ~= 0 then return end        -- left without a drain: no task runs any more
  take_posts()
  if t.stop ~= 0 then return end
  run_ready()
  for i = #drains, 1, -1 do
    local drain = drains[i]
    if drain then drain() end
  end
  run_ready()
  if first <= last then
    t.again = 1
  else
    M.after()
  end
end

-- One handler's loop over its deliveries: compiled from this text for each consumer, since what the JIT learns of
-- one handler (that it cannot be compiled, say) sticks to the loop's prototype. The guard is one xpcall a batch.
-- Handlers that are fast are timed without a clock read a message: a run of them at once (mx_pace).
-- d.look: an ack alone is not enough, decide has to look at it. With raised, the position of a handler that raised, it only
-- takes note of that.
local SERVE = [[
local inbox, slot, mask, t, Ref, handler, decide, band, number, pace, new_run, run_begins, run_ends, ACK = ...
return function(d) local run = new_run() return function(raised)
  if raised then return run_ends(pace, run, raised) end
  local tick, h = t.tick, nil
  run_begins(run, inbox.head)
  while inbox.head ~= inbox.tail do
    h = inbox.head
    local m = slot + band(h, mask)
    d.seq = h
    inbox.head = h + 1
    t.work = t.work + 1
    local verdict, why = handler(Ref(m, h, number))
    if (verdict == true or verdict == nil and why == nil) and not d.look then
      m.verdict = ACK
    elseif decide(d, h, verdict, why) then
      return
    end
    if band(h, pace.every) == pace.every then run_ends(pace, run, h) end
    if t.tick ~= tick then break end
  end
  if h then run_ends(pace, run, h) end
end end
]]

local function serve(d)
  local failed = d.consumer.failed
  while true do
    local loop = d.loop                     -- another one while somebody looks on
    local ok, e = xpcall(loop, on_error)
    t.work = t.work + 1                     -- what comes of it has a turn limit of its own
    if not ok then loop(d.seq) end
    if ok or failed(d, d.seq, e) then co_yield(IDLE) end
  end
end

-- What makes the loops of a subscription's tasks, with the handler that it has now.
function M.loops(c)
  local inbox = c.inbox
  return assert(loadstring(SERVE, "=mx/turn:serve"))(inbox, inbox.slot, inbox.mask, t, c.Ref, c.handler, c.decide, band, c.number,
    c.stopwatch, ffi.typeof "mx_run", C.mx_pace_begin, C.mx_pace_end, C.MX_ACK)
end

-- A task that serves the deliveries of the subscription c = { inbox, Ref, handler, stopwatch, decide(d, seq, ...),
-- failed(d, seq, e), task = the metatable with what its tasks share: consumer, on_idle(d) }; decide and failed answer
-- true when the inbox is gone. It yields IDLE when it has none, and is not counted among the tasks. Its first run is
-- M.run(d, d).
function M.serve(c)
  c.serve = c.serve or M.loops(c)
  local d = setmetatable({ no = 1, co = co_create(serve), seq = 0, look = false, late = false }, c.task)
  d.loop = c.serve(d)
  local env = d.generation and d.generation.env
  if env then setfenv(d.co, env) end
  return d
end

-- Waiting -----------------------------------------------------------------------------------------------------

local c_names = {}
for _, lib in ipairs { "table", "string", "debug", "math", "os", "io" } do
  for name, f in pairs(_G[lib]) do c_names[f] = lib .. "." .. name end
end
c_names[tostring], c_names[load], c_names[loadstring] = "tostring", "load", "loadstring"

-- What Lua cannot yield across here, for an error's text.
local function inside_what()
  for level = 2, 200 do
    local info = debug.getinfo(level, "Sf")
    if not info then return "a callback from C" end
    if info.what == "C" and c_names[info.func] then return c_names[info.func] end
  end
  return "a C function"
end
M.inside_what = inside_what

-- pcall(f, ...) that must not wait, since Lua would not survive it: what names it in the error.
function M.unwaiting(what, f, ...)
  local before = M.inside
  M.inside = what
  local ok, result = pcall(f, ...)
  M.inside = before
  return ok, result
end

-- The task that may wait here. Raises where Lua cannot yield: for what cannot be undone when the wait is refused.
function M.here()
  local task = M.current
  if M.inside then check.fail("cannot wait inside " .. M.inside) end
  if not task then check.fail "cannot wait here: no task is running" end
  if not can_yield() then check.fail("cannot wait inside " .. inside_what()) end
  return task
end

-- RAISE and the text as an error of the script's line; what would have woken the task is too late now.
local function refused(task, text)
  task.parked = false
  task.no = task.no + 1
  return RAISE, select(2, pcall(check.fail, text))
end

-- Parks the current task; returns what wake passed, RAISE and an error when it is to raise: because it was cancelled,
-- or because Lua cannot yield here. idle: a stop ends this wait. why: what it waits for, for who looks at it.
function M.try_park(why, idle)
  local task = M.current or M.here()
  if M.inside then return refused(task, "cannot wait inside " .. M.inside) end
  local e = task.raise
  if e ~= nil then
    task.raise = nil
    task.no = task.no + 1
    return RAISE, e
  end
  if task.on_park then task.on_park(task) end
  task.parked, task.why = idle or true, why
  local from = M.waited and C.mx_now()
  local ok, a, b = pcall(co_yield, PARK)
  if task.on_wake then task.on_wake(task) end
  if not ok then return refused(task, "cannot wait inside " .. inside_what()) end
  if M.current ~= task then check.fail "cannot resume a coroutine that waits in another task" end
  if from and M.waited then M.waited(why or "event", C.mx_now() - from) end
  if a == REFUSE then return refused(task, b) end
  return a, b
end

-- The same, but raises.
function M.park(why, idle)
  local a, b = M.try_park(why, idle)
  if a == RAISE then error(b, 0) end
  return a, b
end

-- Waits for a ticket: code, reply.
function M.await(ticket, why)
  M.expect(ticket)
  local a, b = M.try_park(why)
  if a == RAISE then
    M.forget(ticket)
    error(b, 0)
  end
  return a, b
end

return M
