-- /debug/pprof/, as Go serves it: go tool pprof http://…/debug/pprof/heap finds here what it asks for.
local ffi = require "ffi"
local C = ffi.C
local turn, profile = require "mx.turn", require "mx.profile"

local TEXT, BINARY = "text/plain; charset=utf-8", "application/octet-stream"
local SECONDS_MAX = 3600

local M = { paths = {} }

local function number(request, name, least, most)
  local text = ("&" .. request.query):match("&" .. name .. "=([^&]*)")
  if not text then return nil end
  local n = tonumber(text)
  if n and n >= least and n <= most then return n end
  return nil, ("%s=%s: expected a number from %g to %g\n"):format(name, text:sub(1, 40):gsub("[^%w.-]", "?"), least, most)
end

-- f(request, seconds, hz, debug) → the profile's bytes, or nil and a text.
local function path(name, f)
  M.paths["/debug/pprof/" .. name] = function(request)
    local seconds, e = number(request, "seconds", 0.1, SECONDS_MAX)
    local hz, e2 = number(request, "hz", 1, 1000)
    local debug, e3 = number(request, "debug", 0, 2)
    local wrong = e or e2 or e3
    if wrong then return 400, TEXT, wrong end
    if seconds then C.mx_http_patience(turn.runtime, request.id, seconds + 10) end
    local bytes, text = f(request, seconds, hz, debug)
    if not bytes then return 200, TEXT, text end
    return 200, BINARY, bytes
  end
end

path("profile", function(request, seconds, hz)
  if not seconds then
    seconds = 30
    C.mx_http_patience(turn.runtime, request.id, seconds + 10)
  end
  return profile.during(C.MX_CPU, seconds, hz)
end)

local function heap(request, seconds, allocs)
  if number(request, "gc", 1, 1) then collectgarbage() end
  if seconds then return profile.during(C.MX_HEAP, seconds) end
  return profile.heap(allocs)
end

path("heap", function(request, seconds) return heap(request, seconds) end)
path("allocs", function(request, seconds) return heap(request, seconds, true) end)

-- Without seconds what has been waited for since mx.profile.start asked for it; else of the next 10 s.
path("wait", function(request, seconds)
  local bytes = not seconds and profile.waits()
  if bytes then return bytes end
  if not seconds then C.mx_http_patience(turn.runtime, request.id, 20) end
  return profile.during(C.MX_WAIT, seconds or 10)
end)

path("tasks", function(_, _, _, debug)
  if debug and debug > 0 then return nil, profile.tasks_text() end
  return profile.tasks()
end)

path("cmdline", function()
  local f = assert(io.open("/proc/self/cmdline", "rb"))
  local text = f:read "*a"
  f:close()
  return nil, (text:gsub("%z$", ""))
end)

-- What go tool pprof asks for addresses it cannot name; ours have names.
path("symbol", function() return nil, "num_symbols: 0\n" end)

M.paths["/debug/pprof/"] = function()
  local list = {}
  for name in pairs(M.paths) do list[#list + 1] = name end
  table.sort(list)
  list[#list + 1] = "\nseconds=N: of the next N seconds. profile: hz=N. heap, allocs: gc=1 collects first. tasks: debug=1 is text.\n"
  return 200, TEXT, table.concat(list, "\n")
end

return M
