-- How specs start a process with a control socket, in the background, and speak to it.
local cli = dofile "spec/cli/run.lua"
local MXRUN = os.getenv "MXRUN" or "build/mxrun"

local M = { cli = cli, running = {} }

local function until_(what, f)
  for _ = 1, 1500 do
    local result = f()
    if result then return result end
    mx.sleep(0.02)
  end
  error("in vain: " .. (type(what) == "function" and what() or what), 2)
end
M.until_ = until_

local function is_there(pid) return os.execute(("kill -0 %d 2>/dev/null"):format(pid)) == 0 end

-- mxrun with the script's text in the background: { pid, socket, out(), eval(EXPR) → text, code, prints(pattern), ends() }.
-- An evaluation may take 20 s, as it may on a busy machine.
function M.start(text, options)
  local base = os.tmpname()
  local p = { path = base, socket = base .. ".s", file = cli.file(text) }
  local run = ("MXRUN_URLS= MXRUN_EVAL_LIMIT=20 setsid %s -u mem:// --socket %s %s %s"):format(MXRUN, p.socket, options or "", p.file)
  os.execute(("(%s & echo $! >%s.pid; wait $!; echo exit $?) >%s 2>&1 </dev/null &"):format(run, base, base))
  p.pid = until_("a pid", function() return tonumber(cli.read(base .. ".pid")) end)
  os.remove(base .. ".pid")
  function p.out() return cli.read(base) end
  function p.prints(pattern)
    return until_(pattern .. " in: " .. p.out(), function() return p.out():match(pattern) end)
  end
  function p.eval(expression, more)
    local out, code, why = cli.shell(("\"$MXRUN\" eval --text %s %s '%s'"):format(more or "", p.socket, (expression:gsub("'", [['\'']]))))
    return (out .. why):gsub("\n$", ""), code
  end
  function p.ends() return p.prints "exit (%d+)\n" end
  M.running[#M.running + 1] = p
  if not (options or ""):find "-w " then
    until_("a socket", function() return p.out():find "listening for attach" or p.out():find "exit %d" end)
  end
  return p
end

-- After each spec.
function M.stop()
  for _, p in ipairs(M.running) do
    if is_there(p.pid) then os.execute(("kill %d"):format(p.pid)) end
    until_("an end", function() return not is_there(p.pid) end)
    os.remove(p.path)
    os.remove(p.file)
  end
  M.running = {}
end

return M
