-- Orders become invoices; a bad order goes to orders.dlq with the reason.
assert(mx.topology { queues = { orders = { dlq = true }, invoices = {} } })

local seen = mx.counter("orders_total", "orders by country", { "country" })

assert(mx.consume("orders", { concurrency = 64, retry = { max = 5 } }, function(msg)
  local order = msg.data
  if type(order.id) ~= "number" then return "reject", "no id" end
  if type(order.total) ~= "number" then return "reject", "no total" end
  if order.total < 0 then return "reject", "negative total" end
  assert(mx.publish("", "invoices", { id = order.id, total = order.total }))
  seen:inc(1, order.country or "unknown")
end))
