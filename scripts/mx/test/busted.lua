-- mxrun test: busted inside a task of the runtime, so that specs may wait.
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
  --repeat N, --shuffle, --no-keep-going, --helper FILE, and what else busted knows

exit codes: 0 all passed, 1 something failed, 2 misuse
]]

-- Why busted would refuse the arguments, or nil.
local function refusal(args)
  local cli = require "busted.modules.cli" { output = "plainTerminal" }
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

-- The exit code of a busted run over the arguments.
function M.run(args)
  if wants_help(args) then
    io.write(usage)
    return 0
  end
  local why = refusal { unpack(args) }
  if why then
    io.stderr:write("mxrun test: ", why, "; mxrun test --help says more\n")
    return 2
  end
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
