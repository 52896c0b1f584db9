-- AMQP field tables (headers, arguments) to Lua tables and back, in RabbitMQ's dialect of the type letters.
--
-- Design: what a plain Lua value can hold is read as one; a timestamp, a decimal and a run of bytes are typed objects,
-- so that they travel on as what they are. Every number is a Lua number (or int64 cdata beyond 2^53), whatever its width
-- was; the table that was read remembers the widths, and a number that still fits goes out again as wide as it came.
-- Only the order of the keys is not kept.
local ffi = require "ffi"
local bit = require "bit"
local buffer = require "string.buffer"
local err = require "mx.err"
local json, amqp = require "mx.json", require "mx.amqp"

local type, next, rawget, tonumber, tostring, error = type, next, rawget, tonumber, tostring, error
local setmetatable, getmetatable = setmetatable, getmetatable
local cast, fstring, istype, copy = ffi.cast, ffi.string, ffi.istype, ffi.copy
local bswap, floor, format, huge = bit.bswap, math.floor, string.format, math.huge
local int64, uint64, bytes = ffi.typeof "int64_t", ffi.typeof "uint64_t", ffi.typeof "const uint8_t *"
local word = ffi.new "union { int64_t l; uint64_t u; double d; float f; int32_t i; int16_t s; uint8_t b[8]; }"

local Typed, LETTER = amqp.Typed, amqp.LETTER
local M = { typed = amqp.values }
local DEPTH, ENTRIES, KEY, SIZE = 32, 4096, 255, 1024 * 1024

-- The widths in which the numbers of a table came: table -> key -> letter.
local widths = setmetatable({}, { __mode = "k" })

-- Encoding. The functions put bytes into `out` and return nothing, or a text that says what is wrong. While such a text
-- travels up, trail collects the keys that lead there, innermost first; misuse: it is a mistake in the script.
local out = buffer.new(256)
local trail, entries, misuse = {}, 0, false
local path = setmetatable({}, { __mode = "v" })

local function mistake(text)
  misuse = true
  return text
end

local function put8(letter)
  local p = out:reserve(9)
  p[0] = letter:byte()
  copy(p + 1, word.b, 8)
  out:commit(9)
end

local function put4(letter)
  local p = out:reserve(5)
  p[0] = letter:byte()
  copy(p + 1, word.b, 4)
  out:commit(5)
end

local function put_long(letter, v)
  word.l = bswap(int64(v))
  put8(letter)
end

local function put_double(v)
  word.d = v
  word.l = bswap(word.l)
  put8 "d"
end

local function put_float(v)
  word.f = v
  word.i = bswap(word.i)
  put4 "f"
end

local function put_int(letter, v)
  if letter == "I" or letter == "i" then
    word.i = bswap(bit.tobit(v))
    put4(letter)
  elseif letter == "s" or letter == "u" then
    v = v % 65536
    out:put(letter, string.char(floor(v / 256), v % 256))
  else
    out:put(letter, string.char(v % 256))
  end
end

