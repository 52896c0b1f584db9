-- The seconds of a run, in fixed memory: of a long one each row stands for several.
local M = {}

local MOST = 3600
local MEANS = { "publish_rate", "consume_rate" }
local WORST = { "rss", "in_flight", "loop_lag_p99", "generator_lag" }

local function mean(list, of)
  local sum = 0
  for _, row in ipairs(list) do sum = sum + of(row) end
  return sum / #list
end

local function worst(list, of)
  local most
  for _, row in ipairs(list) do
    local v = of(row)
    if v and (not most or v > most) then most = v end
  end
  return most
end

-- A latency of several rows: the worst percentiles of any.
local function latency(list, name)
  local t = {}
  for _, field in ipairs { "p50", "p99", "max" } do t[field] = worst(list, function(row) return row[name][field] end) end
  return t
end

local function together(list)
  if #list == 1 then return list[1] end
  local row = { t = list[#list].t, confirm = latency(list, "confirm"), e2e = latency(list, "e2e") }
  for _, name in ipairs(MEANS) do row[name] = mean(list, function(r) return r[name] end) end
  for _, name in ipairs(WORST) do row[name] = worst(list, function(r) return r[name] end) end
  return row
end

local function halve(rows)
  local fewer = {}
  for i = 1, #rows, 2 do fewer[#fewer + 1] = together { rows[i], rows[i + 1] } end
  return fewer
end

-- add(row), and list() of at most 3,600 rows.
function M.new()
  local rows, each, waiting = {}, 1, {}
  return {
    add = function(row)
      waiting[#waiting + 1] = row
      if #waiting < each then return end
      rows[#rows + 1], waiting = together(waiting), {}
      if #rows < MOST then return end
      rows, each = halve(rows), 2 * each
    end,
    list = function()
      if #waiting > 0 then rows[#rows + 1], waiting = together(waiting), {} end
      return rows
    end,
  }
end

return M
