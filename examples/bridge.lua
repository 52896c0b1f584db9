-- From one broker to another: a message is acked here once it is confirmed there.
-- mxrun --set from=amqp://east --set to=amqp://west bridge.lua; as written, both are embedded ones.
local east = assert(mx.connect { url = mx.config.from or "mem://east" })
local west = assert(mx.connect { url = mx.config.to or "mem://west" })
assert(east:queue "orders")
assert(west:queue "orders")

assert(east:consume("orders", { concurrency = 100 }, function(msg)
  local ok, err = west:publish("", "orders", msg.body, {
    id = msg.id, headers = msg.headers, content_type = msg.content_type, correlation_id = msg.correlation_id,
  })
  if not ok then return "requeue", tostring(err) end                -- the other side is down: it stays on this one
end))

-- Something to carry, and who takes it.
for n = 1, 3 do assert(east:publish("", "orders", { n = n }, { headers = { from = "east" } })) end
local left = 3
assert(west:consume("orders", function(msg)
  print(msg.data.n, msg.headers.from)
  left = left - 1
  if left == 0 then mx.stop() end
end))
