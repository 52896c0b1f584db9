-- More and more messages until the broker cannot keep up: mxrun -u amqp://… bench --html ramp.html examples/workloads/ramp.lua
local rate, seconds = mx.config.rate or 50000, mx.config.seconds or 60

return mx.workload {
  topology = { queues = { ["bench.ramp"] = { durable = false } } },
  producers = { count = 4, key = "bench.ramp", size = { 200, 2000 }, persistent = false, stages = { { ramp = rate, duration = seconds } } },
  consumers = { count = 4, queue = "bench.ramp" },
  verify = true,
  thresholds = {
    ["e2e.p99"] = { "< 500ms", window = 2, abort = true },        -- of each 2 s: the first that is slower ends the run
    ["publish.errors"] = { "== 0", abort = true },
    ["verify.lost"] = "== 0",
  },
  done = function(s)
    local last = s.series[#s.series]
    if s.aborted and last then print(("it broke at %.0f messages/s: %s"):format(last.publish_rate, s.aborted.name)) end
    if not s.aborted then print(("it held %.0f messages/s"):format(rate)) end
  end,
}
