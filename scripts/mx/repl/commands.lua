-- What begins with a dot at the prompt.
local ffi = require "ffi"
local C = ffi.C
ffi.cdef "int getpid(void);"
local turn, err, log, check = require "mx.turn", require "mx.err", require "mx.log", require "mx.check"
local consume, stats, health = require "mx.consume", require "mx.stats", require "mx.health"
local topology, memory, reload, wait = require "mx.topology", require "mx.memory", require "mx.reload", require "mx.wait"
local generation, hold = require "mx.generation", require "mx.hold"
local print_, syntax, figures = require "mx.repl.print", require "mx.repl.syntax", require "mx.repl.figures"
local profile, pprof, pprof_top = require "mx.profile", require "mx.pprof.file", require "mx.pprof.top"
local tap, doc = require "mx.repl.tap", require "mx.doc"

-- list: by name { usage, what it does, f(session, rest, request) → text, changes = it does more than look }; calls: by name
-- f(settings) → a value for those who show it themselves
local M = { list = {}, calls = {} }

local function fail(text) error(err.new("validation", text), 0) end

local function command(name, usage, what, f, changes) M.list[name] = { usage = usage, what = what, f = f, changes = changes } end

-- Figures -------------------------------------------------------------------------------------------------------------

function M.calls.hello(settings)
  local mx = require "mx"
  return { pid = C.getpid(), worker = mx.worker.number, workers = mx.worker.count, read_only = settings.read_only,
           eval_limit = settings.seconds }
end

function M.calls.health() return print_.plain(health.report()) end

function M.calls.stats()
  local s = stats.stats()
  local hello = M.calls.hello {}
  s.pid, s.worker, s.health = hello.pid, hello.worker, health.report().status
  s.pool.objects = nil
  return print_.plain(s)
end

command("top", ".top", "rates, latencies, queues, memory: what mxrun top shows", function(_, _, request)
  local s = M.calls.stats()
  return figures.text(figures.rates(figures.merge { s }, nil, 0), request.width or 80)
end)

command("mem", ".mem", "memory by who holds it, and the collector", function() return print_.text(memory.stats(), 80) end)

command("pool", ".pool", "connections, channels, pooled objects", function(_, _, request)
  return print_.text(require("mx").pool.stats(), request.width)
end)

command("queues", ".queues", "what is consumed: here, and what waits at the broker", function()
  local rows = { { "QUEUE", "CONSUMER", "PREFETCH", "BUSY", "IN FLIGHT", "ACKED", "FAILED", "WAITING" } }
  for _, c in ipairs { unpack(consume.open) } do
    local s = c:stats()
    local ok, info = pcall(topology.queue_info, c.conn, c.queue)
    local sub = c.sub
    rows[#rows + 1] = {
      print_.visible(c.queue), c.held and "paused" or c.unwanted and "stopped" or sub and sub.inbox and "up" or "starting",
      ("%d"):format(c.prefetch), ("%d of %d"):format(c.active, c.concurrency), print_.count(s.in_flight), print_.count(s.acked),
      print_.count(s.failed), ok and info and print_.count(info.messages) or "?",
    }
  end
  return #rows > 1 and print_.columns(rows) or "no consumers"
end)

command("health", ".health", "the checks and what they say", function(_, _, request) return print_.text(health.report(), request.width) end)

-- Tasks ---------------------------------------------------------------------------------------------------------------

-- The script's lines of a stack; without any, the innermost of the runtime.
local function stack(co)
  local lines, own = {}, nil
  for line in debug.traceback(co):gmatch "\n%s*([^\n]+)" do
    if not line:find "^mx/" and not line:find "^%[" and #lines < 6 then lines[#lines + 1] = "    " .. line end
    own = own or line:find "^mx/" and line
  end
  return #lines > 0 and table.concat(lines, "\n") or "    " .. (own or "(it has not begun)")
end

