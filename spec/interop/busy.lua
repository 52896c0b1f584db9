-- Work of every kind that is measured, and what can go wrong by an order in its queue: hog, stall.
mx.topology { queues = { ["busy.work"] = { durable = false }, ["busy.orders"] = { durable = false } } }
local done = mx.counter("busy_done_total", "work done, by what it was", { "kind", 'what' })
local seconds = mx.histogram("busy_seconds", "run time of \"work\"\nby kind", { "kind" })
local kept = {}
mx.gauge("busy_kept", "how many strings are kept", function() return #kept end)

mx.consume("busy.work", { concurrency = 4 }, function(msg)
  local start = mx.now()
  mx.sleep(0.001)
  seconds:observe(mx.now() - start, msg.data.kind)
  done:inc(1, msg.data.kind, 'a "b" \\ c\nd')
  assert(msg.data.kind ~= "bad", "bad work")
end)
local DO = {
  hog = function() for i = 1, 120 do kept[i] = ("x"):rep(1e6 + i) end end,
  free = function() kept = {} end,
  stall = function() mx.sleep(8) end,
}
mx.consume("busy.orders", function(msg) DO[msg.body]() end)

local SOON = { every = 0.25, fail_after = 1, recover_after = 1 }
mx.health.memory(100e6, SOON)
mx.health.connections({ min = 1 }, SOON)
mx.health.progress("busy.orders", 0.5, SOON)

local n = 0
mx.every(0.01, function()
  n = n + 1
  mx.publish_async("", "busy.work", { kind = n % 100 == 0 and "bad" or "good" })
end)
