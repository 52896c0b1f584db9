-- What top shows, of one process or of several: figures as tables, and those as text.
local print_ = require "mx.repl.print"
local count, bytes, seconds = print_.count, print_.bytes, print_.seconds

local M = {}
local SUMS = { "count", "errors", "in_flight", "acked", "rejected", "retried", "requeued", "failed" }
local OWNERS = { "lua", "messages", "unconfirmed", "buffers", "deliveries", "receipts", "broker", "tls", "pools", "other" }

local function worst(to, from)
  for name, v in pairs(from or {}) do
    if type(v) == "number" then to[name] = math.max(to[name] or 0, v) end
  end
  return to
end

local function add(to, from, names)
  for _, name in ipairs(names) do
    if from[name] then to[name] = (to[name] or 0) + from[name] end
  end
  return to
end

-- Of all workers: counts added up, latencies of the one that is worst. list: of what the call "stats" answers
function M.merge(list)
  local all = { publish = { confirm = {} }, consume = {}, memory = {}, gc = {}, pool = { connections = {}, channels = {} }, loop = {},
    tasks = 0, uptime = 0, workers = list }
  for _, s in ipairs(list) do
    add(all.publish, s.publish, SUMS)
    worst(all.publish.confirm, s.publish.confirm.recent)
    for name, q in pairs(s.consume) do
      local to = all.consume[name] or { handler = {} }
      all.consume[name] = to
      add(to, q, SUMS)
      worst(to.handler, q.handler.recent)
    end
    add(all.memory, s.memory, OWNERS)
    add(all.memory, s.memory, { "total", "rss", "limit" })
    worst(all.memory, { used = s.memory.used })
    add(all.gc, s.gc, { "cycles" })
    worst(all.gc, { pause_p99 = s.gc.pause_p99, pause_max = s.gc.pause_max })
    for _, part in ipairs { "connections", "channels" } do
      add(all.pool[part], s.pool[part] or {}, { "active", "idle", "total", "max", "borrowed" })
    end
    worst(all.loop, s.loop)
    all.tasks, all.uptime = all.tasks + s.tasks, math.max(all.uptime, s.uptime)
  end
  return all
end

local function rate(now, before, name, span)
  local n = now[name]
  if not n then return 0 end
  if not before or not before[name] or span <= 0 then return now.rate or 0 end
  return math.max(0, n - before[name]) / span
end

-- Sets rate of what is counted, from the figures of some seconds earlier; nil: since the start.
function M.rates(all, before, span)
  local since = before and span or all.uptime
  local function set(to, was) to.rate = rate(to, before and (was or { count = 0 }) or { count = 0 }, "count", since) end
  set(all.publish, before and before.publish)
  for name, q in pairs(all.consume) do set(q, before and before.consume[name]) end
  return all
end

-- Text ------------------------------------------------------------------------------------------------------------------

-- By which column queues may be sorted; ascending for names.
M.SORTS = {
  rate = function(a, b) return a.rate > b.rate end, name = function() return nil end,
  in_flight = function(a, b) return (a.in_flight or 0) > (b.in_flight or 0) end,
  p99 = function(a, b) return (a.handler.p99 or 0) > (b.handler.p99 or 0) end,
  failed = function(a, b) return (a.failed or 0) > (b.failed or 0) end,
}
M.ORDER = { "rate", "name", "in_flight", "p99", "failed" }

local function sorted(queues, by)
  local list = {}
  for name, q in pairs(queues) do list[#list + 1] = { name = name, q = q } end
  table.sort(list, function(a, b)
    if by ~= "name" then
      if M.SORTS[by](a.q, b.q) then return true elseif M.SORTS[by](b.q, a.q) then return false end
    end
    return a.name < b.name
  end)
  return list
end

local function latencies(h) return seconds(h.p50 or 0), seconds(h.p95 or 0), seconds(h.p99 or 0), seconds(h.max or 0) end

function M.queues(all, by, most)
  local rows = { { "QUEUE", "RATE/s", "COUNT", "BUSY", "FAILED", "RETRIED", "p50", "p99", "max" } }
  local list = sorted(all.consume, by or "rate")
  for i, x in ipairs(list) do
    if i > (most or math.huge) then
      rows[#rows + 1] = { ("... %d more"):format(#list - i + 1) }
      break
    end
    local p50, _, p99, max = latencies(x.q.handler)
    local name = #x.name > 32 and x.name:sub(1, 29) .. "..." or x.name
    rows[#rows + 1] = { print_.visible(name), count(x.q.rate), count(x.q.count), count(x.q.in_flight or 0), count(x.q.failed or 0),
      count(x.q.retried or 0), p50, p99, max }
  end
  return #list > 0 and print_.columns(rows) or "no consumers"
end

local function publishing(p)
  local p50, p95, p99, max = latencies(p.confirm)
  return ("publish  %s/s  count %s  in flight %s  errors %s\nconfirm  p50 %s  p95 %s  p99 %s  max %s"):format(count(p.rate or 0),
    count(p.count), count(p.in_flight), count(p.errors), p50, p95, p99, max)
end

function M.memory(m)
  local owners = {}
  for _, name in ipairs(OWNERS) do
    if (m[name] or 0) > 0 then owners[#owners + 1] = { name = name, n = m[name] } end
  end
  table.sort(owners, function(a, b) return a.n > b.n end)
  local parts = {}
  for i, x in ipairs(owners) do parts[i] = x.name .. " " .. bytes(x.n) end
  local limit = m.limit > 0 and ("  limit %s (%s used)"):format(bytes(m.limit), print_.percent(m.used or 0)) or ""
  return ("memory   rss %s  in use %s%s"):format(bytes(m.rss), bytes(m.total), limit), parts
end

local function wrapped(parts, first, width)
  local lines, line = {}, first
  for _, part in ipairs(parts) do
    if #line + #part + 2 > width then
      lines[#lines + 1] = line
      line = (" "):rep(#first)
    end
    line = line .. "  " .. part
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n")
end

local function pools(all)
  local c, ch = all.pool.connections, all.pool.channels
  return ("pool     connections %s of %s  channels %s borrowed"):format(count(c.total or 0), count(c.max or 0), count(ch.borrowed or 0))
end

local function workers(list)
  local rows = { { "WORKER", "PID", "HEALTH", "CONSUMED", "RSS", "TASKS", "LAG p99", "UP" } }
  for _, s in ipairs(list) do
    local consumed = 0
    for _, q in pairs(s.consume) do consumed = consumed + q.count end
    rows[#rows + 1] = { tostring(s.worker), tostring(s.pid), s.health, count(consumed), bytes(s.memory.rss), count(s.tasks),
      seconds(s.loop.lag_p99), seconds(s.uptime) }
  end
  return print_.columns(rows)
end

-- All of it, in lines of at most width columns. options: by = the column, most = queues, workers = false
function M.text(all, width, options)
  local o = options or {}
  local memory, owners = M.memory(all.memory)
  local lines = {
    publishing(all.publish), memory, wrapped(owners, "      by", width),
    ("gc       cycles %s  pause p99 %s  max %s"):format(count(all.gc.cycles), seconds(all.gc.pause_p99), seconds(all.gc.pause_max)),
    pools(all), ("loop     lag p99 %s  tasks %s"):format(seconds(all.loop.lag_p99 or 0), count(all.tasks)), "",
    M.queues(all, o.by, o.most),
  }
  if #all.workers > 1 then
    lines[#lines + 1] = ""
    lines[#lines + 1] = workers(all.workers)
  end
  return table.concat(lines, "\n")
end

return M
