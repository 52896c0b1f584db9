-- Figures of one's own: beside mxrun's in /metrics (--http 8080), and in the script.
assert(mx.queue("parcels", { durable = false }))

local sent = mx.counter("parcels_sent_total", "parcels by carrier", { "carrier" })
local weight = mx.histogram("parcels_weight_kg", "what a parcel weighs")
local packing = mx.histogram "parcels_packing_seconds"
local open = 0
mx.gauge("parcels_open", "parcels being packed", function() return open end)

local left = 20
assert(mx.consume("parcels", { concurrency = 5 }, function(msg)
  open = open + 1
  packing:time(mx.sleep, 0.01)
  open = open - 1
  weight:observe(msg.data.kg)
  sent:inc(1, msg.data.carrier)
  left = left - 1
  if left > 0 then return end
  print(("%d by post, %d by bike"):format(sent:get "post", sent:get "bike"))
  print(("the median weighs %.0f kg, packed in %.2f s"):format(weight:p(50), packing:p(50)))
  mx.stop()
end))

for i = 1, 20 do mx.publish_async("", "parcels", { kg = i, carrier = i % 4 == 0 and "bike" or "post" }) end
