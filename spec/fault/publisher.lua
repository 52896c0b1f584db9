-- Publishes until it is stopped, or count messages, and remembers what became of each.
--   mxrun -u URL [--set K=V] spec/fault/publisher.lua NAME HISTORY
-- queue, type: where to; exchange: through it; rate: messages a second (0: as fast as it goes); size: small, mixed or a
-- number; window: max_in_flight; timeout: of a publish.
local history = dofile "spec/fault/history.lua"
local name, path = ...
local c = mx.config
history.open(path)
local conn = history.connect()
local queue, exchange = c.queue or "fault", c.exchange or ""
assert(conn:queue(queue, { type = c.type or "classic" }))
if exchange ~= "" then
  assert(conn:exchange(exchange, { type = "direct" }))
  assert(conn:bind(queue, exchange, queue))
end
local p = mx.publisher { conn = conn, exchange = exchange, max_in_flight = c.window or 1000, timeout = c.timeout or 30 }

local function size_of(n)
  if tonumber(c.size) then return tonumber(c.size) end
  if c.size == "mixed" and n % 50 == 0 then return 140000 end           -- more than one frame
  if c.size == "mixed" and n % 10 == 0 then return 5000 end
  return 40 + n % 160
end

-- Those that have not ended, in order; what was remembered of the last ones is compared once more, later.
local waiting, first, last = {}, 1, 0
local recording = false
local LATER = 500

local function again(n)
  local w = waiting[n]
  waiting[n] = nil
  if w and w.receipt.state ~= w.state then history.ended(w.id, w.receipt.state, w.at) end
end

local function look(n)
  local w = waiting[n]
  if w.state or w.receipt.state == "pending" then return w.state end
  w.state = w.receipt.state
  history.ended(w.id, w.state, w.at)
  return w.state
end

local function record()
  while first <= last do
    waiting[first].receipt:wait(0.5)
    if look(first) then
      again(first - LATER)
      first = first + 1
    else                                -- one that takes long hides none behind it
      for n = first + 1, last do look(n) end
    end
  end
  recording = false
end

local function publish(n)
  local id, at = name .. "-" .. n, mx.now()
  history.publishing(id)
  local ok, receipt, e = pcall(p.publish_async, p, queue, history.body(id, size_of(n)), { id = id })
  if not ok or not receipt then return history.ended(id, "refused:" .. tostring(ok and e.code or receipt):gsub("%s", "_"), at) end
  last = last + 1
  waiting[last] = { id = id, at = at, receipt = receipt }
  if recording then return end
  recording = true
  mx.spawn(record)
end

local rate, count = c.rate or 200, c.count or math.huge
local n, start = 0, mx.now()
while n < count do
  local due = rate > 0 and math.min(count, (mx.now() - start) * rate) or n + 100
  if due - n > rate and rate > 0 then start, due = start + (due - n) / rate, n end     -- it was parked: no burst afterwards
  while n < due do
    n = n + 1
    publish(n)
  end
  mx.sleep(rate > 0 and 0.005 or 0)
end
