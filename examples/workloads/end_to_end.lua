-- End-to-End (8P8C): eight producers and eight consumers of one queue, 256 bytes, and each message has to arrive once.
local seconds = mx.config.time or 10

return mx.workload {
  topology = { queues = { ["bench.end_to_end"] = { durable = false } } },
  producers = {
    count = 8, key = "bench.end_to_end", size = 256, persistent = false, max_in_flight = 1000, stages = { { duration = seconds } },
  },
  consumers = { count = 8, queue = "bench.end_to_end" },
  warmup = seconds / 10,
  verify = true,
  done = function() mx.delete_queue "bench.end_to_end" end,
}
