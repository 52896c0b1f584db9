-- require "mx.ngx": as much of OpenResty's ngx as lua-resty clients written in Lua need, over mx.tcp, mx.sleep and mx.spawn. It is
-- the global ngx from then on, in this script and in those that follow it.
local ffi = require "ffi"
local task, log, json = require "mx.task", require "mx.log", require "mx.json"
local generation, socket, text = require "mx.generation", require "mx.ngx.socket", require "mx.ngx.text"
local wall = require "mx.wall"

ffi.cdef "int getpid(void);"

local ngx = { null = json.null, re = require "mx.ngx.re", socket = { tcp = socket.tcp, connect = socket.connect }, ctx = {} }
for name, f in pairs(text) do ngx[name] = name ~= "hex" and f or nil end

ngx.config = { subsystem = "http", debug = false, ngx_lua_version = 10026, nginx_version = 1025003, prefix = function() return "./" end }
ngx.OK, ngx.ERROR, ngx.AGAIN, ngx.DECLINED = 0, -1, -2, -5

-- There is no request here, as in a timer of nginx.
function ngx.get_phase() return "timer" end
local function none() error("no request is here: API disabled in the context of ngx.timer", 2) end
ngx.var = setmetatable({}, { __index = none, __newindex = none })
ngx.req, ngx.header = {}, {}

-- Time ---------------------------------------------------------------------------------------------------------------

function ngx.now() return math.floor(wall() * 1000) / 1000 end
function ngx.time() return os.time() end
function ngx.update_time() end
function ngx.utctime() return os.date "!%Y-%m-%d %H:%M:%S" end
function ngx.localtime() return os.date "%Y-%m-%d %H:%M:%S" end
function ngx.today() return os.date "%Y-%m-%d" end
function ngx.http_time(at) return os.date("!%a, %d %b %Y %H:%M:%S GMT", at) end
function ngx.sleep(seconds) task.sleep(seconds) end

-- Log ------------------------------------------------------------------------------------------------------------------

local LEVELS = { [0] = "STDERR", "EMERG", "ALERT", "CRIT", "ERR", "WARN", "NOTICE", "INFO", "DEBUG" }
for number, name in pairs(LEVELS) do ngx[name] = number end

function ngx.log(level, ...)
  local parts = {}
  for i = 1, select("#", ...) do parts[i] = tostring((select(i, ...))) end
  local write = level <= ngx.ERR and log.error or level == ngx.WARN and log.warn or level == ngx.DEBUG and log.debug or log.info
  write(table.concat(parts))
end

-- Timers and threads -------------------------------------------------------------------------------------------------

local function timer(start)
  return function(seconds, f, ...)
    local n, args = select("#", ...), { ... }
    start(seconds, function() f(false, unpack(args, 1, n)) end)
    return true
  end
end
ngx.timer = { at = timer(task.after), every = timer(task.every) }

ngx.thread = {}
function ngx.thread.spawn(f, ...)
  local thread = {}                     -- and, as a list, the channels of who waits for it
  local n, args = select("#", ...), { ... }
  thread.task = task.spawn(function()
    local r = { pcall(f, unpack(args, 1, n)) }
    thread.result = { n = table.maxn(r), unpack(r, 1, table.maxn(r)) }
    for _, ch in ipairs(thread) do ch:put(thread) end
  end)
  return thread
end

-- What the first of them to end returned, behind true; or false, err.
function ngx.thread.wait(...)
  local first
  local ended = task.chan(select("#", ...))
  for _, thread in ipairs { ... } do
    first = first or thread.result and thread
    thread[#thread + 1] = ended
  end
  first = first or ended:get()
  return unpack(first.result, 1, first.result.n)
end
function ngx.thread.kill(thread)
  thread.task:cancel()
  return 1
end

ngx.worker = {
  pid = function() return ffi.C.getpid() end, id = function() return require "mx".worker.number - 1 end,
  count = function() return require "mx".worker.count end, exiting = socket.is_exiting,
}

-- What comes with OpenResty, and there is made of nginx's own C.
package.preload["resty.string"] = package.preload["resty.string"] or function()
  return { to_hex = text.hex, atoi = tonumber }
end

rawset(getfenv(0), "ngx", ngx)
generation.pristine.ngx = ngx
return ngx
