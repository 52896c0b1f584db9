-- The other end of a control socket, as a command sees it: the processes behind it, each with a connection.
local ffi = require "ffi"
local C = ffi.C
local tcp, json, turn, wait = require "mx.tcp", require "mx.json", require "mx.turn", require "mx.wait"
require "mx.cli.stdio"                          -- declares readlink

local M = {}
local CONNECT, HELLO = 2, 5                     -- seconds
local LONG = 86400

ffi.cdef "int access(const char *path, int mode);"

-- Finding ---------------------------------------------------------------------------------------------------------------

local function exists(path) return C.access(path, 0) == 0 end

local room = ffi.new("char[?]", 4096)
local function link(path)
  local n = C.readlink(path, room, 4095)
  return n > 0 and ffi.string(room, n) or nil
end

-- By inode: the paths at which somebody listens.
local function listeners()
  local list = {}
  local f = io.open "/proc/net/unix"
  for line in f and f:lines() or function() end do
    local flags, inode, path = line:match "^%S+ %S+ %S+ (%S+) %S+ %S+%s+(%d+) (.+)$"
    if flags and tonumber(flags, 16) == 0x10000 then list[inode] = path end
  end
  if f then f:close() end
  return list
end

local function sockets_of(pid, list, to)
  for fd = 0, 255 do
    local inode = (link(("/proc/%s/fd/%d"):format(pid, fd)) or ""):match "^socket:%[(%d+)%]$"
    local path = inode and list[inode]
    if path and not path:find "^@" then
      to[#to + 1] = path:find "^/" and path or (link("/proc/" .. pid .. "/cwd") or "") .. "/" .. path
    end
  end
end

-- Of the process and, when it is a supervisor, of its workers.
local function of_pid(pid)
  local list, to = listeners(), {}
  sockets_of(pid, list, to)
  local f = #to == 0 and io.open(("/proc/%s/task/%s/children"):format(pid, pid))
  local program = link(("/proc/%s/exe"):format(pid))
  for child in f and f:read "*a":gmatch "%d+" or function() end do
    if program and link(("/proc/%s/exe"):format(child)) == program then sockets_of(child, list, to) end
  end
  if f then f:close() end
  if #to > 0 then return to end
  if not exists("/proc/" .. pid) then return nil, ("there is no process %s"):format(pid) end
  return nil, ("process %s has no socket that one may see: was it started with --socket?"):format(pid)
end

-- The paths that SOCKET or PID stands for | nil, text
function M.paths(word)
  if word:find "^%d+$" and not exists(word) then return of_pid(word) end
  word = word:gsub("^unix:", "")
  local paths = exists(word) and { word } or {}
  for i = 1, #paths == 0 and 1024 or 0 do
    if exists(word .. "." .. i) then paths[#paths + 1] = word .. "." .. i end
  end
  if #paths > 0 then return paths end
  return nil, ("there is no socket %s"):format(word)
end

-- Speaking --------------------------------------------------------------------------------------------------------------

local Peer = {}
Peer.__index = Peer

local function gone(self, why)
  if self.gone then return end
  self.gone = why
  self.sock:close()
  for id, f in pairs(self.asked) do
    self.asked[id] = nil
    f { id = id, error = why, done = true }
  end
  if self.on_gone then self.on_gone(self) end
end

local function read(self)
  while not self.gone do
    local line, e = self.sock:receive()
    if line then
      local answer = json.decode(line)
      if type(answer) ~= "table" then return gone(self, "it answers what is no JSON: is it mxrun?") end
      local f = self.asked[answer.id]
      if answer.done then
        if not answer.id then return gone(self, tostring(answer.error)) end
        self.asked[answer.id] = nil
      end
      if f then f(answer) elseif answer.output and self.on_output then self.on_output(answer.output) end
    elseif e.code ~= "timeout" then
      return gone(self, "the process has gone, or ended the connection")
    end
  end
end

-- Sends a request; f(answer) for each answer to it. Its id
function Peer:ask(request, f)
  self.latest = self.latest + 1
  request.id = self.latest
  self.asked[request.id] = f
  if self.gone then
    self.asked[request.id] = nil
    f { id = request.id, error = self.gone, done = true }
    return request.id
  end
  self:say(request)
  return request.id
end

function Peer:say(request)
  if self.gone then return end
  self.unsent[#self.unsent + 1] = assert(json.encode(request)) .. "\n"
  self.writer:wake(true)
end

local function write(self)
  while not self.gone do
    while #self.unsent == 0 do self.writer:wait(nil, "peer") end
    local text = table.concat(self.unsent)
    self.unsent = {}
    if not self.gone and not self.sock:send(text) then return gone(self, "the process has gone") end
  end
end

-- Asks and waits: the last answer | nil, text
function Peer:call(request, timeout)
  local line, result = wait.line(), nil
  self:ask(request, function(answer)
    if not answer.done then return end
    result = answer
    line:wake(true)
  end)
  if not result then line:wait(timeout, "peer") end
  if not result then return nil, ("no answer within %g s"):format(timeout) end
  if result.error then return nil, result.error end
  return result
end

function Peer:close() gone(self, "closed") end

local function quietly() end

-- peer | nil, text; peer.hello is what it says of itself.
local function connect(path)
  local sock, e = tcp.tcp("unix:" .. path, { timeout = CONNECT })
  if not sock then return nil, tostring(e) end
  sock:settimeout(LONG)
  local self = setmetatable({ sock = sock, path = path, asked = {}, latest = 0, unsent = {}, writer = wait.line() }, Peer)
  turn.start(read, quietly, self)
  turn.start(write, quietly, self)
  local answer, why = self:call({ call = "hello" }, HELLO)
  if not answer then
    self:close()
    return nil, ("%s: %s"):format(path, why)
  end
  self.hello = answer.value
  return self
end

-- All processes behind SOCKET or PID, by their number. list | nil, text
function M.connect(word)
  local paths, why = M.paths(word)
  if not paths then return nil, why end
  local list = {}
  for _, path in ipairs(paths) do
    local peer, e = connect(path)
    if peer then list[#list + 1] = peer else why = e end
  end
  table.sort(list, function(a, b) return a.hello.worker < b.hello.worker end)
  if #list == 0 then return nil, why end
  return list
end

return M
