-- The script's own coroutines: a wait inside one parks the whole task, as in OpenResty. Not in turn.lua, since a script may
-- resume in a loop.
local turn = require "mx.turn"

local co_create, co_resume, co_yield, co_running = coroutine.create, coroutine.resume, coroutine.yield, coroutine.running
local can_yield = coroutine.isyieldable
local PARK, REFUSE = turn.PARK, turn.REFUSE

local function go_on(co, ok, a, ...)
  if not ok or a ~= PARK then return ok, a, ... end
  if can_yield() then return go_on(co, co_resume(co, co_yield(PARK))) end
  return go_on(co, co_resume(co, REFUSE, "cannot wait inside " .. turn.inside_what()))
end

local function resume(co, ...) return go_on(co, co_resume(co, ...)) end

local function unwrap(ok, ...)
  if ok then return ... end
  local e = ...
  error(e, 0)
end

-- Replaces resume, wrap, yield and running of Lua's own.
return function()
  coroutine.resume = resume
  coroutine.wrap = function(f)
    local co = co_create(f)
    return function(...) return unwrap(resume(co, ...)) end
  end
  coroutine.yield = function(...)
    local task = turn.current
    if task and co_running() == task.co then error("attempt to yield from outside a coroutine", 2) end
    return co_yield(...)
  end
  coroutine.running = function()            -- nil in a task as in a main thread: nobody else is to resume it
    local co, task = co_running(), turn.current
    if not task or co ~= task.co then return co end
  end
end
