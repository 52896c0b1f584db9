-- What a handler's answer means: the table of API.md, the retry policy, and the publishes that belong to a delivery.
local C = require "ffi".C
local turn, err, check = require "mx.turn", require "mx.err", require "mx.check"
local msg, settle, handover, receipt = require "mx.msg", require "mx.settle", require "mx.handover", require "mx.receipt"
local stream = require "mx.stream"
local complain, unsettled = settle.complain, settle.unsettled
local ACK, REJECT = settle.ACK, settle.REJECT

local M = {}
local PENDING, CONFIRMED, state_of = C.MX_PENDING, C.MX_CONFIRMED, receipt.state_of
local ROOM = 256                        -- receipts of one delivery between two looks at them

local function reject(sub, seq, why)
  sub.counts.rejected = sub.counts.rejected + 1
  local target, m = sub.conn.dead_letters[sub.queue], unsettled(sub, seq)
  if not target or target.wire and m and not msg.retries_of(m) then    -- the broker can keep headers that we cannot read
    return settle.settle(sub, seq, REJECT)
  end
  settle.aside(sub, seq, handover.dead_letter, why or "rejected")
end
M.reject = reject

local function retry(sub, seq, delay, why, jitter)
  local m = unsettled(sub, seq)
  if not m or not msg.retries_of(m) then return reject(sub, seq, why) end
  sub.counts.retried = sub.counts.retried + 1
  if sub.stream then return stream.again(sub, seq, delay or sub.retry.base) end
  settle.aside(sub, seq, handover.retry_later, delay or sub.retry.base, why or "retry", jitter)
end

-- Failures ----------------------------------------------------------------------------------------------------------

-- The script's own delay: seconds, nil for no more retries; false when it failed itself.
local function chosen_delay(sub, r, n, m, e)
  local ok, delay = turn.guard(r.delay, n, m, err.wrap(e))
  if ok and delay ~= nil then
    ok, delay = pcall(check.seconds, delay, 0)
    if not ok then delay = check.returned(r.delay, "retry.delay: " .. delay) end
  end
  if ok then return delay end
  complain(sub, "retry.delay failed", delay)
  return false
end

-- What the policy r makes of a msg that failed with e after so many retries (nil: its headers cannot be read): seconds, and
-- whether a neighbouring tier will do; nil when it is to be rejected.
function M.delay_after(sub, r, m, retries, e)
  if not retries or err.is(e) and e.retryable == false or retries >= r.max then return nil end
  if r.delay then
    local delay = chosen_delay(sub, r, retries + 1, m, e)
    if delay ~= false then return delay end
  end
  return math.min(r.base * r.factor ^ retries, r.max_delay), r.jitter
end

local function policy(sub, seq, e, waited, quiet)
  local m = unsettled(sub, seq)
  if not m or sub.asides[seq] and not waited then return end
  sub.counts.failed = sub.counts.failed + 1
  if not quiet then complain(sub, "handler failed", e) end
  if sub.auto_ack then return settle.settle(sub, seq, ACK) end
  local retries = msg.retries_of(m)
  local delay, jitter = M.delay_after(sub, sub.retry, msg.Ref(m, seq, sub.number), retries and retries + msg.tries(sub, m), e)
  local text = err.explain(e)
  if delay then retry(sub, seq, delay, text, jitter) else reject(sub, seq, text) end
end

-- The retry policy, then as reject; waited: after its ack waited for receipts; quiet: the log has it already. Never raises:
-- also called where nothing protects the loop.
local function fail(sub, seq, e, waited, quiet)
  local ok, why = turn.guard(policy, sub, seq, e, waited, quiet)
  if ok then return end
  complain(sub, "settling failed", why)
  settle.requeue(sub, seq)
end
M.fail = fail

-- Publishes made inside a handler ------------------------------------------------------------------------------------

