-- The script loaded anew, by SIGHUP or because a file was changed: the new generation starts beside the old one, which then
-- ends, or goes on as if nothing had been when the new one fails.
local ffi = require "ffi"
local C = ffi.C
local turn, task, wait, err, log = require "mx.turn", require "mx.task", require "mx.wait", require "mx.err", require "mx.log"
local generation, hold, publish, conns = require "mx.generation", require "mx.hold", require "mx.publish", require "mx.conn"
local event, memory, metrics = require "mx.event", require "mx.memory", require "mx.metrics"
local topology, health = require "mx.topology", require "mx.health"

local M = {}
local STARTED = 2                       -- seconds after which a main chunk that still runs counts as started
local HELD = 5                          -- seconds at most for the broker's answer that an exclusive consumer is gone
local PATIENCE = 30                     -- seconds for tasks of a generation that is over
local LOOK, SETTLED = 0.5, 0.1          -- seconds between looks at the files, and for which they are to be left alone
local host, main_done, current
local busy, again = false, false

-- Runs the main chunk; done(ok, e) when it has ended.
local function start(g, f, args, done)
  g.main = turn.start(f, function(ok, e)
    g.main_ended = true
    done(ok, e)
  end, unpack(args))
  turn.own(g.main, g)
  return g.main
end

-- Ending a generation -----------------------------------------------------------------------------------------------

-- What would begin something more.
local function silence(g)
  task.cancel_timers(g)
  event.forget(g)
  memory.forget(g)
  metrics.forget(g)
  health.forget(g)
end

local function stop_consumers(g)
  local stops = {}
  for i, c in ipairs(generation.of(hold.open, g)) do stops[i] = task.spawn(c.stop, c) end
  for _, stop in ipairs(stops) do stop:wait() end
end

-- Tasks that sleep hear of it, again and again; the rest has to end by itself.
local function stop_tasks(g)
  local due = C.mx_now() + PATIENCE
  while true do
    local left = task.tell(g)
    if not g.main_ended then
      left = left + 1
      if g.main.parked == "idle" then turn.raise(g.main, task.replaced()) end
    end
    if left == 0 then return end
    if C.mx_now() >= due then
      return log.warn("tasks of an older generation go on", { generation = g.number, tasks = left })
    end
    wait.sleep(0.02)
  end
end

-- Handlers finish and find everything there that they need; then the tasks, what is to be confirmed, the connections.
local function finish(g)
  stop_consumers(g)
  stop_tasks(g)
  for _, p in ipairs(generation.of(publish.open, g)) do p:close() end
  for _, c in ipairs(generation.of(conns.open, g)) do c:close() end
  for _, c in ipairs { unpack(conns.open) } do topology.drop_unnamed(c, g) end
  log.debug("a generation has ended", { generation = g.number })
end

-- Replacing it ------------------------------------------------------------------------------------------------------

local function exclusive(g, f)
  for _, c in ipairs(generation.of(hold.open, g)) do
    if c.exclusive then f(c, "reload") end
  end
end

-- The broker lets nobody else consume beside them. The others go on until the new ones are there.
local function hold_exclusive(g)
  local due = C.mx_now() + HELD
  exclusive(g, hold.hold)
  exclusive(g, function(c)
    while c.sub and not c.sub.cancelled and C.mx_now() < due do wait.sleep(0.005) end
  end)
end

-- f | nil, text
local function compile()
  local f, e = loadfile(host.file)
  if not f then return nil, e end
  -- what the check makes, it takes along
  local scratch, errors = { number = 0 }, nil
  local checker = task.spawn(function() errors = require "mx.cli.check".errors_of(host.file, f, host.args) end)
  turn.own(checker.task, scratch)
  local ok, failure = checker:wait()
  silence(scratch)
  if not ok then return nil, err.tostring(failure) end
  if #errors > 0 then return nil, table.concat(errors, "; ") end
  return loadfile(host.file)
end

-- true, or nil, the text of what the main chunk raised, and where
local function run(g, f)
  local done, accepted = task.chan(1), false
  start(g, f, g.env.arg, function(ok, e)
    if accepted then main_done(ok, e, g ~= current) else done:put { ok, e } end
  end)
  local r = done:get(STARTED)
  accepted = true
  if r and not r[1] then return nil, err.explain(r[2]) end
  return true
end

local function still_running(g)
  local handlers, tasks = 0, g.main_ended and 0 or 1
  for _, c in ipairs(generation.of(hold.open, g)) do handlers = handlers + c.active end
  for x in pairs(task.list) do
    if x.task and x.task.generation == g then tasks = tasks + 1 end
  end
  return handlers, tasks
end

local function kept(why, where)
  log.error("not reloaded, the script goes on as it was", { generation = current.number, error = why, traceback = where })
end

local function undo(new, old, restore)
  silence(new)
  generation.put_back(old)
  restore(new)
  task.go_on(old)
  finish(new)
  exclusive(old, hold.release)
end

local function replace(f)
  local old, new = current, { number = current.number + 1, env = generation.globals() }
  hold_exclusive(old)
  task.rest(old)
  generation.put_aside(old)
  local restore = conns.remember()
  local ok, why, where = run(new, setfenv(f, new.env))
  if task.stopping then return end
  if not ok then
    kept(why, where)
    return undo(new, old, restore)
  end
  current = new
  local handlers, tasks = still_running(old)
  event.emit_to(old, "reload")
  silence(old)
  log.info("reloaded", { generation = new.number, handlers = handlers, tasks = tasks })
  turn.start(finish, function(failed, e)
    if not failed and not task.stopping then log.error("ending a generation failed", { error = task.text_of(e) }) end
  end, old)
  return true
end

local function reload()
  local before = generation.files
  generation.files = {}
  local f, why = compile()
  if not f then kept(why) end
  if f and replace(f) then return end
  for path, stamp in pairs(before) do generation.files[path] = generation.files[path] or stamp end
end

-- What is asked for while one is under way is done after it.
function M.begin()
  if not host or not host.file then
    log.info "nothing to load anew: there is no file"
    return event.emit "reload"
  end
  if task.stopping then return end
  if busy then
    again = true
    return
  end
  busy = true
  turn.start(reload, function(ok, e)
    if not ok and not task.stopping then log.error("reloading failed", { error = task.text_of(e) }) end
    busy = false
    if not again then return end
    again = false
    M.begin()
  end)
end

-- Watching ----------------------------------------------------------------------------------------------------------

-- Which files are not what was read; one that is missing is being replaced. From now on they count as read.
local function changed()
  local any = false
  for path, stamp in pairs(generation.files) do
    local now = C.mx_file_stamp(path)
    if now ~= 0 and now ~= stamp then generation.files[path], any = now, true end
  end
  return any
end

local function watch(pending)
  turn.notify(C.mx_wait_new(turn.waits, pending and SETTLED or LOOK), function()
    local more = changed()
    if pending and not more then M.begin() end
    watch(more)
  end)
end

-- The generation that runs, and its globals.
function M.current() return current end
function M.globals() return current and current.env or _G end

-- The first generation: its main task.
function M.first(f, the_host, done)
  host, main_done, current = the_host, done, { number = 1 }
  if host.watch then watch(false) end
  return start(current, f, arg, function(ok, e) done(ok, e, current.number > 1) end)
end

return M
