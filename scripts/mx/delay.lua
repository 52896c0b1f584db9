-- Delay queues: QUEUE.retry.TIER holds a message for the tier's time and then returns it to QUEUE.
local ffi = require "ffi"
local C = ffi.C
local topology = require "mx.topology"

local M = {}
local REFUSED = 60                      -- seconds for which a refusal is taken as an answer: each costs a channel

local TIERS = { 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200 }
for days = 1, 49 do TIERS[#TIERS + 1] = days * 86400 end          -- a TTL is 32 bits of milliseconds

local function name_of(s)
  if s < 60 then return s .. "s" end
  if s < 3600 then return s / 60 .. "m" end
  return s / 3600 .. "h"
end

-- The smallest tier that is not shorter than the delay, or the last; with jitter perhaps one of its neighbours.
function M.tier(delay, jitter)
  local i = 1
  while i < #TIERS and TIERS[i] < delay do i = i + 1 end
  if jitter then i = math.max(1, math.min(#TIERS, i + math.random(-1, 1))) end
  return { seconds = TIERS[i], name = name_of(TIERS[i]) }
end

-- Of the type of the queue that it serves; streams have no delay queues.
local function arguments(conn, queue, ms)
  return {
    ["x-queue-type"] = conn.queues[queue], ["x-message-ttl"] = ms, ["x-expires"] = math.min(2 * ms + 60000, 2 ^ 32 - 1),
    ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = queue,
  }
end

-- Declared again when the last time was longer ago than the tier, lest it has expired. One that is there with other
-- arguments is used as it is. name | nil, err
function M.declare(conn, queue, tier)
  local name = queue .. ".retry." .. tier.name
  local at = conn.declared[name]
  local now = C.mx_now()
  if at and now - at < tier.seconds then return name end
  if conn.no_delays and now < conn.no_delays.till then return nil, conn.no_delays.why end
  local ok, e = topology.declare(conn, name, {}, arguments(conn, queue, math.floor(tier.seconds * 1000)))
  if not ok and e.code == "access" then conn.no_delays = { till = now + REFUSED, why = e } end
  if not ok and e.reply_code ~= 406 then return nil, e end
  conn.declared[name] = C.mx_now()
  return name
end

return M
