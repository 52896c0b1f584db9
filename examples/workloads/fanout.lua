-- Each message to everybody: one fanout exchange, three queues, each copy checked.
local exchange, queues = "bench.fanout", { "bench.fanout.audit", "bench.fanout.billing", "bench.fanout.search" }

local topology = { exchanges = { [exchange] = "fanout" }, queues = {} }
for _, name in ipairs(queues) do topology.queues[name] = { durable = false, bind = { { exchange, "" } } } end

return mx.workload {
  topology = topology,
  producers = { count = 2, exchange = exchange, key = "", size = 1024, persistent = false,
                stages = { { rate = mx.config.rate or 1000, duration = mx.config.seconds or 30 } } },
  consumers = { count = 6, queue = queues },                          -- two for each queue
  warmup = mx.config.warmup or 2, verify = true,
  thresholds = { ["verify.lost"] = "== 0", ["verify.duplicated"] = "== 0", ["e2e.p99"] = "< 1s" },
}
