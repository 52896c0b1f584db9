-- What batches cost and gain.
--   mxrun -u mem:// spec/bench/batch.lua none|policy [MESSAGES]      batches of 100 with and without a policy
--   mxrun -u URL spec/bench/batch.lua single|side|batch [MESSAGES]   JSON decoded, an order out of each published and confirmed
-- Prints one line of JSON.
local row, total = arg[1], tonumber(arg[2] or 1e6)
local done, seen = mx.chan(1), 0

local function count(n)
  seen = seen + n
  if seen == total then done:put(true) end
end

local function fill(body)
  assert(mx.queue("bench.in", { durable = false }))
  assert(mx.queue("bench.out", { durable = false }))
  mx.purge "bench.in"
  mx.purge "bench.out"
  local p = mx.publisher { persistent = false }
  for i = 1, total do assert(p:publish_async("bench.in", body(i))) end
  assert(p:close())
end

local function policy(b)
  if b.memory > 0.8 then return b.count >= 50 end
  return b.count >= 500 or 0.1 - b.age
end

local p = mx.publisher { persistent = false }
local function order_of(m)
  local data, sum = m.data, 0
  for _, line in ipairs(data.lines) do sum = sum + line.n end
  return { id = data.id, total = data.total, n = sum }
end

local function one(m)
  assert(p:publish("bench.out", order_of(m)))
  count(1)
end

local function many(batch)
  local receipts = {}
  for i, m in ipairs(batch) do receipts[i] = assert(p:publish_async("bench.out", order_of(m))) end
  assert(mx.wait_all(receipts))
  count(#batch)
end

local function gathered(o) return function() return mx.consume_batch("bench.in", o, function(b) count(#b) end) end end
local ROWS = {
  none = gathered { size = 100, prefetch = 1000 }, policy = gathered { size = 100, prefetch = 1000, policy = policy },
  single = function() return mx.consume("bench.in", { prefetch = 200 }, one) end,
  side = function() return mx.consume("bench.in", { prefetch = 200, concurrency = 100 }, one) end,
  batch = function() return mx.consume_batch("bench.in", { size = 100, prefetch = 200 }, many) end,
}
local start = ROWS[row] or error("batch.lua: no row " .. tostring(row), 0)

local text = '{"id":%d,"country":"PL","total":19.95,"lines":[{"sku":"a-1","n":2},{"sku":"b-2","n":1}]}'
local plain = ("x"):rep(64)
fill(mx.config.json and function(i) return text:format(i) end or function() return plain end)
local from, cpu = mx.now(), os.clock()
local consumer = assert(start())
assert(done:get(300), "not all messages came")
print(('{"row":"%s","rate":%.0f,"cpu_ns":%.1f}'):format(row, total / (mx.now() - from), (os.clock() - cpu) / total * 1e9))
consumer:stop()
mx.purge "bench.out"
mx.stop()
