-- Whether a result says something about the broker, and the facts that it depends on.
local schedule, conns = require "mx.bench.schedule", require "mx.conn"

local M = {}

-- The generator was the limit when it was behind its schedule for a good part of the run and worked rather than slept meanwhile;
-- or when its own lateness is a good part of what was measured.
local PART, BUSY = 0.05, 0.7
local LAG, SHARE = 0.01, 0.1

function M.is_open(w)
  for _, group in ipairs(w.producers) do
    if group.schedule.open then return true end
  end
  return false
end

function M.stage(w, elapsed)
  local group = w.producers[1]
  if group then return schedule.stage(group.schedule, elapsed) end
  return elapsed < w.warmup and "warm-up" or "consuming"
end

-- Of the time that it was behind and could have worked or slept, the share that it worked: when others had the processor it
-- could do neither.
function M.busy(tally)
  local could = tally.behind - tally.behind_waited
  return could > 0 and math.min(tally.behind_ran / could, 1) or tally.behind > 0 and 1 or 0
end

function M.was_busy(behind, busy, seconds) return behind > PART * seconds and busy > BUSY end

local function is_limited(r)
  local g = r.generator
  if not g then return false end
  if M.was_busy(g.behind, g.busy, r.duration) then return true end
  local latency = r.e2e.count > 0 and r.e2e or r.publish.confirm
  return g.lag_p99 > LAG and g.lag_p99 > SHARE * (latency.p99 or 0)
end

-- "ok", "threshold" (one was crossed) or "generator-limited"
function M.of(r)
  if is_limited(r) then return "generator-limited" end
  for _, t in ipairs(r.thresholds) do
    if not t.ok then return "threshold" end
  end
  return "ok"
end

M.EXIT = { ok = 0, threshold = 99, ["generator-limited"] = 3 }

-- The machine --------------------------------------------------------------------------------------------------------

local function read(path)
  local f = io.open(path)
  local text = f and f:read "*a" or ""
  if f then f:close() end
  return text
end

function M.system(workers)
  local cpus = read "/proc/cpuinfo"
  local _, n = cpus:gsub("\nprocessor%s*:", "")
  local broker = conns.open[1] and conns.open[1].text
  return {
    os = jit.os .. " " .. (read("/proc/sys/kernel/osrelease"):match "%S+" or ""), arch = jit.arch, luajit = jit.version,
    cpu = cpus:match "model name%s*:%s*([^\n]+)", cpus = n + (cpus:find "^processor" and 1 or 0),
    memory = (tonumber(read("/proc/meminfo"):match "MemTotal:%s*(%d+)") or 0) * 1024,
    workers = workers, broker = broker, at = os.date "!%Y-%m-%dT%H:%M:%SZ",
  }
end

return M
