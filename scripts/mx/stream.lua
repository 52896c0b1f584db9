-- Streams: a delivery cannot go back, so it runs again in place; a resume goes on behind what was settled.
local turn, check, err = require "mx.turn", require "mx.check", require "mx.err"
local msg, settle = require "mx.msg", require "mx.settle"
local tonumber = tonumber

local M = {}
local OFFSET = "x-stream-offset"

-- Whether the options are those of a stream's consumer; raises where they cannot be.
function M.is(what, conn, queue, o)
  local offset = o.args and o.args[OFFSET]
  if conn.queues[queue] ~= "stream" and offset == nil then return false end
  if offset == nil then
    check.fail(what .. ': a stream is read from an offset: args = { ["x-stream-offset"] = "first" }, "last", "next" or a number')
  end
  if o.auto_ack or o.prefetch == 0 then check.fail(what .. ": a stream needs a prefetch, and cannot be read with auto_ack") end
  return true
end

local function offset_of(m) return tonumber((msg.read_headers(m) or {})[OFFSET]) end

function M.seen(c, m) c.last_offset = offset_of(m) or c.last_offset end

-- The handler, with a note of how far it came.
function M.noting(c, handler)
  return function(m)
    M.seen(c, m.m)
    return handler(m)
  end
end

-- Before an inbox closes, or another one is opened without waiting for that: where to go on, the first delivery that was not
-- settled or the one behind the last.
function M.note(sub)
  local ib, c = sub.inbox, sub.consumer
  for i = 0, settle.taken(ib) - 1 do
    local m = settle.slot_of(ib, settle.position(ib, i))
    if m then
      c.next_offset = offset_of(m)
      return
    end
  end
  if c.last_offset then c.next_offset = c.last_offset + 1 end
end

-- The arguments of basic.consume.
function M.arguments(sub, args)
  if sub.next_offset then args[OFFSET] = sub.next_offset end
end

-- Runs the handler again for a delivery, after the delay.
function M.again(sub, seq, delay)
  sub.again[seq] = (sub.again[seq] or 0) + 1
  settle.enter(sub, seq)
  settle.after(sub, delay, function()
    local d = not sub.stopping and sub.once(seq)
    settle.leave(sub, seq)
    if d then turn.run(d, d) end
  end)
end

function M.no_requeue() return err.new("validation", "a stream keeps its messages: nothing can be requeued") end

return M
