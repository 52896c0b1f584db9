-- Questions and answers: how long a call takes, from the moment when it was to be made.
local rate, seconds = mx.config.rate or 200, mx.config.seconds or 30

return mx.workload {
  topology = { queues = { ["bench.rpc"] = { durable = false } } },
  producers = {
    max_in_flight = 100,                                              -- so many calls at once; what is due meanwhile waits, and that counts
    run = function(i) return mx.call("", "bench.rpc", { n = i }, { timeout = 5 }) end,
    stages = { { rate = rate, duration = seconds } }, arrival = "poisson",
  },
  consumers = { count = 2, queue = "bench.rpc", handler = function(msg) return msg:reply { square = msg.data.n ^ 2 } end },
  thresholds = { ["publish.errors"] = "== 0", ["publish.confirm.p99"] = "< 1s" },
  done = function(s) print(("a call takes %.3g ms, 1 of 1,000 more than %.3g ms"):format(
    s.publish.confirm:p(50) * 1e3, s.publish.confirm:p(99.9) * 1e3)) end,
}
