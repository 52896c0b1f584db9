-- Tasks and what they wait for: sleep, timers, channels, semaphores.
local ffi = require "ffi"
local C = ffi.C
local turn, err, check = require "mx.turn", require "mx.err", require "mx.check"
local select, unpack, setmetatable, error, type = select, unpack, setmetatable, error, type

local M = { timers = 0, list = {} }

local function stopping() return err.new("closed", "mxrun is stopping") end

-- A ticket with a deadline for the current wait, or nil.
local function deadline(timeout)
  if not timeout then return nil end
  local ticket = C.mx_wait_new(turn.waits, timeout)
  turn.expect(ticket)
  return ticket
end

-- Parks until woken; with a timeout, nil, err comes after it. what names the wait for the error.
local function pause(timeout, what)
  local ticket = deadline(timeout)
  turn.current.idle_wait = true
  local a, b = turn.try_park()
  turn.current.idle_wait = nil
  if ticket then turn.forget(ticket) end
  if a == turn.RAISE then error(b, 0) end
  if type(a) == "number" and a < 0 then
    if not what then return true end
    return nil, err.new("timeout", what .. ": no answer within " .. timeout .. " s")
  end
  return a, b
end
M.pause = pause

function M.sleep(seconds)
  seconds = check.seconds(seconds)
  if M.stopping and not turn.current.delivery then error(stopping(), 0) end
  pause(seconds)
end

-- Tasks ---------------------------------------------------------------------------------------------------------

local Task = {}
Task.__index = Task

local function text_of(e)
  if err.is(e) then return tostring(e) .. (e.traceback or "") end
  if type(e) == "table" and e.traceback then return err.tostring(e.raised) .. e.traceback end
  return err.tostring(e)
end
M.text_of = text_of

local function finish(self, ok, ...)
  self.n, self.results, self.ok = select("#", ...), { ... }, ok
  M.list[self] = nil
  if not ok and not self.cancelled and #self.waiters == 0 then M.on_failure(self, (...)) end
  for _, w in ipairs(self.waiters) do turn.wake(w.task, w.no, true) end
end

-- A task that runs f(...). A failure that nobody waits for is logged.
function M.spawn(f, ...)
  if type(f) ~= "function" then error("mx.spawn: expected a function, got " .. type(f), 2) end
  local self = setmetatable({ waiters = {} }, Task)
  M.list[self] = true
  self.task = turn.start(f, function(...) finish(self, ...) end, ...)
  return self
end

function Task:wait(timeout)
  timeout = timeout and check.seconds(timeout)
  if not self.results then
    table.insert(self.waiters, { task = turn.current, no = turn.current.no })
    local ok, e = pause(timeout, "task:wait")
    if not ok then return nil, e end
  end
  if self.ok then return true, unpack(self.results, 1, self.n) end
  local e = self.results[1]
  if err.is(e) then return nil, e end
  return nil, err.new("internal", err.tostring(e.raised), { cause = e.raised, traceback = e.traceback })
end

-- Its wait, or its next one, raises.
function Task:cancel()
  if self.results then return end
  self.cancelled = true
  turn.wake(self.task, self.task.no, turn.RAISE, err.new("interrupted", "the task was cancelled"))
end

-- Timers --------------------------------------------------------------------------------------------------------

local Timer = {}
Timer.__index = Timer

local function arm(self)
  local ticket = C.mx_wait_new(turn.waits, math.max(0, self.due - C.mx_now()))
  self.ticket = ticket
  turn.notify(ticket, function() self:fire() end)
end

function Timer:cancel()
  if not self.ticket then return end
  turn.forget(self.ticket)
  self.ticket = nil
  M.timers = M.timers - 1
  M.list[self] = nil
end

-- An every that still runs is not started again beside itself.
function Timer:fire()
  self.ticket = nil
  if not self.running then
    self.running = true
    M.spawn(self.f)
  end
  if self.every then
    self.due = math.max(self.due + self.every, C.mx_now())
    arm(self)
  else
    M.timers = M.timers - 1
    M.list[self] = nil
  end
end

