-- Counters, gauges and histograms of scripts: which series an update goes to, without building a text for that.
--
-- self.tree is nested by the values of the labels, in their order: its leaves are series (mx/series.lua). What is not found
-- there goes through series_of, once for each combination.
local ffi = require "ffi"
local C = ffi.C
local turn, check, err, log, series = require "mx.turn", require "mx.check", require "mx.err", require "mx.log", require "mx.series"
local generation = require "mx.generation"
local type, select = type, select

local M = { all = {} }
local MAX_SERIES = 1000
local MAX_LEAVES = 4 * MAX_SERIES       -- 1 and "1" are the same series, and so are texts that differ behind what is kept of them
local EMPTY = {}

local function mistake(self, text) check.fail(("%s %s: %s"):format(self.kind, self.name, text)) end

local function check_values(self, count, values)
  for i = 1, count do
    local kind = type(values[i])
    if kind ~= "nil" and kind ~= "string" and kind ~= "number" then count = -1 end
  end
  if count == #self.labels then return end
  mistake(self, #self.labels == 0 and "it has no labels"
                or "expected a text for each of its labels: " .. table.concat(self.labels, ", "))
end

local dropped = series.new("counter", "mxrun_series_dropped_total") or { value = 0 }
series.help("mxrun_series_dropped_total", "updates that went to no series, since their metric had 1000 already or memory was full")

-- The series of these values, made if need be; nil when there are too many. nil is an empty value, as Prometheus has it,
-- and a number is its text.
local function series_of(self, make, ...)
  local values = { ... }
  check_values(self, select("#", ...), values)
  local labels = series.labels(self.labels, values)
  local s = self.by_text[labels]
  if s or not make then return s end
  s = self.made < MAX_SERIES and series.new(self.kind, self.name, labels) or nil
  if not s then
    dropped.value = dropped.value + 1
    return nil
  end
  self.made, self.by_text[labels] = self.made + 1, s
  return s
end

-- From now on the leaf is found by the values themselves.
local function remember(self, leaf, ...)
  local node, n = self.tree, #self.labels
  self.leaves = self.leaves + 1
  if n == 0 then self.leaf = leaf end
  for i = 1, n do
    local value = select(i, ...)
    if value == nil or value ~= value then return end          -- no key of a table
    if i == n then node[value] = leaf else
      node[value] = node[value] or {}
      node = node[value]
    end
  end
end

-- What an update needs: a series, of a histogram the mx_hist in it.
local function missed(self, ...)
  local s = series_of(self, true, ...)
  if not s then return nil end
  local leaf = self.kind == "histogram" and C.mx_series_hist(s) or s
  if self.leaves < MAX_LEAVES then remember(self, leaf, ...) end
  return leaf
end

-- The update of a metric with so many labels, compiled from this text so that traces see no loop over labels.
local UPDATE = [[
local missed, bad, record, EMPTY, select, type = ...
return function(self, v, ...)
  $CHECK
  $VALUES
  local leaf = $FIND
  if leaf == nil or select("#", ...) ~= $COUNT then leaf = missed(self, ...) end
  if leaf ~= nil then $DO end
end]]

local HOW = {
  counter = { "inc", "v = v or 1 if type(v) ~= 'number' or not (v >= 0 and v < 1/0) then bad(self, v) end",
              "leaf.value = leaf.value + v" },
  gauge = { "set", "if type(v) ~= 'number' then bad(self, v) end", "leaf.value = v" },
  histogram = { "observe", "if type(v) ~= 'number' then bad(self, v) end", "record(leaf, v)" },
}
local EXPECTED = { counter = "a number of 0 or more", gauge = "a number", histogram = "seconds" }

local function bad(self, v)
  local got = type(v) == "number" and "" or ", got a " .. type(v)
  check.fail(("%s:%s: expected %s%s"):format(self.kind, HOW[self.kind][1], EXPECTED[self.kind], got))
end

local function update_of(kind, labels)
  local values, find = {}, labels == 0 and "self.leaf" or "self.tree"
  for i = 1, labels do
    values[i] = "l" .. i
    find = i == 1 and find .. "[l1]" or ("(%s or EMPTY)[l%d]"):format(find, i)
  end
  values = labels > 0 and "local " .. table.concat(values, ", ") .. " = ..." or ""
  local text = UPDATE:gsub("%$(%u+)", { VALUES = values, COUNT = labels, FIND = find, CHECK = HOW[kind][2], DO = HOW[kind][3] })
  return assert(loadstring(text, debug.getinfo(1, "S").source))(missed, bad, C.mx_hist_record, EMPTY, select, type)
end

local Counter, Gauge, Histogram = {}, {}, {}
local METHODS, classes = { counter = Counter, gauge = Gauge, histogram = Histogram }, {}

-- What metrics of a kind with so many labels have in common.
local function class_of(kind, labels)
  local key = kind .. labels
  if not classes[key] then
    local methods = { [HOW[kind][1]] = update_of(kind, labels) }
    for name, f in pairs(METHODS[kind]) do methods[name] = f end
    classes[key] = { __index = methods }
  end
  return classes[key]
