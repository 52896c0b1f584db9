-- A tap: who looks on while the consumers of a queue are handed their messages.
--
-- While there is one, the loop over deliveries is compiled with a handler around the script's; without, it is the one it was.
-- A predicate runs in the consumer's turn: it must not wait, and one that runs too long, or raises, ends its tap.
local turn, consume, err, msg = require "mx.turn", require "mx.consume", require "mx.err", require "mx.msg"
local getters = msg.getters

local M = {}
local TICKS = 4                                 -- of 5 ms, that a predicate may take
local taps = setmetatable({}, { __mode = "k" }) -- by subscription: { looks, handler, serve = as they were }

-- What a predicate gets: the fields of the delivery that is being handed over, not what settles it. A plain table: where nothing
-- is compiled, that is a fraction of what a msg costs. What it decodes the handler finds decoded.
local ref, id = nil, { seq = 0, sub = 0 }       -- of the delivery that is looked at
local view = setmetatable({}, {
  __index = function(_, name)
    local get = getters[name]
    if get then return get(ref.m, id) end
    if name == "json" then return msg.methods.json end
    error("msg has no field '" .. err.tostring(name) .. "' in a tap", 2)
  end,
  __newindex = function(_, name) error(("msg.%s cannot be set: messages are read-only"):format(err.tostring(name)), 2) end,
})

-- Compiled for each handler, as the loop that calls it (mx/turn.lua).
local LOOK = [[
local handler, looks, number = ...
return function(m)
  for i = 1, #looks do looks[i](m, number) end
  return handler(m)
end
]]

-- A handler of batches has its messages looked at one by one.
local function looking_at_batch(handler, looks, number)
  return function(batch)
    for i = 1, #batch do
      for j = 1, #looks do looks[j](batch[i], number, batch[i].seq) end
    end
    return handler(batch)
  end
end

local function install(sub, handler, serve)
  sub.handler = handler
  if sub.order_by or sub.attach then return end -- its loops ask for the handler each time
  sub.serve = serve or turn.loops(sub)
  for d in pairs(sub.tasks) do
    if not d.once then d.loop = sub.serve(d) end
  end
end

local function add(sub, look)
  local tap = taps[sub]
  if not tap then
    tap = { looks = {}, handler = sub.handler, serve = sub.serve }
    taps[sub] = tap
    local looking = sub.attach and looking_at_batch or assert(loadstring(LOOK, "=mx/repl/tap"))
    install(sub, looking(tap.handler, tap.looks, sub.number))
  end
  for _, x in ipairs(tap.looks) do
    if x == look then return end
  end
  tap.looks[#tap.looks + 1] = look
end

local function remove(sub, tap, look)
  for i, x in ipairs(tap.looks) do
    if x == look then table.remove(tap.looks, i) break end
  end
  if #tap.looks > 0 then return end
  taps[sub] = nil
  if not sub.over then install(sub, tap.handler, tap.serve) end
end

-- Whether an expression calls nothing: then it neither loops nor waits.
function M.calls_nothing(text) return not text:find "[({:%[]" and not text:find "[%w_%]]%s*[\"']" end

local function guarded(predicate)
  local t, unwaiting = turn.t, turn.unwaiting
  return function()
    t.limit = TICKS                             -- counted from where this delivery began
    local ok, wanted = unwaiting("a tap", predicate, view)
    t.limit = 0
    return ok, wanted
  end
end

-- take(msg) for each message that predicate(msg) is true of, or each; failed(text) when the predicate raised: nothing follows then.
-- harmless: the predicate calls nothing. { refresh = f → how many subscriptions it looks at by now, stop = f }
function M.on(queue, predicate, take, failed, harmless)
  local over, test = false, harmless and pcall or predicate and guarded(predicate)
  local function look(m, number, seq)
    if over then return end
    ref, id.seq, id.sub = m, seq or turn.current.seq, number
    if predicate then
      local ok, wanted = test(predicate, view)
      if not ok then
        over = true
        return failed(err.tostring(wanted))
      end
      if not wanted then return end
    end
    take(view)
  end
  local function refresh()
    local n = 0
    for _, c in ipairs(consume.open) do
      local sub = c.sub
      if c.queue == queue and sub and sub.inbox and not sub.over and not sub.stopping then
        add(sub, look)
        n = n + 1
      end
    end
    return n
  end
  local function stop()
    over = true
    for sub, tap in pairs(taps) do remove(sub, tap, look) end
  end
  return { refresh = refresh, stop = stop }
end

return M
