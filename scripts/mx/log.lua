-- One line of log to stderr, as logfmt or JSON; it never raises and never shows the password of a URL.
local ffi = require "ffi"
local err = require "mx.err"
local json = require "mx.json"

local type, next, tostring, pcall, format = type, next, tostring, pcall, string.format

ffi.cdef [[
typedef struct { int64_t sec; int64_t nsec; } mx_log_time;
int mx_log_clock(int clock, mx_log_time *t) __asm__("clock_gettime");
]]

local C = ffi.C
local M = { dropped = 0, worker = nil }    -- lines that could not be made; its number under a supervisor, in each line
local LEVELS = { debug = 1, info = 2, warn = 3, error = 4 }
local LONGEST = 8192
local FEWEST = 64              -- to how many bytes the values of a line that is too long are cut at least
local MOST = 1000              -- lines of one text a second
local as_json, threshold = false, LEVELS.info
local now = ffi.new "mx_log_time"

-- The text with *** for the password in every scheme://user:password@.
function M.redact(text)
  if not text:find("://", 1, true) then return text end
  local out, at = {}, 1
  while true do
    local first, last = text:find("%a[%w+.-]*://[^%s:/@]*:", at)
    if not first then break end
    local stop = text:find("%s", last + 1) or #text + 1
    local following = text:find("[,;|]%a[%w+.-]*://", last + 1)
    if following and following < stop then stop = following end
    local secret = text:sub(last + 1, stop - 1):match "^(.*)@"
    out[#out + 1] = text:sub(at, last)
    if secret then out[#out + 1] = "***" end
    at = last + 1 + (secret and #secret or 0)
  end
  out[#out + 1] = text:sub(at)
  return table.concat(out)
end

-- A line of the program itself, not of the log.
function M.complain(...) io.stderr:write(M.redact(table.concat { ... }), "\n") end

local second, second_text
local function time_text()
  ffi.C.mx_log_clock(0, now)
  local sec = tonumber(now.sec)
  if sec ~= second then second, second_text = sec, os.date("!%Y-%m-%dT%H:%M:%S", sec) end
  return format("%s.%03dZ", second_text, tonumber(now.nsec) / 1e6 - 0.5)
end

-- At most n bytes of the text, never half a UTF-8 character.
local function cut(text, n)
  if #text <= n then return text end
  while n > 0 and (text:byte(n + 1) or 0) >= 0x80 and text:byte(n + 1) < 0xC0 do n = n - 1 end
  return text:sub(1, n) .. "..."
end

-- A value that both formats can print: redacted, without cycles, errors as their text.
local function plain(v, depth)
  local kind = type(v)
  if kind == "string" then return M.redact(v) end
  if kind == "number" or kind == "boolean" or v == json.null then return v end
  if kind == "cdata" then return ffi.istype("int64_t", v) and v or ffi.istype("uint64_t", v) and v or tostring(v) end
  local mt = kind == "table" and getmetatable(v)
  if kind ~= "table" or depth > 8 or type(mt) == "table" and mt.__tostring then return M.redact(err.tostring(v)) end
  local t = json.is_array(v) and json.array() or {}
  for k, x in next, v do
    t[v[1] == nil and tostring(k) or k] = (k == "password" or k == "secret") and "***" or plain(x, depth + 1)
  end
  return t
end

local function escape(c)
  if c == "\n" then return "\\n" elseif c == "\t" then return "\\t" elseif c == "\r" then return "\\r" end
  return format("\\x%02x", c:byte())
end

local function visible(text)
  return (text:gsub("[%z\1-\31\127]", escape))
end

local function json_value(v, limit)
  if type(v) == "string" then return json.encode(cut(v, limit)) end
  local text = json.encode(v)
  if text and #text <= limit then return text end
  return json.encode(cut(text or err.tostring(v), limit))
end

local function logfmt_value(v, limit)
  local text = type(v) == "string" and v or json.encode(v) or err.tostring(v)
  text = cut(text, limit)
  if text ~= "" and not text:find '[%s%c"=\\]' then return text end
  return '"' .. visible((text:gsub('[\\"]', "\\%0"))) .. '"'
end

-- Names, in order, and values of the fields; those of the context where the fields do not say otherwise.
local function prepared(fields, context)
  if fields == nil then fields = {} end
  if type(fields) ~= "table" or err.is(fields) then fields = { fields = fields } end
  local names, values = {}, {}
  for k, v in next, fields do
    local name = cut(M.redact(tostring(k)), 128)
    if values[name] == nil then names[#names + 1] = name end
    values[name] = (name == "password" or name == "secret") and "***" or plain(v, 0)
  end
  for name, v in next, context or {} do
    if values[name] == nil then names[#names + 1], values[name] = name, plain(v, 0) end
  end
  table.sort(names)
  if M.worker and not values.worker then
    table.insert(names, 1, "worker")
    values.worker = M.worker
  end
  return names, values
end

local RESERVED = { time = true, level = true, message = true }

local function json_line(time, level, text, names, values, limit)
  local parts = { '{"time":"' .. time .. '"', '"level":"' .. level .. '"', '"message":' .. json_value(text, limit) }
  local size = #parts[3] + 64
  for _, name in ipairs(names) do
    local key = RESERVED[name] and "field." .. name or name
    local part = json.encode(key) .. ":" .. json_value(values[name], limit)
    size = size + #part + 1
    if limit == FEWEST and size > LONGEST - 32 then break end
    parts[#parts + 1] = part
  end
  if limit < LONGEST then parts[#parts + 1] = '"cut":true' end
  return table.concat(parts, ",") .. "}\n"
end

local function logfmt_line(time, level, text, names, values)
  local parts = { time, format("%-5s", level), visible(text) }
  for _, name in ipairs(names) do
    parts[#parts + 1] = name:gsub('[%s%c="]', "_") .. "=" .. logfmt_value(values[name], LONGEST)
  end
  local line = table.concat(parts, " ")
  if #line >= LONGEST then line = cut(line, LONGEST - 10) .. "[cut]" end
  return line .. "\n"
end

local function line_of(level, text, fields, context)
  local names, values = prepared(fields, context)
  local time = time_text()
  text = M.redact(err.tostring(text))
  if not as_json then return logfmt_line(time, level, text, names, values) end
  local limit = LONGEST
  while true do
    local line = json_line(time, level, text, names, values, limit)
    if #line <= LONGEST or limit <= FEWEST then return line end
    limit = limit / 2
  end
end

-- Where lines go; a spec may put its own function here.
function M.write(line) C.mx_log_write(line, #line) end

local window, counts = 0, {}            -- when the second began; lines of it by text

-- Says how many lines of each text the last second had too many.
local function sum_up()
  local before = counts
  counts = {}
  for text, n in next, before do
    if n > MOST then M.write(line_of("warn", "more lines of the same text were left out", { text = text, count = n - MOST })) end
  end
end

local function is_too_many(text)
  local at = C.mx_now()
  if at - window >= 1 then
    window = at
    sum_up()
  end
  local key = type(text) == "string" and text or "(no text)"
  counts[key] = (counts[key] or 0) + 1
  return counts[key] > MOST
end

-- What the handler that logs is about, as fields; another module knows (serve.lua).
function M.context() end

local function emit(level, text, fields)
  if is_too_many(text) then return end
  M.write(line_of(level, text, fields, M.context()))
end

local function logger(level)
  local weight = LEVELS[level]
  return function(text, fields)
    if weight < threshold then return end
    if not pcall(emit, level, text, fields) then M.dropped = M.dropped + 1 end
  end
end

M.debug, M.info, M.warn, M.error = logger "debug", logger "info", logger "warn", logger "error"

-- { format = "text" | "json", level = "debug" | "info" | "warn" | "error" }; what is left out stays.
function M.configure(options)
  local form, level = options.format, options.level
  if form ~= nil and form ~= "text" and form ~= "json" then
    err.raise(2, "log.configure: format must be text or json, got " .. tostring(form))
  end
  if level ~= nil and not LEVELS[level] then
    err.raise(2, "log.configure: level must be debug, info, warn or error, got " .. tostring(level))
  end
  if form then as_json = form == "json" end
  if level then threshold = LEVELS[level] end
end

return M
