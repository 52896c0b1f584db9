-- A day in the life of a queue, for hours: the rate goes up and down, nothing may be lost and no memory may be lost either.
--   mxrun -u amqp://… bench --set hours=8 examples/workloads/soak.lua
local seconds = mx.config.seconds or (mx.config.hours or 1) * 3600
local mean, period = mx.config.rate or 1000, seconds / 4

return mx.workload {
  topology = { queues = { ["bench.soak"] = { type = mx.config.type or "classic" } } },
  producers = {
    count = 2, key = "bench.soak", size = 512, arrival = "poisson",
    stages = { { rate = function(t) return mean * (1 + 0.5 * math.sin(2 * math.pi * t / period)) end, duration = seconds } },
  },
  consumers = { count = 2, queue = "bench.soak" },
  warmup = math.min(10, seconds / 10), verify = true,
  thresholds = {
    ["verify.lost"] = "== 0", ["verify.duplicated"] = "== 0",
    ["memory.peak_rss"] = { "< 128MB", abort = true },
    ["e2e.p99"] = { "< 1s", window = 60 },
  },
}
