-- What is told of a run: the live line, the summary at its end, and the files that were asked for.
local json = require "mx.json"
local format, live, summary = require "mx.bench.report.format", require "mx.bench.report.live", require "mx.bench.report.summary"
local compare = require "mx.bench.report.compare"

local M = {}

M.options = {
  ["--json"] = { "json", "string" }, ["--html"] = { "html", "string" }, ["--csv"] = { "csv", "string" }, ["--hgrm"] = { "hgrm", "string" },
  ["--compare"] = { "compare", "string" }, ["--tolerance"] = { "tolerance", "number" }, ["--quiet"] = { "quiet" },
}

M.usage = [[
      --json FILE     the result, with its seconds and histograms; - is stdout, the summary goes to stderr then
      --html FILE     a page of it, in one file that needs no network
      --csv FILE      its seconds
      --hgrm FILE     latencies as HdrHistogram's percentile text, in ms: end to end, or confirm when nothing consumes;
                      the others beside it (FILE.confirm.hgrm, FILE.e2e_raw.hgrm ...)
      --compare FILE  with the result that --json once wrote: slower or faster, and the 95 % interval of that
      --tolerance P   what --compare lets pass, 5 (%): exit 98 only when the whole interval is worse
      --quiet         no live line and no summary
]]

-- Numbers that JSON has not, and functions, as text: a result is data, wherever it came from.
function M.plain(v, depth)
  depth = depth or 0
  local kind = type(v)
  if kind == "number" then return v == v and v < math.huge and v > -math.huge and v or tostring(v) end
  if kind == "string" or kind == "boolean" or v == json.null or kind == "cdata" then return v end
  if kind ~= "table" or depth > 32 then return tostring(v):match "^%a+" end
  local t = json.is_array(v) and json.array() or {}
  for k, e in pairs(v) do
    t[#v > 0 and k or tostring(k)] = M.plain(e, depth + 1)
  end
  return t
end

local LISTS = { "series", "thresholds" }

-- A result as JSON: a list without entries stays a list.
function M.encode(result)
  local t = M.plain(result)
  for _, name in ipairs(LISTS) do json.array(t[name]) end
  for _, buckets in pairs(t.histograms or {}) do json.array(buckets) end
  return json.encode(t)
end

-- Writes a text to a file, - is stdout. true | nil, text
function M.write(path, text)
  local f, why = io.stdout, nil
  if path ~= "-" then f, why = io.open(path, "wb") end
  if not f then return nil, why end
  local ok
  ok, why = f:write(text)
  if path ~= "-" then f:close() else f:flush() end
  if not ok then return nil, ("%s: %s"):format(path, why) end
  return true
end

-- A result that --json wrote. table | nil, text
function M.read(path)
  local f, why = io.open(path, "rb")
  if not f then return nil, why end
  local text = f:read "*a"
  f:close()
  local t, e = json.decode(text or "")
  if type(t) ~= "table" or type(t.publish or t.consume) ~= "table" then
    return nil, ("%s is no result of mxrun bench --json%s"):format(path, e and ": " .. tostring(e) or "")
  end
  return t
end

-- out.hgrm and "confirm": out.confirm.hgrm
local function beside(path, name)
  local base, extension = path:match "^(.*[^/])(%.[^./]*)$"
  return (base or path) .. "." .. name .. (extension or "")
end

local function write_hgrm(path, histograms)
  local hgrm, main = require "mx.bench.report.hgrm", nil
  for _, name in ipairs { "e2e", "confirm", "e2e_raw", "confirm_raw" } do
    local buckets = histograms[name]
    if buckets and #buckets > 0 then
      local ok, why = M.write(main and beside(path, name) or path, hgrm.text(buckets))
      if not ok then return nil, why end
      main = true
    end
  end
  return true
end

-- Whatever was asked for. true | nil, text
local function write_files(o, result, compared)
  local ok, why = true, nil
  local function file(path, text)
    if ok and path then ok, why = M.write(path, text()) end
  end
  file(o.csv, function() return require "mx.bench.report.csv".text(result) end)
  if ok and o.hgrm then ok, why = write_hgrm(o.hgrm, result.histograms or {}) end
  file(o.html, function() return require "mx.bench.report.page".text(result, compared) end)
  file(o.json, function() return M.encode(result) .. "\n" end)
  return ok, why
end

-- A path that cannot be written is said before the run, not after it. A run that fails leaves no empty file.
local function check_paths(o)
  for _, name in ipairs { "json", "html", "csv", "hgrm" } do
    local path = o[name]
    if path and path ~= "-" then
      local there = io.open(path, "rb")
      local f, why = io.open(path, "ab")
      if not f then return nil, ("--%s: %s"):format(name, why) end
      f:close()
      if there then there:close() else os.remove(path) end
    end
  end
  return true
end

local function summarize(o, text)
  if not o.quiet then (o.json == "-" and io.stderr or io.stdout):write(text) end
end

-- o: what the command line gave. An observer | nil, what is wrong with o.
function M.new(o, host)
  local ok, why = check_paths(o)
  if not ok then return nil, why end
  local base
  if o.compare then
    base, why = M.read(o.compare)
    if not base then return nil, "--compare: " .. format.line(why) end
  end
  local line = live.new(host and host.terminal)
  local observer = {}
  function observer.tick(snapshot)
    if not o.quiet then line.tick(snapshot) end
  end
  -- 0, or 98 for a regression | nil, why a file could not be written
  function observer.done(result)
    line.clear()
    local compared = base and compare.compare(base, result, o.tolerance and o.tolerance / 100)
    summarize(o, summary.text(result) .. (compared and compare.text(compared) or ""))
    if compared then result.compared = compared end
    local written, what = write_files(o, result, compared)
    if not written then return nil, what end
    return compared and compared.regressed and 98 or 0
  end
  return observer
end

return M
