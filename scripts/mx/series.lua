-- The numbers behind /metrics: one series is a record in C's memory, there as long as Lua holds it.
local ffi = require "ffi"
local C = ffi.C
local log = require "mx.log"
local type, tostring, format = type, tostring, string.format

local M = {}
M.KINDS = { counter = C.MX_COUNTER, gauge = C.MX_GAUGE, histogram = C.MX_HISTOGRAM }
local LONGEST = 1024                    -- bytes of a label's value; what is behind is cut off

local function escape(c) return c == "\n" and "\\n" or "\\" .. c end

-- One character from i: its size; nil: it is no UTF-8. Prometheus refuses a page with one such byte.
local function size_of(text, i)
  local b = text:byte(i)
  if b < 0x80 then return 1 end
  local n = b >= 0xF0 and b < 0xF5 and 4 or b >= 0xE0 and b < 0xF0 and 3 or b >= 0xC2 and b < 0xE0 and 2
  if not n or not text:find("^[\128-\191]" .. ("[\128-\191]"):rep(n - 2), i + 1) then return nil end
  local second = text:byte(i + 1)
  if b == 0xE0 and second < 0xA0 or b == 0xED and second > 0x9F or b == 0xF0 and second < 0x90 or b == 0xF4 and second > 0x8F then
    return nil
  end
  return n
end

-- The text with U+FFFD for what is no UTF-8, at most LONGEST bytes of it.
local function valid(text)
  if #text <= LONGEST and not text:find "[\128-\255]" then return text end
  local out, i = {}, 1
  while i <= math.min(#text, LONGEST) do
    local n = size_of(text, i)
    if i + (n or 1) - 1 > LONGEST then break end
    out[#out + 1] = n and text:sub(i, i + n - 1) or "\239\191\189"
    i = i + (n or 1)
  end
  return table.concat(out)
end

M.valid = valid

-- 'country="PL",shop="7"'; a value may be a string, a number or nil.
function M.labels(names, values)
  local parts = {}
  for i, name in ipairs(names) do
    local value = values[i]
    value = value == nil and "" or type(value) == "string" and value or tostring(value)
    parts[i] = format('%s="%s"', name, valid(value):gsub('[\\"\n]', escape))
  end
  return table.concat(parts, ",")
end

-- A series, or nil when there is no room left for one.
function M.new(kind, name, labels)
  local s = C.mx_series_new(M.KINDS[kind], name, labels or "")
  return s ~= nil and ffi.gc(s, C.mx_series_drop) or nil
end

-- The same for numbers of which a sum over workers says nothing: when they are added up, these stay apart.
function M.own_labels(names, values)
  if C.mx_worker_watched() == 0 then return M.labels(names, values) end
  return M.labels({ "worker", unpack(names) }, { log.worker, unpack(values) })
end

-- A histogram of /metrics: its record, nil without room, and what to record in.
function M.histogram(name, labels)
  local s = M.new("histogram", name, labels)
  return s, s and C.mx_series_hist(s) or ffi.gc(C.mx_hist_new(), C.mx_hist_free)
end

local helps = {}
-- What /metrics says of all series of the name; the first text stays.
function M.help(name, text)
  if helps[name] then return end
  helps[name] = true
  C.mx_series_new(C.MX_HELP, name, (valid(text):gsub("[\\\n]", escape)))
end

return M
