-- Tasks and what they wait for: sleep, timers, channels, semaphores.
local ffi = require "ffi"
local C = ffi.C
local turn, wait, err, check = require "mx.turn", require "mx.wait", require "mx.err", require "mx.check"
local generation = require "mx.generation"
local select, unpack, setmetatable, error = select, unpack, setmetatable, error

local M = { timers = 0, list = {} }

local function stopping() return err.new("closed", "mxrun is stopping") end

function M.sleep(seconds)
  seconds = check.seconds(seconds)
  if M.stopping and not turn.here().delivery then error(stopping(), 0) end
  return wait.sleep(seconds)
end

-- Tasks ---------------------------------------------------------------------------------------------------------

local Task = {}
Task.__index = Task

local function text_of(e)
  local text, trace = err.explain(e)
  return text .. (trace or "")
end
M.text_of = text_of

-- Tells of a failure that nobody waits for; to be stopped is none.
local function report(x, e)
  if not (M.stopping and err.is(e) and e.code == "closed") then M.on_failure(x, e) end
end

local function finish(self, ok, ...)
  self.n, self.results, self.ok = select("#", ...), { ... }, ok
  M.list[self] = nil
  if self.timer then self.timer.running = false end
  if not ok and not self.cancelled and not (self.waiters and not self.waiters:is_empty()) then report(self, (...)) end
  if self.waiters then self.waiters:wake_all(true) end
end

-- A task that runs f(...). A failure that nobody waits for is logged.
function M.spawn(f, ...)
  check.arg(1, "mx.spawn", f, "function")
  local self = setmetatable({}, Task)
  M.list[self] = true
  self.task = turn.start(f, function(...) finish(self, ...) end, ...)
  return self
end

-- The same, for what a generation made earlier.
function M.spawn_for(g, f, ...)
  local self = M.spawn(f, ...)
  turn.own(self.task, g)
  return self
end

function Task:wait(timeout)
  timeout = timeout and check.seconds(timeout)
  if not self.results then
    if self.task == turn.current then check.fail "task:wait: a task cannot wait for itself" end
    self.waiters = self.waiters or wait.line()
    local ok, e = self.waiters:wait(timeout, "task:wait")
    if not ok then return nil, e end
  end
  if self.ok then return true, unpack(self.results, 1, self.n) end
  return nil, err.wrap(self.results[1])
end

-- Its wait, or its next one, raises.
function Task:cancel()
  if self.results then return end
  self.cancelled = true
  turn.raise(self.task, err.new("interrupted", "the task was cancelled"))
end

-- Timers --------------------------------------------------------------------------------------------------------

local Timer = {}
Timer.__index = Timer

local fire

local function arm(self)
  local ticket = C.mx_wait_new(turn.waits, math.max(0, self.due - C.mx_now()))
  self.ticket = ticket
  turn.notify(ticket, function() fire(self) end)
end

local function hush(self)
  if self.ticket then turn.forget(self.ticket) end
  self.ticket = nil
end

function Timer:cancel()
  if not M.list[self] then return end
  hush(self)
  M.timers = M.timers - 1
  M.list[self] = nil
end

-- An every that still runs is not started again beside itself.
function fire(self)
  self.ticket = nil
  if not self.running then
    self.running = true
    M.spawn_for(self.generation, self.f).timer = self
  end
  if self.every then
    self.due = math.max(self.due + self.every, C.mx_now())
    arm(self)
  else
    M.timers = M.timers - 1
    M.list[self] = nil
  end
end

-- While a generation is replaced, its timers rest; one of the same interval goes on in the rhythm.
local function next_due(every)
  for x in pairs(M.list) do
    if x.resting and x.every == every and not x.followed then
      x.followed = true
      return x.due
    end
  end
end

local function timer(seconds, every, f)
  local due = every and next_due(every) or C.mx_now() + seconds
  local self = setmetatable({ every = every, f = f, due = due, generation = generation.mine() }, Timer)
  M.timers = M.timers + 1
  M.list[self] = true
  arm(self)
  return self
