-- What mxrun itself has to tell: mx.stats(), and the same as series for /metrics.
local ffi = require "ffi"
local C = ffi.C
local turn, conns, consume, publish = require "mx.turn", require "mx.conn", require "mx.consume", require "mx.publish"
local metrics, memory, series, log = require "mx.metrics", require "mx.memory", require "mx.series", require "mx.log"

local M = {}
local started, last, last_consumed = C.mx_now(), {}, {}       -- last_consumed: by queue

-- mx.stats() ------------------------------------------------------------------------------------------------------

local function four(of, h)
  return { p50 = of(h, 50), p95 = of(h, 95), p99 = of(h, 99), max = of(h, 100) }
end

local function percentiles(h)
  local all = four(C.mx_hist_percentile, h)
  all.recent = four(C.mx_hist_recent, h)
  return all
end

-- Events a second since the last call that was at least a second ago; list: of what was seen then.
local function rate(list, name, count, now)
  local seen = list[name]
  if not seen or now - seen.at >= 1 then
    local r = seen and (count - seen.count) / (now - seen.at) or count / math.max(now - started, 1e-3)
    list[name] = { at = now, count = count, rate = r }
    return r
  end
  return seen.rate
end

-- By queue, the figures of all its consumers together.
local function consumers()
  local queues = {}
  for _, c in ipairs(consume.open) do
    local sum = queues[c.queue] or {}
    for name, n in pairs(c:stats()) do sum[name] = (sum[name] or 0) + n end
    queues[c.queue] = sum
  end
  return queues
end

function M.stats()
  local now, held = C.mx_now(), memory.stats()
  local published, failed, pending = publish.totals()
  local queues = consumers()
  for name, q in pairs(queues) do
    q.rate = rate(last_consumed, name, q.count, now)
    q.handler, q.wait = percentiles(consume.hists[name].hist), percentiles(consume.hists[name].wait)
  end
  for name in pairs(last_consumed) do
    if not queues[name] then last_consumed[name] = nil end
  end
  return {
    publish = { count = published, rate = rate(last, "publish", published, now), errors = failed, in_flight = pending,
                confirm = percentiles(turn.t.confirm) },
    consume = queues,
    errors = { count = failed, rate = rate(last, "errors", failed, now) },
    memory = held, gc = held.gc, pool = conns.stats(),
    loop = { lag_p99 = C.mx_hist_recent(turn.t.lag, 99) },
    tasks = turn.tasks, uptime = now - started,
  }
end

-- /metrics --------------------------------------------------------------------------------------------------------

local OUTCOMES = { "acked", "rejected", "retried", "requeued", "failed", "stuck" }
local HELP = {
  messaging_publish_total = "publishes that have ended, whether confirmed or not",
  messaging_publish_inflight = "publishes that are not confirmed yet",
  messaging_publish_duration_seconds = "from a publish to its confirm",
  messaging_failures_total = "publishes that ended otherwise than confirmed, deliveries whose handler failed",
  messaging_consume_total = "deliveries taken in",
  messaging_consume_inflight = "deliveries taken by handlers and not settled",
  messaging_consume_settled_total = "what became of deliveries; those retried or dead-lettered are acked too",
  messaging_consume_duration_seconds = "run time of handlers, of those that take 2 us and less the mean of up to 64",
  messaging_consume_wait_seconds = "from taking a delivery in to the start of its handler",
  messaging_batches_total = "batches handed to handlers, and which limit or what else made them",
  messaging_batch_age_seconds = "from a batch's first message to its handler",
  messaging_pool_connections_active = "open AMQP connections that have channels",
  messaging_pool_connections_idle = "open AMQP connections that have none",
  messaging_pool_channels_borrowed = "channels in use",
  mxrun_consumers = "consumers, paused ones left out",
  mxrun_loop_lag_seconds = "how long one turn of the loop took",
  mxrun_tasks = "tasks that run or wait",
  mxrun_uptime_seconds = "since the start",
  mxrun_memory_bytes = "memory in use, by who holds it",
  mxrun_memory_retained_bytes = "resident memory in use by nobody: kept of a peak, and between blocks",
  mxrun_memory_limit_bytes = "what memory is limited to, 0: nothing",
  mxrun_gc_cycles_total = "cycles of Lua's collector",
  mxrun_gc_pause_seconds = "steps of Lua's collector between messages",
  mxrun_profiler_seconds_total = "what taking profiles cost",
  mxrun_log_dropped_total = "lines of log that could not be written",
  process_resident_memory_bytes = "resident set size",
  process_cpu_seconds_total = "processor time, user and system",
}

