-- Receipts: what became of one publish.
--
-- A receipt is its publisher's number and its own: nothing to free, and nothing of C's to touch after the publisher has
-- gone. Of one that closed, the publisher keeps how far it came and what failed.
local ffi = require "ffi"
local C = ffi.C
local turn, err, check = require "mx.turn", require "mx.err", require "mx.check"
local error, tostring = error, tostring

local M = {}
local publishers, numbers = setmetatable({}, { __mode = "v" }), 0

local PENDING, CONFIRMED, LOST = C.MX_PENDING, C.MX_CONFIRMED, C.MX_LOST
local STATES = {
  [PENDING] = "pending", [CONFIRMED] = "confirmed", [C.MX_NACKED] = "nacked", [C.MX_RETURNED] = "returned",
  [C.MX_TIMED_OUT] = "timeout", [LOST] = "closed",
}
local TEXTS = {
  [C.MX_NACKED] = { "nacked", "publish: the broker refused the message" },
  [C.MX_RETURNED] = { "unroutable", "publish: no queue is bound for this key" },
  [C.MX_TIMED_OUT] = { "timeout", "publish: no confirm in time" },
}

-- From now on there may be receipts of the publisher p; p.live: its mx_pub, until retire.
function M.join(p)
  numbers = numbers + 1
  p.number = numbers
  publishers[numbers] = p
end

-- Why the publisher's channel was closed, if it was by the broker.
local function channel_error(pub)
  if pub.error == nil then return nil end
  local code = pub.reply_code == 403 and "access" or "channel"
  return err.new(code, "publish: " .. ffi.string(pub.error), { op = "publish", reply_code = pub.reply_code ~= 0 and pub.reply_code or nil })
end

local REASONS = 16

-- Before the channel of p is opened again: what ended with it keeps the reason.
function M.keep_reason(p)
  local why = p.live.error ~= nil and channel_error(p.live)
  if not why then return end
  p.reasons = p.reasons or {}
  table.insert(p.reasons, { up_to = p.live.seq, why = why })
  if #p.reasons > REASONS then table.remove(p.reasons, 1) end
end

local function reason_of(p, seq)
  for _, x in ipairs(p.reasons or {}) do
    if seq <= x.up_to then return x.why end
  end
  if p.live then return channel_error(p.live) end
  return p.ended.why
end

-- Before its mx_pub goes: what is pending now ends as closed.
function M.retire(p)
  local pub, failed = p.live, {}
  local seq = C.mx_pub_failure(pub, 0)
  while seq > 0 do
    failed[seq] = C.mx_receipt_state(pub, seq)
    seq = C.mx_pub_failure(pub, seq)
  end
  p.ended = { settled = pub.settled, failed = failed, why = channel_error(pub) }
  p.live = nil
end

local function state_of(r)
  local p = publishers[r.publisher]
  if not p then return LOST end
  if p.live then return C.mx_receipt_state(p.live, r.seq) end
  if r.seq > p.ended.settled then return LOST end
  return p.ended.failed[r.seq] or CONFIRMED
end

M.state_of = state_of

local function failure(r, state)
  local known = TEXTS[state]
  if known then return err.new(known[1], known[2], { op = "publish", reply_code = known[1] == "unroutable" and 312 or nil }) end
  local p = publishers[r.publisher]
  return p and reason_of(p, r.seq) or err.new("closed", "publish: closed before the broker confirmed", { op = "publish" })
end

-- Parks until the publish has ended or the timeout passed.
local function watch(r, timeout)
  turn.here()
  local ticket = C.mx_wait_new(turn.waits, timeout or -1)
  C.mx_receipt_watch(publishers[r.publisher].live, r.seq, ticket)
  turn.await(ticket, "confirm")
end

-- true | nil, err
local function wait(r, timeout)
  if not ffi.istype(M.new, r) then check.fail "receipt:wait: call it with a colon, on a receipt" end
  timeout = timeout and check.seconds(timeout)
  local state = state_of(r)
  if state == PENDING then
    watch(r, timeout)
    state = state_of(r)
    if state == PENDING then
      return nil, err.new("timeout", "receipt:wait: not confirmed within " .. timeout .. " s", { op = "publish" })
    end
  end
  if state == CONFIRMED then return true end
  return nil, failure(r, state)
end
M.wait = wait

-- Calls f when the publish of a pending receipt has ended. f must not wait.
function M.when_ended(r, f)
  local ticket = C.mx_wait_new(turn.waits, -1)
  turn.notify(ticket, f)
  C.mx_receipt_watch(publishers[r.publisher].live, r.seq, ticket)
end

local receipt = {}
function receipt.__index(r, key)
  if key == "state" then return STATES[state_of(r)] end
  if key == "wait" then return wait end
  error("a receipt has .state and :wait(), not '" .. tostring(key) .. "'", 2)
end
function receipt.__tostring(r) return ("receipt %d (%s)"):format(r.seq, r.state) end

M.new = ffi.metatype(ffi.typeof "struct { double seq, publisher; }", receipt)

-- true | nil, failed: the receipts that did not end as confirmed
function M.wait_all(receipts, timeout)
  check.arg(1, "mx.wait_all", receipts, "table")
  local due = timeout and C.mx_now() + check.seconds(timeout)
  local failed = {}
  for i = 1, #receipts do
    if not ffi.istype(M.new, receipts[i]) then check.fail(("mx.wait_all: number %d of the list is no receipt"):format(i)) end
  end
  for i = 1, #receipts do
    if not wait(receipts[i], due and math.max(0, due - C.mx_now())) then failed[#failed + 1] = receipts[i] end
  end
  if #failed > 0 then return nil, failed end
  return true
end

-- The message id that C made for the publish.
local id = ffi.new "uint8_t[64]"
function M.id(r) return ffi.string(id, C.mx_receipt_id(publishers[r.publisher].live, r.seq, id)) end

-- Calls f(err) for each publish of p that came back since the last call; err.receipt says which.
function M.each_returned(p, f)
  local pub = p.live
  if not pub or pub.failed == (p.seen or 0) then return end
  local seq = C.mx_pub_failure(pub, p.last_seen or 0)
  while seq > 0 do
    p.last_seen, p.seen = seq, (p.seen or 0) + 1
    if C.mx_receipt_state(pub, seq) == C.MX_RETURNED then
      local r = M.new(seq, p.number)
      local e = failure(r, C.MX_RETURNED)
      e.receipt = r
      f(e)
    end
    seq = C.mx_pub_failure(pub, seq)
  end
end

return M
