-- Each once: a broker delivers at least once, so a message's id is remembered for a while.
assert(mx.queue "payments")

-- The ids of the last one to two times `span` messages.
local span, recent, older, n = 10000, {}, {}, 0
local function remember(id)
  if n >= span then recent, older, n = {}, recent, 0 end
  recent[id], n = true, n + 1
end

local paid, doubles = 0, mx.counter("payments_doubles_total", "deliveries of a payment that was made already")
assert(mx.consume("payments", function(msg)
  if recent[msg.id] or older[msg.id] then return doubles:inc() end
  paid = paid + msg.data.amount
  remember(msg.id)                                      -- now, not before: what fails comes again
end))

for _, id in ipairs { "a", "b", "a", "c", "b" } do assert(mx.publish("", "payments", { amount = 10 }, { id = id })) end
mx.sleep(0.1)
print(("paid %d, %d doubles"):format(paid, doubles:get()))
mx.stop()
