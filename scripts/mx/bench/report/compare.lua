-- Two results side by side: how much slower, as an interval, and whether that is a regression.
--
-- Design: the bootstrap. A rate is the mean of the seconds of its run; seconds that follow each other resemble each other, so
-- they are drawn in blocks. A latency's quantile comes from the buckets: of n samples drawn anew, the quantile q is the
-- sample at a random rank, q +- sqrt(q (1 - q) / n), and needs no drawing of n samples. Samples of one second resemble each
-- other, too: that is multiplied by the mean of drawn seconds' own quantiles over the mean of all, so an unsteady run
-- gets a wide interval however many samples it has. The random numbers are our own and begin alike each time.
local format, json = require "mx.bench.report.format", require "mx.json"

local M = { TOLERANCE = 0.05 }
local DRAWS = 2000

-- Random numbers in (0, 1), the same sequence each time (Park and Miller).
local function generator()
  local state = 20240229
  return function()
    state = state * 16807 % 2147483647
    return state / 2147483647
  end
end

local function normal(random) return math.sqrt(-2 * math.log(random())) * math.cos(2 * math.pi * random()) end

local function mean(list)
  local sum = 0
  for i = 1, #list do sum = sum + list[i] end
  return sum / #list
end

-- The mean of as many values, drawn in blocks of the square root of their number that go round the end. Few blocks vary less than what
-- they were drawn from by sqrt((m - 1) / m), which is made up for.
local function drawn_mean(list, random)
  local n, middle = #list, mean(list)
  local length, sum = math.floor(math.sqrt(n) + 0.5), 0
  for first = 1, n, length do
    local from = math.floor(random() * n)
    for i = 0, math.min(length, n - first + 1) - 1 do sum = sum + list[(from + i) % n + 1] end
  end
  local m = n / length
  return middle + (sum / n - middle) * (m > 1 and math.sqrt(m / (m - 1)) or 1)
end

