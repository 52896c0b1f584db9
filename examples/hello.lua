-- A queue, a consumer, five messages; ends by itself when the fifth was handled.
assert(mx.queue("hello"))

mx.consume("hello", function(msg)
  print(("%s: hello %s, %d"):format(msg.queue, msg.data.name, msg.data.n))
  if msg.data.n == 5 then mx.stop() end
end)

for n = 1, 5 do
  assert(mx.publish("", "hello", { name = "world", n = n }))
end
