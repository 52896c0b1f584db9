-- Stacks from the root on: as a tree of calls, and as lines for other tools.
local unit, top = require "mx.pprof.unit", require "mx.pprof.top"

local M = {}
local DEEP = 30                 -- from here on a number says how deep it is

-- A tree of the samples that o wants: node = { f =, total = { of each type }, flat = { ... }, [1 ...] = who it called }.
-- numbers: of the sample types.
function M.grow(profile, numbers, o)
  local function new(f)
    local n = { f = f, total = {}, flat = {}, by = {} }
    for i = 1, #numbers do n.total[i], n.flat[i] = 0, 0 end
    return n
  end
  local root = new()
  profile:each(o, function(stack, depth, values)
    local n, any = root, false
    for i = 1, #numbers do any = any or values[numbers[i] - 1] ~= 0 end
    if not any then return end
    for at = depth, 0, -1 do
      for i = 1, #numbers do n.total[i] = n.total[i] + tonumber(values[numbers[i] - 1]) end
      if at == 0 then break end
      local f = stack[at]
      local child = n.by[f]
      if not child then
        child = new(f)
        n.by[f], n[#n + 1] = child, child
      end
      n = child
    end
    for i = 1, #numbers do n.flat[i] = n.flat[i] + tonumber(values[numbers[i] - 1]) end
  end)
  return root
end

local function called(n) return top.called(n.f) end

-- Who it called, the dearest first by the i-th type.
function M.sorted(n, i)
  table.sort(n, function(a, b)
    local x, y = math.abs(a.total[i]), math.abs(b.total[i])
    if x ~= y then return x > y end
    return called(a) < called(b)
  end)
  return n
end

local function collect(n, list)
  for _, child in ipairs(n) do
    list[#list + 1] = { flat = child.flat[1], cum = child.total[1] }
    collect(child, list)
  end
  return list
end

local function indent(depth) return depth <= DEEP and ("  "):rep(depth) or ("  "):rep(DEEP) .. ("(%d) "):format(depth) end

-- Text; what has less than o.least percent is left out and counted.
function M.report(profile, number, o)
  local root, total = M.grow(profile, { number }, o), profile:total(number)
  local write, lines = top.writer(profile, number, total, collect(root, {})), {}
  local function show(n, depth)
    local hidden, sum = 0, 0
    for _, child in ipairs(M.sorted(n, 1)) do
      if math.abs(child.total[1]) < total * o.least / 100 then
        hidden, sum = hidden + 1, sum + child.total[1]
      else
        lines[#lines + 1] = ("%10s %s %10s %s  %s%s\n"):format(write(child.total[1]), unit.percent(child.total[1], total),
          write(child.flat[1]), unit.percent(child.flat[1], total), indent(depth), called(child))
        show(child, depth + 1)
      end
    end
    if hidden > 0 then
      lines[#lines + 1] = ("%10s %s                    %s... %d more\n"):format(write(sum), unit.percent(sum, total), indent(depth), hidden)
    end
  end
  show(root, 0)
  return top.head(profile, number) .. ("Total: %s\n"):format(write(total)) .. "       cum   cum%       flat  flat%\n" .. table.concat(lines)
end

-- Brendan Gregg's: "main;f;g 12". A name that is one line, and holds no ; of its own.
function M.folded(profile, number, o)
  local sums, lines = {}, {}
  local function name(f) return ((o.lines and top.called(f) or f.name):gsub(";", ":")) end
  profile:each(o, function(stack, depth, values)
    local names = {}
    for i = depth, 1, -1 do names[#names + 1] = name(stack[i]) end
    local line = table.concat(names, ";")
    sums[line] = (sums[line] or 0) + tonumber(values[number - 1])
  end)
  for line, sum in pairs(sums) do
    if line ~= "" and sum > 0 then lines[#lines + 1] = ("%s %.0f\n"):format(line, sum) end
  end
  table.sort(lines)
  return table.concat(lines)
end

return M
