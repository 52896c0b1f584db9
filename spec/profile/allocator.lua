-- Six functions that allocate known shares, and what a profile of the heap says of them: a line of JSON
-- for spec/cli/shares_spec.lua.
--   mxrun -u mem:// spec/profile/allocator.lua [rounds] [every] [off]           off: without the JIT
if arg[3] == "off" then require("jit").off() end
local cjson, ffi = require "cjson", require "ffi"
local file = require "mx.pprof.file"

local rounds, every = tonumber(arg[1] or 3000), arg[2] or "64KB"
local keep = {}          -- luacheck: ignore keep
local text = '{"list":[1,2,3,{"a":"bcd"}],"n":4711}'

local function tables(i)
  for j = 1, 64 do keep[j] = { i, j, i + j } end
end

local made, filler = 0, ("x"):rep(400)
local function strings()
  for j = 1, 16 do
    made = made + 1             -- each is a new one, or it would be found and not made
    keep[j] = made .. filler
  end
end

local function json()
  for j = 1, 8 do keep[j] = cjson.decode(text) end
end

local doubles = ffi.typeof "double[8]"
local function cdata(i)
  for j = 1, 64 do keep[j] = doubles(i) end
end

local function closures(i)
  for j = 1, 48 do keep[j] = function() return i + j end end
end

local function coroutines()
  for j = 1, 4 do keep[j] = coroutine.create(print) end
end

local functions = { tables = tables, strings = strings, json = json, cdata = cdata, closures = closures, coroutines = coroutines }
local names = { "tables", "strings", "json", "cdata", "closures", "coroutines" }

-- What a call allocates once it is warm: with the collector stopped, that is by how much the heap grows.
local function bytes_of(f)
  for i = 1, 200 do f(i) end
  collectgarbage() collectgarbage "stop"
  local before = collectgarbage "count"
  for i = 1, 100 do f(1000 + i) end
  local grown = collectgarbage "count" - before
  collectgarbage "restart"
  return grown * 1024 / 100
end

local calls = { tables = 2, strings = 3, json = 1, cdata = 1, closures = 1, coroutines = 1 }
local expected, total = {}, 0
for _, name in ipairs(names) do
  expected[name] = bytes_of(functions[name]) * calls[name]
  total = total + expected[name]
end

-- What is held at the end: arrays that grew, and what a table holds of small ones.
local held = {}          -- luacheck: ignore held
local function hold()
  for i = 1, 40000 do
    local t = { i }
    for j = 2, 24 do t[j] = i * j end
    held[i] = t
  end
end

local path = os.tmpname()
mx.profile.start { "alloc", every_bytes = every }
for i = 1, rounds do
  for _, name in ipairs(names) do
    for _ = 1, calls[name] do functions[name](i) end
  end
end
collectgarbage()
local before = collectgarbage "count"
hold()
collectgarbage()
local holds = (collectgarbage "count" - before) * 1024
assert(mx.profile.stop(path))

local p = assert(file.read { path })
local number, found, lines = assert(p:type_called "alloc_space") - 1, {}, {}
local sum, inuse = 0, 0
local inuse_number = p:type_called "inuse_space" - 1
p:each({ lines = true }, function(stack, depth, values)
  if stack[1].name == "hold" then
    inuse = inuse + tonumber(values[inuse_number])
    return
  end
  sum = sum + tonumber(values[number])
  for i = 1, depth do
    local name = stack[i].name
    if functions[name] then
      found[name] = (found[name] or 0) + tonumber(values[number])
      lines[name] = lines[name] or {}
      lines[name][tostring(stack[i].line)] = true
      return
    end
  end
end)
os.remove(path)
local result = { total = total * rounds, sum = sum, shares = {}, held = holds, inuse = inuse }
for _, name in ipairs(names) do
  local at = {}
  for line in pairs(lines[name] or {}) do at[#at + 1] = tonumber(line) end
  table.sort(at)
  result.shares[name] = { expected = expected[name] / total, found = (found[name] or 0) / sum, lines = at,
                          defined = debug.getinfo(functions[name], "S").linedefined }
end
print(mx.json.encode(result))
