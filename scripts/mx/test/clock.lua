-- The test's clock: advance(s) moves it, and what falls due on the way happens at its time and in its order.
local ffi = require "ffi"
local C = ffi.C
local turn, check = require "mx.turn", require "mx.check"

local M = {}
local TURNS = 8         -- enough for a task that woke to publish to mem://, be confirmed and wait again

local function settle()
  for _ = 1, TURNS do turn.await(C.mx_wait_new(turn.waits, 0)) end
end

function M.now() return C.mx_now() end

-- Also as clock:advance(s).
function M.advance(self, seconds)
  seconds = check.seconds(seconds == nil and self or seconds)
  settle()
  local target = C.mx_now() + seconds
  while true do
    local due = C.mx_timers_due(turn.runtime)
    if due < 0 or C.mx_now() + due > target then break end
    C.mx_clock_advance(due)
    settle()
  end
  C.mx_clock_advance(target - C.mx_now())
  settle()
end

return M
