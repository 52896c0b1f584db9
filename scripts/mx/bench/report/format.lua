-- Figures as people read them: 12,345/s, 1.23 ms, 31.2 MB.
local M = {}

local floor, abs = math.floor, math.abs

-- 1234567.8 -> "1,234,568"
function M.count(n)
  if not n then return "-" end
  local text = ("%.0f"):format(n)
  local sign, digits = text:match "^(-?)(%d+)$"
  if not digits then return text end
  digits = digits:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "")
  return sign .. digits
end

-- Three digits that count, never an exponent: 0.0123, 1.23, 12.3, 123.
function M.three(n)
  if n == 0 then return "0" end
  local rounded = tonumber(("%.3g"):format(n))            -- 0.9996 is 1.00
  local places = 2 - floor(math.log10(abs(rounded)) + 1e-9)
  return ("%." .. math.max(0, math.min(places, 6)) .. "f"):format(n)
end

function M.rate(n) return n and (n >= 100 and M.count(n) or M.three(n)) .. "/s" or "-" end

local UNITS = { { 1, "s" }, { 1e-3, "ms" }, { 0, "us", 1e-6 } }
function M.time(s)
  if not s then return "-" end
  if s >= 100 then return M.count(s) .. " s" end
  for _, unit in ipairs(UNITS) do
    -- 0.0009999 is 1.00 ms and not 1000 us
    if abs(s) * 1.0005 >= unit[1] then return M.three(s / (unit[3] or unit[1])) .. " " .. unit[2] end
  end
end

function M.bytes(n)
  if not n then return "-" end
  if n < 1024 ^ 2 then return M.three(n / 1024) .. " KB" end
  return n < 1024 ^ 3 and M.three(n / 1024 ^ 2) .. " MB" or M.three(n / 1024 ^ 3) .. " GB"
end

-- What comes from outside, on one line and without control characters: it may go to a terminal.
function M.line(text) return (tostring(text):gsub("[%c\127]", "?")) end

local TIMES = { p50 = true, p95 = true, p99 = true, p999 = true, max = true, pause_avg = true, pause_p99 = true, pause_max = true,
                lag_p99 = true, user = true, sys = true, duration = true }
local BYTES = { peak_rss = true, lua_peak = true }

-- The value of a figure of the result, by its path.
function M.value(path, v)
  if v == nil then return "no samples" end
  if type(v) ~= "number" then return M.line(v) end
  local last = tostring(path):match "[^.]+$"
  local show = TIMES[last] and M.time or BYTES[last] and M.bytes or last == "rate" and M.rate or v % 1 == 0 and M.count or M.three
  return show(v)
end

-- What a threshold says of its value, and why, where it says that.
function M.judged(t)
  if t.ok and t.value == nil then return "holds" end                    -- a function said so
  if t.why and not t.ok then return t.value == nil and M.line(t.why) or M.value(t.name, t.value) .. ", " .. M.line(t.why) end
  return M.value(t.name, t.value)
end

-- t.a.b of "a.b", nil when something on the way is missing.
function M.at(t, path)
  for name in path:gmatch "[^.]+" do
    if type(t) ~= "table" then return nil end
    t = t[name]
  end
  return t
end

return M
