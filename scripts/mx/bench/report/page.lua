-- A result as one HTML file that needs nothing else. What was measured, names included, goes in as JSON that holds no "<", and the
-- page's script makes text of it.
local json = require "mx.json"
local format = require "mx.bench.report.format"

local M = {}
local POINTS = 600                      -- of a curve; a page is for looking at, the file of --json has the rest

local HEAD = [[
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>mxrun bench</title>
<style>
]]

local BODY = [[
</style>
</head>
<body>
<main></main>
<svg width="0" height="0" aria-hidden="true"></svg>
<noscript><p>The figures of this page are drawn by its script.</p></noscript>
<script type="application/json" id="data">]]

-- The page of what its script shows.
function M.render(data)
  local text = assert(json.encode(data))
  return table.concat {
    HEAD, require "mx.bench.report.page_style", BODY, (text:gsub("<", "\\u003c")), "</script>\n<script>\n",
    require "mx.bench.report.page_script", "</script>\n</body>\n</html>\n",
  }
end

-- { share, seconds } of buckets: the curve by percentile.
local function curve(buckets)
  local n, seen, list, last = 0, 0, json.array(), -1
  for _, b in ipairs(buckets) do n = n + b[2] end
  for i, b in ipairs(buckets) do
    seen = seen + b[2]
    local share = math.min(seen / n, 1 - 0.5 / n)
    local place = -math.log10(1 - share)
    if place - last > 0.01 or i == #buckets then
      list[#list + 1] = { share, b[1] }
      last = place
    end
  end
  return #list > 0 and list or nil
end

local WORST = { "confirm.p99", "confirm.max", "e2e.p99", "e2e.max", "rss", "generator_lag" }
local MEAN = { "publish_rate", "consume_rate", "confirm.p50", "e2e.p50", "in_flight" }

local function put(row, path, value)
  local name, rest = path:match "^(%w+)%.(%w+)$"
  if not name then row[path] = value return end
  row[name] = row[name] or {}
  row[name][rest] = value
end

-- A row of several: of what is a mean the mean, of what is bad the worst.
local function joined(rows, from, to)
  local row = { t = rows[to].t }
  local function join(path, mean)
    local sum, most, n = 0, -math.huge, 0
    for i = from, to do
      local v = format.at(rows[i], path)
      if type(v) == "number" and v == v and v < math.huge then sum, most, n = sum + v, math.max(most, v), n + 1 end
    end
    if n > 0 then put(row, path, mean and sum / n or most) end
  end
  for _, path in ipairs(MEAN) do join(path, true) end
  for _, path in ipairs(WORST) do join(path, false) end
  return row
end

local function seconds(series)
  local list, step = json.array(), math.max(1, math.ceil(#series / POINTS))
  for first = 1, #series, step do list[#list + 1] = joined(series, first, math.min(first + step - 1, #series)) end
  return list
end

local function tiles(r)
  local list = json.array()
  local function add(name, path, show, bad)
    local v = format.at(r, path)
    if type(v) == "number" then list[#list + 1] = { name = name, value = show(v), bad = bad and bad(v) or nil } end
  end
  add("published", "publish.rate", format.rate)
  add("consumed", "consume.rate", format.rate)
  local which = format.at(r, "e2e.p99") and (r.e2e.max or 0) > 0 and "e2e" or "publish.confirm"
  add(which == "e2e" and "end to end, p99" or "confirm, p99", which .. ".p99", format.time)
  add("peak memory", "memory.peak_rss", format.bytes)
  add("lost", "verify.lost", format.count, function(v) return v > 0 end)
  return list
end

-- The figures that the page shows, without buckets: curves are made of them here.
local function shown(r)
  local t = {}
  for k, v in pairs(r) do
    if k ~= "series" and k ~= "histograms" and k ~= "compared" then t[k] = v end
  end
  t.thresholds = json.array()
  for i, each in ipairs(r.thresholds or {}) do
    t.thresholds[i] = { name = each.name, expr = each.expr, ok = each.ok and true or false, text = format.judged(each) }
  end
  return t
end

function M.text(r, compared)
  local percentiles = {}
  for name, buckets in pairs(r.histograms or {}) do percentiles[name] = curve(buckets) end
  local subtitle = ("%s, %s"):format(os.date "!%Y-%m-%d %H:%M UTC", format.time(r.duration or 0))
  return M.render(require "mx.bench.report.observer".plain {
    title = tostring(r.name or "bench"), subtitle = subtitle, good = r.verdict == "ok", tiles = tiles(r), result = shown(r),
    compared = compared, percentiles = percentiles, series = seconds(r.series or {}),
  })
end

return M
