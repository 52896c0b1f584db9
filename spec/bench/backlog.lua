-- backlog.lua fill|eat MESSAGES BYTES: a backlog on the broker, and a consumer of it that holds many messages at once.
local what, n, size = arg[1], tonumber(arg[2]), tonumber(arg[3])
assert(mx.queue "backlog")

if what == "fill" then
  local filler = ("x"):rep(size - 12)
  for i = 1, n do assert(mx.publish_async("", "backlog", ("%012d"):format(i) .. filler)) end
  return
end

local seen, count, from = {}, 0, nil
assert(mx.consume("backlog", { concurrency = 1000, prefetch = 4000 }, function(m)
  from = from or mx.now()
  mx.sleep(0.5)
  local i = tonumber(m.body:sub(1, 12))
  if not seen[i] then seen[i], count = true, count + 1 end
  if count < n then return end
  local steps, peak = {}, nil
  for name, step in pairs(mx.memory.stats().ladder) do steps[name] = step.count end
  for line in io.lines "/proc/self/status" do peak = peak or line:match "^VmHWM:%s+(%d+)" end
  print(mx.json.encode { rate = n / (mx.now() - from), peak_mb = peak / 1024, steps = steps })
  mx.stop()
end))
