-- Values for who looks at them: as text, sorted, bounded, with units; or plain, for JSON. Neither tells a secret.
local ffi = require "ffi"
local err, log, json = require "mx.err", require "mx.log", require "mx.json"
local type, tostring, rawget, getmetatable, next = type, tostring, rawget, getmetatable, next
local format = string.format

local M = {}
local DEPTH, ITEMS, TEXT = 5, 100, 1000        -- of tables within tables; shown of one table; bytes of a text in a table
local NODES = 5000                              -- values in all
local KEYS = 10000                              -- of one table, that are looked at
local LONGEST = 64 * 1024                       -- bytes of a text that stands alone

-- Units ---------------------------------------------------------------------------------------------------------------

local function scaled(n, units, step)
  local i = 1
  while math.abs(n) >= step and units[i + 1] do n, i = n / step, i + 1 end
  return format(math.abs(n) < 100 and n % 1 ~= 0 and "%.3g %s" or "%.0f %s", n, units[i])
end

function M.bytes(n) return scaled(n, { "B", "KB", "MB", "GB", "TB" }, 1024) end

function M.seconds(n)
  if n == 0 then return "0 s" end
  if math.abs(n) < 1 then return scaled(n * 1e6, { "us", "ms" }, 1000) end
  if n < 120 then return format("%.3g s", n) end
  if n < 7200 then return format("%.0f min", n / 60) end
  return format("%.1f h", n / 3600)
end

-- 12345.6 as 12,346; what is small keeps its fraction.
function M.count(n)
  if math.abs(n) < 100 and n % 1 ~= 0 then return format("%.3g", n) end
  local text = format("%.0f", n)
  local sign, digits = text:match "^(%-?)(%d+)$"
  return digits and sign .. digits:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "") or text
end

local SECONDS = { p50 = 1, p90 = 1, p95 = 1, p99 = 1, p999 = 1, lag_p99 = 1, pause_total = 1, pause_p50 = 1, pause_p99 = 1, pause_max = 1,
  uptime = 1, duration = 1 }
local NO_BYTES = { used = 1, objects = 1, coroutines = 1 }

local function is_memory(t) return type(rawget(t, "rss")) == "number" and rawget(t, "lua") ~= nil end

-- A number of the table t under the key.
local function with_unit(t, key, n)
  if SECONDS[key] or key == "max" and rawget(t, "p99") then return M.seconds(n) end
  if key == "rate" then return M.count(n) .. "/s" end
  if not NO_BYTES[key] and type(key) == "string" and is_memory(t) then return M.bytes(n) end
end

-- Values --------------------------------------------------------------------------------------------------------------

-- What stands under such a name is nobody's business.
local function is_secret(key)
  if type(key) ~= "string" then return false end
  local name = key:lower()
  return name:find "passw" or name:find "secret" or name:find "token"
end

local function escape(c) return c == "\n" and "\\n" or c == "\t" and "\\t" or c == "\r" and "\\r" or format("\\x%02x", c:byte()) end

-- Without what a terminal would take for a command.
function M.visible(text) return (text:gsub("[%z\1-\8\11-\31\127]", escape)) end

local function quoted(text, most)
  local cut = #text > most and format("... (%d bytes)", #text) or ""
  text = log.redact(text:sub(1, most))
  return '"' .. text:gsub('[\\"]', "\\%0"):gsub("[%z\1-\31\127]", escape) .. '"' .. cut
end

local function number(n)
  if n % 1 == 0 and math.abs(n) < 2 ^ 53 then return format("%.0f", n) end
  return format("%.7g", n)
end

local function func(f)
  local info = debug.getinfo(f, "S")
  if info.what == "C" then return "function (built in)" end
  return format("function %s:%d", info.short_src, info.linedefined)
end

