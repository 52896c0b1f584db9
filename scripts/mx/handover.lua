-- Handing a failed message on: a confirmed copy to a delay queue or to the dead letters, then the ack.
local ffi = require "ffi"
local log = require "mx.log"
local msg, settle, publish = require "mx.msg", require "mx.settle", require "mx.publish"
local topology, delays = require "mx.topology", require "mx.delay"
local getters, complain = msg.getters, settle.complain

local M = {}
local TRIES_MAX = 10000                 -- messages whose tries are remembered
local REASON_MAX = 2000                 -- bytes of an error that travel with a message

-- Headers that say what happened, left out when a message has no room for them.
local OURS = { "x-mx-error", "x-mx-first-seen", "x-mx-death", "x-mx-expiration", "x-mx-user-id", "x-mx-CC", "x-mx-BCC" }

-- The delay queue's own entry in x-death says nothing; an older one of somebody else's stays.
local function move_death(headers, queue)
  local death = headers["x-death"]
  if not death then return end
  local last = type(death) == "table" and type(death[1]) == "table" and death[1].queue
  if not (type(last) == "string" and last:sub(1, #queue + 7) == queue .. ".retry.") then headers["x-mx-death"] = death end
  headers["x-death"] = nil
  for _, what in ipairs { "exchange", "queue", "reason" } do headers["x-first-death-" .. what] = nil end
end

-- The headers of a copy: what must not travel on moves into x-mx-* headers.
local function headers_for(m, queue, extra)
  local headers = msg.read_headers(m) or {}
  move_death(headers, queue)
  for _, name in ipairs { "CC", "BCC" } do
    if headers[name] then headers["x-mx-" .. name], headers[name] = headers[name], nil end
  end
  headers["x-mx-expiration"] = msg.expiration_text(m) or headers["x-mx-expiration"]
  headers["x-mx-user-id"] = getters.user_id(m) or headers["x-mx-user-id"]
  headers["x-mx-first-seen"] = headers["x-mx-first-seen"] or os.date "!%Y-%m-%dT%H:%M:%SZ"
  headers["x-mx-origin-exchange"] = headers["x-mx-origin-exchange"] or ffi.string(m.exchange, m.exchange_size)
  headers["x-mx-origin-key"] = headers["x-mx-origin-key"] or ffi.string(m.key, m.key_size)
  headers["x-mx-origin"] = queue
  for k, v in pairs(extra) do headers[k] = v end
  return headers
end

-- A delivery's properties as options of a publish.
function M.options_of(m, headers)
  return {
    headers = headers, id = getters.id(m), correlation_id = getters.correlation_id(m), reply_to = getters.reply_to(m),
    content_type = getters.content_type(m), content_encoding = getters.content_encoding(m), type = getters.type(m),
    app_id = getters.app_id(m), priority = getters.priority(m), timestamp = getters.timestamp(m), persistent = true,
    mandatory = true,
  }
end

-- Its own channel: an exchange that is missing must not cost the script's publishes theirs.
local function publisher_of(conn)
  conn.hand_over_publisher = conn.hand_over_publisher or publish.publisher(conn)
  return conn.hand_over_publisher
end

local function lean(options)
  for _, name in ipairs(OURS) do options.headers[name] = nil end
  return true
end

-- Publishes the copy until it is confirmed; declare() is called when it was returned. What cannot be mended by waiting
-- gives the delivery back, slowly: nothing is lost.
local function hand_over(sub, seq, exchange, key, extra, declare)
  local m = settle.unsettled(sub, seq)
  if not m then return end
  local body, options = ffi.string(m.body, m.size), M.options_of(m, headers_for(m, sub.queue, extra))
  local pause, is_lean = 0.1, false
  repeat
    local ok, e = publish.send_and_wait(publisher_of(sub.conn), exchange, key, body, options)
    if ok then return settle.settle(sub, seq, settle.ACK) end
    if e.code == "closed" then return settle.settle(sub, seq, settle.REQUEUE) end
    if e.code == "validation" and not is_lean then
      is_lean = lean(options)
    elseif e.retryable or e.code == "unroutable" then
      local made, why = true, nil
      if e.code == "unroutable" then made, why = declare() end
      if not made or e.code ~= "unroutable" then complain(sub, "cannot hand a failed message on, trying again", why or e) end
      settle.nap(sub, pause)
      pause = math.min(pause * 2, 5)
    else
      sub.counts.stuck = sub.counts.stuck + 1
      complain(sub, "cannot hand a failed message on, it goes back", e)
      return settle.requeue(sub, seq)
    end
  until sub.stopping
  settle.settle(sub, seq, settle.REQUEUE)
end

local function reason_of(text) return #text > REASON_MAX and text:sub(1, REASON_MAX) .. "..." or text end

-- To where the queue's dead letters go. To be run as an aside.
function M.dead_letter(sub, seq, reason)
  local m = settle.unsettled(sub, seq)
  if not m then return end
  local target = sub.conn.dead_letters[sub.queue]
  if not target then return settle.settle(sub, seq, settle.REJECT) end
  hand_over(sub, seq, target.exchange, target.key, { ["x-mx-error"] = reason_of(reason), ["x-mx-retries"] = msg.retries_of(m) or 0 },
            function() return topology.redeclare(sub.conn, target) end)
end

-- A message that goes back to its queue cannot carry a count: it is kept here, by id, for the latest ones.
local function count_try(c, m)
  local id = getters.id(m)
  if not id then return end
  if not c.tries or c.tries_count >= TRIES_MAX then c.tries, c.tries_count = {}, 0 end
  if not c.tries[id] then c.tries_count = c.tries_count + 1 end
  c.tries[id] = (c.tries[id] or 0) + 1
end

-- Without delay queues the delivery waits here.
local function wait_here(sub, seq, m, seconds, e)
  if not sub.consumer.warned then
    sub.consumer.warned = true
    log.warn("cannot declare a delay queue; retries wait here instead", { queue = sub.queue, error = tostring(e) })
  end
  settle.nap(sub, seconds)
  count_try(sub.consumer, m)
  settle.settle(sub, seq, settle.REQUEUE)
end

-- Through the delay queue that holds for at least the delay. To be run as an aside.
function M.retry_later(sub, seq, delay, reason, jitter)
  local m = settle.unsettled(sub, seq)
  if not m then return end
  local tier = delays.tier(delay, jitter)
  local function declare() return delays.declare(sub.conn, sub.queue, tier) end
  local key, e = declare()
  if not key then return wait_here(sub, seq, m, delay, e) end
  hand_over(sub, seq, "", key, { ["x-mx-retries"] = msg.retries_of(m) + 1, ["x-mx-error"] = reason_of(reason) }, function()
    sub.conn.declared[key] = nil
    return declare()
  end)
end

return M
