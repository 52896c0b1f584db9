-- Standard input and output for tasks: neither a slow writer nor a slow reader of a pipe stops the loop.
local ffi = require "ffi"
local C = ffi.C
local task, turn = require "mx.task", require "mx.turn"

ffi.cdef [[
struct mx_pollfd { int fd; short events, revents; };
int poll(struct mx_pollfd *fds, unsigned long n, int timeout);
long read(int fd, void *to, size_t n);
long write(int fd, const void *from, size_t n);
long readlink(const char *path, char *to, size_t n);
int ioctl(int fd, unsigned long request, ...);
int isatty(int fd);
]]

local M = {}
local POLLIN, POLLOUT, POLLERR, FIONREAD = 1, 4, 8, 0x541B
local EINTR, EAGAIN = 4, 11
local PIPE_BUF = 4096           -- a pipe that polls writable takes as much without blocking

local p = ffi.new "struct mx_pollfd[1]"
local function ready(fd, events)
  p[0].fd, p[0].events, p[0].revents = fd, events, 0
  return C.poll(p, 1, 0) > 0 and p[0].revents or 0
end

-- Waits a little, longer each time.
local function rest(n)
  if n < 20 then
    turn.await(C.mx_wait_new(turn.waits, 0), "stdin")
  else
    task.sleep(math.min(0.001 * (n - 19), 0.02))
  end
  return n + 1
end

local function transient()
  local e = ffi.errno()
  return e == EINTR or e == EAGAIN
end

local buffer = ffi.new("char[?]", 65536)
local function read_some()
  local n = 0
  while ready(0, POLLIN) == 0 do n = rest(n) end
  local got = C.read(0, buffer, 65536)
  if got < 0 and transient() then return read_some() end
  return got > 0 and ffi.string(buffer, got) or nil
end

-- Whether there is something to read, or the end.
function M.ready(fd) return ready(fd, POLLIN) ~= 0 end

-- All of standard input.
function M.read_all()
  local parts = {}
  for part in read_some do parts[#parts + 1] = part end
  return table.concat(parts)
end

-- An iterator over its lines, without their ends.
function M.lines()
  local text, at = "", 1
  return function()
    while true do
      local stop = text:find("\n", at, true)
      if stop then
        local line = text:sub(at, stop - 1)
        at = stop + 1
        return line
      end
      local more = read_some()
      text, at = text:sub(at) .. (more or ""), 1
      if not more then
        if text == "" then return nil end
        text = text .. "\n"             -- the last line had no end
      end
    end
  end
end

local is_pipe
local function writes_to_pipe()
  if is_pipe == nil then
    local n = C.readlink("/proc/self/fd/1", buffer, 255)
    is_pipe = n > 0 and ffi.string(buffer, n):find "^pipe:" ~= nil
  end
  return is_pipe
end

-- Waits until the reader of our pipe took everything; false when it has gone.
function M.taken()
  if not writes_to_pipe() then return true end
  local left, n = ffi.new "int[1]", 0
  while true do
    local gone = bit.band(ready(1, 0), POLLERR) ~= 0        -- asked first: it may take the last and go
    if C.ioctl(1, FIONREAD, left) ~= 0 or left[0] == 0 then return true end
    if gone then return false end
    n = rest(n)
  end
end

-- true, or false when nobody reads any more.
function M.write(text)
  local at, size, n = 0, #text, 0
  while at < size do
    local events = ready(1, POLLOUT)
    if bit.band(events, POLLERR) ~= 0 then return false end
    if events == 0 then
      n = rest(n)
    else
      local wrote = C.write(1, ffi.cast("const char *", text) + at, math.min(size - at, PIPE_BUF))
      if wrote < 0 and not transient() then return false end
      at, n = at + math.max(0, tonumber(wrote)), 0
    end
  end
  return true
end

return M
