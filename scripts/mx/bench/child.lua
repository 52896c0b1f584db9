-- Another process of mxrun: started with arguments of its own and waited for, while the loop goes on.
local ffi = require "ffi"
local task = require "mx.task"
local C = ffi.C

ffi.cdef [[
int posix_spawn(int *pid, const char *path, const void *actions, const void *attributes, char *const *argv, char *const *environment);
int mx_child_wait(int pid, int *status, int options) __asm__("waitpid");
int mx_child_kill(int pid, int signal) __asm__("kill");
int setenv(const char *name, const char *value, int replace);
extern char **environ;
]]

local M = {}
local WNOHANG, SIGTERM, EINTR = 1, 15, 4

local Child = {}
Child.__index = Child

-- arguments: those of the command line; environment: { NAME = value } set beforehand, since everybody can read a command line.
-- child | nil, text
function M.start(arguments, environment)
  for name, value in pairs(environment or {}) do C.setenv(name, value, 1) end
  local words = { "mxrun", unpack(arguments) }
  local argv, pid = ffi.new("const char *[?]", #words + 1), ffi.new "int[1]"
  for i, word in ipairs(words) do argv[i - 1] = word end
  local code = C.posix_spawn(pid, "/proc/self/exe", nil, nil, ffi.cast("char *const *", argv), C.environ)
  if code ~= 0 then return nil, ("cannot start a process: error %d"):format(code) end
  return setmetatable({ pid = pid[0] }, Child)
end

function Child:kill() C.mx_child_kill(self.pid, SIGTERM) end

-- The exit code, of one that a signal ended 128 and more; nil while it runs.
function Child:poll()
  local status = ffi.new "int[1]"
  local got = C.mx_child_wait(self.pid, status, WNOHANG)
  if got == 0 or got < 0 and ffi.errno() == EINTR then return nil end
  if got < 0 then return 1 end
  local signal = status[0] % 128
  return signal == 0 and math.floor(status[0] / 256) % 256 or 128 + signal
end

-- The same, once it has ended. A wait that ends because mxrun stops takes it along.
function Child:wait()
  local code = self:poll()
  while code == nil do
    local ok, e = pcall(task.sleep, 0.02)
    if not ok then
      self:kill()
      error(e, 0)
    end
    code = self:poll()
  end
  return code
end

return M
