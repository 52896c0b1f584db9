-- ngx.re over PCRE, which each Debian has since libselinux needs it.
local ffi = require "ffi"
local bit = require "bit"
local bor = bit.bor

ffi.cdef [[
typedef struct pcre2_code pcre2_code;
typedef struct pcre2_match_data pcre2_match_data;
pcre2_code *pcre2_compile_8(const char *pattern, size_t n, uint32_t options, int *error, size_t *offset, void *context);
void pcre2_code_free_8(pcre2_code *code);
int pcre2_jit_compile_8(pcre2_code *code, uint32_t options);
int pcre2_pattern_info_8(const pcre2_code *code, uint32_t what, void *where);
pcre2_match_data *pcre2_match_data_create_from_pattern_8(const pcre2_code *code, void *context);
void pcre2_match_data_free_8(pcre2_match_data *data);
int pcre2_match_8(const pcre2_code *code, const char *subject, size_t n, size_t start, uint32_t options, pcre2_match_data *data,
                  void *context);
size_t *pcre2_get_ovector_pointer_8(pcre2_match_data *data);
int pcre2_get_error_message_8(int code, char *to, size_t n);
]]

local M = {}
local OPTIONS = { i = 0x8, m = 0x400, s = 0x20, x = 0x80, u = 0x80000, a = 0x80000000, D = 0x40, U = 0x40080000 }
local JIT_COMPLETE, NAME_COUNT, NAME_ENTRY_SIZE, NAME_TABLE, CAPTURE_COUNT = 1, 17, 18, 19, 4
local NO_MATCH, UNSET = -1, -1ULL
local MOST = 1000                       -- compiled expressions that are kept

local library
local function pcre()
  if library then return library end
  local ok, found = pcall(ffi.load, "libpcre2-8.so.0")
  if not ok then error("ngx.re needs PCRE: apt-get install libpcre2-8-0", 0) end
  library = found
  return library
end

local function message(code)
  local text = ffi.new "char[256]"
  pcre().pcre2_get_error_message_8(code, text, 256)
  return ffi.string(text)
end

-- name → the numbers of its groups
local function names_of(code)
  local count, size, at = ffi.new "uint32_t[1]", ffi.new "uint32_t[1]", ffi.new "const uint8_t *[1]"
  pcre().pcre2_pattern_info_8(code, NAME_COUNT, count)
  pcre().pcre2_pattern_info_8(code, NAME_ENTRY_SIZE, size)
  pcre().pcre2_pattern_info_8(code, NAME_TABLE, at)
  local names = {}
  for i = 0, count[0] - 1 do
    local entry = at[0] + i * size[0]
    local name = ffi.string(entry + 2)
    names[name] = names[name] or {}
    table.insert(names[name], entry[0] * 256 + entry[1])
  end
  return names
end

local kept, count = {}, 0

