-- A session: what one who looks into the process evaluates, in an environment of its own and within a budget.
--
-- Requests are tables { id =, eval = text, json = bool } | { id =, complete = text } | { id =, call = name } | { cancel = id };
-- the answers { id =, output = text } any number of times, then { id =, value = | error =, done = true }. Each request is a
-- task, which does not keep the process alive.
local turn, err, log, keep = require "mx.turn", require "mx.err", require "mx.log", require "mx.keep"
local reload, print_ = require "mx.reload", require "mx.repl.print"
local syntax, complete, commands = require "mx.repl.syntax", require "mx.repl.complete", require "mx.repl.commands"
local type, select, setmetatable = type, select, setmetatable

local M = { seconds = 0.05, bytes = 64 * 1024 * 1024, read_only = false }
local TICK = 0.005                              -- runtime/worker/watchdog.c
local MOST, OUTPUT = 16, 1024 * 1024            -- requests of a session at a time; bytes that one may say

local Session = {}
Session.__index = Session

-- Ends a little early, so that what runs is over when the time is.
local function budget()
  if M.seconds == 0 then return { ticks = 0, bytes = M.bytes } end
  return { ticks = math.max(1, math.floor(M.seconds / TICK) - 2), bytes = M.bytes }
end

-- Globals: what the prompt made, then what the script has; an unknown name raises, as in the script.
local function environment(self)
  local own = { print = function(...)
    local parts = {}
    for i = 1, select("#", ...) do parts[i] = err.tostring((select(i, ...))) end
    self:output(log.redact(table.concat(parts, "\t")) .. "\n")
  end }
  return setmetatable(own, { __index = function(_, name)
    local globals = reload.globals()
    local value = rawget(globals, name)
    if value ~= nil or name == "_" then return value end
    error("undeclared global '" .. err.tostring(name) .. "'", 2)
  end })
end

-- send(answer) takes a table away; who: a text for the log, nil: nothing is logged
function M.session(send, who)
  local self = setmetatable({ send = send, who = who, tasks = {}, count = 0, ends = {} }, Session)
  self.env = environment(self)
  return self
end

function Session:output(text)
  local task = turn.current
  if self.closed then return end
  if not task or not task.request then return self.send { output = text } end   -- of a task or handler that was begun here
  local said = (task.said or 0) + #text
  if said > OUTPUT then error("the output of one evaluation is limited to 1 MB", 2) end
  task.said = said
  self.send { id = task.request.id, output = text }
end

-- What went wrong, for people: without the runtime's own lines.
local function failure(e)
  local text, trace = err.explain(e)
  if err.is(e) and e.code == "interrupted" and text:find("turn limit", 1, true) then
    return ("stopped: it ran %g ms without waiting (--eval-limit)"):format(M.seconds * 1000)
  end
  if err.is(e) and e.code == "memory" and text:find("memory limit", 1, true) then
    return ("stopped: it went beyond %s"):format(print_.bytes(M.bytes))
  end
  text = text:gsub("^mx/[%w_/]+%.lua:%d+: ", "")
  local lines = {}
  for line in (trace or ""):gmatch "[^\n]+" do
    local own = line:find "^%s+mx/" or line:find "^%s*%[C%]" or line:find "^%s+%[builtin" or line:find "^stack traceback"
    if not own and #lines < 10 and not line:find "in function <prompt" then lines[#lines + 1] = line end
  end
  if #lines == 1 and lines[1]:find "^%s+prompt:" then lines = {} end
  return log.redact(table.concat({ text, unpack(lines) }, "\n"))
end

-- An expression that only looks: of what mx tells of itself, by names.
function M.only_looks(text)
  local path = text:match "^%s*mx%.([%w_.]+)%(%)"
  local rest = path and text:match "^%s*mx%.[%w_.]+%(%)(.*)$"
  local known = path == "stats" or path == "memory.stats" or path == "pool.stats" or path == "health.report"
  return known and rest:find '^[%w_.%[%]"%- ]*%s*$' and true
end

local function values(width, ...)
  local parts = {}
  for i = 1, select("#", ...) do parts[i] = print_.text((select(i, ...)), width) end
  return #parts > 0 and table.concat(parts, "\n") or nil
end

local function keep_last(env, ...)
  if select("#", ...) > 0 then rawset(env, "_", (...)) end
  return ...
end

local function evaluate(self, request)
  local text = request.eval
  local name, rest = text:match "^%s*%.(%a+)%s*(.-)%s*$"
  if name then return { value = commands.run(self, name, rest, request) } end
  if M.read_only and not M.only_looks(text) then
    error(err.new("access", "read-only: commands, and paths of mx.stats(), mx.memory.stats(), mx.pool.stats(), mx.health.report()"), 0)
  end
  local f, wrong = syntax.compile(text)
  if not f then error(err.new("validation", wrong), 0) end
  setfenv(f, self.env)
  if request.json then return { value = print_.plain((keep_last(self.env, f()))), json = true } end
  return { value = values(request.width, keep_last(self.env, f())) }
end

local function begin(self, request, f)
  self.count, keep.background = self.count + 1, keep.background + 1
  local task
  task = turn.start(f, function(ok, answer)
    self.count, keep.background = self.count - 1, keep.background - 1
    self.tasks[request.id] = nil
    for i = #task.ends, 1, -1 do task.ends[i]() end
    if self.closed then return end
    if not ok then answer = { error = failure(answer) } end
    answer.id, answer.done = request.id, true
    self.send(answer)
  end, self, request)
  task.request, task.budget, task.ends, task.what = request, budget(), {}, "prompt"
  turn.own(task, reload.current())
  self.tasks[request.id] = task
end

-- f is called when the present evaluation ends, however it does.
function Session.at_end(_, f)
  local ends = turn.current.ends
  ends[#ends + 1] = f
end

local function noted(self, text)
  if not self.who then return end
  log.info("prompt: evaluates", { text = #text > 1000 and text:sub(1, 1000) .. "..." or text, by = self.who })
end

local calls = commands.calls

function Session:handle(request)
  local id = type(request) == "table" and (request.cancel or request.id)
  if type(id) ~= "number" then
    return self.send { error = 'expected an object such as {"id":1,"eval":"1 + 1"}', done = true }
  end
  local task = self.tasks[id]
  if request.cancel then return task and turn.raise(task, err.new("interrupted", "cancelled")) end
  local function refuse(text) self.send { id = id, error = text, done = true } end
  if task then return refuse "this id is in use" end
  if self.count >= MOST then return refuse(("%d evaluations run already"):format(MOST)) end
  if type(request.eval) == "string" then
    noted(self, request.eval)
    return begin(self, request, evaluate)
  end
  if type(request.complete) == "string" then
    return begin(self, request, function() return { words = complete.words(request.complete, self.env) } end)
  end
  if calls[request.call] then
    return begin(self, request, function() return { value = calls[request.call](M) } end)
  end
  refuse('unknown request; there is eval, complete, cancel, call = "hello", "stats" or "health"')
end

-- Whoever it was for has gone: what still runs for it ends.
function Session:close()
  self.closed = true
  for _, task in pairs(self.tasks) do turn.raise(task, err.new("interrupted", "the client has gone")) end
end

return M
