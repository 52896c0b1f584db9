-- What to watch an order service by. With --http 8080: curl localhost:8080/metrics, /health, /ready and /live.
mx.topology { queues = { orders = { dlq = true } } }

local sold = mx.counter("orders_total", "orders by country", { "country" })
local seconds = mx.histogram("order_seconds", "from taking an order to its end")
local open = 0
mx.gauge("orders_open", "orders being handled", function() return open end)

local function handle(order)
  mx.sleep(0.01)                                        -- a database, say
  sold:inc(1, order.country)
end

mx.consume("orders", { concurrency = 16, prefetch = 64 }, function(msg)
  open = open + 1
  seconds:time(handle, msg.data)
  open = open - 1
end)

mx.memory.limit "512MB"
mx.memory.watch(0.8, function(m) mx.log.warn("memory gets tight", { used = m.used, lua = m.lua, unacked = m.unacked }) end)

mx.health.memory(0.85)
mx.health.tasks(1000)
mx.health.connections { min = 1 }
mx.health.progress("orders", 30)                        -- orders wait and none was handled for 30 s
mx.health.loop(0.1)
mx.health("errors", { every = 10 }, function(s)
  if s.errors.rate > 10 then return "unhealthy", "publishing fails" end
  if s.errors.rate > 0 then return "degraded", "some publishes fail" end
end)

-- The same figures in the log, every 30 s.
mx.every(mx.config.report or 30, function()
  local s, health = mx.stats(), mx.health.report()
  mx.log.info("report", {
    health = health.status, handled = s.consume.orders.count, rate = s.consume.orders.rate, p99 = seconds:recent(99),
    lua_mb = s.memory.lua / 1e6, rss_mb = s.memory.rss / 1e6, tasks = s.tasks,
  })
end)

-- Something to see.
mx.every(0.05, function() mx.publish("", "orders", { country = math.random(2) == 1 and "PL" or "DE" }) end)
