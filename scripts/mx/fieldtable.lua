-- AMQP field tables (headers, arguments) to Lua tables and back, in RabbitMQ's dialect of the type letters.
local ffi = require "ffi"
local bit = require "bit"
local err = require "mx.err"
local json = require "mx.json"

local type, next, rawget, tonumber, tostring = type, next, rawget, tonumber, tostring
local setmetatable, getmetatable = setmetatable, getmetatable
local cast, fstring, istype, copy = ffi.cast, ffi.string, ffi.istype, ffi.copy
local bswap, floor, format, concat = bit.bswap, math.floor, string.format, table.concat
local int64, uint64, bytes = ffi.typeof "int64_t", ffi.typeof "uint64_t", ffi.typeof "const uint8_t *"
local word = ffi.new "union { int64_t l; uint64_t u; double d; float f; int32_t i; int16_t s; uint8_t b[8]; }"

local M = {}
local DEPTH, ENTRIES, KEY = 32, 4096, 255

-- Values that a plain Lua value cannot carry: { type = letter, value = ... }.
local Typed = { __name = "typed field" }
Typed.__index = Typed

function Typed.__tostring(t)
  if t.type == "D" then return format("%se-%d", tostring(t.value), t.scale) end
  return (tostring(t.value):gsub("U?LL$", ""))
end

function Typed.__eq(a, b)
  return a.type == b.type and a.value == b.value and a.scale == b.scale
end

local function typed(letter, value, scale)
  return setmetatable({ type = letter, value = value, scale = scale }, Typed)
end

local function number_arg(name, v, integral)
  if type(v) ~= "number" and not (integral and (istype(int64, v) or istype(uint64, v))) then
    err.raise(3, format("fieldtable.typed.%s: expected a number, got %s", name, type(v)))
  end
  if integral and type(v) == "number" and v ~= floor(v) then
    err.raise(3, format("fieldtable.typed.%s: expected an integer, got %s", name, tostring(v)))
  end
  return v
end

M.typed = {
  -- Seconds since 1970.
  timestamp = function(n) return typed("T", number_arg("timestamp", n, true)) end,
  -- value * 10^-scale
  decimal = function(scale, value)
    return typed("D", number_arg("decimal", value, true), number_arg("decimal", scale, true))
  end,
  float32 = function(x) return typed("f", number_arg("float32", x)) end,
  -- A double, also when it is integral.
  double = function(x) return typed("d", number_arg("double", x)) end,
  bytes = function(s)
    if type(s) ~= "string" then err.raise(2, "fieldtable.typed.bytes: expected a string, got " .. type(s)) end
    return typed("x", s)
  end,
  int64 = function(n) return int64(number_arg("int64", n, true)) end,
  void = function() return json.null end,
}

function M.is_typed(x)
  return type(x) == "table" and getmetatable(x) == Typed
end

local function invalid(text)
  return nil, err.new("validation", "headers: " .. text)
end

-- Encoding: each function returns the bytes, or nil and what is wrong.
local function u32(n)
  word.i = bswap(bit.tobit(n))
  return fstring(word.b, 4)
end

local function long(letter, v)
  word.l = bswap(int64(v))
  return letter .. fstring(word.b, 8)
end

local function double(v)
  word.d = v
  word.l = bswap(word.l)
  return "d" .. fstring(word.b, 8)
end

local function encode_number(v)
  if v ~= v or v == math.huge or v == -math.huge then return nil, "NaN and Infinity cannot be sent" end
  if v == floor(v) and v >= -2 ^ 63 and v < 2 ^ 63 and not (v == 0 and 1 / v < 0) then return long("l", v) end
  return double(v)
end

local function encode_cdata(v)
  if istype(int64, v) then return long("l", v) end
  if not istype(uint64, v) then return nil, "cannot send cdata (" .. tostring(ffi.typeof(v)) .. ")" end
  if v > 9223372036854775807ULL then return nil, tostring(v):sub(1, -4) .. " does not fit int64" end
  return long("l", int64(v))
end

