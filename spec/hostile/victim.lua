-- A script that meets a hostile broker: consumes, or publishes when its first argument says so.
local url, what = ...
local c = assert(mx.connect { url = url, connect_timeout = 1, heartbeat = 30 })
if what == "silence" then
  local p, receipts = mx.publisher { conn = c, timeout = 4 }, {}
  for i = 1, 3 do receipts[i] = assert(p:publish_async("q", "x")) end
  print("got", (mx.wait_all(receipts, 30)))
  io.stdout:flush()
elseif what == "publish" then
  local receipts = {}
  for i = 1, 3 do receipts[i] = assert(c:publish_async("", "q", "x")) end
  mx.wait_all(receipts, 30)
else
  assert(c:consume("q", { prefetch = 10 }, function(msg)
    print("got", msg.body:sub(1, 20), msg.size, msg.headers.k)
    io.stdout:flush()
  end))
  print "ready"
  io.stdout:flush()
end
mx.every(0.01, function()
  if what ~= "flood" then return end
  print "tick"
  io.stdout:flush()
end)
mx.sleep(60)