local function put_blob(letter, s)
  word.i = bswap(bit.tobit(#s))
  put4(letter)
  out:put(s)
end

local typed_putters = {
  T = function(t)
    word.u = bswap(uint64(t.value))
    put8 "T"
  end,
  D = function(t)
    out:put("D", string.char(t.scale))
    word.i = bswap(bit.tobit(t.value))
    out:put(fstring(word.b, 4))
  end,
  f = function(t) put_float(t.value) end,
  d = function(t) put_double(t.value) end,
  x = function(t) put_blob("x", t.value) end,
}
for letter in next, amqp.LEAST do
  typed_putters[letter] = function(t) put_int(letter, t.value) end
end

-- Can v travel in the width that its key had?
local function fits(v, letter)
  if letter == "d" then return true end
  if letter == "f" then
    word.f = v
    return word.f == v
  end
  if v ~= floor(v) or v == 0 and 1 / v < 0 then return false end
  if letter == "L" then return amqp.in_int64(v) end
  return v >= amqp.LEAST[letter] and v <= amqp.GREATEST[letter]
end

local function put_number(v, letter)
  if v ~= v or v == huge or v == -huge then return mistake "NaN and Infinity cannot be sent" end
  if letter and fits(v, letter) then
    if letter == "d" then
      put_double(v)
    elseif letter == "f" then
      put_float(v)
    elseif letter == "L" then
      put_long("L", v)
    else
      put_int(letter, v)
    end
  elseif v == floor(v) and amqp.in_int64(v) and not (v == 0 and 1 / v < 0) then
    put_long("l", v)
  else
    put_double(v)
  end
end

local function put_cdata(v, letter)
  if not (istype(int64, v) or istype(uint64, v)) then
    return mistake("cannot send cdata (" .. tostring(ffi.typeof(v)) .. ")")
  end
  if not amqp.in_int64(v) then return tostring(v):sub(1, -4) .. " does not fit int64" end
  put_long(letter == "L" and "L" or "l", v)
end

local put_value

-- The length of a table that is an array; nil when it is a map; nil and what is wrong when it is neither.
local function array_length(t)
  if rawget(t, 1) == nil and not json.is_array(t) then return nil end
  local n, largest = 0, 0
  for k in next, t do
    if type(k) ~= "number" then return nil, "a table with the keys 1 and " .. (type(k) == "string" and format("%q", k) or type(k)) end
    n = n + 1
    if k > largest then largest = k end
  end
  if n ~= largest then return nil, "sparse array" end
  return n
end

-- A value, and on a mistake its key on the trail.
local function put_entry(k, v, depth, letter)
  entries = entries + 1
  local why
  if entries > ENTRIES then
    why = format("more than %d entries", ENTRIES)
  else
    why = put_value(v, depth, letter)
  end
  if why then trail[#trail + 1] = k end
  return why
end

local function put_array(t, n, depth)
  local letters = widths[t]
  for i = 1, n do
    local why = put_entry(i, rawget(t, i), depth, letters and letters[i])
    if why then return why end
  end
end

local function put_map(t, depth)
  local letters = widths[t]
  for k, v in next, t do
    if type(k) ~= "string" then return mistake(format("the key %s is a %s; keys are strings", type(k) == "number" and k or "", type(k))) end
    if #k > KEY then return format("the key %q is %d bytes, at most %d", k:sub(1, 40) .. "...", #k, KEY) end
    out:put(string.char(#k), k)
    local why = put_entry(k, v, depth, letters and letters[k])
    if why then return why end
  end
end

local function too_deep(t, depth)
  for i = 1, depth - 1 do
    if path[i] == t then return "the table contains itself" end
  end
  return format("nested deeper than %d tables", DEPTH)
end

local function put_table(t, depth)
  if getmetatable(t) == Typed then return typed_putters[LETTER[t.type]](t) end
  if depth > DEPTH then return too_deep(t, depth) end
  local n, why = array_length(t)
  if why then return mistake(why) end
  path[depth] = t
  word.i = 0
  put4(n and "A" or "F")
  local from = #out
  if n then
    why = put_array(t, n, depth)
  else
    why = put_map(t, depth)
  end
  if why then return why end
  word.i = bswap(bit.tobit(#out - from))
  copy(out:ref() + from - 4, word.b, 4)
end

function put_value(v, depth, letter)
  local kind = type(v)
  if kind == "string" then return put_blob("S", v) end
  if kind == "number" then return put_number(v, letter) end
  if kind == "boolean" then
    out:put(v and "t\1" or "t\0")
  elseif kind == "table" then
    return put_table(v, depth + 1)
  elseif v == json.null then
    out:put "V"
  elseif kind == "cdata" then
    return put_cdata(v, letter)
  else
    return mistake("cannot send a " .. kind)
  end
end

-- 'key "a.b[3]": ' of the trail, or nothing when the table itself is wrong.
local function where()
  local text = ""
  for i = #trail, math.max(1, #trail - 7), -1 do
    local k = trail[i]
    text = text .. (type(k) == "number" and "[" .. k .. "]" or (text == "" and "" or ".") .. k:sub(1, 40))
  end
  return text ~= "" and format("key %q: ", text) or ""
end

local function invalid(code, text, name)
  return nil, err.new(code, (name or "headers") .. ": " .. text), misuse
end

-- The content of a field table, without its length | nil, err, and whether the script is to blame (a wrong type).
-- name: what the table is to the script, "headers" if not given.
function M.encode(t, name)
  if type(t) ~= "table" then error("fieldtable.encode: expected a table, got " .. type(t), 2) end
  out:reset()
  entries, misuse, path[1] = 0, false, t
  local why = put_map(t, 1)
  if why then
    why = where() .. why
    trail = {}
    return invalid("validation", why, name)
  end
  if #out > SIZE then return invalid("validation", format("they are %d bytes, at most %d", #out, SIZE), name) end
  return out:tostring()
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

-- LuaJIT reads a foreign NaN's bits as a value of another type, so ours takes its place.
local function is_special(p, i, least) return p[i] % 128 == 127 and p[i + 1] >= least end

local function special(p, i, size, least)
  local rest = p[i + 1] - least
  for k = 2, size - 1 do rest = rest + p[i + k] end
  if rest ~= 0 then return 0 / 0 end
  return p[i] < 128 and huge or -huge
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
    if is_special(p, i, 128) then return special(p, i, 4, 128) end
    word.i = get32(p, i)
    return tonumber(word.f)
  end),
  d = fixed(8, function(p, i)
    if is_special(p, i, 240) then return special(p, i, 8, 240) end
    get64(p, i)
    return tonumber(word.d)
  end),
  D = fixed(5, function(p, i) return amqp.typed("decimal", get32(p, i + 1), p[i]) end),
  T = fixed(8, function(p, i)
    get64(p, i)
    local v = word.u + 0ULL
    return amqp.typed("timestamp", v <= 9007199254740992ULL and tonumber(v) or v)
  end),
  V = fixed(0, function() return json.null end),
  S = blob(),
  x = blob(function(s) return amqp.typed("bytes", s) end),
  F = nested(function(...) return read_map(...) end),
  A = nested(function(...) return read_array(...) end),
}

local by_byte, letter_of = {}, {}
for letter, read in next, readers do by_byte[letter:byte()] = read end
for letter in ("bBsuIiLfd"):gmatch "." do letter_of[letter:byte()] = letter end

-- Called with a value that came as the type: remembers the width when put_number would choose another.
local function remember(letters, k, v, byte)
  local letter = letter_of[byte]
  if letter == "d" and v ~= floor(v) then letter = nil end
  if not letter and not letters then return nil end
  letters = letters or {}
  letters[k] = letter
  return letters
end

local function read_value(p, i, last, depth, state)
  if i >= last then return nil, nil, "it is cut short" end
  state.entries = state.entries + 1
  if state.entries > ENTRIES then return nil, nil, format("more than %d entries", ENTRIES) end
  local read = by_byte[p[i]]
  if not read then return nil, nil, format("unknown type %q (byte %d)", string.char(p[i]), p[i]) end
  return read(p, i + 1, last, depth, state)
end

function read_map(p, i, last, depth, state)
  local t, letters = {}, nil
  while i < last do
    local n = p[i]
    if i + 1 + n > last then return nil, "a key is cut short" end
    local key = fstring(p + i + 1, n)
    local v, at, why = read_value(p, i + 1 + n, last, depth, state)
    if not at then return nil, why:find "^key " and why or format("key %q: %s", key, why) end
    letters = remember(letters, key, v, p[i + 1 + n])
    t[key], i = v, at
  end
  if letters then widths[t] = letters end
  return t
end

function read_array(p, i, last, depth, state)
  local t, n, letters = {}, 0, nil
  while i < last do
    local v, at, why = read_value(p, i, last, depth, state)
    if not at then return nil, why end
    n = n + 1
    letters = remember(letters, n, v, p[i])
    t[n], i = v, at
  end
  if letters then widths[t] = letters end
  return n == 0 and json.array(t) or t
end

-- The table whose content is the `size` bytes at p (a string or a pointer), without the length | nil, err
function M.decode(p, size)
  size = tonumber(size) or type(p) == "string" and #p
  if not size then error("fieldtable.decode: a pointer needs a size", 2) end
  if type(p) == "string" and size > #p then error("fieldtable.decode: the string is shorter than the size", 2) end
  if size == 0 then return {} end
  local t, why = read_map(cast(bytes, p), 0, size, 1, { entries = 0 })
  if not t then return invalid("serialization", why) end
  return t
end

return M
