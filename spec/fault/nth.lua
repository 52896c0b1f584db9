-- 50 messages out and in again, while spec/fault/nth makes something fail: mxrun -u URL spec/fault/nth.lua QUEUE
local queue = ...
local conn = assert(mx.connect { reconnect = { base = 0.01, max = 0.1 }, heartbeat = 2 })
assert(conn:queue(queue, { durable = false }))
local seen, n = {}, 0
assert(conn:consume(queue, { prefetch = 10 }, function(msg)
  if not seen[msg.id] then n = n + 1 end
  seen[msg.id] = true
end))
local receipts = {}
for i = 1, 50 do receipts[i] = assert(conn:publish_async("", queue, tostring(i))) end
assert(mx.wait_all(receipts))
while n < 50 do mx.sleep(0.005) end
assert(conn:delete_queue(queue))
print "done"
mx.stop()
