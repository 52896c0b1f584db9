-- The script's host: strict globals, the main chunk as a task, when to end and with which code.
require "mx.loops"                      -- before any other, which keep pairs and next as they find them
local ffi = require "ffi"
local strict = require "mx.strict"
local generation                        -- mx.generation, once what C has is declared

-- run(args, host) of each answers the exit code; it runs in a task.
local COMMANDS = {
  test = "mx.test.busted", check = "mx.cli.check", pub = "mx.cli.pub", sub = "mx.cli.sub", dlq = "mx.cli.dlq",
  topology = "mx.cli.topology",
}

local function defaults(host, mx, log)
  log.configure { format = host.log or "text", level = host.log_level or "info" }
  if host.worker then
    log.worker = host.worker
    mx.worker = { number = host.worker, count = host.workers }
  end
  for k, v in pairs(host.set) do mx.config[k] = tonumber(v) or v end
  math.randomseed(os.time() + (mx.now() * 1e6) % 1e6)
end

-- Bytecode from a file or a string could do anything; source text is what people mean.
local function text_only()
  local from_string, from_file = load, loadfile
  function load(chunk, name, _, env)
    if env == nil then return from_string(chunk, name, "t") end
    return from_string(chunk, name, "t", env)
  end
  function loadstring(chunk, name) return from_string(chunk, name or chunk, "t") end
  function loadfile(name, _, env)
    if name then generation.read(name) end
    if env == nil then return from_file(name, "t") end
    return from_file(name, "t", env)
  end
end

