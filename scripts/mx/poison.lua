-- Messages that kill their worker: under a supervisor the redelivered message whose handler executes is written down where
-- the supervisor finds it, and what has killed three workers is rejected without being run.
--
-- Only one handler executes at a time, so no neighbour is suspected, and a handler that waits is none. A first delivery costs
-- the look at its flag.
local C = require "ffi".C
local turn, log, msg = require "mx.turn", require "mx.log", require "mx.msg"

local M = {}
local CRASHES = 3
local running                           -- where the mark goes; nil: nobody looks there

function M.setup()
  local p = C.mx_worker_running()
  running = p ~= nil and p or nil
end

-- What was delivered without acks, and what a stream holds, is not redelivered.
function M.is_watched(c) return running ~= nil and not c.auto_ack and not c.stream end

-- The mark of what was redelivered, how many workers have died while it executed, and why it is not run again, or nil.
function M.past(c, m)
  local mark = C.mx_msg_mark(m, c.queue, #c.queue)
  local crashes = C.mx_mark_crashes(mark)
  if crashes < CRASHES then return mark, crashes end
  local why = ("crashed its worker %d times"):format(CRASHES)
  log.error("a message is not run again", { queue = c.queue, id = msg.getters.id(m), reason = why })
  return mark, crashes, why
end

function M.enter(d, mark)
  d.mark, d.look = mark, true
  running[0] = mark
end

local function begin(c, handler, m)
  local mark, _, why = M.past(c, m.m)
  if why then return "reject", why end
  M.enter(turn.current, mark)
  return handler(m)
end

-- Compiled for each handler, as the loop that calls it (mx/turn.lua).
local WATCH = [[
local handler, c, begin = ...
return function(m)
  if m.m.redelivered == 0 then return handler(m) end
  return begin(c, handler, m)
end
]]

function M.watching(c, handler) return assert(loadstring(WATCH, "=mx/poison:watch"))(handler, c, begin) end

function M.park() running[0] = 0 end
function M.on_wake(d)
  if d.mark then running[0] = d.mark end
end
function M.leave(d)
  d.mark = nil
  running[0] = 0
end

return M
