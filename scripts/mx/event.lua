-- mx.on: who hears of what happens to connections, consumers and the process.
local check, task, log, err = require "mx.check", require "mx.task", require "mx.log", require "mx.err"
local generation = require "mx.generation"

local M = {}
local EVENTS = { up = true, down = true, recovered = true, blocked = true, unblocked = true, returned = true, cancelled = true,
                 memory = true, reload = true, stop = true, error = true }
local handlers = {}

function M.on(event, f)
  event = check.arg(1, "mx.on", event, "string")
  if not EVENTS[event] then check.fail("mx.on: unknown event '" .. event .. "'" .. check.nearest(event, EVENTS)) end
  f = check.arg(2, "mx.on", f, "function")
  handlers[event] = handlers[event] or {}
  table.insert(handlers[event], { f = f, generation = generation.mine() })
end

function M.has(event) return handlers[event] ~= nil end

-- Each handler runs as a task of its own.
local function call(list, event, ...)
  for _, h in ipairs(list) do task.spawn_for(h.generation, h.f, ...).event = event end
end

function M.emit(event, ...) call(handlers[event] or {}, event, ...) end

-- Tells only the handlers of one generation.
function M.emit_to(g, event, ...) call(generation.of(handlers[event] or {}, g), event, ...) end

function M.forget(g)
  for event, list in pairs(handlers) do
    generation.drop(list, g)
    if not list[1] then handlers[event] = nil end
  end
end

-- A task or timer failed and nobody waits for it. What fails in a handler of "error" is only logged.
function task.on_failure(x, e)
  log.error("a task failed", { error = task.text_of(e) })
  if x.event ~= "error" then M.emit("error", err.wrap(e)) end
end

return M
