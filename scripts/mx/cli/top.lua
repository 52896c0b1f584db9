-- mxrun top: what a running process does, live.
local args, peers, figures = require "mx.cli.args", require "mx.cli.peer", require "mx.repl.figures"
local screen, stdio, wait, turn = require "mx.cli.screen", require "mx.cli.stdio", require "mx.wait", require "mx.turn"
local task, print_ = require "mx.task", require "mx.repl.print"
local ffi = require "ffi"

local M = { name = "top", usage = [[
usage: mxrun top [options] SOCKET|PID

Rates, latencies, queues, memory by who holds it, pools, the collector and the workers of a process that runs with --socket.
On a terminal it is a screen that is drawn anew every second: s sorts the queues by another column, p holds it, q leaves. To a
pipe it is text, once. Latencies are of the last 10 to 20 s; of several workers they are those of the slowest.

  -s, --sort BY      rate, name, in_flight, p99 or failed
  -d, --delay S      seconds between looks, 1
  -n, --count N      ends after N looks; to a pipe 1

exit codes: 0 fine, 1 the process has gone or nobody listens, 2 misuse
]], options = {
  ["-s"] = { "sort", "string" }, ["--sort"] = { "sort", "string" }, ["-d"] = { "delay", "number" }, ["--delay"] = { "delay", "number" },
  ["-n"] = { "count", "integer" }, ["--count"] = { "count", "integer" },
} }

local ANSWER = 5                                -- seconds

-- The figures of all that answer | nil, text
local function look(list)
  local all, why = {}, nil
  for _, peer in ipairs(list) do
    local answer, e = peer:call({ call = "stats" }, ANSWER)
    if answer then all[#all + 1] = answer.value else why = e end
  end
  if #all == 0 then return nil, why end
  return figures.merge(all), nil, #list - #all
end

local KEYS = {}
function KEYS.q(state) state.over = true end
KEYS["\3"], KEYS["\4"] = KEYS.q, KEYS.q
function KEYS.p(state) state.held = not state.held end
function KEYS.s(state)
  for i, name in ipairs(figures.ORDER) do
    if name == state.sort then
      state.sort = figures.ORDER[i % #figures.ORDER + 1]
      return
    end
  end
end

local function by_key(state)
  local buffer = ffi.new "char[16]"
  while not state.over do
    if stdio.ready(0) then
      local n = tonumber(ffi.C.read(0, buffer, 16))
      if n <= 0 then state.over = true end
      for key in ffi.string(buffer, math.max(0, n)):gmatch "." do
        if KEYS[key] then KEYS[key](state) end
      end
      state.line:wake(true)
    end
    wait.sleep(0.03)
  end
end

local function split(text)
  local lines = {}
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do lines[#lines + 1] = line end
  return lines
end

-- Fits the text into the screen: queues are what gives way.
local function fitted(all, sort)
  local width, height = screen.size()
  local queues = 0
  for _ in pairs(all.consume) do queues = queues + 1 end
  local lines = split(figures.text(all, width, { by = sort }))
  local over = #lines - (height - 2)
  if over > 0 then lines = split(figures.text(all, width, { by = sort, most = math.max(1, queues - over - 1) })) end
  return lines
end

local function title(all, missing)
  local who = #all.workers > 1 and ("%d workers"):format(#all.workers) or "pid " .. all.workers[1].pid
  return ("mxrun top - %s, up %s%s"):format(who, print_.seconds(all.uptime), missing > 0 and (", %d do not answer"):format(missing) or "")
end

local function draw(list, state, o)
  local before, at
  local n = 0
  while not state.over do
    local all, why, missing = look(list)
    if not all then return why end
    local now = ffi.C.mx_now()
    state.all = figures.rates(all, before, at and now - at or 0)
    before, at, n = all, now, n + 1
    local due = now + (o.delay or 1)
    repeat
      local lines = fitted(state.all, state.sort)
      table.insert(lines, 1, title(state.all, missing))
      local keys = (" q leaves  s sorts: %s  p %s"):format(state.sort, state.held and "goes on" or "holds")
      if not screen.show(lines, keys) then return nil end
      state.line:wait(math.max(0.01, due - ffi.C.mx_now()), "top")
    until state.over or not state.held and ffi.C.mx_now() >= due
    if n == o.count then return nil end
  end
end

local function plain(list, o)
  local before, at
  for i = 1, o.count or 1 do
    if i > 1 then wait.sleep(o.delay or 1) end
    local all, why, missing = look(list)
    if not all then return why end
    local now = ffi.C.mx_now()
    figures.rates(all, before, at and now - at or 0)
    before, at = all, now
    local text = title(all, missing) .. "\n" .. figures.text(all, 100, { by = o.sort }) .. "\n"
    if not stdio.write((i > 1 and "\n" or "") .. text) then return nil end
  end
end

function M.run(words)
  local o, rest = args.parse(M, words)
  if not o then return rest end
  if #rest ~= 1 then return args.refuse(M, "expected one SOCKET or PID, got " .. #rest .. " words") end
  if o.sort and not figures.SORTS[o.sort] then
    return args.refuse(M, ("unknown column '%s'%s"):format(o.sort, require "mx.check".nearest(o.sort, figures.SORTS)))
  end
  local list, why = peers.connect(rest[1])
  if not list then return args.failed(M, why) end
  local failed
  if screen.open() then
    local state = { sort = o.sort or "rate", line = wait.line() }
    turn.start(by_key, function() end, state)
    local ok, e = turn.guard(draw, list, state, o)
    state.over = true
    screen.close()
    failed = ok and e or not ok and not task.stopping and task.text_of(e)
  else
    failed = plain(list, o)
  end
  for _, peer in ipairs(list) do peer:close() end
  return failed and args.failed(M, failed) or 0
end

return M
