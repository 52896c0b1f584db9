-- The time of day: seconds since 1970.
local ffi = require "ffi"

ffi.cdef [[
struct mx_timespec { long seconds, nanoseconds; };
int clock_gettime(int clock, struct mx_timespec *to);
]]

local now = ffi.new "struct mx_timespec"
return function()
  ffi.C.clock_gettime(0, now)
  return tonumber(now.seconds) + tonumber(now.nanoseconds) / 1e9
end
