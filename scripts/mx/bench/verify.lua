-- What became of each message: lost, duplicated, out of order. The tally (measure/tally.h) counts, this knows what was to be.
local workloads = require "mx.bench.workload"

local M = {}

-- All producers of a workload, whichever process has them.
function M.producers(w)
  local n = 0
  for _, group in ipairs(w.producers) do n = n + group.count end
  return n
end

-- In how many streams each message arrives: one for all queues, or one for each.
function M.streams(w) return workloads.copies(w) > 1 and #workloads.queues(w) or 1 end

-- How many arrivals there are still to be, those of failed publishes left out.
function M.missing(run, set)
  return (set.published - set.failed) * workloads.copies(run.workload) - set.arrived
end

-- What lies in the consumed queues and is not lost yet.
local function unread(run)
  local mx, n = require "mx", 0
  for _, name in ipairs(run.queues) do
    local ok, info = pcall(mx.queue_info, name)
    n = n + (ok and info and info.messages or 0)
  end
  return n
end

-- nil: the workload did not ask for it.
function M.result(run, set)
  if not run.workload.verify then return nil end
  local expected = set.published * workloads.copies(run.workload) - set.excused
  local missing = math.max(0, expected - set.arrived)
  local left = missing > 0 and math.min(missing, unread(run)) or 0
  return { lost = missing - left, duplicated = set.duplicated, reordered = set.reordered, unread = left, expected = expected,
           strange = set.strange }
end

return M
