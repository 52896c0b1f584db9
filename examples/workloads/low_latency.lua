-- Low Latency: 1,000 messages a second, each timed from the moment at which it should have been sent.
local seconds = mx.config.time or 10

return mx.workload {
  topology = { queues = { ["bench.low_latency"] = { durable = false } } },
  producers = { count = 1, key = "bench.low_latency", size = 64, persistent = false, stages = { { rate = 1000, duration = seconds } } },
  consumers = { count = 1, queue = "bench.low_latency" },
  warmup = seconds / 10,
  verify = true,
  done = function() mx.delete_queue "bench.low_latency" end,
}
