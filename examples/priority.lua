-- What is urgent overtakes: a queue with priorities, and a consumer that takes one message at a time.
assert(mx.queue("jobs", { max_priority = 10 }))

for n = 1, 3 do assert(mx.publish("", "jobs", "job " .. n)) end
assert(mx.publish("", "jobs", "urgent", { priority = 9 }))
assert(mx.publish("", "jobs", "important", { priority = 5 }))

local left = 5
assert(mx.consume("jobs", { prefetch = 1 }, function(msg)
  print(msg.priority or 0, msg.body)
  left = left - 1
  if left == 0 then mx.stop() end
end))
