-- Numbers of a profile as go tool pprof writes them: 1.50s, 20ms, 512kB, 100%.
local ffi = require "ffi"

ffi.cdef "int snprintf(char *to, size_t room, const char *format, ...);"

local M = {}

local TIME = { { "ns", 1 }, { "us", 1e3 }, { "ms", 1e6 }, { "s", 1e9 }, { "hrs", 3600e9 } }
local SPACE = { { "B", 1 }, { "kB", 1024 }, { "MB", 1024 ^ 2 }, { "GB", 1024 ^ 3 }, { "TB", 1024 ^ 4 }, { "PB", 1024 ^ 5 } }
local KNOWN = {
  nanoseconds = { TIME, 1 }, microseconds = { TIME, 1e3 }, milliseconds = { TIME, 1e6 }, seconds = { TIME, 1e9 },
  bytes = { SPACE, 1 }, kilobytes = { SPACE, 1024 }, megabytes = { SPACE, 1024 ^ 2 },
}

-- The largest of its family that value has at least one of; value counts in the first.
local function largest(family, value)
  local best = family[1]
  for _, u in ipairs(family) do
    if value >= u[2] then best = u end
  end
  return best
end

local buffer = ffi.new "char[400]"
-- C and Go round 0.125 to the even 0.12, string.format to 0.13.
local function format(how, value)
  ffi.C.snprintf(buffer, 400, how, ffi.cast("double", value))
  return ffi.string(buffer)
end

local function number(value, name)
  local text = format("%.2f", value):gsub("%.00$", "")
  if text == "0" or text == "-0" then return "0" end
  return text .. name
end

local SILENT = { count = true, sample = true, unit = true }
local function other(unit)
  local name = SILENT[unit] and "" or unit
  return function(value) return number(value, name) end
end

-- A function that writes values of the unit, each with what suits it.
function M.each(unit)
  local known = KNOWN[unit]
  if not known then return other(unit) end
  return function(value)
    local u = largest(known[1], math.abs(value * known[2]))
    return number(value * known[2] / u[2], u[1])
  end
end

-- A function that writes values of the unit, all with the same: what suits the smallest of them, unless the total is much larger.
function M.common(unit, total, values)
  local known, smallest = KNOWN[unit], nil
  if not known then return other(unit) end
  for _, v in ipairs(values) do
    v = math.abs(v)
    if v > 0 and (not smallest or v < smallest) then smallest = v end
  end
  smallest = (smallest or total) * known[2]
  local u, top = largest(known[1], smallest), largest(known[1], total * known[2])
  if u ~= top and smallest * 100 < total * known[2] then u = largest(known[1], smallest * 100) end
  return function(value) return number(value * known[2] / u[2], u[1]) end
end

-- Of a total, six wide.
function M.percent(value, total)
  local p = total == 0 and 0 or value / total * 100
  local size = math.abs(p)
  if size >= 99.95 and size <= 100.05 then return ("%6s"):format(p < 0 and "-100%" or "100%") end
  return format(size >= 1 and "%5.2f%%" or "%5.2g%%", p)
end

return M
