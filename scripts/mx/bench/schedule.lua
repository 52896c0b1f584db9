-- When each message is due: stages, ramps and rate functions as pieces on which the rate is linear.
--
-- Design: arrivals are counted on the axis of what the schedule has asked for by then (the integral of the rate). Uniform
-- arrivals lie at the whole numbers of it, Poisson's at sums of exponential steps; a cursor turns these into times. Of P
-- producers each has a cursor of its own, which starts at its number and makes steps of P.
local sqrt, log, random, floor, huge = math.sqrt, math.log, math.random, math.floor, math.huge

local M = {}
local STEP, STEPS = 0.01, 10000         -- of a rate function: seconds between two looks at it; how many at most

-- Schedules ---------------------------------------------------------------------------------------------------------

-- from, to: seconds; rates at both ends; count: of arrivals before it. open = false: as fast as it goes.
local function add(self, seconds, rate, rate_after)
  local pieces = self.pieces
  local p = { from = self.duration, to = self.duration + seconds, open = rate ~= nil, rate = rate or 0, slope = 0, count = self.count }
  if rate then
    p.slope = (rate_after - rate) / seconds
    self.count = self.count + (rate + rate_after) / 2 * seconds
  end
  p.count_after, self.duration = self.count, p.to
  pieces[#pieces + 1] = p
end

local function rate_at(f, t, stage)
  local rate = f(t)
  if type(rate) ~= "number" or not (rate >= 0 and rate < huge) then
    error(("stage %d: its rate at %.3g s is %s, expected a number of at least 0"):format(stage, t, tostring(rate)), 0)
  end
  return rate
end

local function add_function(self, seconds, f, stage)
  local n = math.max(1, math.min(STEPS, math.ceil(seconds / STEP - 1e-9)))
  local rate = rate_at(f, 0, stage)
  for i = 1, n do
    local after = rate_at(f, seconds * i / n, stage)
    add(self, seconds / n, rate, after)
    rate = after
  end
  return rate
end

-- The rate at the start of a stage, at its end when it starts with none: what the warm-up runs at. nil: as fast as it goes
local function warm_rate(stage)
  if type(stage.rate) == "function" then
    local first = rate_at(stage.rate, 0, 1)
    return first > 0 and first or rate_at(stage.rate, stage.duration, 1)
  end
  return stage.rate or stage.ramp
end

-- stages: list of { duration =, rate = number | function(t) | nil, ramp = number }; warmup: seconds before the first.
-- { pieces, duration, count, stages = list of { from, to }, open = some stage has a rate }
function M.new(stages, warmup)
  local self = { pieces = {}, duration = 0, count = 0, stages = {}, open = false }
  local rate = 0
  if warmup > 0 then
    local warm = warm_rate(stages[1])
    add(self, warmup, warm, warm)
  end
  for i, stage in ipairs(stages) do
    local from = self.duration
    if stage.ramp then
      add(self, stage.duration, rate, stage.ramp)
      rate = stage.ramp
    elseif type(stage.rate) == "function" then
      rate = add_function(self, stage.duration, stage.rate, i)
    else
      add(self, stage.duration, stage.rate, stage.rate)
      rate = stage.rate or 0
    end
    self.open = self.open or stage.rate ~= nil or stage.ramp ~= nil
    self.stages[i] = { from = from, to = self.duration }
  end
  return self
end

-- "warm-up", "stage 2 of 3"
function M.stage(self, t)
  if t < self.stages[1].from then return "warm-up" end
  local i = 1
  while i < #self.stages and t >= self.stages[i].to do i = i + 1 end
  return ("stage %d of %d"):format(i, #self.stages)
end

-- Cursors -------------------------------------------------------------------------------------------------------------

local OVER = { open = false, from = huge, to = huge, rate = 0, slope = 0, count = 0, count_after = 0 }

-- Of producer `index` (from 0) of `of`. due(elapsed) → when its next arrival is due, whether a schedule says so: of a
-- stage without a rate that is elapsed itself. math.huge: there is none any more. take(): it has left. skip(n): n of them are
-- left out. left() → how many there are still to come. Seconds from the start. No loops: they would keep those of others from
-- being compiled.
function M.cursor(schedule, index, of, poisson)
  local pieces, at = schedule.pieces, 0
  local step = poisson and function() return -log(1 - random()) * of end or function() return of end
  local count = poisson and step() or index
  local open, from, to, rate, slope, before, after
  local function enter()
    at = at + 1
    local p = pieces[at] or OVER
    open, from, to, rate, slope, before, after = p.open, p.from, p.to, p.rate, p.slope, p.count, p.count_after
  end
  local function due(elapsed)
    if open then
      if count < after then
        local x = count - before
        if slope == 0 then return from + x / rate, true end
        return from + 2 * x / (rate + sqrt(rate * rate + 2 * slope * x)), true
      end
    elseif elapsed < to then
      return elapsed > from and elapsed or from, false
    elseif to == huge then
      return huge, false
    end
    enter()
    return due(elapsed)
  end
  enter()
  return {
    due = due,
    take = function() count = count + step() end,
    skip = function(n) count = count + n * of end,
    left = function() return math.max(0, floor((schedule.count - count) / of + 1 - 1e-9)) end,
  }
end

return M