-- At most so many values: the means of neighbours. A day of seconds would take a minute to draw from.
local MOST = 600
local function fewer(list)
  local step, short = math.ceil(#list / MOST), {}
  if step <= 1 then return list end
  for from = 1, #list, step do
    local sum, n = 0, math.min(step, #list - from + 1)
    for i = from, from + n - 1 do sum = sum + list[i] end
    short[#short + 1] = sum / n
  end
  return short
end

-- The figures of the seconds at path that are there and above 0; a row of less than half a second says little, and behind the end
-- only what was on its way still arrives.
local function seconds(result, path)
  local list, last = {}, (result.duration or math.huge) + 0.5
  for _, row in ipairs(result.series or {}) do
    local v = format.at(row, path)
    if type(v) == "number" and v > 0 and v < math.huge and row.t >= 0.5 and row.t <= last then list[#list + 1] = v end
  end
  return fewer(list)
end

-- A function of random that answers the rate of a run as it might have been as well, and its true rate; nil: it has none.
local function rate_of(result, what)
  local list = seconds(result, what.series)
  if #list < 2 then return nil end
  return function(random) return drawn_mean(list, random) end, mean(list)
end

local function cumulated(buckets)
  local sums, n = {}, 0
  for i, b in ipairs(buckets) do
    n = n + b[2]
    sums[i] = n
  end
  return sums, n
end

-- The value below which so many samples lie.
local function at_rank(buckets, sums, rank)
  local low, high = 1, #sums
  while low < high do
    local middle = math.floor((low + high) / 2)
    if sums[middle] >= rank then high = middle else low = middle + 1 end
  end
  return buckets[low][1]
end

local function quantile_of(result, what)
  local buckets = result.histograms and result.histograms[what.histogram]
  if type(buckets) ~= "table" then return nil end
  local sums, n = cumulated(buckets)
  if n < 10 then return nil end
  local q, list = what.q, seconds(result, what.series)
  local spread, steady = math.sqrt(q * (1 - q) / n), #list >= 2 and mean(list)
  return function(random)
    local rank = math.min(math.max(q + spread * normal(random), 0), 1) * n
    local v = at_rank(buckets, sums, math.max(rank, 1))
    return steady and v * drawn_mean(list, random) / steady or v
  end, at_rank(buckets, sums, math.max(q * n, 1))
end

-- worse: which way a ratio to the base is bad.
local WHAT = {
  { name = "publish.rate", series = "publish_rate", of = rate_of, worse = -1 },
  { name = "consume.rate", series = "consume_rate", of = rate_of, worse = -1 },
  { name = "publish.confirm.p50", histogram = "confirm", q = 0.5, series = "confirm.p50", of = quantile_of, worse = 1 },
  { name = "publish.confirm.p99", histogram = "confirm", q = 0.99, series = "confirm.p99", of = quantile_of, worse = 1 },
  { name = "e2e.p50", histogram = "e2e", q = 0.5, series = "e2e.p50", of = quantile_of, worse = 1 },
  { name = "e2e.p99", histogram = "e2e", q = 0.99, series = "e2e.p99", of = quantile_of, worse = 1 },
}

-- { ratio, low, high } of new to base: the ratio and its 95 % interval.
local function interval(base, new, what, random)
  local draw_base, true_base = what.of(base, what)
  local draw_new, true_new = what.of(new, what)
  if not draw_base or not draw_new or true_base == 0 then return nil end
  local list = {}
  for i = 1, DRAWS do list[i] = draw_new(random) / draw_base(random) end
  table.sort(list)
  local low, high = list[math.floor(DRAWS * 0.025) + 1], list[math.ceil(DRAWS * 0.975)]
  return { base = true_base, new = true_new, ratio = true_new / true_base, low = low, high = high }
end

local function percent(x)
  local text = ("%.1f"):format(x * 100)
  return (text:gsub("%.0$", ""))
end

-- "slower by 4 % (2 to 6)" of one comparison; words: for more and for less.
local function verdict(c, more, less)
  if c.low <= 1 and c.high >= 1 then return "no difference seen" end
  local up = c.low > 1
  local near, far = math.abs((up and c.low or c.high) - 1), math.abs((up and c.high or c.low) - 1)
  return ("%s by %s %% (%s to %s)"):format(up and more or less, percent(math.abs(c.ratio - 1)), percent(near), percent(far))
end

-- Whether the whole interval is worse than the tolerance.
local function regressed(c, worse, tolerance)
  if worse < 0 then return c.high < 1 - tolerance end
  return c.low > 1 + tolerance
end

-- What makes the two hard to compare: lines of text.
local function caveats(base, new)
  local list = {}
  local function differs(what, a, b)
    if a == nil or b == nil then return end
    a, b = format.line(json.encode(a)), format.line(json.encode(b))
    if a ~= b then list[#list + 1] = ("%s: the base has %s, this run %s"):format(what, a, b) end
  end
  differs("name", base.name, new.name)
  for _, path in ipairs { "producers.count", "producers.size", "consumers.count", "consumers.prefetch" } do
    differs(path, format.at(base, "config." .. path), format.at(new, "config." .. path))
  end
  for _, fact in ipairs { "cpu", "cpus", "os", "workers" } do
    differs(fact, format.at(base, "system." .. fact), format.at(new, "system." .. fact))
  end
  for _, r in ipairs { base, new } do
    if r.verdict == "generator-limited" then
      list[#list + 1] = (r == base and "the base" or "this run") .. " was limited by its generator"
    end
  end
  return list
end

-- { rows = { { name, base, new, ratio, low, high, verdict, regressed } }, caveats, regressed, tolerance }
function M.compare(base, new, tolerance)
  local random, c = generator(), { rows = {}, caveats = caveats(base, new), regressed = false, tolerance = tolerance or M.TOLERANCE }
  for _, what in ipairs(WHAT) do
    local row = interval(base, new, what, random)
    if row then
      row.name, row.unit = what.name, what.worse < 0 and "rate" or "time"
      row.verdict = verdict(row, what.worse < 0 and "faster" or "slower", what.worse < 0 and "slower" or "faster")
      row.regressed = regressed(row, what.worse, c.tolerance)
      local show = format[row.unit]
      row.base_text, row.new_text = show(row.base), show(row.new)
      c.regressed = c.regressed or row.regressed
      c.rows[#c.rows + 1] = row
    end
  end
  return c
end

function M.text(c)
  local lines = { "  compared with the base" }
  for _, row in ipairs(c.rows) do
    local word = row.regressed and "FAIL" or "ok"
    lines[#lines + 1] = ("    %-4s %-20s %12s, was %12s: %s"):format(word, row.name, row.new_text, row.base_text, row.verdict)
  end
  if #c.rows == 0 then lines[#lines + 1] = "    nothing that both measured" end
  for _, text in ipairs(c.caveats) do lines[#lines + 1] = "    note: " .. text end
  if c.regressed then
    lines[#lines + 1] = ("    regression: the whole 95 %% interval is worse than %s %%"):format(percent(c.tolerance))
  end
  return table.concat(lines, "\n") .. "\n"
end

return M
