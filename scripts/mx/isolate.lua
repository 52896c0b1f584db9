-- A batch in its handler's hands: what the handler may say of single messages, what becomes of all, and how a bad one among
-- them is found.
--
-- A run is one call of the handler: a whole batch, or a part of one that failed. Halves of a failed run are run again, the first
-- half with all that comes of it before the second, until single messages fail. When any part was good, a message
-- that failed alone is the bad one, and rejected; when none was, it is not the messages, and each follows the retry policy.
local C, band = require "ffi".C, require "bit".band
local turn, err, check = require "mx.turn", require "mx.err", require "mx.check"
local msg, settle, verdict, stream = require "mx.msg", require "mx.settle", require "mx.verdict", require "mx.stream"
local new_table = require "table.new"
local setmetatable, getmetatable, type, ipairs = setmetatable, getmetatable, type, ipairs

local M = {}
local ACK, UNSETTLED = C.MX_ACK, C.MX_UNSETTLED

-- What the handler gets -----------------------------------------------------------------------------------------------

local Batch = {}

local function run_of(batch)
  local meta = type(batch) == "table" and getmetatable(batch)
  return meta and meta.run
end

function Batch:bodies()
  local bodies = new_table(#self, 0)
  for i = 1, #self do bodies[i] = self[i].body end
  return bodies
end

-- A method about the i-th message: true | nil, err when the batch was settled before.
local function telling(name)
  Batch[name] = function(batch, i, why)
    local run = run_of(batch)
    if not run then check.fail("batch:" .. name .. ": call it with a colon, on a batch") end
    i = check.arg(1, "batch:" .. name, i, "integer 1.." .. #run.seqs)
    local wrong = name ~= "fail" and verdict.misread(run.sub, name, why)
    if not wrong and name == "requeue" and run.sub.stream then wrong = stream.no_requeue() end
    if wrong then check.fail("batch:" .. name .. ": " .. err.tostring(wrong)) end
    if run.over then return nil, err.new("closed", "batch:" .. name .. ": already settled") end
    run.told = run.told or {}
    run.told[i] = { name, why }
    return true
  end
end
for _, name in ipairs { "fail", "reject", "retry", "requeue" } do telling(name) end

-- For tests: what the handler said of single messages, by number { name, why }; it has no effect then.
function M.take_told(batch)
  local run = run_of(batch)
  local told = run.told or {}
  run.told = nil
  return told
end

-- group: what group_by said of its messages.
function M.run(sub, seqs, group, of)
  local inbox, number, batch = sub.inbox, sub.number, new_table(#seqs, 1)
  local slot, mask, Ref = inbox.slot, inbox.mask, msg.Ref
  for i = 1, #seqs do batch[i] = Ref(slot + band(seqs[i], mask), seqs[i], number) end
  batch.group = group
  local run = { sub = sub, seqs = seqs, group = group, of = of }
  run.batch = setmetatable(batch, { __index = Batch, run = run })
  return run
end

-- A run of some of its messages.
function M.part(run, seqs) return M.run(run.sub, seqs, run.group, run.of) end

-- What becomes of it --------------------------------------------------------------------------------------------------

local function one_failed(sub, seq, e, quiet) verdict.fail(sub, seq, e, true, quiet) end

-- Settles those that the handler told apart; the others.
local function tell_apart(run)
  run.over = true
  local told, rest = run.told, {}
  if not told then return run.seqs end
  for i, seq in ipairs(run.seqs) do
    local name, why = unpack(told[i] or {}, 1, 2)
    if not name then rest[#rest + 1] = seq
    elseif name == "fail" then one_failed(run.sub, seq, why ~= nil and why or "the handler gave no reason")
    else verdict.answer(run.sub, seq, name, why) end
  end
  return rest
end

local function rejected(sub, seq, e)
  if not settle.unsettled(sub, seq) then return end
  sub.counts.failed = sub.counts.failed + 1
  verdict.reject(sub, seq, (err.explain(e)))
end

-- One more part has ended, good or not; after the last one those that failed alone are judged.
local function part_ended(run, good)
  local of, sub = run.of, run.sub
  if not of then return end
  of.good, of.left = of.good or good, of.left - 1
  if of.left > 0 then return end
  for _, suspect in ipairs(of.suspects) do
    local e = suspect.e
    if of.good and not (err.is(e) and e.retryable) then
      settle.complain(sub, "a message of a batch failed", e)
      rejected(sub, suspect.seq, e)
    else
      one_failed(sub, suspect.seq, e)
    end
  end
end

local function some_of(list, from, to)
  local part = {}
  for i = from, to do part[#part + 1] = list[i] end
  return part
end

local function halve(run, seqs, e)
  local of, half = run.of, math.ceil(#seqs / 2)
  if not of then
    settle.complain(run.sub, ("a batch of %d failed, looking for what is bad in it"):format(#seqs), e)
    of = { left = 1, suspects = {} }
    run.of = of
  end
  of.left = of.left + 2
  run.sub.run_next(M.part(run, some_of(seqs, half + 1, #seqs)))
  run.sub.run_next(M.part(run, some_of(seqs, 1, half)))
end

local function all_failed(sub, seqs, e)
  if #seqs == 1 then return one_failed(sub, seqs[1], e) end
  settle.complain(sub, ("a batch of %d failed"):format(#seqs), e)
  local dead = sub.on_error == "reject" and not sub.auto_ack
  for _, seq in ipairs(seqs) do
    if dead then rejected(sub, seq, e) else one_failed(sub, seq, e, true) end
  end
end

function M.failed(run, e)
  local sub, seqs = run.sub, tell_apart(run)
  local halving = sub.on_error == "isolate" and not sub.auto_ack and not sub.over
  if halving and #seqs > 1 then halve(run, seqs, e)
  elseif halving and run.of and seqs[1] then run.of.suspects[#run.of.suspects + 1] = { seq = seqs[1], e = e }
  elseif seqs[1] then all_failed(sub, seqs, e) end
  part_ended(run, false)
end

local function done(run)
  local sub, seqs = run.sub, run.seqs
  if not sub.over then
    local inbox = sub.inbox
    local slot, mask = inbox.slot, inbox.mask
    for i = 1, #seqs do
      local seq = seqs[i]
      local m = slot + band(seq, mask)
      if m.seq == seq and m.verdict == UNSETTLED then m.verdict = ACK end
      if sub.stream then sub.again[seq] = nil end
    end
    turn.t.again = 1
  end
  part_ended(run, true)
end

-- What its handler published has ended.
function M.sent_out(sub, run, failure)
  local seqs = run.seqs
  if failure then M.failed(run, failure) else done(run) end
  for i = 1, #seqs do settle.leave(sub, seqs[i]) end
end

local function succeeded(run, sent, sure)
  local sub = run.sub
  run.seqs, run.told = tell_apart(run), nil
  if not sent or not run.seqs[1] then return done(run) end
  for _, seq in ipairs(run.seqs) do settle.enter(sub, seq) end
  verdict.ack_after(sub, run, sent, sure)
end

local function answered(run, answer, why)
  local sub, wrong = run.sub, verdict.misread(run.sub, answer, why)
  if not wrong and answer == "requeue" and sub.stream then wrong = stream.no_requeue() end
  if wrong then return M.failed(run, wrong) end
  local seqs = tell_apart(run)
  if answer == "requeue" then
    settle.requeue_all(sub, seqs)
  else
    for _, seq in ipairs(seqs) do verdict.answer(sub, seq, answer, why) end
  end
  part_ended(run, true)
end

-- What the handler returned; sent: the receipts of what it published.
function M.decided(run, answer, why, sent)
  if answer == true or answer == nil and why == nil then return succeeded(run, sent, answer) end
  if answer then return answered(run, answer, why) end
  if why == nil then why = err.new("internal", "the handler returned false") end
  M.failed(run, why)
end

return M
