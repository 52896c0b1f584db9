-- mx.health: checks that run by themselves, what they say damped, and whether the process is ready.
--
-- A check runs in a task of its own, started by a ticket: neither keeps the process alive. Its status changes when it was
-- worse fail_after times, or better recover_after times, one after the other.
local ffi = require "ffi"
local C = ffi.C
local turn, task, check, err = require "mx.turn", require "mx.task", require "mx.check", require "mx.err"
local conns, consume, stats, topology = require "mx.conn", require "mx.consume", require "mx.stats", require "mx.topology"
local series, generation = require "mx.series", require "mx.generation"
local type, tostring, max = type, tostring, math.max

local checks = {}                       -- by name
local M = { running = false }
local RANK = { unknown = 0, healthy = 1, degraded = 2, unhealthy = 3 }
local OPTIONS = { every = "seconds", timeout = "seconds", fail_after = "integer>0", recover_after = "integer>0" }

-- Running them ------------------------------------------------------------------------------------------------------

-- What a check returned or raised, as status, message.
local function verdict(c, ok, status, message)
  if not ok then return "unhealthy", (err.explain(status)) end
  if status == nil or status == true then status = "healthy" elseif status == false then status = "unhealthy" end
  if not RANK[status] or status == "unknown" then
    local text = ("a check answers 'degraded', 'unhealthy' or nothing, got %s"):format(err.tostring(status))
    return "unhealthy", tostring(check.returned(c.f, text))
  end
  return status, message ~= nil and err.tostring(message) or nil
end

-- One result more: its status counts when it is not the present one often enough in a row.
local function settle(c, status, message, details)
  if status ~= "healthy" then c.message = message end
  c.details = details
  local rank, present = RANK[status], RANK[c.status]
  local side = rank > max(present, RANK.healthy) and "worse" or rank ~= present and "better" or nil
  c.row = side and side == c.side and c.row + 1 or 1
  c.side = side
  if side and c.row >= (side == "worse" and c.fail_after or c.status == "unknown" and 1 or c.recover_after) then
    c.status, c.since, c.side = status, os.time(), nil
  end
  if c.series then c.series.value = RANK[c.status] - 1 end
end

local function late(c) settle(c, "unhealthy", ("it ran past its time limit of %.3g s"):format(c.timeout)) end

local function run(c)
  local started, limit = C.mx_now(), C.mx_wait_new(turn.waits, c.timeout)
  c.running = turn.start(c.f, function(ok, status, message, details)
    c.running, c.duration = nil, C.mx_now() - started
    if c.late then return end
    turn.forget(limit)
    status, message = verdict(c, ok, status, message)
    settle(c, status, message, type(details) == "table" and details or nil)
  end, stats.stats())
  turn.own(c.running, c.generation)
  c.late = false
  turn.notify(limit, function()
    c.late = true
    late(c)
    turn.raise(c.running, err.new("timeout", "the check ran past its time limit"))
  end)
end

-- The next run is counted from the start of this one; one that still runs is not started again beside itself.
local function tick(c)
  c.ticking = checks[c.name] == c and not task.stopping and M.running
  if not c.ticking then return end
  if not c.running then run(c) elseif c.late then late(c) end
  turn.notify(C.mx_wait_new(turn.waits, c.every), function() tick(c) end)
end

local function begin(c)
  c.series = c.before and c.before.series
             or series.new("gauge", "mxrun_health_status", series.own_labels({ "check" }, { c.name }))
  if c.series then c.series.value = -1 end
  series.help("mxrun_health_status", "of a check: 0 healthy, 1 degraded, 2 unhealthy, -1 not known yet")
  tick(c)
end

local function add(name, options, f, defaults)
  local o = check.options("mx.health", options or {}, OPTIONS)
  local function of(option, default) return o[option] or defaults and defaults[option] or default end
  local c = { name = name, f = f, status = "unknown", row = 0, since = os.time(), every = of("every", 5), timeout = of("timeout", 1),
              fail_after = of("fail_after", 3), recover_after = of("recover_after", 2) }
  if c.every <= 0 then check.fail "mx.health: option 'every': must be above 0" end
  c.generation, c.before = generation.mine(), checks[name]
  if c.before and c.before.generation == c.generation then c.before = c.before.before end
  checks[name] = c
  if M.running then begin(c) end
end

-- What came from a generation that is over goes; what it took the place of is back, if that is still there.
function M.forget(g)
  for name, c in pairs(checks) do
    local before = c.before
    c.before = nil
    if c.generation == g then
      checks[name] = before
      if before and not before.ticking then tick(before) end
    end
  end
end

-- From now on the checks run; until then they are only listed.
function M.setup()
  M.running = true
  for _, c in pairs(checks) do begin(c) end
end

-- { status, checks = { name = { status, message, since, duration, details } }, summary = { healthy = n ... } }
function M.report()
  local worst, list, summary = "healthy", {}, { unknown = 0, healthy = 0, degraded = 0, unhealthy = 0 }
  for name, c in pairs(checks) do
    list[name] = { status = c.status, message = c.status ~= "healthy" and c.message or nil, since = c.since, duration = c.duration,
                   details = c.details }
    summary[c.status] = summary[c.status] + 1
    if RANK[c.status] > RANK[worst] then worst = c.status end
  end
  return { status = worst, checks = list, summary = summary }
end

-- Ready -------------------------------------------------------------------------------------------------------------

local function is_open(keeper) return keeper.link ~= nil and keeper.link.state == C.MX_OPEN end