-- All that live, with who they are: { task, what }
local function living()
  local list = {}
  for t in pairs(turn.alive or {}) do
    list[#list + 1] = { t, t == turn.current and "this prompt" or t.what or "task" }
  end
  for _, c in ipairs(consume.open) do
    for d in pairs(c.sub and c.sub.tasks or {}) do
      if d.parked then list[#list + 1] = { d, ("handler of %s, delivery %d"):format(c.queue, tonumber(d.seq)) } end
    end
  end
  return list
end

command("tasks", ".tasks [N]", "tasks, what they wait for and where; at most N (20)", function(_, rest)
  local most = rest == "" and 20 or tonumber(rest) or fail ".tasks expects a number"
  local groups, order = {}, {}
  for _, x in ipairs(living()) do
    local t, what = x[1], x[2]
    local state = t.parked and "waits" .. (t.why and " for " .. err.tostring(t.why) or "") or t == turn.current and "runs" or "is ready"
    local text = ("%s %s\n%s"):format(what:gsub(", delivery.*", ""), state, stack(t.co))
    if not groups[text] then order[#order + 1] = text end
    groups[text] = (groups[text] or 0) + 1
  end
  table.sort(order, function(a, b)
    if groups[a] ~= groups[b] then return groups[a] > groups[b] end
    return a < b
  end)
  local lines = { ("%d tasks"):format(turn.tasks) }
  for i, text in ipairs(order) do
    if i > most then
      lines[#lines + 1] = ("... %d more places"):format(#order - most)
      break
    end
    lines[#lines + 1] = ("%4d x %s"):format(groups[text], print_.visible(text))
  end
  return table.concat(lines, "\n")
end)

-- Watching ------------------------------------------------------------------------------------------------------------

local function chunk(session, text)
  if require "mx.repl.eval".read_only and not require "mx.repl.eval".only_looks(text) then
    error(err.new("access", "read-only: paths of mx.stats() and the like can be watched"), 0)
  end
  local f, wrong = syntax.compile(text)
  if not f then fail(wrong) end
  return setfenv(f, session.env)
end

command("watch", ".watch EXPR [S [N]]", "the value of EXPR every S seconds (1), N times (until Ctrl-C)", function(session, rest, request)
  local text, every, times = rest:match "^(.-)%s+([%d.]+)%s+(%d+)$"
  if not text then text, every = rest:match "^(.-)%s+([%d.]+)$" end
  text = text or rest
  if text == "" then fail "usage: .watch EXPR [S [N]]" end
  local f = chunk(session, text)
  every = math.max(0.05, tonumber(every) or 1)
  for i = 1, tonumber(times) or math.huge do
    if i > 1 then wait.sleep(every) end
    turn.t.work = turn.t.work + 1
    session:output(print_.text((f()), request.width) .. "\n")
    turn.current.said = 0
  end
end)

local SHOWN, WAITING = 1000, 100                -- bytes of a body; messages that wait to be shown

local function message(m)
  local body = m.body
  local text = #body > SHOWN and body:sub(1, SHOWN) .. ("... (%d bytes)"):format(#body) or body
  local ok, headers = pcall(function() return m.headers end)
  local extra = ok and next(headers) and "  " .. print_.text(headers, 1000) or ""
  return ("%s%s%s  %s"):format(m.key, m.redelivered and "  redelivered" or "", extra, log.redact(print_.visible(text)))
end

-- Shows what the tap found, as it comes, in pieces; true: as many as were wanted.
local function follow(session, found, line, times)
  local shown = 0
  while true do
    line:wait(0.5, "tap")
    if found.wrong then fail("the tap ended: " .. found.wrong) end
    found.on.refresh()
    if #found > 0 or found.lost > 0 then
      local list, lost = table.concat(found, "\n"), found.lost
      shown = shown + #found
      for i = #found, 1, -1 do found[i] = nil end
      found.lost = 0
      session:output(list .. "\n" .. (lost > 0 and ("(%d more were not shown)\n"):format(lost) or ""))
      turn.current.said = 0
      if shown >= times then return end
      wait.sleep(0.05)
    end
  end
end

command("tap", ".tap QUEUE [N] [predicate with msg]", "messages as handlers are handed them, without taking any; N of them (until Ctrl-C)",
function(session, rest)
  local queue, text = rest:match "^(%S+)%s*(.-)$"
  if not queue then fail "usage: .tap QUEUE [N] [predicate], such as .tap orders msg.data.total > 900" end
  local times, after = text:match "^(%d+)%s*$", ""
  if not times then times, after = text:match "^(%d+)%s+([%a(].*)$" end
  if times then text = after end
  local predicate
  if text ~= "" then
    predicate = chunk(session, ("function(msg) return %s end"):format(text))()
  end
  local found, line, most = { lost = 0 }, wait.line(), tonumber(times) or math.huge
  local taken = 0
  local function take(m)
    if taken >= most then return end
    if #found >= WAITING then
      found.lost = found.lost + 1
      return
    end
    taken = taken + 1
    found[#found + 1] = message(m)
    line:wake(true)
  end
  found.on = tap.on(queue, predicate, take, function(why)
    found.wrong = why
    line:wake(true)
  end, tap.calls_nothing(text))
  session:at_end(found.on.stop)
  if found.on.refresh() == 0 then fail(("nothing here consumes from %q"):format(queue)) end
  follow(session, found, line, most)
end)

-- Profiles ------------------------------------------------------------------------------------------------------------

local ROWS = 20

-- What the runtime does at a command of its own takes as long as it takes.
local function unbounded() turn.t.work, turn.t.limit = turn.t.work + 1, 0 end

local function seconds_of(rest, default)
  local s = rest == "" and default or tonumber(rest)
  if not s or s <= 0 or s > 600 then fail "expected seconds, at most 600" end
  return s
end

local function read(bytes)
  local p = pprof.new()
  assert(p:add(bytes))
  return p
end

command("prof", ".prof [S]", "where the processor time goes for S seconds (5), by lines", function(_, rest)
  local bytes = profile.during(C.MX_CPU, seconds_of(rest, 5))
  unbounded()
  local p = read(bytes)
  return pprof_top.report(p, p:type_called(), { lines = true, count = ROWS })
end)

local function held()
  unbounded()
  collectgarbage()
  return read(profile.heap())
end

command("leak", ".leak [S]", "what Lua holds more of after S seconds (10), by lines; collects all garbage twice", function(_, rest)
  local s = seconds_of(rest, 10)
  local before = held()
  wait.sleep(s)
  local after = held()
  return pprof_top.diff(before, before:type_called "inuse_space", after, after:type_called "inuse_space", { lines = true, count = ROWS })
end)

-- Changing ------------------------------------------------------------------------------------------------------------

local function consumers(rest)
  local list = {}
  for _, c in ipairs(consume.open) do
    if rest == "" or c.queue == rest then list[#list + 1] = c end
  end
  if #list == 0 then fail(rest == "" and "there are no consumers" or ("nothing here consumes from %q"):format(rest)) end
  return list
end

command("pause", ".pause [QUEUE]", "consumers take nothing more, until .resume", function(_, rest)
  local list = consumers(rest)
  for _, c in ipairs(list) do hold.hold(c, "prompt") end
  return ("%d paused"):format(#list)
end, true)

command("resume", ".resume [QUEUE]", "they go on", function(_, rest)
  local n = 0
  for _, c in ipairs(consumers(rest)) do
    if c.held and c.held.prompt then
      n = n + 1
      hold.release(c, "prompt")
    end
  end
  return ("%d go on"):format(n)
end, true)

command("reload", ".reload", "loads the script anew, as SIGHUP does; the log says what came of it", function()
  reload.begin()
  return "begun"
end, true)

command("log", ".log LEVEL", "debug, info, warn or error from now on", function(_, rest)
  local ok, e = pcall(log.configure, { level = rest ~= "" and rest or "none" })
  if not ok then fail((err.tostring(e):gsub("^.-log%.configure: ", ""))) end
  return "logs " .. rest .. " and worse"
end, true)

-- Looking things up -----------------------------------------------------------------------------------------------------

-- The path of a file of Lua that the process has loaded, by its end.
local function loaded_file(name)
  local found
  for path in pairs(generation.files) do
    if path == name then return path end
    if path:sub(-#name) == name then found = found or path end
  end
  return found
end

command("source", ".source FILE:LINE", "these lines of a file that the process has loaded", function(_, rest)
  local name, number = rest:match "^(.-):(%d+)$"
  number = tonumber(number)
  if not number then fail "usage: .source FILE:LINE" end
  local path = loaded_file(name)
  local f = path and io.open(path)
  if not f then fail(("%q was not loaded%s"):format(name, check.nearest(name, generation.files))) end
  local lines, n = {}, 0
  for text in f:lines() do
    n = n + 1
    if n > number + 5 then break end
    if n >= number - 5 then lines[#lines + 1] = ("%s%5d  %s"):format(n == number and ">" or " ", n, print_.visible(text)) end
  end
  f:close()
  if n < number then fail(("%s has %d lines"):format(path, n)) end
  return table.concat(lines, "\n")
end)

command("doc", ".doc NAME", "what the reference says of a function, a class, an option or a section", function(_, rest)
  if rest == "" then return doc.list() end
  local text, nearest = doc.find(rest)
  return text or fail(("there is no %q in the reference%s"):format(rest, nearest and (", did you mean %q?"):format(nearest) or ""))
end)

command("worker", ".worker N|all", "whom the prompt speaks to, of the workers of -w", function()
  fail "there is one process, or this is no prompt"
end)

command("help", ".help", "this", function()
  local rows = {}
  for _, c in pairs(M.list) do rows[#rows + 1] = ("%-38s %s"):format(c.usage, c.what) end
  table.sort(rows)
  rows[#rows + 1] = "\nAnything else is Lua: an expression is printed. What it assigns, and a local of its first statement, lasts as\n"
    .. "a global of this prompt (_ is the last value); _G is the script's. Ctrl-C ends what runs, Ctrl-D leaves."
  return table.concat(rows, "\n")
end)

function M.run(session, name, rest, request)
  local c = M.list[name]
  if not c then fail(("there is no .%s%s"):format(name, check.nearest(name, M.list))) end
  if c.changes and require "mx.repl.eval".read_only then error(err.new("access", "read-only: ." .. name .. " changes something"), 0) end
  return c.f(session, rest, request)
end

return M