end

-- Making them -----------------------------------------------------------------------------------------------------

local function check_name(kind, name)
  if type(name) ~= "string" or not name:find "^[%a_:][%w_:]*$" or #name > 255 then
    check.fail(("mx.%s: '%s' is not a metric's name (letters, digits, _ and :)"):format(kind, tostring(name)))
  end
  if name:find "^mxrun_" or name:find "^messaging_" then
    check.fail(("mx.%s: '%s': names that begin with mxrun_ or messaging_ are mxrun's own"):format(kind, name))
  end
end

local function check_labels(kind, labels)
  local list, seen = {}, {}
  for i, label in ipairs(check.arg(3, "mx." .. kind, labels or {}, "table")) do
    list[i] = check.arg(3, "mx." .. kind, label, "string")
    if not label:find "^[%a_][%w_]*$" or label:find "^__" or label == "le" and kind == "histogram" or seen[label] then
      check.fail(("mx.%s: '%s' cannot be a label here (letters, digits and _, no two alike)"):format(kind, label))
    end
    seen[label] = true
  end
  if #list > 16 then check.fail(("mx.%s: %d labels, at most 16"):format(kind, #list)) end
  return list
end

local function is_like(self, kind, labels)
  return self.kind == kind and table.concat(self.labels, " ") == table.concat(labels, " ")
end

-- One that has the name already is that one, and has to be of the same kind and labels, unless an older generation made it.
local function metric(kind, name, help, labels)
  check_name(kind, name)
  if help ~= nil then check.arg(2, "mx." .. kind, help, "string") end
  local list = check_labels(kind, labels)
  local self, mine = M.all[name], generation.mine()
  local newer = self and mine and mine.number > (self.generation and self.generation.number or 0)
  if self and (not newer or is_like(self, kind, list)) then
    if not is_like(self, kind, list) then
      local is = ("a %s with the labels { %s }"):format(self.kind, table.concat(self.labels, ", "))
      check.fail(("mx.%s: '%s' is there already: %s"):format(kind, name, is))
    end
    if newer then self.generation = mine end
    return self
  end
  self = setmetatable({ kind = kind, name = name, labels = list, tree = {}, by_text = {}, made = 0, leaves = 0,
                        generation = mine, replaced = self }, class_of(kind, #list))
  M.all[name] = self
  series.help(name, help and help ~= "" and help or "a " .. kind .. " of the script")
  return self
end

function M.counter(name, help, labels) return metric("counter", name, help, labels) end
function Counter:get(...)
  local s = series_of(self, false, ...)
  return s and s.value or 0
end

-- With a function in the place of the help or the labels: it is asked whenever somebody wants to know.
function M.gauge(name, help, labels)
  local f = type(help) == "function" and help or type(labels) == "function" and labels
  if help == f then help = nil end
  if labels == f then labels = nil end
  local self = metric("gauge", name, help, labels)
  if f and #self.labels > 0 then check.fail "mx.gauge: a function gives one number, labels need set" end
  if f then
    local before, mine = self.source, generation.mine()
    self.source = { f = f, generation = mine, before = before and before.generation ~= mine and before or nil }
  end
  return self
end
function Gauge:get(...)
  if self.source then return self.source.f() end
  local s = series_of(self, false, ...)
  return s and s.value
end

function M.histogram(name, help, labels) return metric("histogram", name, help, labels) end
local function percentile(self, of, percent, ...)
  local s = series_of(self, false, ...)
  return s and of(C.mx_series_hist(s), check.arg(1, "histogram:p", percent, "number")) or 0
end
function Histogram:p(percent, ...) return percentile(self, C.mx_hist_percentile, percent, ...) end
function Histogram:recent(percent, ...) return percentile(self, C.mx_hist_recent, percent, ...) end
function Histogram:count(...)
  local s = series_of(self, false, ...)
  return s and C.mx_hist_count(C.mx_series_hist(s)) or 0
end

local function done(self, start, ...)
  self:observe(C.mx_now() - start)
  return ...
end
function Histogram:time(f, ...) return done(self, C.mx_now(), f(...)) end

-- What came from a generation that is over goes; what it took the place of is back, if that is still there.
function M.forget(g)
  for name, m in pairs(M.all) do
    local s = m.source
    if s and s.generation == g then m.source = s.before elseif s then s.before = nil end
    if m.generation ~= g then m.replaced = nil
    else M.all[name], m.generation = m.replaced or m, nil end
  end
end

-- Before the numbers are read: asks the gauges that are functions. What fails there is said once.
function M.collect()
  for _, m in pairs(M.all) do
    if m.source then
      local ok, v = turn.unwaiting("a gauge's function", m.source.f)
      local wrong = not ok and err.tostring(v) or type(v) ~= "number" and "it returned a " .. type(v)
      if not wrong then m:set(v) elseif not m.said then log.error("a gauge's function failed", { gauge = m.name, error = wrong }) end
      m.said = wrong and true
    end
  end
end

return M
