-- Answers requests, with rpc_client.lua on the other side; what it cannot answer it says so.
assert(mx.queue("rpc.prices", { durable = false }))

local PRICES = { tea = 3.5, coffee = 4.2 }

assert(mx.consume("rpc.prices", { concurrency = 100 }, function(msg)
  local price = PRICES[msg.data.item]
  if not price then return msg:reply { error = "no such item: " .. tostring(msg.data.item) } end
  return msg:reply { item = msg.data.item, price = price }
end))