local typed_encoders = {
  T = function(t)
    if type(t.value) == "number" and (t.value < 0 or t.value >= 2 ^ 64) then return nil, "timestamp out of range" end
    word.u = bswap(uint64(t.value))
    return "T" .. fstring(word.b, 8)
  end,
  D = function(t)
    if t.scale < 0 or t.scale > 255 then return nil, "a decimal's scale is 0 to 255" end
    if t.value < -2 ^ 31 or t.value >= 2 ^ 31 then return nil, "a decimal's value is an int32" end
    return "D" .. string.char(tonumber(t.scale)) .. u32(tonumber(t.value))
  end,
  f = function(t)
    word.f = t.value
    word.i = bswap(word.i)
    return "f" .. fstring(word.b, 4)
  end,
  d = function(t) return double(t.value) end,
  x = function(t) return "x" .. u32(#t.value) .. t.value end,
}

local encode_value

-- The length of a table that is an array; nil when it is a map; nil and what is wrong when it is neither.
local function array_length(t)
  if rawget(t, 1) == nil and not json.is_array(t) then return nil end
  local n, largest = 0, 0
  for k in next, t do
    if type(k) ~= "number" then return nil, "an array has the key " .. format("%q", tostring(k)) end
    n = n + 1
    if k > largest then largest = k end
  end
  if n ~= largest then return nil, "sparse array" end
  return n
end

local function count_entry(state, key)
  state.entries = state.entries + 1
  if state.entries <= ENTRIES then return true end
  return nil, format("key %q: more than %d entries", key, ENTRIES)
end

local function encode_array(t, n, depth, state, name)
  local parts = {}
  for i = 1, n do
    local key = name .. "[" .. i .. "]"
    local ok, why = count_entry(state, key)
    if not ok then return nil, why end
    parts[i], why = encode_value(t[i], depth, state, key)
    if not parts[i] then return nil, why end
  end
  local text = concat(parts)
  return "A" .. u32(#text) .. text
end

local function encode_map(t, depth, state, name)
  local parts, n = {}, 0
  for k, v in next, t do
    if type(k) ~= "string" then return nil, format("key %s is a %s; keys are strings", tostring(k), type(k)) end
    if #k > KEY then return nil, format("key %q is %d bytes, at most %d", k:sub(1, 40) .. "...", #k, KEY) end
    local key = name and name .. "." .. k or k
    local ok, why = count_entry(state, key)
    if not ok then return nil, why end
    local value
    value, why = encode_value(v, depth, state, key)
    if not value then return nil, why end
    parts[n + 1], parts[n + 2], parts[n + 3] = string.char(#k), k, value
    n = n + 3
  end
  return concat(parts)
end

local function encode_table(t, depth, state, key)
  if getmetatable(t) == Typed then return typed_encoders[t.type](t) end
  if depth >= DEPTH then return nil, format("key %q: nested deeper than %d tables", key:sub(1, 80), DEPTH), true end
  local n, why = array_length(t)
  if why then return nil, why end
  if n then
    local text, wrong = encode_array(t, n, depth + 1, state, key)
    return text, wrong, true
  end
  local text, wrong = encode_map(t, depth + 1, state, key)
  if not text then return nil, wrong, true end
  return "F" .. u32(#text) .. text
end

function encode_value(v, depth, state, key)
  local kind = type(v)
  if kind == "string" then return "S" .. u32(#v) .. v end
  if kind == "boolean" then return v and "t\1" or "t\0" end
  if v == json.null then return "V" end
  local text, why, named
  if kind == "number" then
    text, why = encode_number(v)
  elseif kind == "cdata" then
    text, why = encode_cdata(v)
  elseif kind == "table" then
    text, why, named = encode_table(v, depth, state, key)
  else
    why = "cannot send a " .. kind
  end
  if text or named then return text, why end
  return nil, format("key %q: %s", key, why)
end

-- The content of a field table, without its length | nil, err
function M.encode(t)
  if type(t) ~= "table" then error("fieldtable.encode: expected a table, got " .. type(t), 2) end
  local text, why = encode_map(t, 1, { entries = 0 })
  if not text then return invalid(why) end
  return text
end

-- Decoding: readers take the pointer, the position and the end of what is left; they return the value and the next
-- position, or nil, nil and what is wrong.
local function get32(p, i)
  copy(word.b, p + i, 4)
  return bswap(word.i)
end

local function get64(p, i)
  copy(word.b, p + i, 8)
  word.l = bswap(word.l)
end

local function exact(v)
  if v >= -9007199254740992LL and v <= 9007199254740992LL then return tonumber(v) end
  return v
end

local function size_at(p, i, last)
  if i + 4 > last then return nil end
  local n = get32(p, i) % 2 ^ 32
  if i + 4 + n > last then return nil end
  return n
end

local function blob(wrap)
  return function(p, i, last)
    local n = size_at(p, i, last)
    if not n then return nil, nil, "it is cut short" end
    local s = fstring(p + i + 4, n)
    return wrap and wrap(s) or s, i + 4 + n
  end
end

local function fixed(size, get)
  return function(p, i, last)
    if i + size > last then return nil, nil, "it is cut short" end
    return get(p, i), i + size
  end
end

local read_map, read_array

local function nested(read)
  return function(p, i, last, depth, state)
    local n = size_at(p, i, last)
    if not n then return nil, nil, "it is cut short" end
    if depth >= DEPTH then return nil, nil, format("nested deeper than %d tables", DEPTH) end
    local t, why = read(p, i + 4, i + 4 + n, depth + 1, state)
    if not t then return nil, nil, why end
    return t, i + 4 + n
  end
end

local function read_long(p, i)
  get64(p, i)
  return exact(word.l + 0LL)
end

local readers = {
  t = fixed(1, function(p, i) return p[i] ~= 0 end),
  b = fixed(1, function(p, i) return p[i] < 128 and p[i] or p[i] - 256 end),
  B = fixed(1, function(p, i) return p[i] end),
  s = fixed(2, function(p, i)
    local v = p[i] * 256 + p[i + 1]
    return v < 32768 and v or v - 65536
  end),
  u = fixed(2, function(p, i) return p[i] * 256 + p[i + 1] end),
  I = fixed(4, function(p, i) return get32(p, i) end),
  i = fixed(4, function(p, i) return get32(p, i) % 2 ^ 32 end),
  l = fixed(8, read_long),
  L = fixed(8, read_long),
  f = fixed(4, function(p, i)
    word.i = get32(p, i)
    return typed("f", tonumber(word.f))
  end),
  d = fixed(8, function(p, i)
    get64(p, i)
    return tonumber(word.d)
  end),
  D = fixed(5, function(p, i) return typed("D", get32(p, i + 1), p[i]) end),
  T = fixed(8, function(p, i)
    get64(p, i)
    local v = word.u + 0ULL
    return typed("T", v <= 9007199254740992ULL and tonumber(v) or v)
  end),
  V = fixed(0, function() return json.null end),
  S = blob(),
  x = blob(function(s) return typed("x", s) end),
  F = nested(function(...) return read_map(...) end),
  A = nested(function(...) return read_array(...) end),
}

local by_byte = {}
for letter, read in next, readers do by_byte[letter:byte()] = read end

local function read_value(p, i, last, depth, state)
  if i >= last then return nil, nil, "it is cut short" end
  state.entries = state.entries + 1
  if state.entries > ENTRIES then return nil, nil, format("more than %d entries", ENTRIES) end
  local read = by_byte[p[i]]
  if not read then return nil, nil, format("unknown type %q (byte %d)", string.char(p[i]), p[i]) end
  return read(p, i + 1, last, depth, state)
end

function read_map(p, i, last, depth, state)
  local t = {}
  while i < last do
    local n = p[i]
    if i + 1 + n > last then return nil, "a key is cut short" end
    local key = fstring(p + i + 1, n)
    local v, at, why = read_value(p, i + 1 + n, last, depth, state)
    if not at then return nil, why:find "^key " and why or format("key %q: %s", key, why) end
    t[key], i = v, at
  end
  return t
end

function read_array(p, i, last, depth, state)
  local t, n = {}, 0
  while i < last do
    local v, at, why = read_value(p, i, last, depth, state)
    if not at then return nil, why end
    n = n + 1
    t[n], i = v, at
  end
  return n == 0 and json.array(t) or t
end

-- The table whose content is the `size` bytes at p (a string or a pointer), without the length | nil, err
function M.decode(p, size)
  size = tonumber(size) or type(p) == "string" and #p
  if not size then error("fieldtable.decode: a pointer needs a size", 2) end
  if type(p) == "string" and size > #p then error("fieldtable.decode: the string is shorter than the size", 2) end
  if size == 0 then return {} end
  local t, why = read_map(cast(bytes, p), 0, size, 1, { entries = 0 })
  if not t then return invalid(why) end
  return t
end

return M
