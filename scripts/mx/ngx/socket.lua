-- ngx.socket.tcp over mx.tcp: milliseconds, errors as texts, TLS later than the connection, and idle connections kept in pools.
local tcp, task = require "mx.tcp", require "mx.task"
local C = require "ffi".C

local M = {}
local Tcp = {}
Tcp.__index = Tcp

local POOL_SIZE, IDLE = 30, 60          -- what nginx has, unless told otherwise
local TIMEOUT = 60
local pools = {}                        -- key → a list of { sock =, times =, due = }, the latest last

-- What lua-resty clients look for.
local function text_of(e)
  if e.code == "timeout" or e.code == "closed" then return e.code end
  return (e.message:gsub("^.-: ", "", 1))
end

local function failed(e, ...) return nil, type(e) == "table" and text_of(e) or tostring(e), ... end

local function no_socket() return nil, "closed" end

-- Nothing came since it was put aside, not even its end.
local function is_fresh(kept)
  local s = kept.sock.sock
  return s and s.state == C.MX_OPEN and s.size == 0 and (not kept.due or kept.due > C.mx_now())
end

local function take(key)
  local list = pools[key]
  while list do
    local kept = table.remove(list)
    if #list == 0 then
      pools[key] = nil
      list = nil
    end
    if kept and is_fresh(kept) then return kept end
    if kept then kept.sock:close() end
  end
end

-- Drops those that are of no use any more.
local function sweep()
  for key, list in pairs(pools) do
    for i = #list, 1, -1 do
      if not is_fresh(list[i]) then table.remove(list, i).sock:close() end
    end
    if #list == 0 then pools[key] = nil end
  end
end

function M.tcp()
  return setmetatable({ connect_timeout = TIMEOUT, send_timeout = TIMEOUT, read_timeout = TIMEOUT, times = 0 }, Tcp)
end

function M.connect(host, port, options)
  local s = M.tcp()
  local ok, e = s:connect(host, port, options)
  if ok then return s end
  return nil, e
end

function Tcp:settimeout(ms) self:settimeouts(ms, ms, ms) end

function Tcp:settimeouts(connect, send, read)
  self.connect_timeout, self.send_timeout, self.read_timeout = (connect or TIMEOUT * 1000) / 1000, (send or TIMEOUT * 1000) / 1000,
                                                               (read or TIMEOUT * 1000) / 1000
end

function Tcp:setoption() return self ~= nil end

function Tcp:connect(host, port, options)
  if type(port) == "table" then port, options = nil, port end
  if self.sock then self.sock:close() end
  port = tonumber(port)
  self.host, self.key = host, options and options.pool or port and host .. ":" .. port or host
  self.pool_size, self.used, self.encrypted = options and options.pool_size, false, nil
  local kept = take(self.key)
  if kept then
    self.sock, self.times, self.encrypted = kept.sock, kept.times, kept.encrypted
    return 1
  end
  local sock, e = tcp.tcp(host, port, { timeout = self.connect_timeout })
  self.sock, self.times = sock, 0
  if not sock then return failed(e) end
  return 1
end

-- As in nginx nobody is verified unless that is asked for; the log says so.
function Tcp:sslhandshake(_, name, verify)
  if not self.sock then return no_socket() end
  if self.encrypted then return true end
  self.sock:settimeout(self.connect_timeout)
  local server = name or self.host:gsub("^unix:.*", "localhost")
  local ok, e = self.sock:starttls { server_name = server, verify = verify and true or false, insecure = not verify }
  if not ok then return failed(e) end
  self.encrypted = true
  return true
end

local function flatten(data, out)
  if type(data) ~= "table" then
    out[#out + 1] = tostring(data)
  else
    for i = 1, #data do flatten(data[i], out) end
  end
  return out
end

function Tcp:send(data)
  if not self.sock then return no_socket() end
  self.sock:settimeout(self.send_timeout)
  local n, e = self.sock:send(type(data) == "string" and data or table.concat(flatten(data, {})))
  if not n then return failed(e) end
  return n
end

function Tcp:receive(what)
  if not self.sock then return no_socket() end
  self.sock:settimeout(self.read_timeout)
  local text, e, partial = self.sock:receive(tonumber(what) or what)
  if not text then return failed(e, partial) end
  return text
end

function Tcp:receiveuntil(ending, options)
  local inclusive = options and options.inclusive
  return function(size)
    if size then error("mx.ngx: receiveuntil's reader takes no size", 2) end
    if not self.sock then return no_socket() end
    self.sock:settimeout(self.read_timeout)
    local text, e, partial = self.sock:receiveuntil(ending)()
    if not text then return failed(e, partial) end
    return inclusive and text .. ending or text
  end
end

function Tcp:close()
  local sock = self.sock
  self.sock = nil
  if not sock then return no_socket() end
  sock:close()
  return 1
end

-- ms 0: for ever.
function Tcp:setkeepalive(ms, size)
  local sock = self.sock
  self.sock = nil
  if not sock then return no_socket() end
  local idle = (ms or IDLE * 1000) / 1000
  local kept = { sock = sock, times = self.times + 1, encrypted = self.encrypted, due = idle > 0 and C.mx_now() + idle or nil }
  sweep()
  if not is_fresh(kept) then
    sock:close()
    return nil, "connection in dubious state"
  end
  local list = pools[self.key] or {}
  pools[self.key] = list
  if #list >= (self.pool_size or size or POOL_SIZE) then table.remove(list, 1).sock:close() end
  list[#list + 1] = kept
  return 1
end

function Tcp:getreusedtimes()
  if not self.sock then return no_socket() end
  return self.times
end

M.Tcp = Tcp
M.is_exiting = function() return task.stopping and true or false end

return M
