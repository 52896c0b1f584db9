-- What a run came to, as text.
local format = require "mx.bench.report.format"

local M = {}
local count, rate, time, bytes = format.count, format.rate, format.time, format.bytes

local QUANTILES = { "p50", "p95", "p99", "p999", "max" }
local LATENCIES = {                     -- path in the result, what it is
  { "publish.confirm", "confirm" },
  { "publish.confirm.raw", "confirm, from the real send" },
  { "e2e", "end to end" },
  { "e2e.raw", "end to end, from the real send" },
  { "consume.handler", "handler" },
}

local function has_samples(t) return type(t) == "table" and (t.p50 or t.max) and (t.max or 1) > 0 end

local function latencies(out, r)
  local rows = {}
  for _, row in ipairs(LATENCIES) do
    local t = format.at(r, row[1])
    if has_samples(t) then rows[#rows + 1] = { row[2], t } end
  end
  if #rows == 0 then return end
  out(("  %-31s %9s %9s %9s %9s %9s"):format("latency", "p50", "p95", "p99", "p99.9", "max"))
  for _, row in ipairs(rows) do
    local cells = {}
    for i, q in ipairs(QUANTILES) do cells[i] = ("%9s"):format(time(row[2][q])) end
    out(("    %-29s %s"):format(row[1], table.concat(cells, " ")))
  end
end

local function counted(out, what, t, wanted)
  if not t or not t.count or t.count == 0 and not wanted then return end
  local errors = t.errors and t.errors > 0 and ("   %s errors"):format(count(t.errors)) or ""
  out(("  %-12s %14s   %s%s"):format(what, count(t.count), rate(t.rate), errors))
end

local function verified(out, v)
  if not v or not v.lost then return end
  local wrong = v.lost + v.duplicated + v.reordered > 0
  local unread = (v.unread or 0) > 0 and (", %s still in the queues"):format(count(v.unread)) or ""
  out(("  %-12s %s lost, %s duplicated, %s reordered%s%s"):format("verified", count(v.lost), count(v.duplicated),
    count(v.reordered), unread, wrong and "   !" or ""))
end

local function spent(out, r)
  local cpu, memory, gc = r.cpu or {}, r.memory or {}, r.gc or {}
  if cpu.us_per_message then
    local each = format.three(cpu.us_per_message)
    out(("  %-12s %s us a message (user %s, system %s)"):format("processor", each, time(cpu.user), time(cpu.sys)))
  end
  if memory.peak_rss then
    local per = memory.mb_per_1k_rate
    out(("  %-12s %s at most%s"):format("memory", bytes(memory.peak_rss),
      per and (", %s MB per 1,000 messages/s"):format(format.three(per)) or ""))
  end
  if gc.cycles then
    local pauses = (", a step %s on average, %s at most"):format(time(gc.pause_avg), time(gc.pause_max))
    out(("  %-12s %s cycles%s"):format("collector", count(gc.cycles), (gc.pause_avg or 0) > 0 and pauses or ""))
  end
end

local function thresholds(out, list)
  if not list or #list == 0 then return end
  out "  thresholds"
  for _, t in ipairs(list) do
    local expr = t.expr and t.expr ~= "" and " " .. tostring(t.expr) or ""
    out(format.line(("    %-4s %s%s: %s"):format(t.ok and "ok" or "FAIL", tostring(t.name), expr, format.judged(t))))
  end
end

-- Where a verdict is more than a word, what it says of the figures.
local SAYS = {
  ["generator-limited"] = "the generator could not keep the schedule: these are its figures, not the broker's",
}

-- The text of a result, with a line end.
function M.text(r)
  local lines = {}
  local function out(line) lines[#lines + 1] = line end
  out(("%s: %s, %s"):format(format.line(r.name or "bench"), format.line(r.verdict or "no verdict"), time(r.duration or 0)))
  if SAYS[r.verdict] then out("  " .. SAYS[r.verdict]) end
  local a = r.aborted
  if a then out(format.line(("  ended after %s: %s"):format(time(a.at), a.name or "?"))) end
  counted(out, "published", r.publish, format.at(r, "config.producers"))
  counted(out, "consumed", r.consume, format.at(r, "config.consumers"))
  latencies(out, r)
  verified(out, r.verify)
  spent(out, r)
  local g = r.generator
  if g and g.lag_p99 then
    local unsent = (g.unsent or 0) > 0 and (", %s never sent"):format(count(g.unsent)) or ""
    out(("  %-12s %s behind its schedule (p99), %s sent late%s"):format("generator", time(g.lag_p99), count(g.late or 0), unsent))
  end
  thresholds(out, r.thresholds)
  return table.concat(lines, "\n") .. "\n"
end

return M