-- require and dofile in Lua, so that the chunks they run may wait.
local function loaders(turn, wait)
  local loaded, loading = package.loaded, {}

  package.loaders[#package.loaders - 2] = function(name)          -- the one for Lua files
    local path, tried = package.searchpath(name, package.path)
    if not path then return tried end
    local f, e = loadfile(path)
    if not f then error(("error loading module '%s' from file '%s':\n\t%s"):format(name, path, e), 0) end
    generation.modules[name] = true
    return f
  end

  local function run(name)
    local tried = {}
    for _, loader in ipairs(package.loaders) do
      local f = loader(name)
      if type(f) == "function" then
        local value = f(name)
        if value ~= nil then loaded[name] = value end
        if loaded[name] == nil then loaded[name] = true end
        return true
      elseif type(f) == "string" then
        tried[#tried + 1] = f
      end
    end
    return false, table.concat(tried)
  end

  -- A module that another task is loading is waited for. One that failed is as if it had never been asked for.
  function require(name)
    if type(name) ~= "string" then error("bad argument #1 to 'require' (string expected, got " .. type(name) .. ")", 2) end
    local kept = generation.kept(name)
    if kept ~= nil then return kept end
    while loading[name] do
      if loading[name].task == turn.current then error("loop or previous error loading module '" .. name .. "'", 2) end
      loading[name]:wait()
    end
    if loaded[name] ~= nil then return loaded[name] end
    local line = wait.line()
    line.task, loading[name] = turn.current, line
    local ok, found, tried = xpcall(run, turn.on_error, name)
    loading[name] = nil
    line:wake_all(true)
    if not ok then
      loaded[name] = nil
      turn.again(found)
    end
    if not found then error(("module '%s' not found:%s"):format(name, tried), 2) end
    return loaded[name]
  end

  function dofile(name)
    local f, e = loadfile(name)
    if not f then error(e, 2) end
    return f()
  end
end

local function main_chunk(host)
  local f, e
  if host.eval then
    f, e = loadstring(host.eval, "=(command line)")
  else
    f, e = loadfile(host.file)
  end
  if f then return f end
  if host.file and not io.open(host.file) then
    local text, word = require "mx.check".nearest(host.file, COMMANDS)
    e = ("cannot open '%s'%s"):format(host.file, word and text or "; give the path of a Lua script, or try examples/hello.lua")
    return nil, e, 2
  end
  return nil, e, 1
end

return function(host)
  ffi.cdef(host.abi)
  local turn = require "mx.turn"
  turn.runtime = ffi.cast("mx_runtime *", host.runtime)
  turn.setup(turn.runtime)
  require "mx.coroutines"()
  generation = require "mx.generation"
  local err, log, task = require "mx.err", require "mx.log", require "mx.task"
  host.registry["mx.interrupted"] = getmetatable(err.new("interrupted", ""))
  local publish, consume, conns = require "mx.publish", require "mx.consume", require "mx.conn"
  local keep = require "mx.keep"
  local event, tls, memory = require "mx.event", require "mx.tls", require "mx.memory"
  local reload = require "mx.reload"
  consume.setup()
  local mx = require "mx"
  text_only()
  loaders(turn, require "mx.wait")
  require "mx.guards"()
  rawset(_G, "mx", mx)
  defaults(host, mx, log)
  require "mx.health".setup()
  local http = require "mx.http"
  http.setup()
  local t = turn.t
  local exit_code, stopping, finished = 0, false, false
  local main, main_running, is_up = nil, true, false

  local function quit(code)
    t.exit_code = code
    t.stop = 1
  end

  local function fail(text)
    log.complain("mxrun: ", text)
    if exit_code == 0 then exit_code = 1 end
  end

  local function end_links()
    finished = true
    turn.start(function()
      for _, c in ipairs { unpack(conns.open) } do c:close() end      -- close() takes it off the list
    end, function()
      http.tell()
      quit(exit_code)
    end)
  end

  -- Consumers stop taking and finish; then what is in flight is confirmed; then the links close.
  local function stop()
    if stopping then return end
    stopping = true
    ffi.C.mx_worker_state(ffi.C.MX_STOPPING)
    event.emit("stop")
    task.stop_all()
    local left = 0
    for _, c in ipairs({ unpack(consume.open) }) do
      left = left + 1
      turn.start(function() c:stop() end, function() left = left - 1 end)
    end
    turn.stopping_consumers = function() return left > 0 end
    turn.notify(ffi.C.mx_wait_new(turn.waits, host.drain), function()
      if finished and t.stop == 1 then return end
      log.error("the drain ran out", { seconds = host.drain, tasks = turn.tasks, consumers = left, unconfirmed = publish.pending() })
      quit(4)
    end)
  end
  turn.request_stop = stop

  -- The default connection's URLs; only a script that uses it needs one.
  conns.has_urls = #host.urls > 0
  function conns.default_urls()
    if conns.has_urls then return host.urls end
    if host.terminal and not host.command or host.command == "test" then
      io.stderr:write("mxrun: no -u URL given, using mem:// (an embedded broker, this process only)\n")
      return { "mem://" }
    end
    io.stderr:write("mxrun: no broker: give -u amqp://… or -u mem://\n")
    finished = true
    quit(2)
    task.sleep(60)              -- the loop ends first
  end

  local signals, reloads = 0, 0
  function turn.before()
    if t.reloads ~= reloads then
      reloads = t.reloads
      tls.reload()
      reload.begin()
    end
    if t.signals ~= signals then
      signals = t.signals
      if stopping and signals > 1 then
        log.warn("second signal: leaving now", { unconfirmed = publish.pending() })
        return quit(4)
      end
      stop()
    end
    conns.look()
    consume.look()
    memory.look()
  end

  -- Up: no connection is being made, and the main chunk has ended, waits for time or for other tasks, or has published.
  local function look_whether_up()
    if main_running and main.parked ~= "idle" and publish.totals() == 0 or conns.is_connecting() then return end
    is_up = true
    http.tell()
    ffi.C.mx_worker_state(ffi.C.MX_UP)
  end

  -- Nothing left to wait for?
  function turn.after()
    if finished or t.stop == 1 then return end
    if not is_up and not stopping then look_whether_up() end
    if stopping then
      if not turn.stopping_consumers() and publish.pending() == 0 then end_links() end
      return
    end
    if main_running or turn.tasks > keep.background or #consume.open > 0 or task.timers > 0 or publish.pending() > 0 then return end
    end_links()
  end

  local function main_done(ok, e, older)
    main_running = false
    if ok then return end
    if (stopping or older) and err.is(e) and e.code == "closed" then return end
    if older then return task.on_failure({}, e) end
    fail(task.text_of(e))
    stop()
  end

  arg = { [0] = host.file or "(command line)" }
  for i, a in ipairs(host.args) do arg[i] = a end
  local fits, too_little = memory.fix(host.memory_limit)
  if not fits then
    io.stderr:write("mxrun: --memory-limit: ", too_little, "\n")
    quit(2)
    return turn.turn
  end
  if host.command then
    keep.impatient = host.command ~= "test"
    main = turn.start(require(COMMANDS[host.command]).run, function(ok, e)
      main_running = false
      if ok then exit_code = e elseif not (stopping and err.is(e) and e.code == "closed") then fail(task.text_of(e)) end
      if not stopping then end_links() end
    end, host.args, host)
    return turn.turn
  end

  for _, text in ipairs(host.urls) do
    local _, wrong = require "mx.url".parse(text)
    if wrong then
      io.stderr:write("mxrun: ", tostring(wrong), "\n")
      quit(2)
      return turn.turn
    end
  end
  generation.remember_globals()
  strict(_G)
  local f, e, code = main_chunk(host)
  if not f then
    log.complain("mxrun: ", e)
    quit(code)
    return turn.turn
  end
  main = reload.first(f, host, main_done)
  return turn.turn
end
