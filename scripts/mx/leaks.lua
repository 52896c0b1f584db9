-- What Lua holds by line of the source, and what grew between two moments.
local C = require "ffi".C
local file, unit, top = require "mx.pprof.file", require "mx.pprof.unit", require "mx.pprof.top"
local profile, memory, check = require "mx.profile", require "mx.memory", require "mx.check"

local M = {}

local OBJECTS, BYTES = 2, 3             -- of the heap's four values, from 0: what is held
local SHOWN = 10
local OWNERS = { "lua", "messages", "unconfirmed", "buffers", "deliveries", "receipts", "broker", "tls", "profiler", "pools", "other" }

local bytes_text = unit.each "bytes"
local function signed(n, text) return (n > 0 and "+" or "") .. text end

-- The innermost line of the script; without one the innermost of Lua, or whatever there is.
local function line_of(stack, depth)
  local lua
  for i = 1, depth do
    local f = stack[i]
    if f.line > 0 then
      if f.own == nil then f.own = check.is_own("@" .. f.file) and true or false end
      if not f.own then return f end
      lua = lua or f
    end
  end
  return lua or stack[1]
end

local function gather(p)
  local lines, list = {}, {}
  p:each({ lines = true, at_once = true }, function(stack, depth, values)
    local bytes, f = tonumber(values[BYTES]), line_of(stack, depth)
    if bytes == 0 or not f then return end
    local key = f.file .. ":" .. f.line
    local x = lines[key]
    if not x then
      x = { file = f.file, line = f.line, func = f.name, bytes = 0, objects = 0 }
      lines[key], list[#list + 1] = x, x
    end
    x.bytes, x.objects = x.bytes + bytes, x.objects + tonumber(values[OBJECTS])
  end)
  return list, lines
end

local function by_size(list)
  table.sort(list, function(a, b)
    if a.bytes ~= b.bytes then return a.bytes > b.bytes end
    return a.file .. ":" .. a.line < b.file .. ":" .. b.line
  end)
  return list
end

local function called(x) return top.called { name = x.func, file = x.file, line = x.line } end

-- The first rows as text; sign: of what they say.
local function rows(list, sign)
  local text = {}
  for i = 1, math.min(#list, SHOWN) do
    local x = list[i]
    text[i] = ("%10s %8s  %s\n"):format(sign(x.bytes, bytes_text(x.bytes)), sign(x.objects, ("%d"):format(x.objects)), called(x))
  end
  if #list > SHOWN then text[#text + 1] = ("%21s%d more lines\n"):format("", #list - SHOWN) end
  return table.concat(text)
end

local function plain(_, text) return text end

local List = { __tostring = function(list) return "     bytes  objects  line\n" .. rows(list, plain) end }

local function owners_text(owners)
  local words = {}
  for _, name in ipairs(OWNERS) do
    if owners[name] ~= 0 then words[#words + 1] = ("%s %s"):format(name, signed(owners[name], bytes_text(owners[name]))) end
  end
  return #words > 0 and table.concat(words, ", ") or "nothing"
end

local Difference = { __tostring = function(d)
  return ("grew in %.4gs: %s\n    growth  objects  line\n"):format(d.seconds, owners_text(d.owners)) .. rows(d, signed)
end }

local Snapshot = {}
Snapshot.__index = Snapshot
function Snapshot:__tostring()
  local m = self.memory
  return ("held by Lua: %s in %d objects; all: %s\n"):format(bytes_text(m.lua), m.objects, bytes_text(m.total)) .. tostring(self.lines)
end

-- What is held now, once all garbage is gone. From the first one on the heap is sampled: what is older has no line.
function M.snapshot()
  profile.watch_heap()
  collectgarbage()
  collectgarbage()                      -- what the first one's finalizers let go
  local s = { at = C.mx_now(), memory = memory.stats() }
  s.lines, s.by_line = gather(file.of(C.mx_profile_copy(C.MX_HEAP)))
  setmetatable(by_size(s.lines), List)
  return setmetatable(s, Snapshot)
end

-- From this one to the later one: lines that hold more or less, what grew most first. owners: the same of the whole account.
function Snapshot:diff(later)
  if getmetatable(later) ~= Snapshot then check.fail "snapshot:diff: expected a later snapshot" end
  local list = { seconds = later.at - self.at, owners = {} }
  local function add(x, before, after)
    local bytes, objects = after.bytes - before.bytes, after.objects - before.objects
    if bytes ~= 0 then list[#list + 1] = { file = x.file, line = x.line, func = x.func, bytes = bytes, objects = objects } end
  end
  local none = { bytes = 0, objects = 0 }
  for key, x in pairs(later.by_line) do add(x, self.by_line[key] or none, x) end
  for key, x in pairs(self.by_line) do
    if not later.by_line[key] then add(x, x, none) end
  end
  for _, name in ipairs(OWNERS) do list.owners[name] = later.memory[name] - self.memory[name] end
  return setmetatable(by_size(list), Difference)
end

-- The lines that hold most now.
function M.top(n)
  n = n and check.arg(1, "mx.memory.top", n, "integer>0") or SHOWN
  local lines = M.snapshot().lines
  for i = #lines, n + 1, -1 do lines[i] = nil end
  return lines
end

return M
