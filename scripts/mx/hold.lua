-- The consumers that are open, and holding them: they take nothing for a while, or less, though the script did not say so.
local turn, task, log, topology = require "mx.turn", require "mx.task", require "mx.log", require "mx.topology"

local M = { open = {} }

-- Each subscription of a consumer, and each task that will make one, keeps it open.
function M.join(c)
  c.live = c.live + 1
  if c.live == 1 then M.open[#M.open + 1] = c end
end

function M.leave(c)
  c.live = c.live - 1
  if c.live > 0 then return end
  for i = #M.open, 1, -1 do
    if M.open[i] == c then table.remove(M.open, i) end
  end
end

-- Nothing is taken until each reason that there was is over; what is under way goes on.
function M.hold(c, why)
  if c.unwanted then return end
  if c.held then
    c.held[why] = true
    return
  end
  c.held = { [why] = true }
  M.join(c)
  topology.use(c.conn, c.queue)
  if c.sub then c.sub.cease() end
end

-- Without a reason: of all.
function M.release(c, why)
  if not c.held then return end
  if why then
    c.held[why] = nil
    if next(c.held) then return end
  end
  c.held = nil
  turn.start(function()
    if not c.unwanted and not c.conn.closing and not task.stopping then c:resume() end
  end, function(ok, e)
    if not ok and not task.stopping then log.error("consuming again failed", { queue = c.queue, error = task.text_of(e) }) end
    M.leave(c)
    topology.leave(c.conn, c.queue)
  end)
end

-- Subscribes again with another prefetch: that of a subscription never changes.
local function prefetch(c, n)
  if c.prefetch == n then return end
  c.prefetch = n
  if c.held or c.unwanted then return end
  M.hold(c, "prefetch")
  M.release(c, "prefetch")
end

function M.lower(c, factor)
  if c.lowered or c.prefetch == 0 then return end
  c.lowered = c.prefetch
  prefetch(c, math.max(1, math.floor(c.prefetch / factor)))
end

function M.raise(c)
  if not c.lowered then return end
  local n = c.lowered
  c.lowered = nil
  prefetch(c, n)
end

return M
