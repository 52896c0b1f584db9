-- mx.test: what specs use to try a script without a network, a broker that fails, or an hour that passes at once.
local task, check = require "mx.task", require "mx.check"
local mx_now = require "ffi".C.mx_now

local M = {}

-- The script of a file, run with no network: see mx/test/harness.lua. Raises when the main chunk fails.
function M.load(file, options)
  local h, e = require "mx.test.harness".load(file, options)
  if not h then error(e, 0) end
  return h
end

-- A mem:// broker of its own, with faults.
function M.broker() return require "mx.test.broker".new() end

-- The clock of this process, which goes on by itself and jumps when told to.
function M.clock() return require "mx.test.clock" end

-- Calls f until it returns something true, at most for the timeout (5 s); what it returned. Raises with its last error.
function M.eventually(f, timeout)
  timeout = check.seconds(timeout or 5)
  local due = mx_now() + timeout
  while true do
    local r = { pcall(f) }
    if r[1] and r[2] then return unpack(r, 2, table.maxn(r)) end
    if mx_now() > due then
      if not r[1] then error(r[2], 0) end
      error(("mx.test.eventually: still %s after %g s"):format(tostring(r[2]), timeout), 2)
    end
    task.sleep(0.005)
  end
end

return M