-- { code, data, groups, names } | nil, err
local function compile(regex, options)
  options = options or ""
  local key = options .. "\0" .. regex
  if kept[key] then return kept[key] end
  local flags = 0
  for letter in options:gmatch "[^joOd]" do
    if not OPTIONS[letter] then error(("unknown flag \"%s\" (flags \"%s\")"):format(letter, options), 3) end
    flags = bor(flags, OPTIONS[letter])
  end
  local lib, code, offset = pcre(), ffi.new "int[1]", ffi.new "size_t[1]"
  local p = lib.pcre2_compile_8(regex, #regex, flags % 2 ^ 32, code, offset, nil)
  if p == nil then return nil, ("%s at %d of \"%s\""):format(message(code[0]), tonumber(offset[0]), regex) end
  p = ffi.gc(p, lib.pcre2_code_free_8)
  if options:find "j" then lib.pcre2_jit_compile_8(p, JIT_COMPLETE) end
  local groups = ffi.new "uint32_t[1]"
  lib.pcre2_pattern_info_8(p, CAPTURE_COUNT, groups)
  local data = ffi.gc(lib.pcre2_match_data_create_from_pattern_8(p, nil), lib.pcre2_match_data_free_8)
  if count >= MOST then kept, count = {}, 0 end
  kept[key], count = { code = p, data = data, groups = groups[0], names = names_of(p) }, count + 1
  return kept[key]
end

-- The ovector of a match behind the first `from` bytes | nil when there is none | nil, err
local function execute(re, subject, from)
  if from > #subject then return nil end
  local n = pcre().pcre2_match_8(re.code, subject, #subject, from, 0, re.data, nil)
  if n == NO_MATCH then return nil end
  if n < 0 then return nil, message(n) end
  return pcre().pcre2_get_ovector_pointer_8(re.data)
end

local function captures(re, subject, v, to)
  to = to or {}
  for i = 0, re.groups do
    local from = v[2 * i]
    to[i] = from ~= UNSET and subject:sub(tonumber(from) + 1, tonumber(v[2 * i + 1])) or false
  end
  for name, numbers in pairs(re.names) do
    for _, n in ipairs(numbers) do to[name] = to[n] or to[name] or false end
  end
  return to
end

local function arguments(subject, regex) return tostring(subject), tostring(regex) end

function M.match(subject, regex, options, context, result)
  subject, regex = arguments(subject, regex)
  local re, e = compile(regex, options)
  if not re then return nil, e end
  local v
  v, e = execute(re, subject, context and context.pos and context.pos - 1 or 0)
  if not v then return nil, e end
  if context then context.pos = tonumber(v[1]) + 1 end
  return captures(re, subject, v, result)
end

function M.find(subject, regex, options, context, nth)
  subject, regex = arguments(subject, regex)
  local re, e = compile(regex, options)
  if not re then return nil, nil, e end
  local v
  v, e = execute(re, subject, context and context.pos and context.pos - 1 or 0)
  if not v then return nil, nil, e end
  if context then context.pos = tonumber(v[1]) + 1 end
  nth = nth or 0
  if nth > re.groups or v[2 * nth] == UNSET then return nil, nil end
  return tonumber(v[2 * nth]) + 1, tonumber(v[2 * nth + 1])
end

-- Calls f(v) for each match, from left to right, until it answers true. nil | err
local function each(re, subject, f)
  local from = 0
  while true do
    local v, e = execute(re, subject, from)
    if not v then return e end
    local first, last = tonumber(v[0]), tonumber(v[1])
    if f(v, first, last) then return nil end
    from = last > first and last or last + 1
  end
end

function M.gmatch(subject, regex, options)
  subject, regex = arguments(subject, regex)
  local re, e = compile(regex, options)
  if not re then return nil, e end
  local from = 0
  return function()
    local v, why = execute(re, subject, from)
    if not v then
      from = #subject + 1
      return nil, why
    end
    local first, last = tonumber(v[0]), tonumber(v[1])
    from = last > first and last or last + 1
    return captures(re, subject, v)
  end
end

-- "$1", "${1}", "$0", "$$" in a template; or what a function makes of the captures.
local function replacement(replace, m)
  if type(replace) == "function" then return tostring(replace(m)) end
  return (replace:gsub("%$(%$?)({?)(%d*)(}?)", function(dollar, open, digits, close)
    if dollar ~= "" then return "$" .. open .. digits .. close end
    return (m[tonumber(digits)] or "") .. (open == "" and close or "")
  end))
end

local function substitute(subject, regex, replace, options, most)
  subject, regex = arguments(subject, regex)
  local re, e = compile(regex, options)
  if not re then return nil, nil, e end
  if type(replace) ~= "function" then replace = tostring(replace) end
  local out, at, n = {}, 0, 0
  e = each(re, subject, function(v, first, last)
    out[#out + 1] = subject:sub(at + 1, first)
    out[#out + 1] = replacement(replace, captures(re, subject, v))
    at, n = last, n + 1
    return n == most
  end)
  if e then return nil, nil, e end
  out[#out + 1] = subject:sub(at + 1)
  return table.concat(out), n
end

function M.sub(subject, regex, replace, options) return substitute(subject, regex, replace, options, 1) end
function M.gsub(subject, regex, replace, options) return substitute(subject, regex, replace, options) end

return M