-- A server task has published: the receipt belongs to its delivery.
function M.on_publish(d, r)
  local sent = d.sent
  if not sent then
    d.sent, d.look = { r }, true
    return
  end
  sent[#sent + 1] = r
  if #sent % ROOM ~= 0 then return end
  local left = {}                       -- a handler that publishes without end keeps only what matters
  for i = 1, #sent do
    if state_of(sent[i]) ~= CONFIRMED then left[#left + 1] = sent[i] end
  end
  d.sent = left[1] and left or nil
end

-- Acks that wait for receipts of one publisher, in the order of their handlers: only the first has a watcher.
local Acks = {}
Acks.__index = Acks

local function acks_of(sub, publisher)
  local acks = sub.acks[publisher]
  if not acks then
    acks = setmetatable({ sub = sub, first = 1, last = 0, at = 1, seqs = {}, sents = {}, sures = {} }, Acks)
    sub.acks[publisher] = acks
  end
  return acks
end

-- Whether the publishes of the first have all ended; otherwise one of them is watched.
local function is_over(acks, sent)
  for i = acks.at, #sent do
    acks.at = i
    local state = state_of(sent[i])
    if state == PENDING then
      acks.watching = true
      receipt.when_ended(sent[i], acks)
      return false
    end
    if state ~= CONFIRMED and not acks.failure then acks.failure = select(2, sent[i]:wait()) end
  end
  return true
end

-- What a delivery's handler published has ended.
local function sent_out(sub, seq, failure)
  if failure then fail(sub, seq, failure, true) else settle.settle(sub, seq, ACK) end
  settle.leave(sub, seq)
end

local function go_on(acks)
  local sub = acks.sub
  while acks.first <= acks.last do
    local i = acks.first
    if not is_over(acks, acks.sents[i]) then return end
    local seq, failure = acks.seqs[i], not acks.sures[i] and acks.failure
    acks.seqs[i], acks.sents[i], acks.sures[i], acks.at, acks.failure = nil, nil, nil, 1, nil
    acks.first = i + 1
    if acks.first > acks.last then acks.first, acks.last = 1, 0 end
    local f = type(seq) == "table" and sub.sent_out or sent_out
    f(sub, seq, failure)
  end
end

-- The publish that was watched has ended.
function Acks:__call()
  self.watching = false
  go_on(self)
end

-- sure: the handler said that it is done, whatever comes of them. seq: of one delivery, or what sub.sent_out knows; the caller
-- enters it as an aside.
function M.ack_after(sub, seq, sent, sure)
  local acks = acks_of(sub, sent[#sent].publisher)
  local i = acks.last + 1
  acks.last, acks.seqs[i], acks.sents[i], acks.sures[i] = i, seq, sent, sure or false
  if not acks.watching then go_on(acks) end
end

-- Answers -----------------------------------------------------------------------------------------------------------

local ANSWERS = {
  reject = function(sub, seq, why) reject(sub, seq, why ~= nil and err.tostring(why) or nil) end,
  retry = function(sub, seq, seconds) retry(sub, seq, seconds and check.seconds(seconds)) end,
  requeue = function(sub, seq)
    if sub.stream then error(stream.no_requeue(), 0) end
    settle.requeue(sub, seq)
  end,
}

function M.answer(sub, seq, verdict, why) ANSWERS[verdict](sub, seq, why) end

-- The error of an answer that the consumer cannot give, or that means nothing; nil for the others.
function M.misread(c, verdict, why)
  if not ANSWERS[verdict] then
    local what = type(verdict)
    what = (what == "string" or what == "number") and tostring(verdict) or "a " .. what
    return check.returned(c.script, ("the handler returned %s; expected nothing, true, \"reject\", \"retry\", \"requeue\", "
      .. "or nil and an error"):format(what))
  end
  if c.auto_ack then return err.new("validation", "cannot " .. verdict .. " with auto_ack: it is settled") end
  if verdict ~= "retry" or not why then return nil end
  local ok, text = pcall(check.seconds, why, 0)
  if not ok then return check.returned(c.script, 'the handler returned "retry": ' .. text) end
end

local function done(sub, seq, sent, sure)
  if sub.manual then return end
  if not sent then return settle.settle(sub, seq, ACK) end
  settle.enter(sub, seq)
  M.ack_after(sub, seq, sent, sure)
end

-- What the handler returned for a delivery; sent: the receipts of what it published.
function M.decided(sub, seq, verdict, why, sent)
  if not unsettled(sub, seq) or sub.asides[seq] then return end       -- by its own method
  if verdict == true or verdict == nil and why == nil then return done(sub, seq, sent, verdict) end
  if verdict == nil then return fail(sub, seq, why) end
  if verdict == false then return fail(sub, seq, why or err.new("internal", "the handler returned false")) end
  local wrong = M.misread(sub, verdict, why)
  if wrong then return fail(sub, seq, wrong) end
  ANSWERS[verdict](sub, seq, why)
end

msg.settling("ack", function(sub, seq) settle.settle(sub, seq, ACK) end)
for name, f in pairs(ANSWERS) do msg.settling(name, f) end

return M
