-- The suite's table: a row a workload, each figure by broker and beside the seed's; as Markdown, as a page, as JSON.
local format = require "mx.bench.report.format"

local M = {}
local SEED = "seed"

local COLUMNS = {
  { key = "memory", title = "peak memory" }, { key = "rate", title = "messages/s" }, { key = "per", title = "MB per 1,000 msg/s" },
  { key = "gc", title = "GC average" }, { key = "p99", title = "p99" },
}

local NOTES = {
  "messages/s: what was consumed. p99: from the intended send to the handler, or to the confirm; "
    .. "without a rate it is the time that a full window of unconfirmed messages takes.",
  "Peak memory of mem:// includes the broker, which is in the same process. GC average: of the collector's steps "
    .. "that mxrun drives itself; where there is only a number of cycles, allocations drove it, a little each.",
  "seed: what the document of go-messagex says of itself. It measured a mock, in which nothing is encoded, sent or consumed.",
}

-- The average step that mxrun drove itself, if there was one, and how many cycles there were.
local function collector(gc)
  local cycles = gc.cycles and ("%.0f cycles"):format(gc.cycles) or nil
  return gc.pause_avg and gc.pause_avg > 0 and format.time(gc.pause_avg) .. (cycles and ", " .. cycles or "") or cycles or "-"
end

-- Of a result: its figures, and their texts.
local function cells_of(r)
  if r.failed then return { failed = format.line(r.failed) } end
  local consumed = r.consume and (r.consume.count or 0) > 0
  local rate = consumed and r.consume.rate or format.at(r, "publish.rate")
  local peak = format.at(r, "memory.peak_rss")
  local per = format.at(r, "memory.mb_per_1k_rate") or peak and rate and rate > 0 and peak / 1024 ^ 2 / (rate / 1000)
  return {
    number = rate, memory = format.bytes(peak), rate = format.rate(rate):gsub("/s$", ""), per = per and format.three(per) or "-",
    gc = collector(r.gc or {}), p99 = format.time(format.at(r, consumed and "e2e.p99" or "publish.confirm.p99")),
    mark = r.verdict == "generator-limited" and "generator-limited" or nil,
  }
end

local function seed_cells(seed)
  if not seed then return {} end
  return { number = seed[2], memory = format.count(seed[1]) .. " MB", rate = format.count(seed[2]), per = format.three(seed[3]),
           gc = format.time(seed[4] / 1000) }
end

-- Of each broker what a column is called: the scheme where that says which.
local function short(brokers)
  local seen, list = {}, {}
  for _, broker in ipairs(brokers) do
    local scheme = broker:match "^%a+://" or broker
    seen[scheme] = (seen[scheme] or 0) + 1
  end
  for i, broker in ipairs(brokers) do
    local scheme = broker:match "^%a+://"
    list[i] = seen[scheme] == 1 and scheme or broker
  end
  list[#list + 1] = SEED
  return list
end

-- What is the same for all rows.
function M.facts_of(system, brokers)
  local facts = {}
  for k, v in pairs(system) do
    if k ~= "at" and k ~= "workers" then facts[k] = v end
  end
  facts.broker = table.concat(brokers, " ")
  return facts
end

-- rows: of the suite; results[row][broker]: a result, or { failed = text }
function M.new(rows, brokers, results, seconds)
  local t = { rows = {}, brokers = short(brokers), where = brokers, columns = COLUMNS, notes = NOTES, seconds = seconds, results = results }
  for i, row in ipairs(rows) do
    local by = {}
    for k in ipairs(brokers) do
      by[k] = cells_of(results[i][k])
      t.system = t.system or results[i][k].system and M.facts_of(results[i][k].system, brokers)
    end
    table.insert(by, seed_cells(row.seed))
    t.rows[i] = { name = row.name, title = row.title, by = by }
  end
  return t
end

function M.progress(row, broker, r)
  local c = cells_of(r)
  local text = c.failed or ("%s/s, %s, p99 %s%s"):format(c.rate, c.memory, c.p99, c.mark and ", " .. c.mark or "")
  return ("%s on %s: %s\n"):format(row.name, broker, text)
end

local function cell_text(cells, key)
  if cells.failed then return key == "rate" and "failed: " .. cells.failed or "" end
  local text = cells[key] or ""
  return key == "rate" and cells.mark and text .. " (" .. cells.mark .. ")" or text
end

-- The lines of a table whose columns are as wide as they have to be.
local function aligned(lines)
  local wide = {}
  for _, line in ipairs(lines) do
    for i, cell in ipairs(line) do wide[i] = math.max(wide[i] or 3, #cell) end
  end
  local out = {}
  for n, line in ipairs(lines) do
    local cells = {}
    for i, cell in ipairs(line) do cells[i] = ("%" .. (i == 1 and "-" or "") .. wide[i] .. "s"):format(cell) end
    out[#out + 1] = "| " .. table.concat(cells, " | ") .. " |"
    if n == 1 then
      for i in ipairs(line) do cells[i] = i == 1 and ("-"):rep(wide[i]) or ("-"):rep(wide[i] - 1) .. ":" end
      out[#out + 1] = "| " .. table.concat(cells, " | ") .. " |"
    end
  end
  return table.concat(out, "\n")
end

-- What Markdown would take for something else.
local function escaped(text) return (text:gsub("[|<>&]", { ["|"] = "\\|", ["<"] = "&lt;", [">"] = "&gt;", ["&"] = "&amp;" })) end

local function used(t, key, k)
  for _, row in ipairs(t.rows) do
    if row.by[k][key] then return true end
  end
  return false
end

local function facts(system)
  local list = {}
  for k, v in pairs(system or {}) do list[#list + 1] = format.line(k) .. " " .. (k == "memory" and format.bytes(v) or format.line(v)) end
  table.sort(list)
  return table.concat(list, ", ")
end

function M.markdown(t)
  local lines = { { "workload" } }
  local shown = {}
  for _, c in ipairs(t.columns) do
    for k, broker in ipairs(t.brokers) do
      if broker ~= SEED or used(t, c.key, k) then
        shown[#shown + 1] = { c.key, k }
        table.insert(lines[1], escaped(c.title .. ", " .. broker))
      end
    end
  end
  for _, row in ipairs(t.rows) do
    local line = { escaped(row.title) }
    for _, s in ipairs(shown) do line[#line + 1] = escaped(cell_text(row.by[s[2]], s[1])) end
    lines[#lines + 1] = line
  end
  return ("# mxrun bench suite\n\n%s s a row. %s\n\n%s\n\n%s\n"):format(format.three(t.seconds), escaped(facts(t.system)), aligned(lines),
    table.concat(t.notes, "\n"))
end

function M.page(t)
  local rows = {}
  for i, row in ipairs(t.rows) do rows[i] = { title = row.title, by = row.by } end
  return require "mx.bench.report.page".render(require "mx.bench.report.observer".plain {
    title = "mxrun bench suite", subtitle = ("%s, %s s a row"):format(os.date "!%Y-%m-%d %H:%M UTC", format.three(t.seconds)),
    suite = { rows = rows, brokers = t.brokers, columns = t.columns, notes = t.notes }, system = t.system,
  })
end

function M.json(t)
  local observer, rows = require "mx.bench.report.observer", {}
  for i, row in ipairs(t.rows) do
    rows[i] = { name = row.name, title = row.title, results = {} }
    for k, broker in ipairs(t.brokers) do
      if broker ~= SEED then rows[i].results[k] = { broker = t.where[k], result = t.results[i][k] } end
    end
  end
  return observer.encode { rows = rows, seconds = t.seconds } .. "\n"
end

return M
