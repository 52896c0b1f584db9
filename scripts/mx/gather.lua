-- Gathering: how much is enough, by C's limits (size, bytes, time) and by a function of the script's, the policy.
local ffi = require "ffi"
local C = ffi.C
local turn, check, log, err = require "mx.turn", require "mx.check", require "mx.log", require "mx.err"
local type, setmetatable = type, setmetatable

local M = { SCHEMA = { size = "integer>0", bytes = "bytes", timeout = "seconds", policy = "function" } }
local WHY = { [C.MX_BATCH_SIZE] = "size", [C.MX_BATCH_BYTES] = "bytes", [C.MX_BATCH_TIME] = "time" }

-- The limits that options of the schema set.
function M.limits(o)
  return { size = o.size or 100, bytes = o.bytes or 1024 * 1024, timeout = o.timeout or 0.1, policy = o.policy }
end

-- What is gathered. limits: as above; due(g, why) is called when it is enough, refresh(g, now) before the policy is asked
-- out of turn; make(limits, look): where its mx_batch is not its own.
local Gather = {}
Gather.__index = Gather

local function make_own(limits, look)
  return ffi.gc(C.mx_batch_new(limits.size, limits.bytes, limits.timeout, look), C.mx_batch_free)
end

function M.new(limits, due, refresh, make)
  local look = ffi.new "mx_batch_look"
  local b = (make or make_own)(limits, look)
  local g = setmetatable({ b = b, look = look, limits = limits, due = due }, Gather)
  function g.on_time() due(g, "time") end
  function g.on_ask()
    g.asking = nil
    if b.count == 0 then return end
    local now = C.mx_now()
    refresh(g, now)
    local why = b.due ~= 0 and WHY[b.due] or g:ask(now) and "policy"
    if why then due(g, why) end
  end
  return g
end

-- Which limit was reached; nil: none.
function Gather:reached() return WHY[self.b.due] end

-- Its first has come, or is about to.
function Gather:start()
  self.ticket = C.mx_wait_new(turn.waits, self.limits.timeout)
  turn.notify(self.ticket, self.on_time)
end

-- No timer calls any more.
function Gather:rest()
  if self.ticket then turn.forget(self.ticket) end
  if self.asking then turn.forget(self.asking) end
  self.ticket, self.asking = nil, nil
end

local function ask_later(g, say, now)
  local at = now + say
  if at >= g.b.since + g.limits.timeout or g.asking and g.ask_at <= at then return end
  if g.asking then turn.forget(g.asking) end
  g.asking, g.ask_at = C.mx_wait_new(turn.waits, say), at
  turn.notify(g.asking, g.on_ask)
end

-- Whether what the policy said means that it is enough; a number above 0 means that it is to be asked again.
function M.enough(g, say, now)
  if say == true or not say then return say == true end
  if type(say) ~= "number" or say ~= say then
    local what = type(say) == "number" and "NaN" or "a " .. type(say)
    error(check.returned(g.limits.policy, "the policy returned " .. what .. "; expected true, false or seconds"), 0)
  end
  if say <= 0 then return true end
  ask_later(g, say, now)
  return false
end

-- Failures of a policy are logged once a second; the limits go on without it.
function M.complain(limits, e, fields)
  local now = C.mx_now()
  if limits.said and now - limits.said < 1 then return end
  limits.said = now
  fields.error, fields.traceback = err.explain(e)
  log.error("a batch's policy failed", fields)
end

local function ask(g, now) return M.enough(g, g.limits.policy(g.look), now) end

-- Asks the policy: whether it is enough. It must not wait.
function Gather:ask(now)
  local before = turn.inside
  turn.inside = "a batch's policy"
  local ok, enough = turn.guard(ask, self, now)
  turn.inside = before
  if ok then return enough end
  M.complain(self.limits, enough, { queue = self.queue })
  return false
end

return M
