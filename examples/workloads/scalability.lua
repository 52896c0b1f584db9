-- Scalability: n producers and as many consumers, 256 bytes; mxrun bench --set n=4 examples/workloads/scalability.lua
local seconds, n = mx.config.time or 10, mx.config.n or 1

return mx.workload {
  topology = { queues = { ["bench.scalability"] = { durable = false } } },
  producers = {
    count = n, key = "bench.scalability", size = 256, persistent = false, max_in_flight = 1000, stages = { { duration = seconds } },
  },
  consumers = { count = n, queue = "bench.scalability" },
  warmup = seconds / 10,
  done = function() mx.delete_queue "bench.scalability" end,
}
