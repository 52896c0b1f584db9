-- How a run goes, once a second: on a terminal one line that is written over, elsewhere a plain line each.
local ffi = require "ffi"
local C = ffi.C
local format = require "mx.bench.report.format"

pcall(ffi.cdef, "int ioctl(int fd, unsigned long request, ...);")    -- mx.cli.stdio has it, too

local M = {}
local TIOCGWINSZ, BAR = 0x5413, 20

local size = ffi.new "unsigned short[4]"
local function columns()
  return C.ioctl(2, ffi.cast("unsigned long", TIOCGWINSZ), size) == 0 and size[1] > 0 and size[1] or 80
end

local function bar(share)
  local full = math.floor(math.min(math.max(share, 0), 1) * BAR + 0.5)
  return "[" .. ("#"):rep(full) .. ("-"):rep(BAR - full) .. "]"
end

-- What a second was like, the more important first.
local function figures(s)
  local parts = {}
  local function add(text, ...) parts[#parts + 1] = text:format(...) end
  if s.publish_rate then add("publish %s", format.rate(s.publish_rate)) end
  if s.consume_rate then add("consume %s", format.rate(s.consume_rate)) end
  local name = s.e2e and s.e2e.p99 and "e2e" or s.confirm and s.confirm.p99 and "confirm"
  if name then add("%s p99 %s", name, format.time(s[name].p99)) end
  if s.rss then add("%s", format.bytes(s.rss)) end
  if s.in_flight then add("%s in flight", format.count(s.in_flight)) end
  if s.generator_lag and s.generator_lag >= 0.001 then add("generator %s late", format.time(s.generator_lag)) end
  if s.stage then add("%s", type(s.stage) == "number" and "stage " .. s.stage or format.line(s.stage)) end
  return parts
end

-- The line of a snapshot; wide: columns of the terminal, nil elsewhere.
function M.line(s, wide)
  local elapsed, share = s.elapsed or s.t or 0, nil
  if s.duration and s.duration > 0 and s.duration < math.huge then share = elapsed / s.duration end
  local at = ("%4.0f s"):format(elapsed)
  if not wide then
    return ("%s%s  %s\n"):format(at, share and (" of %.0f"):format(s.duration) or "", table.concat(figures(s), "  "))
  end
  if share then at = ("%s %s %3.0f %%"):format(at, bar(share), math.min(share, 1) * 100) end
  for _, part in ipairs(figures(s)) do                  -- as many as fit
    if #at + 2 + #part >= wide then break end
    at = at .. "  " .. part
  end
  return "\r" .. at:sub(1, wide - 1) .. "\27[K"
end

local function write(text) C.mx_log_write(text, #text) end

-- A stalled terminal must not stop the generator: what it does not take waits or is dropped, as the log is.
function M.new(terminal)
  local shown = false
  return {
    tick = function(s)
      write(M.line(s, terminal and columns()))
      shown = terminal
    end,
    clear = function()
      if shown then write "\r\27[K" end
      shown = false
    end,
  }
end

return M