local function simple(v, most)
  local kind = type(v)
  if kind == "string" then return quoted(v, most) end
  if kind == "number" then return number(v) end
  if kind == "function" then return func(v) end
  if v == json.null then return "null" end
  if kind == "nil" or kind == "boolean" then return tostring(v) end
  local text = err.tostring(v)
  return log.redact(M.visible(#text > most and text:sub(1, most) .. "..." or text))
end

-- The text of a table that knows how to say what it is, or nil.
local function own_text(t, most)
  local mt = getmetatable(t)
  if type(mt) ~= "table" or rawget(mt, "__tostring") == nil then return nil end
  local text = err.tostring(t)
  if err.is(t) and rawget(t, "code") then text = format("%s (%s)", text, err.tostring(rawget(t, "code"))) end
  return log.redact(M.visible(#text > most and text:sub(1, most) .. "..." or text))
end

local RANK = { number = 1, string = 2 }
local function before(a, b)
  local ra, rb = RANK[type(a)] or 3, RANK[type(b)] or 3
  if ra ~= rb then return ra < rb end
  if ra == 3 then return err.tostring(a) < err.tostring(b) end
  return a < b
end

-- The keys in order, how many are left out, and whether there may be even more.
local function keys_of(t)
  local keys, n, own = {}, 0, getmetatable(t) ~= nil
  for k in next, t do
    if not (own and k == "generation") then                     -- the runtime's note of who made it
      n = n + 1
      if n > KEYS then break end
      keys[n] = k
    end
  end
  table.sort(keys, before)
  for i = ITEMS + 1, #keys do keys[i] = nil end
  return keys, n - #keys, n > KEYS
end

local function key_text(k)
  if type(k) == "string" and k:find "^[%a_][%w_]*$" then return k end
  return "[" .. simple(k, 100) .. "]"
end

local show

local function entries(t, state, depth, indent)
  local keys, left, more = keys_of(t)
  local list, place = {}, 1
  for i, k in ipairs(keys) do
    if state.nodes <= 0 then
      left = left + #keys - i + 1
      break
    end
    local v = rawget(t, k)
    local text = is_secret(k) and '"***"' or type(v) == "number" and with_unit(t, k, v) or show(v, state, depth + 1, indent + 2)
    if k == place then place = place + 1 else text = key_text(k) .. " = " .. text end
    list[#list + 1] = text
  end
  if left > 0 then list[#list + 1] = format("... %s%d more", more and "at least " or "", left) end
  return list
end

local function layout(list, indent, width)
  if #list == 0 then return "{}" end
  local line = "{ " .. table.concat(list, ", ") .. " }"
  if #line + indent <= width and not line:find("\n", 1, true) then return line end
  local pad = (" "):rep(indent + 2)
  return "{\n" .. pad .. table.concat(list, ",\n" .. pad) .. "\n" .. (" "):rep(indent) .. "}"
end

function show(v, state, depth, indent)
  state.nodes = state.nodes - 1
  if type(v) ~= "table" then return simple(v, TEXT) end
  local text = own_text(v, TEXT)
  if text then return text end
  if state.above[v] then return "(itself, further out)" end
  if depth > DEPTH then return next(v) == nil and "{}" or "{...}" end
  state.above[v] = true
  text = layout(entries(v, state, depth, indent), indent, state.width)
  state.above[v] = nil
  return text
end

-- The value as text, in lines of about so many columns.
function M.text(v, width)
  if type(v) ~= "table" then return simple(v, LONGEST) end
  return own_text(v, LONGEST) or show(v, { nodes = NODES, above = {}, width = width or 80 }, 1, 0)
end

-- JSON ------------------------------------------------------------------------------------------------------------------

local function plain(v, state, depth)
  local kind = type(v)
  state.nodes = state.nodes - 1
  if state.nodes < 0 then return "..." end
  if kind == "string" then return log.redact(v) end
  if kind == "number" then return v == v and math.abs(v) ~= math.huge and v or tostring(v) end
  if kind == "nil" or kind == "boolean" or v == json.null then return v end
  if kind == "cdata" and (ffi.istype("int64_t", v) or ffi.istype("uint64_t", v)) then return v end
  if kind ~= "table" then return simple(v, TEXT) end
  local text = own_text(v, LONGEST)
  if text then return text end
  if state.above[v] or depth > 32 then return "..." end
  state.above[v] = true
  local to, i = json.is_array(v) and json.array() or {}, 1
  while rawget(v, i) ~= nil and state.nodes > 0 do
    to[i] = plain(rawget(v, i), state, depth + 1)
    i = i + 1
  end
  for k, x in next, i == 1 and v or {} do
    if state.nodes < 0 then break end
    to[log.redact(type(k) == "string" and k or simple(k, 100))] = is_secret(k) and "***" or plain(x, state, depth + 1)
  end
  state.above[v] = nil
  return to
end

-- What JSON can say of the value: of a table with [1] its list; "..." for what is too much, or within itself.
function M.plain(v) return plain(v, { nodes = 4 * KEYS, above = {} }, 1) end

-- Tables of text ----------------------------------------------------------------------------------------------------------

-- Rows of texts in columns, the first to the left and the others to the right; the first row is the heading.
function M.columns(rows)
  local widths, lines = {}, {}
  for _, row in ipairs(rows) do
    for i, text in ipairs(row) do widths[i] = math.max(widths[i] or 0, #text) end
  end
  for n, row in ipairs(rows) do
    local parts = {}
    for i, text in ipairs(row) do
      local pad = (" "):rep(widths[i] - #text)
      parts[i] = i == 1 and text .. pad or pad .. text
    end
    lines[n] = table.concat(parts, "  "):gsub("%s+$", "")
  end
  return table.concat(lines, "\n")
end

M.percent = function(share) return format("%.0f %%", share * 100) end

return M
