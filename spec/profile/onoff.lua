-- Profiles that begin and end each second under load, for so long: nothing may grow or break. Prints resident memory, MB, after a tenth of
-- the time and at the end.      mxrun -u mem:// spec/profile/onoff.lua [seconds] [messages a second]
local seconds, rate = tonumber(arg[1] or 60), tonumber(arg[2] or 5000)
local path, stop_at = os.tmpname(), mx.now() + seconds

mx.queue "load"
local seen = 0
local consumer = mx.consume("load", { concurrency = 8 }, function(msg)
  seen = seen + 1
  local t = { msg.data.list[1], msg.body .. seen }
  if seen % 50 == 0 then mx.sleep(0.001) end
  assert(#t == 2)
end)

mx.spawn(function()
  local due = mx.now()
  while mx.now() < stop_at do
    due = due + 0.01
    for i = 1, rate / 100 do assert(mx.publish_async("", "load", { list = { i, tostring(i) } })) end
    mx.sleep(math.max(0, due - mx.now()))
  end
  consumer:stop()
end)

local kinds = { { "cpu" }, { "alloc" }, { "wait" }, { "cpu", "alloc", "wait" }, { "cpu", "alloc", every_bytes = "16KB", hz = 250 } }
local first, rounds = nil, 0
while mx.now() < stop_at do
  rounds = rounds + 1
  mx.profile.start(kinds[rounds % #kinds + 1])
  mx.sleep(0.5)
  assert(mx.profile.stop(path))
  mx.sleep(0.5)
  collectgarbage()
  if not first and mx.now() > stop_at - 0.9 * seconds then first = mx.memory.stats().rss end
end
os.remove(path)
collectgarbage()
print(("%d profiles, %d messages, %.1f MB then, %.1f MB now"):format(rounds, seen, (first or 0) / 2 ^ 20, mx.memory.stats().rss / 2 ^ 20))
