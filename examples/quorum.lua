-- A poison message on a quorum queue: tried three times, then with the dead letters, and the others are not held up.
assert(mx.topology { queues = { invoices = { type = "quorum", delivery_limit = 20, dlq = true } } })

assert(mx.consume("invoices", { concurrency = 4, retry = { max = 2, base = 0.1, jitter = false } }, function(msg)
  local invoice = msg.data
  print(("invoice %d: %d items"):format(invoice.id, #invoice.items))     -- the second has none: this raises
end))

for id = 1, 3 do assert(mx.publish("", "invoices", { id = id, items = id ~= 2 and { "tea" } or nil })) end

local dead = assert(mx.dlq "invoices")
while assert(dead:count()) == 0 do mx.sleep(0.1) end
for msg in dead:peek(10) do
  print(("invoice %d is dead after %d retries"):format(msg.data.id, msg.headers["x-mx-retries"]))
end
mx.stop()
