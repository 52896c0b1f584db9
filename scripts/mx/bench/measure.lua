-- What a benchmark measured so far, over all its processes: read, subtracted, and made into the table that people get.
local ffi = require "ffi"
local C = ffi.C
local verdict = require "mx.bench.verdict"

local M = {}

local FIELDS = {
  "sent", "confirmed", "late", "received", "published", "arrived", "duplicated", "reordered", "strange", "failed", "excused", "unsent",
  "in_flight", "behind", "behind_ran", "behind_waited", "rss", "peak_rss", "lua_peak", "user", "system", "gc_cycles", "gc_seconds",
}
local HISTS = {
  confirm = "MX_TALLY_CONFIRM", confirm_raw = "MX_TALLY_CONFIRM_RAW", e2e = "MX_TALLY_E2E", e2e_raw = "MX_TALLY_E2E_RAW",
  lag = "MX_TALLY_LAG", handler = "MX_TALLY_HANDLER", gc = "MX_TALLY_GC",
}

-- Counts: { fields }; sets: { fields, hists } -------------------------------------------------------------------------

-- What was counted so far, into counts or a new one.
function M.count(tallies, counts)
  counts = counts or {}
  for _, name in ipairs(FIELDS) do counts[name] = 0 end
  for number = 1, tallies.workers do
    local t = C.mx_tally_of(tallies, number)
    for _, name in ipairs(FIELDS) do counts[name] = counts[name] + t[name] end
  end
  return counts
end

local function new_set()
  local set = { hists = {} }
  for name in pairs(HISTS) do set.hists[name] = ffi.gc(C.mx_hist_new(), C.mx_hist_free) end
  for _, name in ipairs(FIELDS) do set[name] = 0 end
  return set
end
M.new_set = new_set

-- The same with what was measured, into set.
function M.read(tallies, set)
  for name, h in pairs(set.hists) do
    C.mx_hist_clear(h)
    for number = 1, tallies.workers do C.mx_hist_merge(h, C.mx_tally_hist(tallies, number, C[HISTS[name]])) end
  end
  return M.count(tallies, set)
end

local GAUGES = { in_flight = true, rss = true, peak_rss = true, lua_peak = true }

-- What came to now since earlier, into set.
function M.difference(now, earlier, set)
  for _, name in ipairs(FIELDS) do set[name] = now[name] - (GAUGES[name] and 0 or earlier[name]) end
  for name, h in pairs(set.hists) do
    C.mx_hist_clear(h)
    C.mx_hist_merge(h, now.hists[name])
    C.mx_hist_subtract(h, earlier.hists[name])
  end
  return set
end

function M.copy(from, to)
  for _, name in ipairs(FIELDS) do to[name] = from[name] end
  for name, h in pairs(to.hists) do
    C.mx_hist_clear(h)
    C.mx_hist_merge(h, from.hists[name])
  end
end

-- Results -------------------------------------------------------------------------------------------------------------

local Latency = {}
Latency.__index = Latency
local of = setmetatable({}, { __mode = "k" })           -- the histogram of a latency: no field, since those are for JSON

-- Seconds, nil without samples.
function Latency:p(percent)
  local h = of[self]
  if C.mx_hist_count(h) == 0 then return nil end
  return C.mx_hist_percentile(h, percent)
end

local function latency(h)
  local n = C.mx_hist_count(h)
  local t = setmetatable({ count = n }, Latency)
  of[t] = h
  if n == 0 then return t end
  t.p50, t.p95, t.p99, t.p999 = t:p(50), t:p(95), t:p(99), t:p(99.9)
  t.max, t.mean = C.mx_hist_max(h), C.mx_hist_mean(h)
  return t
end

local function short(h)
  if C.mx_hist_count(h) == 0 then return {} end
  return { p50 = C.mx_hist_percentile(h, 50), p99 = C.mx_hist_percentile(h, 99), max = C.mx_hist_max(h) }
end

-- The second that a set covers.
function M.row(set, t, seconds, loop_lag)
  local h = set.hists
  return {
    t = t, publish_rate = set.sent / seconds, consume_rate = set.received / seconds, confirm = short(h.confirm), e2e = short(h.e2e),
    rss = set.rss, in_flight = set.in_flight, loop_lag_p99 = loop_lag,
    generator_lag = C.mx_hist_count(h.lag) > 0 and C.mx_hist_percentile(h.lag, 99) or 0,
  }
end

-- The bench JSON of what a set covers. about: { duration, open = there are rates, received, received_in =
-- what was received while sending, in how many seconds }
function M.result(set, about)
  local h, seconds = set.hists, math.max(about.duration, 1e-9)
  local messages = math.max(set.sent, set.received)
  local cpu = set.user + set.system
  local consume_rate = (about.received or set.received) / math.max(about.received_in or seconds, 1e-9)
  local rate = math.max(set.sent / seconds, consume_rate)
  local per_rate = rate > 0 and set.peak_rss / 1e6 / (rate / 1000) or nil
  local r = {
    duration = about.duration,
    publish = { count = set.sent, rate = set.sent / seconds, errors = set.failed, unsent = set.unsent, confirm = latency(h.confirm) },
    consume = { count = set.received, rate = consume_rate, handler = latency(h.handler) },
    e2e = latency(h.e2e),
    cpu = { user = set.user, sys = set.system, us_per_message = messages > 0 and cpu * 1e6 / messages or nil },
    memory = { peak_rss = set.peak_rss, lua_peak = set.lua_peak, mb_per_1k_rate = per_rate },
    gc = { cycles = set.gc_cycles, pause_avg = C.mx_hist_mean(h.gc), pause_p99 = C.mx_hist_percentile(h.gc, 99),
           pause_max = C.mx_hist_max(h.gc) },
  }
  r.publish.confirm.raw = latency(h.confirm_raw)
  r.e2e.raw = latency(h.e2e_raw)
  if about.open then
    r.generator = {
      lag_p99 = C.mx_hist_percentile(h.lag, 99), lag_max = C.mx_hist_max(h.lag), late = set.late, unsent = set.unsent,
      behind = set.behind, busy = verdict.busy(set),
    }
  end
  return r
end

-- A histogram as { { seconds, count }, ... }.
function M.buckets(h)
  local list, at = {}, 0
  local seconds, count = ffi.new "double[1]", ffi.new "double[1]"
  while true do
    at = C.mx_hist_bucket(h, at, seconds, count)
    if at == 0 then return list end
    list[#list + 1] = { seconds[0], count[0] }
  end
end

return M
