-- Does what is urgent overtake? More comes for a while than one consumer can handle: then the priority decides who waits.
local rate, seconds = mx.config.rate or 1000, mx.config.seconds or 10
local waited = { [0] = mx.histogram "normal_seconds", [9] = mx.histogram "urgent_seconds" }

return mx.workload {
  topology = { queues = { ["bench.priority"] = { durable = false, max_priority = 9 } } },
  producers = {
    key = "bench.priority",
    body = function() return { at = mx.now() } end,
    options = function(i) return { priority = i % 10 == 0 and 9 or 0, persistent = false } end,     -- one in ten
    stages = { { rate = rate, duration = seconds }, { rate = rate / 5, duration = seconds } },
  },
  consumers = { queue = "bench.priority", prefetch = 5, handler = function(msg)
    waited[msg.priority]:observe(mx.now() - msg.data.at)
    mx.sleep(1.2 / rate)
  end },
  verify = true, thresholds = {
    ["verify.lost"] = "== 0",
    urgent = function() return waited[9]:p(99) < waited[0]:p(99), "the urgent ones waited as long as the others" end,
  },
  done = function() print(("waited at most, 99 of 100: urgent %.3g s, normal %.3g s"):format(waited[9]:p(99), waited[0]:p(99))) end,
}
