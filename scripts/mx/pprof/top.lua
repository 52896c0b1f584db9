-- Where the time or the memory went: functions or lines, flat and cumulative; and what grew between two profiles.
local unit = require "mx.pprof.unit"

local M = {}

-- A list of { f = function or line, flat =, cum = }, of the samples that o wants. Who is on a stack twice counts once.
function M.gather(profile, number, o)
  local nodes, list, visits = {}, {}, 0
  local function node(f)
    local n = nodes[f]
    if not n then
      n = { f = f, flat = 0, cum = 0 }
      nodes[f], list[#list + 1] = n, n
    end
    return n
  end
  profile:each(o, function(stack, depth, values)
    local v = tonumber(values[number - 1])
    if v == 0 then return end
    visits = visits + 1
    for i = 1, depth do
      local n = node(stack[i])
      if i == 1 then n.flat = n.flat + v end
      if n.visit ~= visits then n.visit, n.cum = visits, n.cum + v end
    end
  end)
  return list
end

function M.place(f) return f.line ~= 0 and f.file .. ":" .. f.line or f.file end

-- The name and the place; one without a name is called by its place already.
function M.called(f)
  local place = M.place(f)
  return f.name == place and place or f.name .. " " .. place
end
local called = M.called

-- By the size of one number, then as they are called.
local function sort(list, key)
  table.sort(list, function(a, b)
    local x, y = math.abs(key(a)), math.abs(key(b))
    if x ~= y then return x > y end
    return called(a.f) < called(b.f)
  end)
end

-- "Type: cpu", and when it was and how long when that is known.
function M.head(profile, number)
  local s = profile.summary
  local time, duration = tonumber(s.time_ns), tonumber(s.duration_ns)
  local text = "Type: " .. profile.types[number].type
  if time > 0 then text = text .. os.date("!   Time: %Y-%m-%d %H:%M:%S UTC", math.floor(time / 1e9)) end
  if duration > 0 then text = text .. "   Duration: " .. unit.each "nanoseconds"(duration) end
  return text .. "\n"
end

-- A function that writes the numbers of these nodes.
function M.writer(profile, number, total, list)
  local values = {}
  for i, n in ipairs(list) do values[i] = n.flat ~= 0 and n.flat or n.cum end
  return unit.common(profile.types[number].unit, total, values)
end

-- The report as text; o also: count (0: all), cum: sorted by it.
function M.report(profile, number, o)
  local list, total, sum = M.gather(profile, number, o), profile:total(number), 0
  sort(list, function(n) return o.cum and n.cum or n.flat end)
  local shown = o.count == 0 and #list or math.min(o.count, #list)
  local write, lines = M.writer(profile, number, total, list), {}
  for i = 1, shown do
    local n = list[i]
    sum = sum + n.flat
    lines[i] = ("%10s %s %s %10s %s  %s\n"):format(write(n.flat), unit.percent(n.flat, total), unit.percent(sum, total), write(n.cum),
      unit.percent(n.cum, total), called(n.f))
  end
  return M.head(profile, number) .. ("Showing %d of %d %s, %s, %s of %s\n"):format(shown, #list, o.lines and "lines" or "functions",
      write(sum), (unit.percent(sum, total):gsub("^ +", "")), write(total))
    .. "      flat  flat%   sum%        cum   cum%\n" .. table.concat(lines)
end

-- Two profiles ---------------------------------------------------------------------------------------------------

-- A function keeps its name when lines are added above it: its place tells it only from others of that name in its file.
local function keys(lists, lines)
  local many = {}
  for _, list in ipairs(lists) do
    local here = {}
    for _, n in ipairs(list) do
      local name = n.f.name .. "\0" .. n.f.file
      if here[name] then many[name] = true end
      here[name] = true
    end
  end
  return function(f)
    local name = f.name .. "\0" .. f.file
    return (lines or many[name]) and name .. "\0" .. f.line or name
  end
end

local function joined(a, b, key)
  local nodes, list = {}, {}
  local function take(nodes_of, sign)
    for _, n in ipairs(nodes_of) do
      local k = key(n.f)
      local to = nodes[k]
      if not to then
        to = { flat = 0, cum = 0, before = 0, after = 0 }
        nodes[k], list[#list + 1] = to, to
      end
      to.f = n.f
      to.flat, to.cum = to.flat + sign * n.flat, to.cum + sign * n.cum
      local side = sign < 0 and "before" or "after"
      to[side] = to[side] + n.flat
    end
  end
  take(a, -1)
  take(b, 1)
  return list
end

local function growth(list, o)
  local grown, key = {}, o.cum and "cum" or "flat"
  for _, n in ipairs(list) do
    if n.flat ~= 0 or n.cum ~= 0 then grown[#grown + 1] = n end
  end
  table.sort(grown, function(x, y)
    if x[key] ~= y[key] then return x[key] > y[key] end
    if x.cum ~= y.cum then return x.cum > y.cum end
    return called(x.f) < called(y.f)
  end)
  return grown
end

local function signed(text) return text:find "^[-0]" and text or "+" .. text end

-- b - a, what grew most first; na, nb: the number of the sample type in each.
function M.diff(a, na, b, nb, o)
  local la, lb = M.gather(a, na, o), M.gather(b, nb, o)
  local list = growth(joined(la, lb, keys({ la, lb }, o.lines)), o)
  local before, after = a:total(na), b:total(nb)
  local shown = o.count == 0 and #list or math.min(o.count, #list)
  local write, lines = M.writer(b, nb, math.max(before, after), list), {}
  for i = 1, shown do
    local n = list[i]
    lines[i] = ("%10s %s %10s %10s %10s %s  %s\n"):format(signed(write(n.flat)), unit.percent(n.flat, before), write(n.before),
      write(n.after), signed(write(n.cum)), unit.percent(n.cum, before), called(n.f))
  end
  return ("A: %sB: %s"):format(M.head(a, na), M.head(b, nb))
    .. ("Showing %d of %d %s that differ; %s, then %s, %s\n"):format(shown, #list, o.lines and "lines" or "functions", write(before),
      write(after), signed(write(after - before)))
    .. "    growth      %     before      after growth cum      %\n" .. table.concat(lines)
end

return M
