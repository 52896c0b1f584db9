-- What a handler under test decided, as a table; the rules are those of mx/verdict.lua.
local err, check = require "mx.err", require "mx.check"

local M = {}

-- A failed delivery: the retry policy says what follows. dead: it goes where rejected ones go.
local function failed(c, attempt, e)
  local reason, trace = err.explain(e)
  local r = c.test_retry
  local final = err.is(e) and e.retryable == false
  local delay = not final and attempt <= r.max
                and (r.delay and r.delay(attempt, nil, e) or not r.delay and math.min(r.base * r.factor ^ (attempt - 1), r.max_delay))
  return { decision = "failed", reason = reason, error = e, traceback = trace, delay = delay or nil, dead = not delay }
end

local SAYS = {
  reject = function(_, why) return { decision = "reject", reason = why and tostring(why) or nil } end,
  retry = function(c, seconds)
    return { decision = "retry", delay = seconds and check.seconds(seconds) or c.test_retry.base }
  end,
  requeue = function() return { decision = "requeue" } end,
}

-- A publish made inside a handler belongs to its delivery: why one of them failed, or nil.
local function failed_publish(receipts)
  local failure
  for _, r in ipairs(receipts) do
    local ok, e = r:wait()
    if not ok then failure = failure or e end
  end
  return failure
end

-- c: the consumer; attempt, receipts: of the delivery; the rest: what xpcall of the handler returned.
function M.of(c, attempt, receipts, ok, verdict, why)
  if not ok then return failed(c, attempt, verdict) end
  if verdict == nil and why == nil then
    why = failed_publish(receipts)
    if not why then return { decision = "ack" } end
  end
  if verdict == true then return { decision = "ack" } end
  if not verdict then return failed(c, attempt, why == nil and "the handler returned false" or why) end
  if SAYS[verdict] then return SAYS[verdict](c, why) end
  return failed(c, attempt, require "mx.verdict".not_understood(c.test_handler, verdict))
end

-- A consumer with manual = true: a msg whose settling methods tell decide(result); the delivery itself is acked.
function M.manual(c, msg, decide)
  local function settling(name)
    return function(_, ...)
      local ok, e = msg:ack()
      if ok then decide(SAYS[name] and SAYS[name](c, ...) or { decision = "ack" }) end
      return ok, e
    end
  end
  local methods = { ack = settling "ack" }
  for name in pairs(SAYS) do methods[name] = settling(name) end
  return setmetatable(methods, {
    __tostring = function() return tostring(msg) end,
    __index = function(_, name)
      local value = msg[name]
      if type(value) ~= "function" then return value end
      return function(_, ...) return value(msg, ...) end
    end,
  })
end

return M
