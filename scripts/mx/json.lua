-- JSON with exact numbers: lua-cjson decodes what it decodes exactly, the rest and all encoding is done here.
--
-- Design: decode() first scans the text once. Only if every number is short and strictly written, no string holds a
-- raw control character and no array is empty, cjson gets it; its answer is then the exact one. Otherwise, and
-- whenever cjson refuses, the slow reader below decides, and knows the position of a mistake.
local ffi = require "ffi"
local buffer = require "string.buffer"
local err = require "mx.err"
local cjson = require("mx.paths").system("cjson").new()

local type, next, rawget, tonumber, tostring, pcall, error = type, next, rawget, tonumber, tostring, pcall, error
local setmetatable, getmetatable = setmetatable, getmetatable
local cast, fstring, istype = ffi.cast, ffi.string, ffi.istype
local format, char, floor = string.format, string.char, math.floor
local int64, uint64, bytes = ffi.typeof "int64_t", ffi.typeof "uint64_t", ffi.typeof "const uint8_t *"

local M = { null = cjson.null }
local DEPTH, EXACT = 128, 2 ^ 53
local cjson_decode = cjson.decode
cjson.decode_max_depth(DEPTH)
cjson.decode_invalid_numbers(false)

local Array = { __name = "json array" }

-- Marks a table as an array: it encodes as [] even when it is empty.
function M.array(t)
  return setmetatable(t or {}, Array)
end

function M.is_array(t)
  return getmetatable(t) == Array
end

-- Where the number at i ends, whether it is an integer, and its digits before the point; nil if it is no JSON number.
local function number_end(p, i)
  if p[i] == 45 then i = i + 1 end
  local first, c, integer = i, p[i], true
  if c == 48 then
    i = i + 1
  else
    while c >= 48 and c <= 57 do i = i + 1 c = p[i] end
    if i == first then return nil end
  end
  local digits = i - first
  c = p[i]
  if c >= 48 and c <= 57 then return nil end
  if c == 46 then
    integer, i = false, i + 1
    first, c = i, p[i]
    while c >= 48 and c <= 57 do i = i + 1 c = p[i] end
    if i == first then return nil end
  end
  if c == 101 or c == 69 then
    integer, i = false, i + 1
    c = p[i]
    if c == 43 or c == 45 then i = i + 1 c = p[i] end
    first = i
    while c >= 48 and c <= 57 do i = i + 1 c = p[i] end
    if i == first then return nil end
    if i - first > 2 then digits = 1000 end               -- may be too large for a double
  end
  return i, integer, digits
end

-- The closing quote of the string that begins after i, whether it has escapes; nil if it has none, or a raw control.
local function string_end(p, i, n)
  local escaped = false
  local c = p[i]
  while c ~= 34 do
    if c < 32 then return nil, i end
    if c == 92 then
      escaped, i = true, i + 1
    end
    i = i + 1
    if i >= n then return nil, n end
    c = p[i]
  end
  return i, escaped
end

local function skip(p, i)
  local c = p[i]
  while c == 32 or c == 10 or c == 13 or c == 9 do i = i + 1 c = p[i] end
  return i
end

-- Would cjson's answer be exact?
local function simple(p, n)
  local i = skip(p, 0)
  if p[i] ~= 123 and p[i] ~= 91 then return false end
  while i < n do
    local c = p[i]
    if c == 34 then
      i = string_end(p, i + 1, n)
      if not i then return false end
    elseif c <= 57 and (c >= 48 or c == 45) then
      local last, _, digits = number_end(p, i)
      if not last or digits > 15 then return false end
      i = last - 1
    elseif c == 0 then
      return false                                         -- cjson takes it for the end
    elseif c == 91 then
      if p[skip(p, i + 1)] == 93 then return false end
    end
    i = i + 1
  end
  return true
end

-- The slow reader. Each function returns the value and the next position; on a mistake nil, nil, position, text.
local read

