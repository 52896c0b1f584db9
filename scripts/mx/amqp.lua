-- mx.amqp: the values of AMQP field tables that a plain Lua value cannot carry.
local ffi = require "ffi"
local json = require "mx.json"

local type, tonumber, tostring, error, setmetatable = type, tonumber, tostring, error, setmetatable
local istype, floor, format, huge = ffi.istype, math.floor, string.format, math.huge
local int64, uint64 = ffi.typeof "int64_t", ffi.typeof "uint64_t"
local EXACT = 2 ^ 53

-- A typed value: { type = "timestamp", value = ... }; a decimal is value * 10^-scale.
local Typed = { __name = "typed field" }
Typed.__index = Typed

function Typed.__tostring(t)
  local text = tostring(t.value):gsub("U?LL$", "")
  if not t.scale or t.scale == 0 then return text end
  local sign, digits = text:match "^(-?)(%d+)$"
  digits = ("0"):rep(t.scale + 1 - #digits) .. digits
  return sign .. digits:sub(1, -t.scale - 1) .. "." .. digits:sub(-t.scale)
end

function Typed.__eq(a, b)
  return a.type == b.type and a.value == b.value and a.scale == b.scale
end

local M = { Typed = Typed, LEAST = {}, GREATEST = {}, values = {} }      -- LEAST, GREATEST: by letter
M.LETTER = { float32 = "f", double = "d", timestamp = "T", decimal = "D", bytes = "x" }

function M.typed(name, value, scale)
  return setmetatable({ type = name, value = value, scale = scale }, Typed)
end
local typed, values = M.typed, M.values

local function wrong(name, expected, v)
  local kind = type(v)
  local shown = (kind == "number" or kind == "cdata") and tostring(v) or kind
  error(format("mx.amqp.%s: expected %s, got %s", name, expected, shown), 3)
end

-- v as a number within 2^53, else as int64 or uint64; nil if it is no integer.
local function integer(v)
  if type(v) == "number" then
    if v ~= floor(v) or v == huge or v == -huge then return nil end
    if v > EXACT and v < 2 ^ 64 then return uint64(v) end
    if v < -EXACT and v >= -2 ^ 63 then return int64(v) end
    return v
  end
  if istype(uint64, v) then return v <= 9007199254740992ULL and tonumber(v) or v end
  if istype(int64, v) then return v >= -9007199254740992LL and v <= 9007199254740992LL and tonumber(v) or v end
end

function M.in_int64(n)
  if type(n) == "number" then return n >= -2 ^ 63 and n < 2 ^ 63 end
  return istype(int64, n) or n <= 9223372036854775807ULL
end

for letter, w in pairs {
  b = { "int8", -2 ^ 7, 2 ^ 7 - 1 }, B = { "uint8", 0, 2 ^ 8 - 1 }, s = { "int16", -2 ^ 15, 2 ^ 15 - 1 },
  u = { "uint16", 0, 2 ^ 16 - 1 }, I = { "int32", -2 ^ 31, 2 ^ 31 - 1 }, i = { "uint32", 0, 2 ^ 32 - 1 },
} do
  local name, least, greatest = w[1], w[2], w[3]
  M.LETTER[name], M.LEAST[letter], M.GREATEST[letter] = letter, least, greatest
  values[name] = function(n)
    local v = integer(n)
    if type(v) ~= "number" or v < least or v > greatest then
      wrong(name, format("an integer from %.0f to %.0f", least, greatest), n)
    end
    return typed(name, v)
  end
end

function values.int64(n)
  local v = integer(n)
  if not v or not M.in_int64(v) then wrong("int64", "an integer from -2^63 to 2^63 - 1", n) end
  return int64(v)
end

local function finite(x) return type(x) == "number" and x - x == 0 end

function values.float32(x)
  if not finite(x) then wrong("float32", "a finite number", x) end
  return typed("float32", x)
end

-- A double, also when it is integral.
function values.double(x)
  if not finite(x) then wrong("double", "a finite number", x) end
  return typed("double", x)
end

-- Seconds since 1970.
function values.timestamp(n)
  local v = integer(n)
  if not v or v < 0 or type(v) == "number" and v > EXACT then wrong("timestamp", "whole seconds since 1970", n) end
  return typed("timestamp", v)
end

-- decimal "-1.50", or its digits and how many of them stand behind the point: decimal(-150, 2).
function values.decimal(value, scale)
  local v, places = value, scale or 0
  if type(value) == "string" and scale == nil then
    local sign, whole, fraction = value:match "^(-?)(%d+)%.?(%d*)$"
    if not sign then wrong("decimal", 'digits, or text like "-1.50"', value) end
    v, places = tonumber(sign .. whole .. fraction), #fraction
  end
  v, places = integer(v), integer(places)
  if type(v) ~= "number" or v < -2 ^ 31 or v >= 2 ^ 31 then wrong("decimal", "digits that fit an int32", value) end
  if type(places) ~= "number" or places < 0 or places > 255 then wrong("decimal", "a scale from 0 to 255", scale or places) end
  return typed("decimal", v, places)
end

function values.bytes(s)
  if type(s) ~= "string" then wrong("bytes", "a string", s) end
  return typed("bytes", s)
end

values.null = json.null
function values.void() return json.null end

return M
