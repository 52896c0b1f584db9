-- Memory Efficiency: four producers and four consumers, 1 KiB, with small windows: what is in flight is what memory holds.
local seconds = mx.config.time or 10

return mx.workload {
  topology = { queues = { ["bench.memory_efficiency"] = { durable = false } } },
  producers = {
    count = 4, key = "bench.memory_efficiency", size = 1024, persistent = false, max_in_flight = 256, stages = { { duration = seconds } },
  },
  consumers = { count = 4, queue = "bench.memory_efficiency", prefetch = 64 },
  warmup = seconds / 10,
  done = function() mx.delete_queue "bench.memory_efficiency" end,
}
