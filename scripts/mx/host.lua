-- The script's host: what a process begins with, and the main chunk or the command as a task.
require "mx.loops"                      -- before any other, which keep pairs and next as they find them
local ffi = require "ffi"
local strict = require "mx.strict"

-- run(args, host) of each answers the exit code; it runs in a task.
local COMMANDS = {
  test = "mx.test.busted", check = "mx.cli.check", pub = "mx.cli.pub", sub = "mx.cli.sub", dlq = "mx.cli.dlq",
  topology = "mx.cli.topology", profile = "mx.cli.profile", bench = "mx.cli.bench", init = "mx.cli.init", doc = "mx.cli.doc",
  attach = "mx.cli.attach", eval = "mx.cli.eval", top = "mx.cli.top", health = "mx.cli.health",
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

local function complain(...) io.stderr:write("mxrun: ", ...) end

-- What C has is declared, and the modules that need that are set up; answers mx.life.
local function set_up(host)
  ffi.cdef(host.abi)
  local turn = require "mx.turn"
  turn.runtime = ffi.cast("mx_runtime *", host.runtime)
  turn.setup(turn.runtime)
  require "mx.coroutines"()
  local err, log = require "mx.err", require "mx.log"
  host.registry["mx.interrupted"] = getmetatable(err.new("interrupted", ""))
  require "mx.consume".setup()
  local trace = require "mx.trace"
  if trace.on then trace.setup(host.worker) end
  local mx = require "mx"
  require "mx.chunks"(host.file)
  require "mx.guards"()
  rawset(_G, "mx", mx)
  defaults(host, mx, log)
  require "mx.profile".setup(host)
  require "mx.health".setup()
  require "mx.http".setup()
  if ffi.C.mx_control_path(turn.runtime) ~= nil or host.interactive then require "mx.repl.server".setup(host) end
  local life = require "mx.life"
  life.setup(host)
  return life, turn, log
end

-- The default connection's URLs; only a script that uses it needs one.
local function default_urls(host, life)
  local conns, url, task = require "mx.conn", require "mx.url", require "mx.task"
  for i, password in pairs(host.passwords) do host.urls[i] = url.given(host.urls[i], ffi.cast("const mx_span *", password)[0]) end
  conns.has_urls = #host.urls > 0
  function conns.default_urls()
    if conns.has_urls then return host.urls end
    if host.terminal and not host.command or host.command == "test" then
      complain("no -u URL given, using mem:// (an embedded broker, this process only)\n")
      return { "mem://" }
    end
    complain("no broker: give -u amqp://… or -u mem://\n")
    life.refuse(2)
    task.sleep(60)              -- the loop ends first
  end
end

-- What is wrong with the options; nil: nothing.
local function wrong_option(host, life)
  if host.profile and not host.command then
    local done, wrong = require "mx.profile".around(host.profile, host.profile_dir or ".")
    if not done then return wrong end
    life.before_leaving(done)
  end
  local fits, too_little = require "mx.memory".fix(host.memory_limit)
  if not fits then return "--memory-limit: " .. too_little end
  if host.command then return nil end
  for _, given in ipairs(host.urls) do
    local _, wrong = require "mx.url".parse(given)
    if wrong then return tostring(wrong) end
  end
end

local function run_command(host, life, turn)
  require "mx.keep".impatient = host.command ~= "test"
  life.main = turn.start(require(COMMANDS[host.command]).run, life.command_done, host.args, host)
end

local function run_script(host, life, log)
  require "mx.generation".remember_globals()
  strict(_G)
  local f, e, code = main_chunk(host)
  if f then
    life.main = require "mx.reload".first(f, host, life.main_done)
    if host.interactive then require "mx.repl.prompt".start(life.stop) end
  else
    log.complain("mxrun: ", e)
    life.quit(code)
  end
end

return function(host)
  local life, turn, log = set_up(host)
  default_urls(host, life)
  arg = { [0] = host.file or "(command line)" }
  for i, a in ipairs(host.args) do arg[i] = a end
  local wrong = wrong_option(host, life)
  if wrong then
    complain(wrong, "\n")
    life.quit(2)
  elseif host.command then
    run_command(host, life, turn)
  else
    run_script(host, life, log)
  end
  return turn.turn
end
