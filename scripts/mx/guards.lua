-- What Lua lets a script do that a process does not survive: waits and errors in error handlers and finalizers.
local ffi = require "ffi"
local turn, err, log = require "mx.turn", require "mx.err", require "mx.log"

-- Not for an error that the turn limit raised: nothing could stop a loop in the script's handler.
local function guarded_xpcall(plain)
  return function(f, handler, ...)
    if type(handler) ~= "function" then error("bad argument #2 to 'xpcall' (function expected)", 2) end
    return plain(f, function(e)
      if err.is(e) and e.code == "interrupted" then return e end
      local _, result = turn.unwaiting("an error handler", handler, e)
      return result
    end, ...)
  end
end

-- An error that leaves a finalizer tears down what the collector ran in; LuaJIT crashes when that was compiled code.
local function safe(f)
  if type(f) ~= "function" then return f end            -- one of C's
  return function(x)
    local ok, e = turn.unwaiting("a finalizer", f, x)
    if not ok then log.error("a finalizer failed", { error = err.tostring(e) }) end
  end
end

return function()
  xpcall = guarded_xpcall(xpcall)
  local gc, metatype = ffi.gc, ffi.metatype
  function ffi.gc(x, f) return gc(x, safe(f)) end
  function ffi.metatype(ct, mt)
    if type(mt) == "table" then mt.__gc = safe(mt.__gc) end
    return metatype(ct, mt)
  end
  -- A script that is loaded anew says again what stays declared.
  local cdef, said = ffi.cdef, {}
  function ffi.cdef(text, ...)
    if said[text] and select("#", ...) == 0 then return end
    cdef(text, ...)
    said[text] = true
  end
  newproxy = nil                        -- its __gc could not be guarded
end
