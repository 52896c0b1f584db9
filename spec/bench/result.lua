-- A result of mxrun bench made by hand, for what reads and shows one: result(change) is a fresh one with some figures changed.
--   change: seconds (10), rate (1000), latency (0.002), wobble (0.02: how uneven the seconds are), name
local function quantiles(base)
  return { p50 = base, p95 = base * 2, p99 = base * 4, p999 = base * 8, max = base * 16 }
end

-- { seconds, count } of a tail that doubles with each nine.
local function buckets(base, n)
  local list, left = {}, n
  for step = 1, 20 * math.log10(n) do
    local above = math.floor(n * 10 ^ (-step / 20) + 0.5)
    if above < left then list[#list + 1] = { base * 2 ^ (step / 20), left - above } end
    left = above
  end
  list[#list + 1] = { base * 2 ^ math.log10(n), left }
  return list
end

local function seconds(o)
  local list = {}
  for t = 1, o.seconds do
    local w = 1 + o.wobble * math.sin(t * 1.7)
    local q = function(base) return { p50 = base * w, p99 = base * 4 * w, max = base * 16 * w } end
    list[t] = {
      t = t, publish_rate = o.rate * w, consume_rate = o.rate * w, confirm = q(o.latency / 2), e2e = q(o.latency), rss = 8e6 + 1e5 * t,
      in_flight = 12, loop_lag_p99 = 0.0001, generator_lag = 0.00002,
    }
  end
  return list
end

return function(change)
  local o = { seconds = 10, rate = 1000, latency = 0.002, wobble = 0.02, name = "by hand" }
  for k, v in pairs(change or {}) do o[k] = v end
  local n = o.rate * o.seconds
  local e2e, confirm = quantiles(o.latency), quantiles(o.latency / 2)
  e2e.raw, confirm.raw = quantiles(o.latency * 0.9), quantiles(o.latency * 0.4)
  return {
    name = o.name, verdict = "ok", duration = o.seconds,
    publish = { count = n, rate = o.rate, errors = 0, confirm = confirm },
    consume = { count = n, rate = o.rate, handler = quantiles(o.latency / 100) },
    e2e = e2e, verify = { lost = 0, duplicated = 0, reordered = 0 },
    cpu = { user = 0.5, sys = 0.25, us_per_message = 75 },
    memory = { peak_rss = 9 * 1024 ^ 2, lua_peak = 2 * 1024 ^ 2, mb_per_1k_rate = 9 },
    gc = { cycles = 3, pause_avg = 0.0002, pause_p99 = 0.0009, pause_max = 0.001 },
    generator = { lag_p99 = 0.00002, late = 0 },
    thresholds = {
      { name = "e2e.p99", expr = "< 20ms", value = o.latency * 4, ok = true },
      { name = "verify.lost", expr = "== 0", value = 0, ok = true },
    },
    system = { cpus = 2, cpu = "a processor", os = "Linux 6.1.0", luajit = "2.1", memory = 4 * 1024 ^ 3, broker = "mem://" },
    series = seconds(o),
    histograms = { confirm = buckets(o.latency / 2, n), e2e = buckets(o.latency, n), e2e_raw = buckets(o.latency * 0.9, n),
                   confirm_raw = buckets(o.latency * 0.4, n) },
    config = {
      name = o.name, warmup = 1, verify = true, producers = { count = 4, size = 64, key = "bench" },
      consumers = { count = 4, prefetch = 256, queue = "bench" },
    },
  }
end