-- Of those that publish or consume, each that was lost has to be back; of new ones the first has to be there.
local function missing_link(conn)
  for kind, pool in pairs(conn.pools) do
    local missing = #pool.keepers > 0 and not is_open(pool.keepers[1])
    for _, k in ipairs(pool.keepers) do missing = missing or k.lost or k.link and not is_open(k) end
    if missing then return ("%s: no connection to %s"):format(conn.text, kind) end
  end
end

local function is_subscribed(c)
  local sub = c.sub
  local ib = sub and not sub.over and sub.inbox
  return ib and ib.state == C.MX_OPEN and ib.cancelled == 0
end

-- true, or false and why not: the connections are up, and every consumer is subscribed on an open channel.
function M.ready()
  if task.stopping then return false, "mxrun is stopping" end
  for _, conn in ipairs(conns.open) do
    local missing = missing_link(conn)
    if missing then return false, missing end
  end
  if consume.starting > 0 then return false, "a consumer is not subscribed yet" end
  for _, c in ipairs(consume.open) do
    if not c.unwanted and not is_subscribed(c) then return false, ("the consumer of %q is not subscribed"):format(c.queue) end
  end
  return true
end

-- Checks that come with mxrun -----------------------------------------------------------------------------------------

local OFTEN = { every = 1, fail_after = 1 }
local NEAR = 0.8                        -- from this share of the limit on it is degraded

local function at_most(value, limit, text, unit)
  if value <= NEAR * limit then return end
  return value > limit and "unhealthy" or "degraded", text:format(value / unit, limit / unit)
end

-- What a check answers, by a limit or by what the script's function of the value makes of it: a limit, or that answer.
local function by(limit, value, s, judge)
  if type(limit) ~= "function" then return judge(value, limit) end
  local bound, message, details = limit(value, s)
  if type(bound) == "number" then return judge(value, bound) end
  return bound, message, details
end

local function limited(name, kind, pick, judge)
  return function(limit, options)
    limit = check.arg(1, "mx.health." .. name, limit, "function|" .. kind)
    add(name, options, function(s) return by(limit, pick(s), s, judge) end, OFTEN)
  end
end

-- Up to 1 it is the share of the memory limit, without one of what the machine or its cgroup has; beyond that bytes.
local check_memory = limited("memory", "fraction|bytes", function(s) return s.memory end, function(m, limit)
  if limit <= 1 then
    local used = m.limit > 0 and m.used or m.rss / m.machine
    return at_most(used, limit, "%.0f %% of the memory is used, %.0f %% may be", 0.01)
  end
  return at_most(m.rss, limit, "%.1f MB are used, %.1f may be", 1e6)
end)

local check_tasks = limited("tasks", "number>0", function(s) return s.tasks end, function(n, limit)
  return at_most(n, limit, "%.0f tasks, %.0f may be", 1)
end)

local check_loop = limited("loop", "seconds", function(s) return s.loop.lag_p99 end, function(lag, limit)
  return at_most(lag, limit, "a turn of the loop takes %.3g s (p99), %.3g may be", 1)
end)

local at_least = limited("connections", "integer>=0", function(s) return s.pool.connections.total end, function(n, limit)
  if n < limit then return "unhealthy", ("%d connections are open, %d should be"):format(n, limit) end
end)
local function check_connections(limit, options)
  if type(limit) == "table" then limit = check.options("mx.health.connections", limit, { min = "integer>=0" }).min or 1 end
  return at_least(limit, options)
end

-- The connection that consumes from the queue, or did when last seen; else the first there is.
local function connection_of(queue, before)
  for _, c in ipairs(consume.open) do
    if c.queue == queue then return c.conn end
  end
  return before and not before.closed and before or conns.open[1]
end

-- Whether there is something to do: true; false; nil, err. What consumers hold is known here, the rest the broker is asked.
local function is_waiting(queue, figures, conn)
  if figures and figures.in_flight > 0 then return true end
  if not conn or missing_link(conn) then return true end
  local info, e = topology.queue_info(conn, queue)
  if not info then return nil, e end
  return info.messages > 0
end

-- Messages wait, or there is no connection to know by, and none was handled for so many seconds.
local function check_progress(queue, limit, options)
  queue = check.arg(1, "mx.health.progress", queue, "name")
  limit = check.arg(2, "mx.health.progress", limit, "function|seconds")
  local handled, since, conn
  local function judge(idle, seconds)
    if idle >= seconds then return "unhealthy", ("none of the messages in %q was handled for %.3g s"):format(queue, idle) end
  end
  local every = type(limit) == "number" and math.min(5, max(0.1, limit / 5)) or 1
  add("progress:" .. queue, options, function(s)
    local q, now = s.consume[queue], C.mx_now()
    local n = q and q.acked + q.rejected + q.requeued + q.failed or 0
    local waiting, e = false, nil
    conn = connection_of(queue, conn)
    if n == handled then waiting, e = is_waiting(queue, q, conn) end
    if e then return "unhealthy", tostring(e) end
    if not waiting then since = nil end
    handled, since = n, since or now
    return by(limit, waiting and now - since or 0, s, judge)
  end, { every = every, timeout = 2, fail_after = 1 })
end

M.api = setmetatable({
  memory = check_memory, tasks = check_tasks, loop = check_loop, connections = check_connections, progress = check_progress,
  report = M.report,
}, { __call = function(_, name, options, f)
  check.arg(1, "mx.health", name, "name")
  if type(options) == "function" and f == nil then options, f = nil, options end
  add(name, options, check.arg(3, "mx.health", f, "function"))
end })

return M
