-- Waiting with a deadline, alone or in a line with others.
local ffi = require "ffi"
local C = ffi.C
local turn, err = require "mx.turn", require "mx.err"
local type, error, setmetatable = type, error, setmetatable

local M = {}

-- Parks until woken: what wake passed. RAISE, e: to be raised; a negative number: the deadline passed.
local function park(timeout, why)
  if not timeout then return turn.try_park(why, "idle") end
  local ticket = C.mx_wait_new(turn.waits, timeout)
  turn.expect(ticket)
  local a, b = turn.try_park(why, "idle")
  turn.forget(ticket)
  return a, b
end

function M.sleep(seconds)
  local a, e = park(seconds, "sleep")
  if a == turn.RAISE then error(e, 0) end
end

-- The delay, with jitter drawn anew: between the least part of it and all.
function M.jittered(delay, jitter, least) return jitter and delay * (least + (1 - least) * math.random()) or delay end

-- Those who wait for the same thing, first come first served.
local Line = {}
Line.__index = Line

function M.line() return setmetatable({ first = 1, last = 0 }, Line) end

local function leave(line, at)
  line[at] = nil
  while line.first <= line.last and line[line.first] == nil do line.first = line.first + 1 end
  while line.first <= line.last and line[line.last] == nil do line.last = line.last - 1 end
  if line.first > line.last then line.first, line.last = 1, 0 end
end

function Line:is_empty() return self.first > self.last end

-- Parks until it is this task's turn: what wake passed; nil, err after the timeout (what names the wait for the error).
-- What is put down with value goes to who wakes it. of: the whole of what timeout is the rest of, for the error.
-- line.on_empty is called when the last one gave up.
function Line:wait(timeout, what, value, of)
  local task, at = turn.current or turn.here(), self.last + 1
  self[at], self.last = { task = task, no = task.no, value = value }, at
  local mine = self[at]
  local a, b = park(timeout, what)
  if self[at] == mine then
    leave(self, at)
    if self.on_empty and self:is_empty() then self:on_empty() end
  end
  if a == turn.RAISE then error(b, 0) end
  if type(a) == "number" then return nil, err.new("timeout", ("%s: no answer within %.3g s"):format(what, of or timeout), { op = what }) end
  return a, b
end

-- Wakes the one who waited longest; what it put down, nil when nobody waits.
function Line:wake(a, b)
  while self.first <= self.last do
    local w = self[self.first]
    leave(self, self.first)
    if turn.wake(w.task, w.no, a, b) then return w.value or true end
  end
end

function Line:wake_all(a, b)
  while self:wake(a, b) do end -- luacheck: ignore
end

return M
