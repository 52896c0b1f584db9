-- The life of a process: up, stopping, over; when it ends, and with which code.
local ffi = require "ffi"
local C = ffi.C
local turn, err, log, task = require "mx.turn", require "mx.err", require "mx.log", require "mx.task"
local publish, consume, conns, keep = require "mx.publish", require "mx.consume", require "mx.conn", require "mx.keep"
local event, tls, memory = require "mx.event", require "mx.tls", require "mx.memory"
local reload, http, trace = require "mx.reload", require "mx.http", require "mx.trace"

-- main: the task of the main chunk or the command, running until it is done
local M = { main = nil, running = true }
local exit_code, stopping, finished, is_up = 0, false, false, false
local drain, at_end                     -- seconds that a stop may take; what is called before the process leaves

function M.setup(host) drain = host.drain end
function M.before_leaving(f) at_end = f end

-- Leaves the loop, at once; what fails on the way out makes a failure of it.
function M.quit(code)
  local last = at_end
  at_end = nil
  local ok, e = true, nil
  if last then ok, e = turn.guard(last) end
  if not ok then log.complain("mxrun: ", task.text_of(e)) end
  turn.t.exit_code = ok and code or code == 0 and 1 or code
  turn.t.stop = 1
end

-- Nothing was begun that would have to end in order.
function M.refuse(code)
  finished = true
  M.quit(code)
end

local function end_links()
  finished = true
  turn.start(function()
    for _, c in ipairs { unpack(conns.open) } do c:close() end      -- close() takes it off the list
    if trace.on then trace.close() end
  end, function()
    http.tell()
    M.quit(exit_code)
  end)
end

-- Consumers stop taking and finish; then what is in flight is confirmed; then the links close.
function M.stop()
  if stopping then return end
  stopping = true
  C.mx_worker_state(C.MX_STOPPING)
  event.emit("stop")
  task.stop_all()
  publish.hurry()
  local left = 0
  for _, c in ipairs({ unpack(consume.open) }) do
    left = left + 1
    turn.start(function() c:stop() end, function() left = left - 1 end)
  end
  turn.stopping_consumers = function() return left > 0 end
  turn.notify(C.mx_wait_new(turn.waits, drain), function()
    if finished and turn.t.stop == 1 then return end
    log.error("the drain ran out", { seconds = drain, tasks = turn.tasks, consumers = left, unconfirmed = publish.pending() })
    M.quit(4)
  end)
end
turn.request_stop = M.stop

local function fail(e)
  log.complain("mxrun: ", task.text_of(e))
  if exit_code == 0 then exit_code = 1 end
end

-- What a stop closed under somebody's feet is no failure.
local function is_by_stop(e) return err.is(e) and e.code == "closed" end

-- The main chunk has ended; older: that of a generation which is over.
function M.main_done(ok, e, older)
  M.running = false
  if ok or (stopping or older) and is_by_stop(e) then return end
  if older then return task.on_failure({}, e) end
  fail(e)
  M.stop()
end

-- A command has ended; ok: with an exit code.
function M.command_done(ok, e)
  M.running = false
  if ok then exit_code = e elseif not (stopping and is_by_stop(e)) then fail(e) end
  if not stopping then end_links() end
end

-- Each turn -------------------------------------------------------------------------------------------------------

local signals, reloads = 0, 0

local function on_signal()
  local instead = turn.on_signal                    -- of a command that ends by itself; a second signal stops it
  if instead and not stopping then
    turn.on_signal = nil
    return instead()
  end
  if stopping and signals > 1 then
    log.warn("second signal: leaving now", { unconfirmed = publish.pending() })
    return M.quit(4)
  end
  M.stop()
end

function turn.before()
  local t = turn.t
  if t.reloads ~= reloads then
    reloads = t.reloads
    tls.reload()
    reload.begin()
  end
  if t.signals ~= signals then
    signals = t.signals
    on_signal()
    if t.stop == 1 then return end
  end
  conns.look()
  consume.look()
  memory.look()
end

-- Up: no connection is being made, and the main chunk has ended, waits for time or for other tasks, or has published.
local function look_whether_up()
  if M.running and M.main.parked ~= "idle" and publish.totals() == 0 or conns.is_connecting() then return end
  is_up = true
  http.tell()
  C.mx_worker_state(C.MX_UP)
end

-- Nothing left to wait for?
function turn.after()
  if finished or turn.t.stop == 1 then return end
  if not is_up and not stopping then look_whether_up() end
  if stopping then
    if not turn.stopping_consumers() and publish.pending() == 0 then end_links() end
    return
  end
  if M.running or turn.tasks > keep.background or #consume.open > 0 or task.timers > 0 or publish.pending() > 0 then return end
  end_links()
end

return M
