-- Thresholds: what a result must be like, as expressions on its figures and as functions.
local check = require "mx.check"

local M = {}

-- Figures that have a name; latencies are measured at any percentile: "e2e.p99", "e2e.p99.9" or "e2e.p999", "e2e.max".
local KINDS = {
  ["publish.count"] = "count", ["publish.rate"] = "rate", ["publish.errors"] = "count", ["publish.unsent"] = "count",
  ["consume.count"] = "count", ["consume.rate"] = "rate",
  ["verify.lost"] = "count", ["verify.duplicated"] = "count", ["verify.reordered"] = "count", ["verify.unread"] = "count",
  ["cpu.user"] = "time", ["cpu.sys"] = "time", ["cpu.us_per_message"] = "count",
  ["memory.peak_rss"] = "bytes", ["memory.lua_peak"] = "bytes", ["memory.mb_per_1k_rate"] = "count",
  ["gc.cycles"] = "count", ["gc.pause_avg"] = "time", ["gc.pause_p99"] = "time", ["gc.pause_max"] = "time",
  ["generator.lag_p99"] = "time", ["generator.lag_max"] = "time", ["generator.late"] = "count", ["generator.busy"] = "count",
  ["duration"] = "time",
}
local LATENCIES = { "publish.confirm.raw", "publish.confirm", "consume.handler", "e2e.raw", "e2e" }
local UNITS = {
  time = { [""] = 1, us = 1e-6, ms = 1e-3, s = 1, m = 60, h = 3600 },
  bytes = { [""] = 1, B = 1, KB = 1024, MB = 1024 ^ 2, GB = 1024 ^ 3 },
  rate = { [""] = 1, ["/s"] = 1, k = 1e3, ["k/s"] = 1e3 },
  count = { [""] = 1, k = 1e3, ["%"] = 0.01 },
}
local OPERATORS = {
  ["<"] = function(a, b) return a < b end, ["<="] = function(a, b) return a <= b end,
  [">"] = function(a, b) return a > b end, [">="] = function(a, b) return a >= b end,
  ["=="] = function(a, b) return a == b end, ["~="] = function(a, b) return a ~= b end,
}
OPERATORS["!="] = OPERATORS["~="]
local OPTIONS = { [1] = "any", window = "seconds", abort = "boolean", after = "seconds" }

-- 99.9 of "p99.9" or "p999"
local function percentile_of(word)
  local digits = word:match "^p(%d+)$"
  if digits and #digits > 2 then return tonumber(digits) / 10 ^ (#digits - 2) end
  local p = tonumber(digits or word:match "^p(%d%d?%.%d+)$")
  return p and p <= 100 and p or nil
end

