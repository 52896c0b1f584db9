-- How specs of the command line run it: MXRUN is the binary under test.
local MXRUN = os.getenv "MXRUN" or "build/mxrun"
local M = { amqp = os.getenv "MXRUN_SPEC_AMQP" }

local function slurp(path)
  local f = assert(io.open(path))
  local text = f:read "*a"
  f:close()
  os.remove(path)
  return text
end

-- What a file holds by now, nothing when it is not there yet.
function M.read(path)
  local f = io.open(path)
  local text = f and f:read "*a" or ""
  if f then f:close() end
  return text
end

-- Runs a shell line in which $MXRUN is the binary: stdout, exit code, stderr.
function M.shell(line)
  local out, errors = os.tmpname(), os.tmpname()
  local quoted = "'" .. line:gsub("'", [['\'']]) .. "'"
  local code = os.execute(("MXRUN=%s MXRUN_URLS= timeout 60 bash -o pipefail -c %s >%s 2>%s </dev/null"):format(MXRUN, quoted, out, errors))
  return slurp(out), math.floor(code / 256), slurp(errors)
end

function M.mxrun(arguments) return M.shell('"$MXRUN" ' .. arguments) end

-- What the two streams say together, and the exit code; environment: settings before the command.
function M.both(arguments, environment)
  local text, code = M.shell(('%s "$MXRUN" %s 2>&1'):format(environment or "", arguments))
  return text, code
end

-- The path of a file with the text.
function M.file(text)
  local base = os.tmpname()
  os.remove(base)
  local path = base .. ".lua"
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
  return path
end

local count = 0
-- The name of a queue that nobody else uses.
function M.name(base)
  count = count + 1
  return ("%s.%d.%d"):format(base, os.time(), count)
end

return M
