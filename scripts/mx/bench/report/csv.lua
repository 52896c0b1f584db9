-- The seconds of a run as CSV, in the units of the JSON: seconds, bytes, messages a second.
local format = require "mx.bench.report.format"

local M = {}
local COLUMNS = {
  "t", "publish_rate", "consume_rate", "confirm.p50", "confirm.p99", "confirm.max", "e2e.p50", "e2e.p99", "e2e.max", "rss", "in_flight",
  "loop_lag_p99", "generator_lag",
}

local function cell(v)
  if type(v) ~= "number" or v ~= v or v == math.huge or v == -math.huge then return "" end
  return ("%.9g"):format(v)
end

function M.text(r)
  local lines = { (table.concat(COLUMNS, ","):gsub("%.", "_")) }
  for _, row in ipairs(r.series or {}) do
    local cells = {}
    for i, name in ipairs(COLUMNS) do cells[i] = cell(format.at(row, name)) end
    lines[#lines + 1] = table.concat(cells, ",")
  end
  return table.concat(lines, "\n") .. "\n"
end

return M
