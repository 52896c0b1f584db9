-- Medium Messages (1P): one producer, 256 bytes, and one who consumes.
local seconds = mx.config.time or 10

return mx.workload {
  topology = { queues = { ["bench.medium_1p"] = { durable = false } } },
  producers = {
    count = 1, key = "bench.medium_1p", size = 256, persistent = false, max_in_flight = 1000, stages = { { duration = seconds } },
  },
  consumers = { count = 1, queue = "bench.medium_1p", prefetch = 1000 },
  warmup = seconds / 10,
  done = function() mx.delete_queue "bench.medium_1p" end,
}
