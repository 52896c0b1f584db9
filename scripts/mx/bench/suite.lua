-- mxrun bench suite: a table of workloads, each in a process of its own, on mem:// and on a broker, beside the figures that the
-- library whose table this is gave for itself.
local args = require "mx.cli.args"
local url = require "mx.url"
local child, observer, table_of = require "mx.bench.child", require "mx.bench.report.observer", require "mx.bench.report.table"

local M = { name = "bench suite", usage = [[
usage: mxrun bench suite [options] [ROW ...]      the table of workloads, or some of its rows

Each row runs in a process of its own on mem:// and, with -u (or MXRUN_URLS), on a broker: most memory, messages a second,
MB for 1,000 messages a second, the average pause of Lua's collector, p99 of the latency.

  -u, --url URL       the broker
      --time S        of each row, 10
      --markdown FILE the table as Markdown; stdout has it in any case
      --html FILE     the table as a page
      --json FILE     the results
      --list          the names of the rows

exit codes: 0 fine, 1 a row failed, 2 misuse, 3 a row was limited by its generator
]], options = {
  ["--time"] = { "time", "number" }, ["--markdown"] = { "markdown", "string" }, ["--html"] = { "html", "string" },
  ["--json"] = { "json", "string" }, ["--list"] = { "list" },
} }

-- workload: a file of examples/workloads; seed: MB, messages a second, MB per 1,000 messages/s, GC in ms, as published.
M.rows = {
  { name = "small_1p", title = "Small Messages (1P), 64 B", seed = { 804, 239767, 3.35, 0.03 } },
  { name = "small_4p", title = "Small Messages (4P), 64 B", seed = { 1713, 539744, 3.17, 0.05 } },
  { name = "medium_1p", title = "Medium Messages (1P), 256 B", seed = { 815, 238677, 3.41, 0.03 } },
  { name = "large_1p", title = "Large Messages (1P), 1 KiB", seed = { 789, 204931, 3.85, 0.04 } },
  { name = "high_throughput", title = "High Throughput (16P16C), 128 B", seed = { 5007, 579911, 8.63, 0.04 } },
  { name = "low_latency", title = "Low Latency (1P1C), 64 B, 1,000/s" },
  { name = "memory_efficiency", title = "Memory Efficiency (4P4C), 1 KiB" },
  { name = "end_to_end", title = "End-to-End (8P8C), 256 B", seed = { 3271, 552927, 5.92, 0.04 } },
}
for _, n in ipairs { 1, 2, 4, 8, 16 } do
  local title = ("Scalability (%dP%dC), 256 B"):format(n, n)
  table.insert(M.rows, { name = "scalability_" .. n, title = title, workload = "scalability", n = n })
end

local function chosen(words)
  local by_name, list = {}, {}
  for _, row in ipairs(M.rows) do by_name[row.name] = row end
  for _, word in ipairs(words) do
    if not by_name[word] then
      return args.misuse(M, ("no row '%s'%s"):format(word, require "mx.check".nearest(word, by_name)))
    end
    list[#list + 1] = by_name[word]
  end
  return #list > 0 and list or M.rows
end

-- A broker's URL for people: where it is, not who asks.
local function label(text)
  return (url.hide(text):gsub("^(%a+://)[^/?]*@", "%1"):gsub("[/?].*$", function(rest) return rest:match "^//[^/?]*" end))
end

-- The result of a row, played by another process, whatever it decided; or nil, text.
function M.play(row, broker, o)
  local path = os.tmpname()
  local list = { "--set", "time=" .. (o.time or 10) }
  if row.n then list[#list + 1], list[#list + 2] = "--set", "n=" .. row.n end
  for _, word in ipairs { "bench", "--row", row.workload or row.name, "--quiet", "--json", path } do list[#list + 1] = word end
  local c, why = child.start(list, { MXRUN_URLS = broker })
  local code = c and c:wait()
  local result = c and observer.read(path)
  os.remove(path)
  if result then
    if not o.json then result.series, result.histograms = nil, nil end    -- nobody asks for them
    return result
  end
  return nil, why or ("exit %d"):format(code)
end

function M.tell(text) io.stderr:write(text) end

local function play_all(rows, brokers, o)
  local results, code = {}, 0
  for i, row in ipairs(rows) do
    results[i] = {}
    for k, broker in ipairs(brokers) do
      local r, why = M.play(row, broker, o)
      results[i][k] = r or { failed = why }
      if not r then
        code = 1
      elseif r.verdict == "generator-limited" and code == 0 then
        code = 3
      end
      M.tell(table_of.progress(row, label(broker), results[i][k]))
    end
  end
  return results, code
end

local function write_all(o, t)
  for name, text in pairs { markdown = table_of.markdown, html = table_of.page, json = table_of.json } do
    if o[name] then
      local ok, why = observer.write(o[name], text(t))
      if not ok then return nil, why end
    end
  end
  return true
end

function M.run(list, host)
  local o, words = args.parse(M, list)
  if not o then return words end
  if o.time and o.time <= 0 then return args.refuse(M, "--time wants seconds above 0") end
  local rows, misused = chosen(words)
  if not rows then return misused end
  if o.list then
    for _, row in ipairs(rows) do print(("%-18s %s"):format(row.name, row.title)) end
    return 0
  end
  local brokers, labels = { "mem://" }, {}
  for _, broker in ipairs(host.urls) do
    local text = url.whole(broker)
    if not text:find "^mem:" then brokers[#brokers + 1] = text end
  end
  for i, broker in ipairs(brokers) do labels[i] = label(broker) end
  local results, code = play_all(rows, brokers, o)
  local t = table_of.new(rows, labels, results, o.time or 10)
  if o.json ~= "-" then io.write(table_of.markdown(t)) end
  local ok, why = write_all(o, t)
  if not ok then return args.failed(M, why) end
  return code
end

return M
