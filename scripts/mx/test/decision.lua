-- What a handler under test decided, as a table; the rules are those of mx/verdict.lua.
local turn, err, check, verdict = require "mx.turn", require "mx.err", require "mx.check", require "mx.verdict"

local M = {}

-- A failed delivery: the retry policy says what follows. dead: it goes where rejected ones go.
local function failed(c, msg, attempt, e)
  local reason, trace = err.explain(e)
  local delay = not c.auto_ack and verdict.delay_after(turn.current.consumer, c.test_retry, msg, attempt - 1, e) or nil
  return { decision = "failed", reason = reason, error = e, traceback = trace, delay = delay, dead = not delay and not c.auto_ack }
end

local SAYS = {
  reject = function(_, why) return { decision = "reject", reason = why ~= nil and err.tostring(why) or nil } end,
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

-- c: the consumer; msg, attempt, receipts: of the delivery; the rest: what xpcall of the handler returned.
function M.of(c, msg, attempt, receipts, ok, answer, why)
  if not ok then return failed(c, msg, attempt, answer) end
  if answer == nil and why == nil then
    why = failed_publish(receipts)
    if not why then return { decision = "ack" } end
  end
  if answer == true then return { decision = "ack" } end
  if not answer then return failed(c, msg, attempt, why == nil and "the handler returned false" or why) end
  local wrong = verdict.misread(c, answer, why)
  if wrong then return failed(c, msg, attempt, wrong) end
  local said, result = turn.guard(SAYS[answer], c, why)
  return said and result or failed(c, msg, attempt, result)
end

-- What a batch's handler said of one message: name and why as batch:fail and its like had them.
function M.told(c, msg, attempt, name, why)
  if name == "fail" then return failed(c, msg, attempt, why == nil and "the handler gave no reason" or why) end
  return SAYS[name](c, why)
end

-- A consumer with manual = true: a msg whose settling methods tell decide(result); the delivery itself is acked.
function M.manual(c, msg, decide)
  local methods, settled = {}, false
  local function settling(name)
    return function(_, ...)
      if settled then check.fail("msg:" .. name .. ": already settled by this script") end
      local result = SAYS[name] and SAYS[name](c, ...) or { decision = "ack" }
      local ok, e = msg:ack()
      settled = ok
      if ok then decide(result) end
      return ok, e
    end
  end
  methods.ack = settling "ack"
  for name in pairs(SAYS) do methods[name] = settling(name) end
  function methods.keep(self)
    msg:keep()
    return self
  end
  return setmetatable({}, {
    __tostring = function() return tostring(msg) end,
    __newindex = function(_, name) check.fail(("msg.%s cannot be set: messages are read-only"):format(tostring(name))) end,
    __index = function(_, name)
      if methods[name] then return methods[name] end
      local value = msg[name]
      if type(value) ~= "function" then return value end
      return function(_, ...) return value(msg, ...) end
    end,
  })
end

return M