local function timer(seconds, every, f)
  local self = setmetatable({ every = every, due = C.mx_now() + seconds }, Timer)
  self.f = function()
    local ok, e = xpcall(f, turn.on_error)
    self.running = false
    if not ok then M.on_failure(self, e) end
  end
  M.timers = M.timers + 1
  M.list[self] = true
  arm(self)
  return self
end

function M.every(seconds, f)
  seconds = check.seconds(seconds)
  if seconds <= 0 then error("mx.every: the interval must be above 0", 2) end
  if type(f) ~= "function" then error("mx.every: expected a function, got " .. type(f), 2) end
  return timer(seconds, seconds, f)
end

function M.after(seconds, f)
  seconds = check.seconds(seconds)
  if type(f) ~= "function" then error("mx.after: expected a function, got " .. type(f), 2) end
  return timer(seconds, nil, f)
end

-- Channels and semaphores -----------------------------------------------------------------------------------------

local function wake_one(queue, value)
  while queue.first <= queue.last do
    local w = queue[queue.first]
    queue[queue.first] = nil
    queue.first = queue.first + 1
    if turn.wake(w.task, w.no, true, value) then return true end
  end
  return false
end

local function enqueue(queue, extra)
  queue.last = queue.last + 1
  queue[queue.last] = { task = turn.current, no = turn.current.no, value = extra }
end

local Chan = {}
Chan.__index = Chan

function M.chan(size)
  size = size or 0
  check.arg(1, "mx.chan", size, "integer>=0", 3)
  return setmetatable({ size = size, count = 0, head = 1, values = {}, getters = { first = 1, last = 0 },
                        putters = { first = 1, last = 0 } }, Chan)
end

-- Waits while the channel is full. true | nil, err
function Chan:put(value, timeout)
  timeout = timeout and check.seconds(timeout)
  local box = { value }
  if wake_one(self.getters, box) then return true end
  if self.count < self.size then
    self.values[self.head + self.count] = box
    self.count = self.count + 1
    return true
  end
  enqueue(self.putters, box)
  local ok, e = pause(timeout, "chan:put")
  if not ok then return nil, e end
  return true
end

-- The putter that waited longest: its value, once it knows.
local function from_putter(self)
  local q = self.putters
  while q.first <= q.last do
    local w = q[q.first]
    q[q.first] = nil
    q.first = q.first + 1
    if turn.wake(w.task, w.no, true) then return w.value end
  end
end

-- v | nil, err
function Chan:get(timeout)
  timeout = timeout and check.seconds(timeout)
  if self.count > 0 then
    local box = self.values[self.head]
    self.values[self.head] = nil
    self.head, self.count = self.head + 1, self.count - 1
    local late = from_putter(self)
    if late then
      self.values[self.head + self.count] = late
      self.count = self.count + 1
    end
    return box[1]
  end
  local box = from_putter(self)
  if box then return box[1] end
  enqueue(self.getters)
  local ok, got = pause(timeout, "chan:get")
  if not ok then return nil, got end
  return got[1]
end

local Semaphore = {}
Semaphore.__index = Semaphore

function M.semaphore(count)
  check.arg(1, "mx.semaphore", count, "integer>=0", 3)
  return setmetatable({ count = count, queue = { first = 1, last = 0 } }, Semaphore)
end

-- true | nil, err
function Semaphore:acquire(timeout)
  timeout = timeout and check.seconds(timeout)
  if self.count > 0 then
    self.count = self.count - 1
    return true
  end
  enqueue(self.queue)
  local ok, e = pause(timeout, "semaphore:acquire")
  if not ok then return nil, e end
  return true
end

function Semaphore:release()
  if not wake_one(self.queue) then self.count = self.count + 1 end
end

-- Stopping --------------------------------------------------------------------------------------------------------

-- Timers end; what sleeps is told; from now on only handlers may wait for long.
function M.stop_all()
  M.stopping = true
  for x in pairs(M.list) do
    if getmetatable(x) == Timer then
      x:cancel()
    elseif x.task.idle_wait then
      x.cancelled = true
      turn.wake(x.task, x.task.no, turn.RAISE, stopping())
    end
  end
end

return M
