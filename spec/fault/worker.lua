-- consumer.lua in one of several processes, each of which dies as a message in its own queue says: fault-die-NUMBER.
--   mxrun -w N -u URL [--set K=V] spec/fault/worker.lua NAME HISTORY
local ffi = require "ffi"
local history, conn = assert(loadfile "spec/fault/consumer.lua")(...)
local queue = "fault-die-" .. mx.worker.number
ffi.cdef "int raise(int); int getpid(void); int kill(int, int);"

local DIE = {
  crash = function() ffi.C.raise(11) end,
  leave = function() os.exit(3) end,
  killed = function() ffi.C.kill(ffi.C.getpid(), 9) end,
  runaway = function() return ("a"):rep(40):find(("a?"):rep(40) .. ("a"):rep(40)) end,         -- in C, where nothing can stop it
}

assert(conn:queue(queue))
assert(conn:consume(queue, function(msg)
  if msg.redelivered then return end
  history.event("dies", msg.body)
  DIE[msg.body]()
end))
