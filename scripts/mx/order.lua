-- order_by: one key in order, different keys side by side.
--
-- Every key with a delivery in a handler has a line of those that wait behind it. Whoever ends one makes the next of its
-- line ready; what is ready goes before what has not been looked at.
local ffi = require "ffi"
local C, band = ffi.C, require "bit".band
local turn, msg, check = require "mx.turn", require "mx.msg", require "mx.check"

local M = {}

local function queue() return { first = 1, last = 0 } end
local function push(q, x)
  q.last = q.last + 1
  q[q.last] = x
end
local function pop(q)
  local x = q[q.first]
  q[q.first] = nil
  q.first = q.first + 1
  return x
end
local function is_empty(q) return q.first > q.last end

-- Makes the loops of a subscription's tasks, as turn.serve does for those without order: f(d) → loop.
function M.serve(sub, key_of)
  local inbox, t, decide, number = sub.inbox, turn.t, sub.decide, sub.number
  local lines, ready = {}, queue()
  sub.ready = function() return not is_empty(ready) end

  local function ref(seq) return msg.Ref(inbox.slot + band(seq, inbox.mask), seq, number) end

  -- The handler of d has ended: the next of its key may run.
  local function step(d)
    local line = d.line
    if not line then return end
    d.line = nil
    if is_empty(line) then lines[line.key] = nil else push(ready, line) end
  end

  -- The next delivery that may run, or nil.
  local function take(d)
    if sub.stopping then return nil end
    if not is_empty(ready) then
      d.line = pop(ready)
      return pop(d.line)
    end
    while inbox.head ~= inbox.tail do
      local seq = inbox.head
      d.seq, inbox.head = seq, seq + 1
      local key = key_of(ref(seq))
      if key == nil then return seq end
      if key ~= key then error(check.returned(key_of, "order_by returned NaN, which is no key"), 0) end
      if not lines[key] then
        d.line = queue()
        d.line.key, lines[key] = key, d.line
        return seq
      end
      push(lines[key], seq)
    end
  end

  return function(d)
    return function(raised)
      if raised then return end
      local tick = t.tick
      step(d)                                           -- after a handler that raised
      repeat
        local seq = take(d)
        if not seq then return end
        local from = C.mx_now()
        d.seq = seq
        t.work = t.work + 1
        local m = ref(seq)
        if decide(d, seq, sub.handler(m)) then return end
        C.mx_hist_record(sub.hist, C.mx_now() - from)
        step(d)
      until t.tick ~= tick
    end
  end
end

return M
