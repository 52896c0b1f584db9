-- Memory: who holds it, the limit on it, and what is done as that comes near. C counts, this decides.
local ffi = require "ffi"
local C, band = ffi.C, require "bit".band
local turn, check, log, event = require "mx.turn", require "mx.check", require "mx.log", require "mx.event"
local task, hold, generation = require "mx.task", require "mx.hold", require "mx.generation"

local M = {}

local SLACK = 0.05                      -- a step is undone so far below the share at which it was taken
local PATIENCE = 0.1                    -- seconds between looks while something is to be undone, or watched by a function
local STAY = { lower_prefetch = 5 }     -- seconds for which a step stays at least: to subscribe again and again helps nobody
local REST = 10                         -- a full collection may take a part in so many of the time

local limit, busy = 0, false            -- busy: a look is due for its own sake
local watches = {}

-- What can be done. Each returns how much there was to do; undo takes it back.
local steps = {}
local rungs = {}                        -- { name =, at =, active =, count = }, the lowest first

function steps.collect()
  local now = C.mx_now()
  if now < (M.collect_after or 0) then return 0 end
  local before = C.mx_memory_used()
  collectgarbage()
  local took = C.mx_now() - now
  M.collect_after = now + took * REST
  C.mx_hist_record(turn.t.gc, took)
  turn.t.gc_seconds = turn.t.gc_seconds + took
  return before - C.mx_memory_used()
end

function steps.shrink_pools() C.mx_memory_shrink() end

-- Consumers of a broker in this process hold nothing that it would not hold otherwise.
local function each_remote(f)
  for _, c in ipairs { unpack(hold.open) } do
    if c.conn.addresses[1].scheme ~= "mem" then f(c) end
  end
end

function steps.lower_prefetch() each_remote(function(c) hold.lower(c, 4) end) end
function steps.pause_consumers() each_remote(function(c) hold.hold(c, "memory") end) end
function steps.refuse_publish() C.mx_memory_refuse(1) end

local undo = {
  lower_prefetch = function() each_remote(hold.raise) end,
  pause_consumers = function() each_remote(function(c) hold.release(c, "memory") end) end,
  refuse_publish = function() C.mx_memory_refuse(0) end,
}

