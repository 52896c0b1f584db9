-- Consumes until it is stopped, and remembers each delivery that a handler began and ended.
--   mxrun -u URL [--set K=V] spec/fault/consumer.lua NAME HISTORY
-- queue, type, prefetch, concurrency; hold: how long a handler takes; slow: each so many numbers takes slow_hold at its
-- first delivery; twice: settles by hand, as often as it can, of which only the first may count.
local history = dofile "spec/fault/history.lua"
local _, path = ...
local c = mx.config
history.open(path)
local conn = history.connect()
local queue = c.queue or "fault"
assert(conn:queue(queue, { type = c.type or "classic" }))

local function handle(msg)
  local id = msg.id
  history.delivered(msg)
  if c.slow and not msg.redelivered and tonumber(id:match "%d+$") % c.slow == 0 then
    mx.sleep(c.slow_hold)
  elseif c.hold then
    mx.sleep(c.hold)
  end
  history.handled(id)
end

-- Settles once, and then in every other way; some long after the connection that brought them.
local kept = {}
local function once(msg, method)
  local ok, answer = pcall(msg[method], msg)
  return ok and answer
end
local function settle(msg, id)
  local done = once(msg, "ack")
  for _, method in ipairs { "ack", "reject", "requeue", "retry", "ack" } do
    if once(msg, method) then history.wrong(id, "was settled again by", method) end
  end
  return done
end
local function by_hand(msg)
  local id = msg.id
  history.delivered(msg)
  history.handled(id)
  if tonumber(id:match "%d+$") % 20 == 0 then
    kept[#kept + 1] = { msg:keep(), id }
    mx.after(c.keep or 1, function()
      local k = table.remove(kept, 1)
      settle(k[1], k[2])
    end)
  else
    settle(msg, id)
  end
end

assert(conn:consume(queue, { prefetch = c.prefetch or 100, concurrency = c.concurrency or 1, manual = c.twice ~= nil },
                    c.twice and by_hand or handle))
return history, conn