local function digits_of(p, i, last)
  local negative = p[i] == 45
  if negative then i = i + 1 end
  if last - i > 20 then return nil end
  local v, high = uint64(0), uint64(1844674407370955161ULL)
  for k = i, last - 1 do
    local d = p[k] - 48
    if v > high or (v == high and d > 5) then return nil end
    v = v * 10 + d
  end
  if v <= 9007199254740992ULL then return negative and -tonumber(v) or tonumber(v) end
  if not negative then return v <= 9223372036854775807ULL and int64(v) or v end
  if v <= 9223372036854775808ULL then return -int64(v) end
end

local function read_number(p, i)
  local last, integer, digits = number_end(p, i)
  if not last then return nil, nil, i, "malformed number" end
  if integer and digits > 15 then
    local v = digits_of(p, i, last)
    if v then return v, last end
  end
  local v = tonumber(fstring(p + i, last - i))
  if not v or v == math.huge or v == -math.huge then return nil, nil, i, "number out of range" end
  return v, last
end

local ESCAPES = { [34] = '"', [92] = "\\", [47] = "/",
                  [98] = "\b", [102] = "\f", [110] = "\n", [114] = "\r", [116] = "\t" }

local function utf8(c)
  if c < 0x80 then return char(c) end
  if c < 0x800 then return char(0xC0 + floor(c / 64), 0x80 + c % 64) end
  if c < 0x10000 then return char(0xE0 + floor(c / 4096), 0x80 + floor(c / 64) % 64, 0x80 + c % 64) end
  return char(0xF0 + floor(c / 262144), 0x80 + floor(c / 4096) % 64, 0x80 + floor(c / 64) % 64, 0x80 + c % 64)
end

local function hex4(p, i, last)
  if i + 4 > last then return nil end
  local text = fstring(p + i, 4)
  return text:find "^%x%x%x%x$" and tonumber(text, 16)
end

-- The character of the \u escape whose digits are at i, and how many bytes they take.
local function unicode(p, i, last)
  local c = hex4(p, i, last)
  if not c then return nil, "malformed \\u escape" end
  if c < 0xD800 or c > 0xDFFF then return utf8(c), 4 end
  local low = c < 0xDC00 and p[i + 4] == 92 and p[i + 5] == 117 and hex4(p, i + 6, last)
  if not low or low < 0xDC00 or low > 0xDFFF then return nil, "lone surrogate" end
  return utf8(0x10000 + (c - 0xD800) * 1024 + low - 0xDC00), 10
end

