-- Has queues of its own, some named by mx, each bound twice and consumed, until it is stopped.
--   mxrun -u URL [--set K=V] spec/fault/exclusive.lua NAME HISTORY
local history = dofile "spec/fault/history.lua"
local name, path = ...
history.open(path)
mx.on("error", function(e) history.wrong("an error: " .. tostring(e)) end)
local conn = history.connect()
assert(conn:exchange("fault.own", { type = "topic", durable = false, auto_delete = false }))
for i = 1, mx.config.count or 10 do
  local queue = i % 2 == 0 and "" or ("fault.own.%s.%d"):format(name, i)
  queue = assert(conn:queue(queue, { exclusive = true, durable = false }))
  assert(conn:bind(queue, "fault.own", "all"))
  assert(conn:bind(queue, "fault.own", "key." .. i))
  assert(conn:consume(queue, function() end))
end
