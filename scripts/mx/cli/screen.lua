-- A terminal as a screen: its size, its keys one by one, and back to what it was.
local ffi = require "ffi"
local C = ffi.C
local stdio = require "mx.cli.stdio"

ffi.cdef [[
int tcgetattr(int fd, void *to);
int tcsetattr(int fd, int when, const void *from);
void cfmakeraw(void *termios);
]]

local M = {}
local TIOCGWINSZ = 0x5413
local before

-- Columns and lines; 80x24 when it does not say.
function M.size()
  local s = ffi.new "unsigned short[4]"
  if C.ioctl(1, TIOCGWINSZ, s) ~= 0 or s[0] == 0 then return 80, 24 end
  return s[1], s[0]
end

-- false: there is no terminal
function M.open()
  if C.isatty(0) == 0 or C.isatty(1) == 0 then return false end
  local now = ffi.new "char[256]"
  before = ffi.new "char[256]"
  if C.tcgetattr(0, before) ~= 0 then return false end
  ffi.copy(now, before, 256)
  C.cfmakeraw(now)
  C.tcsetattr(0, 0, now)
  stdio.write "\27[?1049h\27[?25l"
  return true
end

function M.close()
  if not before then return end
  stdio.write "\27[?25h\27[?1049l"
  C.tcsetattr(0, 0, before)
  before = nil
end

-- Shows the lines, cut to the screen; the last one stands at the bottom, in reverse.
function M.show(lines, last)
  local width, height = M.size()
  local out = { "\27[H" }
  for i = 1, height - 1 do out[#out + 1] = (lines[i] or ""):sub(1, width) .. "\27[K\r\n" end
  out[#out + 1] = "\27[7m" .. (last .. (" "):rep(width)):sub(1, width) .. "\27[0m"
  return stdio.write(table.concat(out))
end

return M