local OWNERS = { "lua", "messages", "unconfirmed", "buffers", "deliveries", "receipts", "broker", "tls", "profiler", "pools", "other" }

local mine = {}
-- Sets a series of the process; labels: as text.
local function set(kind, name, value, labels)
  local key = name .. (labels or "")
  mine[key] = mine[key] or series.new(kind, name, labels) or { value = 0 }
  mine[key].value = value
end

local function add(m, name, labels, n)
  local key = name .. labels
  m[key] = m[key] or series.new("counter", name, labels) or { value = 0 }
  m[key].value = m[key].value + n
end

-- Adds what c counted since the last time to what its queue has; counters must not fall when one of two consumers leaves.
local function account(c)
  local now, seen, m = c:stats(), c.accounted or {}, c.measures
  local queue = series.labels({ "queue" }, { c.queue })
  local function more(name) return math.max(0, now[name] - (seen[name] or 0)) end
  add(m, "messaging_consume_total", queue, more "count")
  add(m, "messaging_failures_total", 'operation="consume",' .. queue, more "failed")
  for _, outcome in ipairs(OUTCOMES) do
    add(m, "messaging_consume_settled_total", queue .. ',outcome="' .. outcome .. '"', more(outcome))
  end
  for why, n in pairs(c.batches or {}) do
    add(m, "messaging_batches_total", queue .. ',reason="' .. why .. '"', n - (c.told[why] or 0))
    c.told[why] = n
  end
  c.accounted = now
end
consume.on_leave = account

local function collect_consumers()
  local in_flight = {}
  for _, c in ipairs(consume.open) do
    account(c)
    in_flight[c.measures] = (in_flight[c.measures] or 0) + c.accounted.in_flight
  end
  for _, m in pairs(consume.hists) do
    m.in_flight = m.in_flight or series.new("gauge", "messaging_consume_inflight", series.labels({ "queue" }, { m.queue }))
    if m.in_flight then m.in_flight.value = in_flight[m] or 0 end
  end
end

-- Brings every series up to date.
function M.collect()
  for name, text in pairs(HELP) do series.help(name, text) end
  local published, failed, pending = publish.totals()
  set("counter", "messaging_publish_total", published)
  set("gauge", "messaging_publish_inflight", pending)
  set("counter", "messaging_failures_total", failed, 'operation="publish",queue=""')
  collect_consumers()
  local m, pool = memory.stats(), conns.stats()
  set("gauge", "messaging_pool_connections_active", pool.connections.active)
  set("gauge", "messaging_pool_connections_idle", pool.connections.idle)
  set("gauge", "messaging_pool_channels_borrowed", pool.channels.borrowed)
  set("gauge", "mxrun_consumers", #consume.open)
  set("gauge", "mxrun_tasks", turn.tasks)
  set("gauge", "mxrun_uptime_seconds", C.mx_now() - started, series.own_labels({}, {}))
  for _, owner in ipairs(OWNERS) do set("gauge", "mxrun_memory_bytes", m[owner], 'owner="' .. owner .. '"') end
  set("gauge", "mxrun_memory_retained_bytes", m.retained)
  set("gauge", "mxrun_memory_limit_bytes", m.limit)
  set("counter", "mxrun_gc_cycles_total", m.gc.cycles)
  set("counter", "mxrun_profiler_seconds_total", C.mx_profile_cost())
  set("counter", "mxrun_log_dropped_total", log.dropped + C.mx_log_dropped())
  set("gauge", "process_resident_memory_bytes", m.rss)
  set("counter", "process_cpu_seconds_total", os.clock())
  metrics.collect()
end

-- The text that Prometheus reads, and its content type.
function M.text(openmetrics)
  M.collect()
  local size = ffi.new "size_t[1]"
  local text = C.mx_metrics_text(openmetrics and 1 or 0, size)
  return ffi.string(text, size[0]),
         openmetrics and "application/openmetrics-text; version=1.0.0; charset=utf-8" or "text/plain; version=0.0.4; charset=utf-8"
end

return M