local function add_rung(name, at)
  for i, r in ipairs(rungs) do
    if r.name == name then
      if r.active and undo[name] then undo[name]() end
      table.remove(rungs, i)
      break
    end
  end
  if not at then return end
  rungs[#rungs + 1] = { name = name, at = at, active = false, count = 0 }
  table.sort(rungs, function(a, b) return a.at < b.at end)
end

-- Lua's part may be garbage: while a collection is not due yet, only what C holds counts.
local function is_real(r)
  return r.name == "collect" or C.mx_now() >= (M.collect_after or 0) or C.mx_memory_held() / limit >= r.at
end

local function act(r, share)
  if not r.active then
    if not is_real(r) then return end
    r.active, r.count, r.until_at = true, r.count + 1, C.mx_now() + (STAY[r.name] or 0)
    log.warn("memory: " .. r.name, { used = ("%.3f"):format(share), at = r.at })
    steps[r.name]()
    event.emit("memory", { step = r.name, active = true, used = share })
  elseif r.name == "collect" then
    steps.collect()
  end
end

local function take_back(r, share)
  r.active = false
  log.info("memory: " .. r.name .. " is over", { used = ("%.3f"):format(share), at = r.at })
  if undo[r.name] then undo[r.name]() end
  event.emit("memory", { step = r.name, active = false, used = share })
end

-- Thresholds that scripts watch -----------------------------------------------------------------------------------

local function is_reached(w, share)
  if type(w.at) == "number" then return share >= w.at - (w.active and SLACK or 0) end
  local ok, answer = pcall(w.at, M.stats())
  if not ok and not w.said then log.error("memory: a watched function failed", { error = task.text_of(answer) }) end
  w.said = not ok
  return ok and answer or false
end

local function look_at(w, share)
  local reached = is_reached(w, share)
  if reached and not w.active then task.spawn_for(w.generation, w.f, M.stats()) end
  w.active = reached
end

-- Looking ---------------------------------------------------------------------------------------------------------

local function share_of() return limit > 0 and C.mx_memory_used() / limit or 0 end
M.share = share_of

local look_later

local function look()
  local waits = false
  for _, r in ipairs(rungs) do
    local share = share_of()
    if share >= r.at then act(r, share)
    elseif r.active and share < r.at - SLACK and C.mx_now() >= r.until_at then take_back(r, share) end
    waits = waits or r.active or share >= r.at
  end
  local now = C.mx_now()
  local functions = now >= (M.watch_after or 0)
  if functions then M.watch_after = now + PATIENCE end
  for _, w in ipairs(watches) do
    if type(w.at) == "number" or functions then look_at(w, share_of()) end
    waits = waits or w.active or type(w.at) == "function"
  end
  if waits and not busy then look_later() end
end

function look_later()
  busy = true
  turn.notify(C.mx_wait_new(turn.waits, PATIENCE), function()
    busy = false
    look()
  end)
end

-- Once a turn.
function M.look()
  if limit > 0 then look() end
end

-- What scripts call -------------------------------------------------------------------------------------------------

-- nil, text: so much is held already that nothing could run
local function set(bytes)
  if bytes > 0 and bytes < C.mx_memory_used() then collectgarbage() end
  local used = C.mx_memory_used()
  if bytes > 0 and bytes < used then
    return nil, ("the limit is %.0f bytes, and %.0f are held already"):format(bytes, used)
  end
  limit = bytes
  C.mx_memory_limit(limit)
  look()
  return true
end

-- Sets the limit, if one is given; that of the command line stays. bytes, 0: there is none
function M.limit(size)
  if size ~= nil then
    local bytes = check.arg(1, "mx.memory.limit", size, "bytes")
    local why
    if not M.fixed then why = select(2, set(bytes)) end
    if why then check.fail("mx.memory.limit: " .. why) end
  end
  return limit
end

-- The limit of the command line. true | nil, text
function M.fix(bytes)
  M.fixed = bytes > 0
  return set(bytes)
end

function M.collect_at(share) add_rung("collect", check.arg(1, "mx.memory.collect_at", share, "fraction")) end

-- Calls f(stats) when the share of the limit is reached, or when the function `at` answers true; again after it was not.
function M.watch(at, f)
  if type(at) ~= "function" then at = check.arg(1, "mx.memory.watch", at, "fraction") end
  f = check.arg(2, "mx.memory.watch", f, "function")
  local w = { at = at, f = f, active = false, generation = generation.mine() }
  watches[#watches + 1] = w
  if not busy then look_later() end
  return { cancel = function()
    for i, x in ipairs(watches) do
      if x == w then return table.remove(watches, i) and nil end
    end
  end }
end

function M.forget(g) generation.drop(watches, g) end

local function check_steps(list)
  local seen = {}
  for at, name in pairs(list) do
    if type(at) ~= "number" or at < 0 or at > 1 then
      check.fail(("mx.memory.ladder: expected shares of the limit such as [0.8] = \"collect\", got [%s]"):format(tostring(at)))
    end
    if not steps[name] then
      check.fail(("mx.memory.ladder: unknown step '%s'%s"):format(tostring(name), check.nearest(tostring(name), steps)))
    end
    if seen[name] then check.fail(("mx.memory.ladder: '%s' is there twice"):format(name)) end
    seen[name] = true
  end
  return seen
end

-- Takes the place of the ladder that is there; what is not named is not done.
function M.ladder(list)
  local named = check_steps(check.arg(1, "mx.memory.ladder", list, "table"))
  for name in pairs(steps) do
    if not named[name] and name ~= "collect" then add_rung(name, nil) end
  end
  for at, name in pairs(list) do add_rung(name, at) end
end

M.ladder { [0.8] = "collect", [0.82] = "shrink_pools", [0.85] = "lower_prefetch", [0.9] = "pause_consumers", [0.95] = "refuse_publish" }

local function ladder_now()
  local list = {}
  for _, r in ipairs(rungs) do list[r.name] = { at = r.at, active = r.active, count = r.count } end
  return list
end

local function unacked()
  local sum = 0
  for _, c in ipairs(hold.open) do
    local sub = c.sub
    if sub and sub.inbox and not sub.over then sum = sum + C.mx_inbox_bytes(sub.inbox) end
  end
  return sum
end

local function number_in(path, pattern)
  local f = io.open(path)
  local text = f and f:read "*a" or ""
  if f then f:close() end
  return tonumber(text:match(pattern))
end

local machine
-- What the machine has, or its cgroup may have.
local function bytes_of_machine()
  machine = machine or math.min((number_in("/proc/meminfo", "MemTotal:%s*(%d+)") or math.huge) * 1024,
                                number_in("/sys/fs/cgroup/memory.max", "^(%d+)") or math.huge)
  return machine
end

local FIELDS = { "lua", "lua_peak", "objects", "messages", "unconfirmed", "buffers", "deliveries", "receipts", "broker", "tls", "profiler",
                 "pools", "other", "free", "retained", "total", "limit", "rss" }

function M.stats()
  local m, t = ffi.new "mx_memory", turn.t
  C.mx_memory_read(m)
  local s = { unacked = unacked(), used = share_of(), machine = bytes_of_machine(), coroutines = turn.tasks, ladder = ladder_now() }
  for _, name in ipairs(FIELDS) do s[name] = m[name] end
  s.gc = {
    cycles = t.gc_cycles, pause_total = t.gc_seconds, pause_p50 = C.mx_hist_percentile(t.gc, 50),
    pause_p99 = C.mx_hist_percentile(t.gc, 99), pause_max = C.mx_hist_max(t.gc),
  }
  return s
end

-- Free lists, and rings of which the slots are reused: by name { live, free, hit }; hit: the share that was there when asked for.
function M.pools()
  local p, pools = ffi.new "mx_memory_pool_stats", {}
  for i = 0, math.huge do
    if C.mx_memory_pool(i, p) == 0 then break end
    local asked = p.hits + p.misses
    pools[ffi.string(p.name)] = { live = p.live, free = p.free, hit = asked > 0 and p.hits / asked or 1 }
  end
  local live, room = 0, 0
  for _, c in ipairs(hold.open) do
    local ib = c.sub and not c.sub.over and c.sub.inbox
    if ib then live, room = live + band(ib.tail - ib.settled, 0xffffffff), room + ib.mask + 1 end
  end
  pools.deliveries = { live = live, free = room - live, hit = 1 }
  return pools
end

return M
