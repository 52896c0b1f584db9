-- A consumer: hands each delivery to the tally, then to the script's handler.
local ffi = require "ffi"
local C = ffi.C
local consume, turn = require "mx.consume", require "mx.turn"

local M = {}

local function handler_of(run, group, queue, done)
  local tallies, number, streams = run.tallies, run.number, run.streams
  local stream = streams > 1 and run.stream_of[queue] - 1 or 0
  local last, receive, handler, left = ffi.new("double[?]", math.max(run.total, 1)), C.mx_tally_receive, group.handler, group.messages
  if left then
    return function(msg)
      if left == 0 then return "requeue" end
      receive(tallies, number, msg.m, streams, stream, last)
      left = left - 1
      if left == 0 then done() end
      if handler then return handler(msg) end
    end
  end
  if not handler then
    return function(msg) receive(tallies, number, msg.m, streams, stream, last) end
  end
  return function(msg)
    receive(tallies, number, msg.m, streams, stream, last)
    return handler(msg)
  end
end

-- The consumer of that index (from 0) of a group. c | nil, err
function M.new(run, group, index)
  local queue = type(group.queue) == "table" and group.queue[index % #group.queue + 1] or group.queue
  local c = { group = group, queue = queue, over = false }
  local handler = handler_of(run, group, queue, function()
    c.over = true
    turn.start(function() c.consumer:stop() end, function() end)
  end)
  local consumer, e = run.connect():consume(queue, {
    prefetch = group.prefetch, concurrency = group.concurrency, auto_ack = group.auto_ack, timeout = group.timeout,
    priority = group.priority, args = group.args, retry = group.retry,
  }, handler)
  if not consumer then return nil, e end
  c.consumer = consumer
  return c
end

-- How long handlers took, into a histogram.
function M.handlers(consumers, to)
  local seen = {}
  for _, c in ipairs(consumers) do
    local measures = consume.hists[c.queue]
    if c.group.handler and measures and not seen[measures] then
      seen[measures] = true
      C.mx_hist_merge(to, measures.hist)
    end
  end
end

return M
