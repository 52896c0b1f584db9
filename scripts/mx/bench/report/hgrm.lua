-- HdrHistogram's percentile text, in milliseconds, of a list of { seconds, count }: what its plotter and its kin read.
local M = {}
local TICKS = 5                         -- lines for each halving of what is left to 100 %

-- How many lines the distance from a percentage to 100 is worth.
local function ticks(percent) return TICKS * 2 ^ (math.floor(math.log(100 / (100 - percent)) / math.log(2) + 1e-12) + 1) end

local function moments(buckets)
  local n, sum, squares = 0, 0, 0
  for _, b in ipairs(buckets) do n, sum = n + b[2], sum + b[1] * b[2] end
  local mean = n > 0 and sum / n or 0
  for _, b in ipairs(buckets) do squares = squares + (b[1] - mean) ^ 2 * b[2] end
  return n, mean, n > 0 and math.sqrt(squares / n) or 0
end

function M.text(buckets)
  local lines = { ("%12s %14s %10s %14s\n"):format("Value", "Percentile", "TotalCount", "1/(1-Percentile)") }
  local n, mean, deviation = moments(buckets)
  local seen, level, max = 0, 0, 0
  for _, b in ipairs(buckets) do
    if b[2] > 0 then
      seen, max = seen + b[2], b[1]
      while level < 100 and 100 * seen / n >= level do
        lines[#lines + 1] = ("%12.3f %2.12f %10d %14.2f"):format(max * 1e3, level / 100, seen, 100 / (100 - level))
        level = level + 100 / ticks(level)
        if seen == n then break end                       -- the last value has one line more, of 100 %
      end
    end
  end
  if n > 0 then lines[#lines + 1] = ("%12.3f %2.12f %10d"):format(max * 1e3, 1, n) end
  lines[#lines + 1] = ("#[Mean    = %12.3f, StdDeviation   = %12.3f]"):format(mean * 1e3, deviation * 1e3)
  lines[#lines + 1] = ("#[Max     = %12.3f, Total count    = %12d]"):format(max * 1e3, n)
  lines[#lines + 1] = ("#[Buckets = %12d, SubBuckets     = %12d]"):format(23, 2048)
  return table.concat(lines, "\n") .. "\n"
end

return M
