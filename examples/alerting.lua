-- Says once when a queue gets long, and once when it is short again; who reads the alerts (a mail, a pager) is another script.
assert(mx.topology { queues = { orders = {}, alerts = {} } })
local high, low, every = mx.config.high or 100, mx.config.low or 10, mx.config.every or 5

local alarmed = false
local function look()
  local n = assert(mx.queue_info "orders").messages
  if alarmed and n > low or not alarmed and n < high then return end
  alarmed = not alarmed
  assert(mx.publish("", "alerts", { queue = "orders", messages = n, state = alarmed and "long" or "ok" }))
end
mx.every(every, look)

assert(mx.consume("alerts", function(msg)
  print(("%s: %s, %d messages"):format(msg.data.queue, msg.data.state, msg.data.messages))
end))