end

function M.every(seconds, f)
  seconds = check.seconds(seconds)
  if seconds <= 0 then check.fail("mx.every: the interval must be above 0") end
  check.arg(2, "mx.every", f, "function")
  return timer(seconds, seconds, f)
end

function M.after(seconds, f)
  seconds = check.seconds(seconds)
  check.arg(2, "mx.after", f, "function")
  return timer(seconds, nil, f)
end

-- Channels and semaphores -----------------------------------------------------------------------------------------

local Chan = {}
Chan.__index = Chan

function M.chan(size)
  size = check.arg(1, "mx.chan", size or 0, "integer>=0")
  return setmetatable({ size = size, count = 0, head = 1, values = {}, getters = wait.line(), putters = wait.line() }, Chan)
end

-- Waits while the channel is full. true | nil, err
function Chan:put(value, timeout)
  timeout = timeout and check.seconds(timeout)
  local box = { value }
  if self.getters:wake(box) then return true end
  if self.count >= self.size then return self.putters:wait(timeout, "chan:put", box) end
  self.values[self.head + self.count] = box
  self.count = self.count + 1
  return true
end

-- v | nil, err
function Chan:get(timeout)
  timeout = timeout and check.seconds(timeout)
  local late = self.putters:wake(true)
  local box = late
  if self.count > 0 then
    box = self.values[self.head]
    self.values[self.head] = nil
    self.head, self.count = self.head + 1, self.count - 1
    if late then
      self.values[self.head + self.count] = late
      self.count = self.count + 1
    end
  end
  local e
  if not box then box, e = self.getters:wait(timeout, "chan:get") end
  if not box then return nil, e end
  return box[1]
end

local Semaphore = {}
Semaphore.__index = Semaphore

function M.semaphore(count)
  count = check.arg(1, "mx.semaphore", count, "integer>=0")
  return setmetatable({ count = count, queue = wait.line() }, Semaphore)
end

-- true | nil, err
function Semaphore:acquire(timeout)
  timeout = timeout and check.seconds(timeout)
  if self.count == 0 then return self.queue:wait(timeout, "semaphore:acquire") end
  self.count = self.count - 1
  return true
end

function Semaphore:release()
  if not self.queue:wake(true) then self.count = self.count + 1 end
end

-- Generations ----------------------------------------------------------------------------------------------------

local function timers_of(g)
  local found = {}
  for x in pairs(M.list) do
    if getmetatable(x) == Timer and x.generation == g then found[#found + 1] = x end
  end
  return found
end

function M.rest(g)
  for _, x in ipairs(timers_of(g)) do
    hush(x)
    x.resting = true
  end
end

function M.go_on(g)
  for _, x in ipairs(timers_of(g)) do
    if x.resting then arm(x) end
    x.resting, x.followed = nil, nil
  end
end

function M.cancel_timers(g)
  for _, x in ipairs(timers_of(g)) do x:cancel() end
end

-- Those that sleep are told that their generation is over; how many have not ended.
function M.tell(g)
  local left = 0
  for x in pairs(M.list) do
    if getmetatable(x) == Task and x.task.generation == g then
      left = left + 1
      if x.task.parked == "idle" then
        x.cancelled = true
        turn.raise(x.task, M.replaced())
      end
    end
  end
  return left
end

function M.replaced() return err.new("closed", "the script was reloaded") end

-- Stopping --------------------------------------------------------------------------------------------------------

-- Timers end; what sleeps is told; from now on only handlers may wait for long.
function M.stop_all()
  M.stopping = true
  for x in pairs(M.list) do
    if getmetatable(x) == Timer then
      x:cancel()
    elseif x.task.parked == "idle" then
      x.cancelled = true
      turn.raise(x.task, stopping())
    end
  end
end

return M
