-- Publishes 1,000 messages without waiting for each; the receipts tell what became of them.
assert(mx.queue("receipts", { durable = false }))

local receipts = {}
for n = 1, 1000 do
  receipts[n] = assert(mx.publish_async("", "receipts", { n = n }))
end
assert(mx.wait_all(receipts, 10))
print(("%d messages confirmed"):format(#receipts))

local nowhere = assert(mx.publish_async("", "no-such-queue", "lost?"))
local _, why = nowhere:wait()
print("and one " .. tostring(why))
