-- Whether the account of memory is what the kernel says: mixed work, and how what it grew by compares with what RSS grew by.
--   mxrun -u URL spec/bench/account.lua        prints a table, exits 1 when it is more than 5 % off
--
-- In use: mx.memory.stats().total. Retained: what is resident and in use by nobody, after a peak or between blocks.
local bad = 0
local function look()
  collectgarbage()
  collectgarbage()
  mx.sleep(0.05)
  return mx.memory.stats()
end

local row = "%-42s %8s %8s %8s %9s %8s"
print(row:format("MB more than at the start", "in use", "retained", "RSS", "both/RSS", "peak RSS"))
local start, peak
local function compare(what)
  local m = look()
  local function more(name) return (m[name] - start[name]) / 1e6 end
  local share = (more "total" + more "retained") / more "rss"
  local off = math.abs(share - 1) > 0.05
  bad, peak = bad + (off and 1 or 0), math.max(peak or 0, more "rss")
  local function mb(x) return ("%.1f"):format(x) end
  print(row:format(what, mb(more "total"), mb(more "retained"), mb(more "rss"), ("%.3f%s"):format(share, off and " !" or ""), mb(peak)))
  io.stdout:flush()
end

local q = "account." .. mx.now()
assert(mx.queue(q, { durable = false }))
local p = mx.publisher { max_in_flight = 1000 }
local function publish(n, size)
  for i = 1, n do assert(p:publish_async(q, ("%08d"):format(i) .. ("x"):rep(size - 8))) end
  while mx.stats().publish.in_flight > 0 do mx.sleep(0.01) end
end
publish(1000, 100)                      -- all that is made once is there
mx.purge(q)
start = look()

local kept, tables = {}, {}
for i = 1, 300000 do tables[i] = { i, tostring(i) } end
compare("300,000 tables of Lua")
publish(20000, 2000)
local c = assert(mx.consume(q, { manual = true, prefetch = 20000, concurrency = 20000 }, function(m) kept[#kept + 1] = m end))
while #kept < 20000 do mx.sleep(0.01) end
compare("and 20,000 deliveries of 2 KB")
for _, m in ipairs(kept) do m:ack() end
kept = {}
mx.sleep(0.2)
compare("the deliveries are settled")
for i = 1, #tables, 2 do tables[i] = false end
compare("half of the tables are gone")
for i = 2, #tables, 2 do tables[i] = false end
for i = 1, 100 do
  local texts = {}
  for k = 1, 500 do texts[k] = mx.json.encode { a = k, b = ("y"):rep(k + i) } end
  assert(#table.concat(texts) > 0)
end
publish(20000, 300)
while #kept < 20000 do mx.sleep(0.01) end
for _, m in ipairs(kept) do m:ack() end
compare("the other half too, JSON, small messages")
kept = nil
assert(c:stop())
mx.delete_queue(q)
mx.sleep(21)                            -- the pools shrink when nobody asks them for 10 s
compare("at rest")
os.exit(bad > 0 and 1 or 0)
