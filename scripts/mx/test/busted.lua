-- mxrun test: busted inside a task of the runtime, so that specs may wait.
local coverage, log, turn = require "mx.test.coverage", require "mx.log", require "mx.turn"

local M = {}

local usage = [[
usage: mxrun test [options] [spec/]

Runs the specs (files whose names have _spec) of the folders and files with busted, inside mxrun: specs may wait, and
use mx.test (load, broker, clock, eventually). The broker of mx.connect() is mem://, or MXRUN_URLS.

  -o TAP                       a line for each case, for prove and others
  -o junit [-Xoutput FILE]     JUnit's XML, for CI servers
  -o json, -o gtest, -o plainTerminal, -o utfTerminal
  -t, --tags TAGS              only cases with these #tags;  --filter PATTERN: only names that match
  -p, --pattern PATTERN        which files are specs (_spec)
  -l, --list                   the names of the cases
      --watch                  run again when a spec, a script or a module was changed, until SIGINT
      --coverage               which lines ran, with luacov: nothing is compiled then, and what was stopped by a time limit ends it
      --coverage-config-file FILE  luacov's configuration (.luacov)
  --repeat N, --shuffle, --no-keep-going, --helper FILE, and what else busted knows

exit codes: 0 all passed, 1 something failed, 2 misuse
]]

-- Why busted would refuse the arguments, or nil.
local function refusal(args)
  local there, cli = pcall(require, "busted.modules.cli")
  if not there then return "busted is not there: apt-get install lua-busted, or luarocks install busted" end
  cli = cli { output = "plainTerminal" }
  cli:set_name "mxrun test"
  local ok, why = cli:parse(args)
  return not ok and (why:match "error: (.-); re%-run" or why) or nil
end

local function wants_help(args)
  for _, a in ipairs(args) do
    if a == "--" then return false end
    if a == "--help" or a == "-h" then return true end
  end
  return false
end

-- What is ours: { watch, coverage, config }, and the rest for busted.
local function part(args)
  local ours, rest, i = {}, {}, 1
  while args[i] do
    local word = args[i]
    if word == "--" then
      for k = i, #args do rest[#rest + 1] = args[k] end
      break
    elseif word == "--watch" then ours.watch = true
    elseif word == "--coverage" or word == "-c" then ours.coverage = true
    elseif word == "--coverage-config-file" then ours.config, i = args[i + 1], i + 1
    elseif word:find "^%-%-coverage%-config%-file=" then ours.config = word:match "=(.*)$"
    else rest[#rest + 1] = word end
    i = i + 1
  end
  return ours, rest
end

local function refuse(why)
  log.complain("mxrun test: ", why, "; mxrun test --help says more")
  return 2
end

-- Of the arguments those that may name specs.
local function places(args)
  local words = {}
  for _, word in ipairs(args) do
    if not word:find "^%-" then words[#words + 1] = word end
  end
  return words[1] and words or { "spec" }
end

-- The time limit of what does not wait is each spec's own, not that of all that follow each other without waiting.
local function limit_each()
  local make = require "busted.core"
  package.loaded["busted.core"] = function(...)
    local core = make(...)
    core.subscribe({ "test", "start" }, function()
      turn.t.work = turn.t.work + 1
      return nil, true
    end)
    return core
  end
end

local run_once

-- The exit code of a busted run over the arguments.
function M.run(args, host)
  if wants_help(args) then
    io.write(usage)
    return 0
  end
  local ours, rest = part(args)
  local why = refusal { unpack(rest) }
  if why then return refuse(why) end
  limit_each()
  local runner
  if ours.coverage then
    runner, why = coverage.start(ours.config)
    if not runner then return refuse(why) end
  end
  local ok, code = pcall(run_once, rest)
  if runner then coverage.finish(runner) end
  if ours.watch then
    if not ok then log.complain("mxrun test: ", require "mx.task".text_of(code)) end
    require "mx.test.watch".watch(args, places(rest), host.urls)
  end
  if not ok then error(code, 0) end
  return code
end

function run_once(args)
  arg = { [0] = "mxrun test", unpack(args) }
  local code
  local exit = os.exit
  os.exit = function(c)
    code = c == true and 0 or c == false and 1 or c or 0
    error(M, 0)
  end
  local ok, e = pcall(function() require "busted.runner" { standalone = false } end)
  os.exit = exit
  if not ok and e == nil then return 1 end            -- how busted leaves when something failed
  if not ok and e ~= M then error(e, 0) end
  return code or 0
end

return M
