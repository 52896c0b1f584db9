-- Large Messages (1P): one producer, 1 KiB, and one who consumes.
local seconds = mx.config.time or 10

return mx.workload {
  topology = { queues = { ["bench.large_1p"] = { durable = false } } },
  producers = {
    count = 1, key = "bench.large_1p", size = 1024, persistent = false, max_in_flight = 500, stages = { { duration = seconds } },
  },
  consumers = { count = 1, queue = "bench.large_1p" },
  warmup = seconds / 10,
  done = function() mx.delete_queue "bench.large_1p" end,
}