local function unescape(p, i, last)
  local out, from = {}, i
  while i < last do
    if p[i] == 92 then
      out[#out + 1] = fstring(p + from, i - from)
      local c, size = ESCAPES[p[i + 1]], 0
      if p[i + 1] == 117 then
        c, size = unicode(p, i + 2, last)
        if not c then return nil, nil, i, size end
      elseif not c then
        return nil, nil, i, "unknown escape"
      end
      out[#out + 1] = c
      i = i + 2 + size
      from = i
    else
      i = i + 1
    end
  end
  out[#out + 1] = fstring(p + from, last - from)
  return table.concat(out), last + 1
end

local function read_string(p, i, n)
  local last, escaped = string_end(p, i + 1, n)
  if not last then
    local at = escaped
    return nil, nil, at, at >= n and "unfinished string" or "raw control character in a string"
  end
  if escaped then return unescape(p, i + 1, last) end
  return fstring(p + i + 1, last - i - 1), last + 1
end

local function read_array(p, i, n, depth)
  local t, size = {}, 0
  i = skip(p, i + 1)
  if p[i] == 93 then return M.array(t), i + 1 end
  while true do
    local v, at, failed, why = read(p, i, n, depth)
    if not at then return nil, nil, failed, why end
    size = size + 1
    t[size] = v
    i = skip(p, at)
    if p[i] == 93 then return t, i + 1 end
    if p[i] ~= 44 then return nil, nil, i, "expected ',' or ']'" end
    i = skip(p, i + 1)
  end
end

local function read_object(p, i, n, depth)
  local t = {}
  i = skip(p, i + 1)
  if p[i] == 125 then return t, i + 1 end
  while true do
    if p[i] ~= 34 then return nil, nil, i, "expected a string as key" end
    local key, at, failed, why = read_string(p, i, n)
    if not at then return nil, nil, failed, why end
    at = skip(p, at)
    if p[at] ~= 58 then return nil, nil, at, "expected ':'" end
    local v, after
    v, after, failed, why = read(p, skip(p, at + 1), n, depth)
    if not after then return nil, nil, failed, why end
    t[key] = v
    i = skip(p, after)
    if p[i] == 125 then return t, i + 1 end
    if p[i] ~= 44 then return nil, nil, i, "expected ',' or '}'" end
    i = skip(p, i + 1)
  end
end

local function read_word(p, i, n)
  local c = p[i]
  if c == 116 and i + 4 <= n and fstring(p + i, 4) == "true" then return true, i + 4 end
  if c == 102 and i + 5 <= n and fstring(p + i, 5) == "false" then return false, i + 5 end
  if c == 110 and i + 4 <= n and fstring(p + i, 4) == "null" then return M.null, i + 4 end
  return nil, nil, i, i >= n and "unexpected end" or "expected a value"
end

function read(p, i, n, depth)
  local c = p[i]
  if c == 34 then return read_string(p, i, n) end
  if c == 123 or c == 91 then
    if depth == DEPTH then return nil, nil, i, "deeper than " .. DEPTH .. " levels" end
    if c == 123 then return read_object(p, i, n, depth + 1) end
    return read_array(p, i, n, depth + 1)
  end
  if c <= 57 and (c >= 48 or c == 45) then return read_number(p, i) end
  return read_word(p, i, n)
end

local function failure(text, position)
  return nil, err.new("serialization", "JSON: " .. text, { position = position })
end

-- The same answer without cjson's help. value | nil, err
function M.decode_slow(s)
  local p, n = cast(bytes, s), #s
  local v, i, at, why = read(p, skip(p, 0), n, 0)
  if i then
    i = skip(p, i)
    if i >= n then return v end
    at, why = i, "unexpected text after the value"
  end
  return failure(("%s at byte %d"):format(why, at + 1), at + 1)
end

-- value | nil, err with .position
function M.decode(s)
  if type(s) ~= "string" then error("json.decode: expected a string, got " .. type(s), 2) end
  if simple(cast(bytes, s), #s) then
    local ok, v = pcall(cjson_decode, s)
    if ok then return v end
    if type(v) ~= "string" then error(v, 0) end           -- not cjson's: the watchdog's, say
  end
  local v, e = M.decode_slow(s)
  return v, e
end

-- Encoding. The functions put text into `out` and return nil, or a text that says what is wrong; trail[depth] is then
-- the key that leads there.
local out, trail = buffer.new(256), {}
local above = setmetatable({}, { __mode = "v" })           -- the tables that the current one is in, by depth
local put

local function escape(c)
  if c == '"' then return '\\"' elseif c == "\\" then return "\\\\"
  elseif c == "\n" then return "\\n" elseif c == "\t" then return "\\t" elseif c == "\r" then return "\\r" end
  return format("\\u%04x", c:byte())
end

local function put_string(s)
  local p = cast(bytes, s)
  for i = 0, #s - 1 do
    local c = p[i]
    if c < 32 or c == 34 or c == 92 or c == 127 then
      out:put('"', (s:gsub('[%z\1-\31"\\\127]', escape)), '"')
      return
    end
  end
  out:put('"', s, '"')
end

-- The shortest text, of up to 17 digits, that reads back as the same double.
local function double_text(v)
  local text = format("%.15g", v)
  if tonumber(text) ~= v then text = format("%.16g", v) end
  if tonumber(text) ~= v then text = format("%.17g", v) end
  return text
end

local function put_number(v)
  if v == floor(v) and v < 1e14 and v > -1e14 then
    out:put(v)
    return
  end
  if v ~= v or v == math.huge or v == -math.huge then return "NaN and Infinity are not JSON" end
  if v == floor(v) and v >= -2 ^ 63 and v < 2 ^ 63 then
    out:put(v >= -EXACT and v <= EXACT and format("%.0f", v) or tostring(int64(v)):sub(1, -3))
  else
    out:put(double_text(v))
  end
end

local function put_cdata(v)
  if istype(int64, v) then
    out:put((tostring(v):sub(1, -3)))
  elseif istype(uint64, v) then
    out:put((tostring(v):sub(1, -4)))
  else
    return "cannot encode cdata (" .. tostring(ffi.typeof(v)) .. ")"
  end
end

local function name_of(k)
  return type(k) == "string" and format("%q", k) or tostring(k)
end

-- The length of an array whose first key is there or that is marked; nil and what is wrong when it is none.
local function array_length(t)
  local count, largest = 0, 0
  for k in next, t do
    if type(k) ~= "number" then
      return nil, "an array has the key " .. name_of(k)
    end
    if k < 1 or k ~= floor(k) then return nil, "an array has the key " .. name_of(k) end
    count = count + 1
    if k > largest then largest = k end
  end
  if largest == count then return count end
  for i = 1, largest do
    if rawget(t, i) == nil then
      return nil, format("sparse array: element %d of %d is missing (json.null keeps a place)", i, largest)
    end
  end
end

local function put_array(t, n, depth)
  out:put "["
  for i = 1, n do
    if i > 1 then out:put "," end
    local why = put(rawget(t, i), depth)
    if why then
      trail[depth] = i
      return why
    end
  end
  out:put "]"
end

local function put_object(t, depth)
  local first = true
  out:put "{"
  for k, v in next, t do
    if type(k) ~= "string" then
      return format("key %s is a %s; the keys of a JSON object are strings", tostring(k), type(k))
    end
    if not first then out:put "," end
    first = false
    put_string(k)
    out:put ":"
    local why = put(v, depth)
    if why then
      trail[depth] = k
      return why
    end
  end
  out:put "}"
end

local function too_deep(t)
  for i = 1, DEPTH do
    if above[i] == t then return "the table contains itself" end
  end
  return "deeper than " .. DEPTH .. " levels"
end

local function put_table(t, depth)
  if depth > DEPTH then return too_deep(t) end
  above[depth] = t
  if rawget(t, 1) == nil and getmetatable(t) ~= Array then return put_object(t, depth) end
  local n, why = array_length(t)
  if not n then return why end
  return put_array(t, n, depth)
end

function put(v, depth)
  local kind = type(v)
  if kind == "string" then
    put_string(v)
  elseif kind == "number" then
    return put_number(v)
  elseif kind == "table" then
    return put_table(v, depth + 1)
  elseif kind == "boolean" then
    out:put(v and "true" or "false")
  elseif v == nil or v == M.null then
    out:put "null"
  elseif kind == "cdata" then
    return put_cdata(v)
  else
    return "cannot encode a " .. kind
  end
end

-- ".items[3].price" of the keys in trail, at most eight of them.
local function where()
  local text = ""
  for depth = 1, 8 do
    local k = trail[depth]
    if k == nil then break end
    text = text .. (type(k) == "number" and format("[%d]", k) or "." .. k:sub(1, 40))
  end
  return text ~= "" and " at " .. text or ""
end

-- string | nil, err
function M.encode(v)
  out:reset()
  local why = put(v, 0)
  if not why then
    local text = out:tostring()
    if #text > 1048576 then out:free() end
    return text
  end
  local text = why .. where()
  trail = {}
  return failure(text)
end

return M
