-- Counters, gauges, histograms, and the figures of mx.stats().
local ffi = require "ffi"
local C = ffi.C
local turn, check = require "mx.turn", require "mx.check"
local consume, publish, conns = require "mx.consume", require "mx.publish", require "mx.conn"
local memory = require "mx.memory"

local M = { all = {}, dropped = 0 }
local MAX_SERIES = 1000

local Counter = {}
Counter.__index = Counter

-- The label values as one text; nil is an empty one, as Prometheus has it.
local function key_of(self, ...)
  local values, wanted = { ... }, #self.labels
  local given = select("#", ...)
  for i = 1, given do
    local kind = type(values[i])
    if kind == "nil" then values[i] = "" elseif kind ~= "string" and kind ~= "number" then given = -1 end
  end
  if given ~= wanted then
    local what = wanted == 0 and "it has no labels" or "expected a text for each of its labels: " .. table.concat(self.labels, ", ")
    check.fail(("counter %s: %s"):format(self.name, what))
  end
  return table.concat(values, "\0")
end

local function series(self, ...)
  local key = key_of(self, ...)
  if not self.values[key] then
    if self.count >= MAX_SERIES then
      M.dropped = M.dropped + 1
      return nil
    end
    self.count = self.count + 1
    self.values[key] = 0
  end
  return key
end

-- One that has the name already is that one, and has to be of the same kind and labels.
local function metric(kind, name, help, labels, meta)
  if type(name) ~= "string" or not name:find "^[%a_:][%w_:]*$" then
    check.fail(("mx.%s: '%s' is not a metric's name (letters, digits, _ and :)"):format(kind, tostring(name)))
  end
  local list = {}
  for i, label in ipairs(check.arg(3, "mx." .. kind, labels or {}, "table")) do
    list[i] = check.arg(3, "mx." .. kind, label, "string")
  end
  local self = M.all[name]
  if not self then
    self = setmetatable({ kind = kind, name = name, help = help, labels = list, values = {}, count = 0 }, meta)
    M.all[name] = self
  elseif self.kind ~= kind or table.concat(self.labels, " ") ~= table.concat(list, " ") then
    check.fail(("mx.%s: '%s' is there already: a %s with the labels { %s }"):format(kind, name, self.kind, table.concat(self.labels, ", ")))
  end
  return self
end

function M.counter(name, help, labels) return metric("counter", name, help, labels, Counter) end

-- Adds n; the label values follow in the order of the labels.
function Counter:inc(n, ...)
  n = n or 1
  if type(n) ~= "number" or n ~= n or n < 0 then check.fail "counter:inc: expected a number of 0 or more" end
  local key = series(self, ...)
  if key then self.values[key] = self.values[key] + n end
end

function Counter:get(...) return self.values[key_of(self, ...)] or 0 end

local Gauge = {}
Gauge.__index = Gauge
function M.gauge(name, f)
  local self = metric("gauge", name, nil, nil, Gauge)
  if type(f) == "function" then self.f = f end
  return self
end
function Gauge:set(v)
  if type(v) ~= "number" then check.fail("gauge:set: expected a number, got a " .. type(v)) end
  self.value = v
end
function Gauge:get()
  if self.f then return self.f() end
  return self.value
end

local Histogram = {}
Histogram.__index = Histogram
function M.histogram(name)
  local self = metric("histogram", name, nil, nil, Histogram)
  self.h = self.h or ffi.gc(C.mx_hist_new(), C.mx_hist_free)
  return self
end
function Histogram:observe(seconds)
  if type(seconds) ~= "number" then check.fail("histogram:observe: expected seconds, got a " .. type(seconds)) end
  C.mx_hist_record(self.h, seconds)
end
function Histogram:p(percent) return C.mx_hist_percentile(self.h, percent) end
function Histogram:time(f, ...)
  local start = C.mx_now()
  local function done(...)
    self:observe(C.mx_now() - start)
    return ...
  end
  return done(f(...))
end

-- mx.stats() ------------------------------------------------------------------------------------------------------

local started, last, last_consumed = C.mx_now(), {}, {}       -- last_consumed: by queue

local function percentiles(h)
  local function p(x) return C.mx_hist_percentile(h, x) end
  return { p50 = p(50), p95 = p(95), p99 = p(99), max = C.mx_hist_max(h) }
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
    q.handler = percentiles(consume.hists[name])
  end
  for name in pairs(last_consumed) do
    if not queues[name] then last_consumed[name] = nil end
  end
  return {
    publish = { count = published, rate = rate(last, "publish", published, now), errors = failed, in_flight = pending,
                confirm = percentiles(turn.t.confirm) },
    consume = queues,
    errors = { count = failed, rate = rate(last, "errors", failed, now) },
    loop = { lag_p99 = C.mx_hist_percentile(turn.t.lag, 99) },
    memory = held, gc = held.gc, pool = conns.stats(), tasks = turn.tasks, uptime = now - started,
  }
end

return M
