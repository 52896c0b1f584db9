-- A topic exchange: each queue sees the keys it asked for.
assert(mx.topology {
  exchanges = { app = "topic" },
  queues = {
    polish = { durable = false, bind = { { "app", "order.*.pl" } } },
    all    = { durable = false, bind = { { "app", "order.#" } } },
  },
})

local done = mx.semaphore(0)
for _, queue in ipairs { "polish", "all" } do
  assert(mx.consume(queue, function(msg)
    print(("%-6s %s"):format(queue, msg.key))
    done:release()
  end))
end

assert(mx.publish("app", "order.new.pl", {}))
assert(mx.publish("app", "order.new.de", {}))
for _ = 1, 3 do done:acquire() end
mx.stop()
