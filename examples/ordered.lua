-- One customer's messages in order, different customers side by side.
assert(mx.queue("events", { durable = false }))
for i = 1, 9 do assert(mx.publish("", "events", "event " .. i, { headers = { customer = ("abc"):sub(i % 3 + 1, i % 3 + 1) } })) end

local left = 9
assert(mx.consume("events", { concurrency = 8, order_by = function(msg) return msg.headers.customer end }, function(msg)
  mx.sleep(0.01)
  print(msg.headers.customer, msg.body)
  left = left - 1
  if left == 0 then mx.stop() end
end))
