-- Memory by kind of work on the embedded broker: producers, consumers and a size of messages, each of which is another text.
--   mxrun -u mem:// spec/bench/workload.lua NAME PRODUCERS CONSUMERS BYTES [MESSAGES]      prints a row of a table
local name, producers, consumers, size = arg[1], tonumber(arg[2]), tonumber(arg[3]), tonumber(arg[4])
local each = math.floor(tonumber(arg[5] or os.getenv "MESSAGES" or 1e6) / producers)
local total = each * producers

-- Without consumers messages go to an exchange that no queue is bound to.
mx.topology { queues = { work = { durable = false } }, exchanges = { nowhere = { type = "fanout" } } }
local done, seen = mx.chan(1), 0
for _ = 1, consumers do
  assert(mx.consume("work", { prefetch = 1000 }, function(msg)
    seen = seen + #msg.body / size
    if seen == total then done:put(true) end
  end))
end

local function produce()
  local p = mx.publisher { exchange = consumers > 0 and "" or "nowhere", max_in_flight = 1000, mandatory = false, persistent = false }
  local start = ("x"):rep(size - 8)
  for i = 1, each do assert(p:publish_async("work", start .. ("%08d"):format(i))) end
  p:close()
end

local from, tasks = mx.now(), {}
for i = 1, producers do tasks[i] = mx.spawn(produce) end
for _, t in ipairs(tasks) do assert(t:wait()) end
if consumers > 0 then done:get() end
local rate, gc = total / (mx.now() - from), mx.memory.stats().gc

local peak
for line in io.lines "/proc/self/status" do peak = peak or tonumber(line:match "^VmHWM:%s+(%d+)") end
print(("| %s | %.1f MB | %.0f msgs/s | %.2f kB | %d |"):format(name, peak / 1024, rate, peak * 1000 / rate, gc.cycles))
mx.stop()
