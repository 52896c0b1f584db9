-- Batches under test: what is delivered together makes one batch, whatever the script's limits and policy say.
local turn, err, batch, isolate = require "mx.turn", require "mx.err", require "mx.batch", require "mx.isolate"
local task, decision = require "mx.task", require "mx.test.decision"

local M = {}
local MOST = 65535

-- Before the handler runs: its time limit settles them.
local function copies_of(messages)
  local copies = {}
  for i, m in ipairs(messages) do copies[i] = { msg = m:keep(), attempt = m.attempt } end
  return copies
end

local function group_of(entry, messages)
  local group_by = entry.options.group_by
  if not group_by then return nil end
  local group = group_by(messages[1])
  for _, m in ipairs(messages) do
    if group_by(m) ~= group then error("h:deliver_batch: the messages are of different groups, and so never in one batch", 0) end
  end
  return group
end

local function run(h, entry, handler, messages, of)
  local c, me, copies = entry.consumer, turn.current, copies_of(messages)
  messages.group = group_of(entry, messages)
  h.running[me] = of
  local ok, answer, why = xpcall(handler, turn.on_error, messages)
  h.running[me] = nil
  if me.late then
    ok, answer = false, err.new("timeout", "the handler ran past its time limit of " .. c.timeout .. " s")
  end
  local told, list = isolate.take_told(messages), {}
  for i, copy in ipairs(copies) do
    local t = told[i]
    list[i] = t and decision.told(c, copy.msg, copy.attempt, t[1], t[2])
              or decision.of(c, copy.msg, copy.attempt, of.receipts, ok, answer, why)
  end
  local result = decision.of(c, copies[1].msg, copies[1].attempt, of.receipts, ok, answer, why)
  result.messages, result.published = list, of.published
  if result.decision == "failed" and #list > 1 then result.halved = entry.halves end
  return result
end

-- What the private broker calls: the script's handler, observed; the batch itself is acked.
local function observed(h, entry, handler)
  return function(messages)
    local of = h.runs[messages[1].id]
    if not of then return true end
    local ok, result = turn.guard(run, h, entry, handler, messages, of)
    of.done:put(ok and result or { failure = (err.explain(result)) }, 0)
    return true
  end
end

-- A consumer of the script's on the private broker | nil, err
function M.consume(h, entry, conn, queue, options, handler)
  if type(options) == "function" and handler == nil then options, handler = nil, options end
  local o = batch.arguments(options, handler)
  entry.turn, entry.halves = task.semaphore(1), o.on_error ~= "retry" and o.on_error ~= "reject" and not o.auto_ack
  local mine = { size = MOST, prefetch = MOST, bytes = 2 ^ 50, timeout = 86400, handler_timeout = o.handler_timeout,
                 concurrency = o.concurrency, on_error = "retry", retry = o.retry,
                 policy = function(b) return b.count == entry.expected end }
  return batch.consume(conn, queue, mine, observed(h, entry, handler))
end

return M
