-- An order service that never forgets: after some seconds it prints the line that leaks, and who holds what it made.
mx.topology { queues = { orders = {} } }

local seen = {}

local function remember(order)
  local text = ("order %d, "):format(order.id):rep(300)
  seen[order.id] = { id = order.id, text = text }
  return text
end

mx.consume("orders", function(msg)
  remember(msg.data)
end)

-- Something to handle.
local id = 0
mx.every(0.01, function()
  for _ = 1, 50 do
    id = id + 1
    mx.publish_async("", "orders", { id = id })
  end
end)

local before = mx.memory.snapshot()
mx.after(mx.config.seconds or 2, function()
  print(before:diff(mx.memory.snapshot()))
  print(mx.memory.who(seen[1]))
  mx.stop()
end)
