-- Five functions that take known shares of the processor, one in C and one in the collector, and what a profile says of them:
-- a line of JSON for spec/cli/shares_spec.lua.      mxrun -u mem:// spec/profile/processor.lua [seconds] [off]
if arg[2] == "off" then require("jit").off() end
local cjson = require "cjson"
local file = require "mx.pprof.file"

local seconds = tonumber(arg[1] or 4)

local function arithmetic()
  local x = 0
  for i = 1, 400000 do x = x + i % 7 end
  return x > 0
end

local function branches()
  local n = 0
  for i = 1, 200000 do
    if i % 3 == 0 then n = n + 1 elseif i % 5 == 0 then n = n - 1 end
  end
  return n ~= 0
end

local words = {}
for i = 1, 200 do words[i] = "word" .. i end
local function texts()
  local n = 0
  for i = 1, 2000 do n = n + #(words[i % 200 + 1]:upper()) + #words[i % 200 + 1]:rep(3) end
  return n > 0
end

local document = { list = {} }
for i = 1, 300 do document.list[i] = { id = i, name = "name " .. i, price = i * 1.25 } end
local text = cjson.encode(document)
local function json()
  for _ = 1, 3 do cjson.encode(cjson.decode(text)) end
  return true
end

local garbage = {}       -- luacheck: ignore garbage
for i = 1, 20000 do garbage[i] = { i } end
local function collector()
  collectgarbage()
  return true
end

local functions = { arithmetic = arithmetic, branches = branches, texts = texts, json = json, collector = collector }
local names = { "arithmetic", "branches", "texts", "json", "collector" }

local function seconds_of(name, count)
  local from = os.clock()
  for _ = 1, count do assert(functions[name]()) end
  return (os.clock() - from) / count
end

-- How often each is called in a round at the mean, for about as much of each, and what that took.
local calls, spent = {}, {}
for _, name in ipairs(names) do
  seconds_of(name, 20)
  calls[name] = math.max(1, math.floor(0.004 / seconds_of(name, 20)))
  spent[name] = 0
end

mx.profile.start { "cpu", hz = 250 }
local until_, path = os.clock() + seconds, os.tmpname()
while os.clock() < until_ do
  for _, name in ipairs(names) do
    local from = os.clock()
    seconds_of(name, math.random(2 * calls[name]))       -- not in step with the ticks of the kernel
    spent[name] = spent[name] + os.clock() - from
  end
  mx.sleep(0)           -- a turn has its limit
end
assert(mx.profile.stop(path))

local p = assert(file.read { path })
local number, found, sum, total = assert(p:type_called "cpu") - 1, {}, 0, 0
p:each({}, function(stack, depth, values)
  local value = tonumber(values[number])
  sum = sum + value
  for i = 1, depth do
    if functions[stack[i].name] then
      found[stack[i].name] = (found[stack[i].name] or 0) + value
      return
    end
  end
end)
os.remove(path)
for _, name in ipairs(names) do total = total + spent[name] end
local result = { samples = sum / 4e6, total = total, sum = sum / 1e9, shares = {} }
for _, name in ipairs(names) do result.shares[name] = { expected = spent[name] / total, found = (found[name] or 0) / sum } end
print(mx.json.encode(result))
