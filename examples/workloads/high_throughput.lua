-- High Throughput (16P16C): sixteen producers and sixteen consumers of one queue, 128 bytes.
local seconds = mx.config.time or 10

return mx.workload {
  topology = { queues = { ["bench.high_throughput"] = { durable = false } } },
  producers = {
    count = 16, key = "bench.high_throughput", size = 128, persistent = false, max_in_flight = 1000, stages = { { duration = seconds } },
  },
  consumers = { count = 16, queue = "bench.high_throughput", prefetch = 256 },
  warmup = seconds / 10,
  done = function() mx.delete_queue "bench.high_throughput" end,
}
