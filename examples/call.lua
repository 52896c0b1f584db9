-- Ask and answer: a call waits for the reply to its request, many at once.
assert(mx.queue("squares", { durable = false }))

assert(mx.consume("squares", { concurrency = 10 }, function(msg)
  mx.sleep(0.01)
  assert(msg:reply { square = msg.data.n ^ 2 })
end))

local asked = {}
for n = 1, 5 do
  asked[n] = mx.spawn(function() return assert(mx.call("", "squares", { n = n }, { timeout = 2 })).data.square end)
end
for n, task in ipairs(asked) do print(n, select(2, task:wait())) end
mx.stop()
