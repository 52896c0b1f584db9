-- Checks what scripts pass in: a caller's mistake raises at the caller's line, and says what would be right.
local ffi = require "ffi"
local log = require "mx.log"
local err = require "mx.err"

local type, next, tonumber, tostring, error, format = type, next, tonumber, tostring, error, string.format
local floor, huge = math.floor, math.huge

local M = {}
local SECONDS = { ms = 0.001, s = 1, m = 60, h = 3600, d = 86400 }
local BYTES = { B = 1, KB = 1024, MB = 1024 ^ 2, GB = 1024 ^ 3, TB = 1024 ^ 4 }
local OWN = debug.getinfo(1, "S").source:match "^(.*)[/.]check"

-- A script may lie in a folder mx/ of its own.
local function is_own(source)
  local base = OWN or "=mx"
  if source:sub(1, #base) ~= base then return false end
  local module = source:match("^/(.+)%.lua$", #base + 1)
  if module then return package.loaded["mx." .. module:gsub("/", ".")] ~= nil end
  return source:find("^[/.]", #base + 1)
end
M.is_own = is_own

-- The level, seen from the function that calls this, of the first function that is not mxrun's own.
local function script_level()
  for level = 3, 40 do
    local info = debug.getinfo(level, "S")
    if not info then return 3 end
    if info.what ~= "C" and not is_own(info.source) then return level - 1 end
  end
  return 3
end

M.level = script_level

-- Raises at the line of the script.
function M.fail(text) error(text, script_level()) end

-- The error of what a function of the script returned: it names the place where that is written.
function M.returned(f, text)
  local info = debug.getinfo(f, "S")
  return err.new("validation", format("%s:%d: %s", info.short_src, info.linedefined, text))
end

-- How a wrong value looks in a message: short, one line, no password.
local function shown(v)
  if type(v) == "string" then
    local text = log.redact(v)
    if #text > 60 then text = text:sub(1, 57) .. "..." end
    return '"' .. text:gsub("%c", "?") .. '"'
  end
  if type(v) == "number" or type(v) == "boolean" or type(v) == "nil" then return tostring(v) end
  return (err.is(v) and "the error " or "a ") .. (err.is(v) and tostring(v) or type(v))
end

local function distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      diagonal, row[j] = row[j], math.min(row[j] + 1, row[j - 1] + 1, diagonal + cost)
    end
  end
  return row[#b]
end

-- A text to append to "unknown x": ", did you mean 'y'?" or what there is; and y. Candidates: a list, or names as keys.
function M.nearest(name, candidates)
  local names = {}
  for k, v in next, candidates do names[#names + 1] = type(k) == "number" and v or k end
  table.sort(names)
  local best, least = nil, 3
  for _, candidate in ipairs(names) do
    local d = #name <= 64 and distance(name:lower(), candidate:lower()) or 3
    if d < least and d < math.max(#name, #candidate) then best, least = candidate, d end
  end
  if best then return ", did you mean '" .. best .. "'?", best end
  return #names > 0 and "; there is " .. table.concat(names, ", ") or "; there is none"
end

local function finite(v) return type(v) == "number" and v == v and v < huge and v > -huge end

local function with_unit(v, units, default)
  if finite(v) then return v >= 0 and v or nil end
  if type(v) ~= "string" then return nil end
  local digits, unit = v:match "^%s*(%d+%.?%d*)%s*(%a*)%s*$"
  local factor = digits and units[unit == "" and default or unit]
  return factor and tonumber(digits) * factor
end

-- Whole seconds since 1970, exact: beyond 2^53 as int64 or uint64.
local function timestamp(v)
  if finite(v) then return v >= 0 and v <= 2 ^ 53 and v == floor(v) and v or nil end
  return (ffi.istype("uint64_t", v) or ffi.istype("int64_t", v) and v >= 0) and v or nil
end

local function to_bytes(v)
  local n = with_unit(type(v) == "string" and v:upper():gsub("^(%s*[%d.]+%s*[KMGT])$", "%1B") or v, BYTES, "B")
  return n and floor(n)
end

-- Each kind: what it is called, and a function that returns the converted value, or nil if it is wrong.
local function is(kind) return function(v) if type(v) == kind then return v end end end
local KINDS = {
  any = { "anything", function(v) return v end },
  name = { "a name that is not empty", function(v) if type(v) == "string" and v ~= "" then return v end end },
  string = { "a string", is "string" }, boolean = { "true or false", is "boolean" },
  ["function"] = { "a function", is "function" }, table = { "a table", is "table" },
  number = { "a number", function(v) return finite(v) and v or nil end },
  integer = { "an integer", function(v) return finite(v) and v == floor(v) and v or nil end },
  fraction = { "a fraction from 0 to 1", function(v) return finite(v) and v >= 0 and v <= 1 and v or nil end },
  seconds = { 'seconds, as a number or like "100ms", "5s", "2m"', function(v) return with_unit(v, SECONDS, "s") end },
  timestamp = { "whole seconds since 1970", timestamp },
  bytes = { 'bytes, as a number or like "64KB", "1GB"', to_bytes },
}

local function range_text(name, low, strict, high)
  if not low and not high then return name end
  if low and high and not strict then return format("%s from %.14g to %.14g", name, low, high) end
  local text = low and format("%s %s %.14g", name, strict and "above" or "of at least", low) or name
  return high and format("%s%s at most %.14g", text, low and ", and" or " of", high) or text
end

-- "integer>=0<=65535" or "integer 0..65535" to { text =, convert = }.
local function parse_one(spec)
  local name, rest = spec:match "^%s*(%a+)%s*(.-)%s*$"
  local kind = KINDS[name]
  if not kind then error("mx.check: unknown type '" .. spec .. "'", 0) end
  if rest == "" then return { text = kind[1], convert = kind[2] } end
  local low, high = rest:match "^(-?[%d.]-)%.%.(-?[%d.]+)$"
  local strict
  if not low then
    local op
    op, low = rest:match "^(>=?)(-?[%d.]+)"
    strict, high = op == ">", rest:match "<=(-?[%d.]+)$"
  end
  low, high = tonumber(low), tonumber(high)
  if not low and not high then error("mx.check: unknown type '" .. spec .. "'", 0) end
  local convert = kind[2]
  return { text = range_text(kind[1], low, strict, high), convert = function(v)
    v = convert(v)
    if v == nil or low and (v < low or strict and v == low) or high and v > high then return nil end
    return v
  end }
end

local function parse_set(set)
  local allowed, names = {}, {}
  for i, v in ipairs(set) do allowed[v], names[i] = true, '"' .. tostring(v) .. '"' end
  return { text = "one of " .. table.concat(names, ", "), set = set,
           convert = function(v) if allowed[v] then return v end end }
end

local parsed = {}

-- A type: "kind", "kind>0", "kind 0..9", alternatives with "|", or a set of values.
local function rule_of(spec)
  local rule = parsed[spec]
  if rule then return rule end
  if type(spec) == "table" then
    rule = parse_set(spec)
  else
    local rules, texts = {}, {}
    for one in spec:gmatch "[^|]+" do
      rules[#rules + 1] = parse_one(one)
      texts[#texts + 1] = rules[#rules].text
    end
    rule = #rules == 1 and rules[1] or { text = table.concat(texts, " or "), convert = function(v)
      for i = 1, #rules do
        local converted = rules[i].convert(v)
        if converted ~= nil then return converted end
      end
    end }
  end
  parsed[spec] = rule
  return rule
end

local function expected(rule, v)
  local hint = ""
  if rule.set and type(v) == "string" then
    local text, best = M.nearest(v, rule.set)
    hint = best and text or ""
  end
  return "expected " .. rule.text .. ", got " .. shown(v) .. hint
end

-- A new table with the converted options. `level` is error()'s, counted from this function (3: the caller's caller).
function M.options(where, options, schema, level)
  if type(options) ~= "table" then
    error(format("%s: expected a table of options, got %s", where, shown(options)), level or script_level())
  end
  local result = {}
  for name, v in next, options do
    local spec = schema[name]
    if not spec then
      local hint = type(name) == "string" and M.nearest(name, schema) or ""
      error(format("%s: unknown option '%s'%s", where, log.redact(tostring(name)), hint), level or script_level())
    end
    local rule = parsed[spec] or rule_of(spec)
    local converted = rule.convert(v)
    if converted == nil then
      error(format("%s: option '%s': %s", where, name, expected(rule, v)), level or script_level())
    end
    result[name] = converted
  end
  return result
end

-- The converted n-th argument of a function; level as in options.
function M.arg(n, fname, v, spec, level)
  local rule = parsed[spec] or rule_of(spec)
  local converted = rule.convert(v)
  if converted == nil then
    error(format("bad argument #%d to %s: %s", n, fname, expected(rule, v)), level or script_level())
  end
  return converted
end

-- Checks arguments against a list of types; one that ends in ? may be nil.
function M.args(fname, types, ...)
  for i = 1, #types do
    local v, spec, optional = select(i, ...), types[i]:match "^(.-)(%??)$"
    if v ~= nil or optional == "" then M.arg(i, fname, v, spec) end
  end
end

-- Seconds of a number or "100ms", "5s", "2m", "1h"; raises, without a level at the line of the script, with 0 nowhere.
function M.seconds(v, level)
  if type(v) == "number" and v >= 0 and v < huge then return v end
  local seconds = KINDS.seconds[2](v)
  if not seconds then error(expected(rule_of "seconds", v), level or script_level()) end
  return seconds
end

-- Bytes of a number or "64KB", "1MB", "1GB".
function M.bytes(v, level)
  local n = to_bytes(v)
  if not n then error(expected(rule_of "bytes", v), level or script_level()) end
  return n
end

return M