-- What a name stands for: its kind, and a function of a result.
local function figure(name)
  for _, latency in ipairs(LATENCIES) do
    local word = name:sub(1, #latency + 1) == latency .. "." and name:sub(#latency + 2)
    local p = word and percentile_of(word)
    if p or word == "max" or word == "mean" or word == "count" then
      return word == "count" and "count" or "time", function(r)
        local t = M.at(r, latency)
        if not t or t.count == 0 then return nil end
        if p then return t:p(p) end
        return t[word]
      end
    end
  end
  if KINDS[name] then return KINDS[name], function(r) return M.at(r, name) end end
end

-- r.a.b of "a.b"
function M.at(r, path)
  for name in path:gmatch "[^.]+" do
    if type(r) ~= "table" then return nil end
    r = r[name]
  end
  return r
end

local function names()
  local list = {}
  for name in pairs(KINDS) do list[#list + 1] = name end
  for _, name in ipairs(LATENCIES) do
    for _, word in ipairs { "p50", "p95", "p99", "p999", "max" } do list[#list + 1] = name .. "." .. word end
  end
  return list
end

local function expression(name, text)
  local kind, value = figure(name)
  if not kind then check.fail(("mx.workload: thresholds: there is no '%s'%s"):format(name, check.nearest(name, names()))) end
  local op, digits, unit = text:match "^%s*([<>=~!]=?)%s*(%d*%.?%d+)%s*([%a%%/]*)%s*$"
  local compare, factor = OPERATORS[op], UNITS[kind][unit]
  if not compare or not factor then
    check.fail(("mx.workload: thresholds: '%s': expected one like %q, got %q"):format(name,
      kind == "time" and "< 20ms" or kind == "bytes" and "< 256MB" or kind == "rate" and ">= 1000" or "== 0", text))
  end
  local limit = tonumber(digits) * factor
  return function(r)
    local v = value(r)
    if v == nil then return nil end
    return compare(v, limit), v
  end
end

-- A function of the script answers as that of mx.health: false (and why) is crossed; nothing or true is not.
local function by_function(f)
  return function(r)
    local ok, answer, why = pcall(f, r)
    if not ok then return false, nil, require "mx.task".text_of(answer) end
    return answer ~= false, nil, answer == false and why and tostring(why) or nil
  end
end

local function one(name, given)
  local o = type(given) == "table" and given or { given }
  o = check.options(("mx.workload: threshold '%s'"):format(name), o, OPTIONS)
  local test
  if type(o[1]) == "function" then test = by_function(o[1])
  elseif type(o[1]) == "string" then test = expression(name, o[1])
  else check.fail(("mx.workload: thresholds: '%s': expected a text like \"< 20ms\" or a function"):format(name)) end
  if o.window and o.window < 1 then check.fail(("mx.workload: thresholds: '%s': a window is at least 1 s"):format(name)) end
  return { name = name, expr = type(o[1]) == "string" and o[1] or "function", test = test, window = o.window,
           abort = o.abort or false, after = o.after or 0 }
end

-- { ["e2e.p99"] = "< 20ms" | function | { "< 20ms" | function, window =, abort =, after = } | list of these }, as a list by name
function M.parse(given)
  local list, sorted = {}, {}
  for name in pairs(given) do
    if type(name) ~= "string" then check.fail "mx.workload: thresholds: each needs a name" end
    sorted[#sorted + 1] = name
  end
  table.sort(sorted)
  for _, name in ipairs(sorted) do
    local t = given[name]
    if type(t) == "table" and (type(t[1]) == "table" or t[2] ~= nil) then
      for _, each in ipairs(t) do list[#list + 1] = one(name, each) end
    else
      list[#list + 1] = one(name, t)
    end
  end
  return list
end

-- Checking --------------------------------------------------------------------------------------------------------------

-- Thresholds of a run. look(elapsed, whole, of_window) is called each second: whole() and of_window(seconds) answer results so
-- far, of_window nil while there was no whole window. It answers the one that ends the run, if one does.
-- judge(result) answers the list for the result.
function M.watch(list)
  local states = {}
  for i, t in ipairs(list) do states[i] = { of = t, due = t.window or 0 } end

  local function crossed(s, v, why)
    s.crossed, s.value, s.why = true, v, why
    return s.of.abort
  end

  local function look(s, elapsed, whole, of_window)
    local t = s.of
    if s.crossed or not t.window and not t.abort or elapsed < math.max(t.after, s.due) then return false end
    local r = whole
    if t.window then r, s.due = of_window, elapsed + t.window end
    r = r(t.window)
    if not r then return false end
    local ok, v, why = t.test(r)
    s.last, s.seen = v, s.seen or ok ~= nil
    return ok == false and crossed(s, v, why)
  end

  return {
    look = function(elapsed, whole, of_window)
      for _, s in ipairs(states) do
        if look(s, elapsed, whole, of_window) then
          s.aborted = true
          return s.of
        end
      end
    end,
    judge = function(r)
      local out = {}
      for i, s in ipairs(states) do
        local t = s.of
        local ok, v, why
        if s.crossed then ok, v, why = false, s.value, s.why
        elseif t.window and s.seen then ok, v = true, s.last
        else ok, v, why = t.test(r) end
        out[i] = { name = t.name, expr = t.expr, value = v, ok = ok or false, why = why or ok == nil and "no samples" or nil,
                   window = t.window, aborted = s.aborted }
      end
      return out
    end,
  }
end

return M
