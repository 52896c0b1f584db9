-- Small Messages (1P): one producer, 64 bytes, and one who consumes.
local seconds = mx.config.time or 10

return mx.workload {
  topology = { queues = { ["bench.small_1p"] = { durable = false } } },
  producers = {
    count = 1, key = "bench.small_1p", size = 64, persistent = false, max_in_flight = 1000, stages = { { duration = seconds } },
  },
  consumers = { count = 1, queue = "bench.small_1p", prefetch = 1000 },
  warmup = seconds / 10,
  done = function() mx.delete_queue "bench.small_1p" end,
}
