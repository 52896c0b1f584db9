-- What the prompt and top look like on a terminal: driven through tmux.
local control = dofile "spec/cli/control.lua"
local start, until_ = control.start, control.until_
local MXRUN = os.getenv "MXRUN" or "build/mxrun"

local LOADED = [[
  mx.topology { queues = { orders = {}, other = {} } }
  handled = 0
  mx.consume("orders", { concurrency = 4 }, function(msg)
    handled = handled + 1
    assert(msg.data.total >= 0)
  end)
  mx.consume("other", function() mx.sleep(0.002) end)
  local n = 0
  mx.every(0.005, function()
    for _ = 1, 5 do
      n = n + 1
      mx.publish_async("", "orders", { id = n, total = n % 1000 })
    end
    mx.publish_async("", "other", "x")
  end)
]]

local screens = 0
local open = {}

-- A terminal of tmux in which the command runs: { keys(...), line(text), shows(pattern), text() }.
local function terminal(command, width, height)
  screens = screens + 1
  local name, home = ("mxrun-spec-%d-%d"):format(os.time(), screens), os.tmpname()
  os.remove(home)
  os.execute("mkdir -p " .. home)
  local tmux = "tmux -L " .. name .. " -f /dev/null "
  local function run(arguments) return os.execute(tmux .. arguments .. " 2>/dev/null") == 0 end
  local inside = ("export HOME=%s TERM=xterm-256color MXRUN=%s; \\$MXRUN %s; echo left \\$?; sleep 60"):format(home, MXRUN, command)
  assert(run(("new-session -d -x %d -y %d \"%s\""):format(width or 80, height or 24, inside)))
  local s = {}
  function s.text()
    local pipe = io.popen(tmux .. "capture-pane -p 2>/dev/null")
    local text = pipe:read "*a"
    pipe:close()
    return text
  end
  function s.shows(pattern)
    return until_(function() return pattern .. " in:\n" .. s.text() end, function() return s.text():match(pattern) end)
  end
  function s.keys(...)
    for _, key in ipairs { ... } do run("send-keys " .. key) end
  end
  function s.type(text) run("send-keys -l '" .. text:gsub("'", [['\'']]) .. "'") end
  function s.line(text)
    s.type(text)
    s.keys "Enter"
  end
  function s.close()
    run "kill-server"
    os.execute(("rm -rf %s ${TMUX_TMPDIR:-/tmp}/tmux-$(id -u)/%s"):format(home, name))
  end
  open[#open + 1] = s
  return s
end

after_each(function()
  for _, s in ipairs(open) do s.close() end
  open = {}
  control.stop()
end)

describe("the prompt on a terminal", function()
  it("edits, completes, remembers, and ends an evaluation by Ctrl-C", function()
    local p = start(LOADED, "--eval-limit 500ms")
    local s = terminal("attach " .. p.socket)
    s.shows("mxrun, process " .. p.pid .. ": %.help lists the commands, Ctrl%-D leaves\nmx>")
    s.line "40 + 2"
    s.shows "mx> 40 %+ 2\n42\nmx>"
    s.type "mx.publi"
    s.keys "Tab"
    s.shows "mx> mx%.publish%f[^%w]"                        -- as far as it is sure
    s.keys "C-u"
    s.type 'mx.queue_info("ord'
    s.keys "Tab"
    s.shows 'mx> mx%.queue_info%("orders'
    s.line '").messages * 0'
    s.shows "\n0\nmx>"
    s.line "for i = 1, 2 do"
    s.shows "\n     >"
    s.line "print(i * 11) end"
    s.shows "\n11\n22\nmx>"
    s.line "mx.sleep(1000)"
    s.shows "mx%.sleep%(1000%)\n\n"
    s.keys "C-c"
    s.shows "%^C\ncancelled\nmx>"
    s.line "while true do end"
    s.shows "stopped: it ran 500 ms without waiting"
    s.line "x = = 1"
    s.shows "unexpected symbol near '='\n  x = = 1\n      ^\nmx>"
    s.keys("Up", "Up", "C-a", "C-k")
    s.keys("Up", "Enter")
    s.keys "C-d"
    s.shows "left 0"
    assert.equal("1", (p.eval "1"))
  end)

  it("shows what comes while one types, and keeps what is typed", function()
    local p = start(LOADED)
    local s = terminal("attach " .. p.socket)
    s.shows "mx>"
    s.line 'shown = mx.after(0.5, function() print "late" end)'
    s.type "40 + "
    s.shows "late\nmx> 40 %+"
    s.line "2"
    s.shows "mx> 40 %+ 2\n42\nmx>"
    s.line ".tap orders msg.data.total > 900"
    s.shows 'orders  {[^\n]*"total":9%d%d'
    s.keys "C-c"
    s.shows "cancelled\nmx>"
  end)

  it("remembers lines for the next one, but those that begin with a space", function()
    local p = start(LOADED)
    local s = terminal(("attach %s; echo again; \\$MXRUN attach %s"):format(p.socket, p.socket))
    s.shows "mx>"
    s.line "'first'"
    s.shows '\n"first"\nmx>'
    s.line " 'hidden'"
    s.shows '\n"hidden"\nmx>'
    s.keys "C-d"
    s.shows "again\n.*\nmx>"
    s.keys "Up"
    s.shows "again.*\nmx> 'first'"
  end)

  it("says that the process has gone", function()
    local p = start(LOADED)
    local s = terminal("attach " .. p.socket)
    s.shows "mx>"
    os.execute("kill -9 " .. p.pid)
    s.shows "the process has gone.*left 1"
  end)

  it("of -i is in the process itself, which ends with it", function()
    local path = control.cli.file "x = 7 mx.every(0.05, function() end) print 'starts'"
    local s = terminal("-u mem:// -i " .. path)
    s.shows "starts.*mx>"
    s.line "x * 6"
    s.shows "\n42\nmx>"
    s.line 'mx.log.info "a line"'
    s.shows "info  a line"
    s.line "mx.sleep(1000)"
    s.keys "C-c"
    s.shows "cancelled"
    s.keys "C-d"
    s.shows "left 0"
    os.remove(path)
  end)

  it("has each command under load, and the messages go on", function()
    local p = start(LOADED)
    local s = terminal("attach " .. p.socket, 120, 50)
    s.shows "mx>"
    for _, x in ipairs {
      { ".help", "%.tap QUEUE" }, { ".top", "QUEUE +RATE/s.*orders" }, { ".mem", "rss = " },
      { ".pool", "connections = {" },
      { ".queues", "orders +up" }, { ".tasks", "%d tasks" },
      { ".health", 'status = "' }, { ".watch handled > 0 0.05 2", "true\ntrue\nmx>" },
      { ".pause other", "1 paused" }, { ".resume other", "1 go on" }, { ".log warn", "logs warn and worse" }, { ".log info", "logs info" },
      { ".reload", "begun" }, { ".source " .. p.file .. ":2", ">    2    handled = 0" },
      { ".doc mx.stats", "mx%.stats%(%)" }, { ".worker 2", "there is no worker 2" },
    } do
      s.line "('\\n'):rep(60)"
      s.keys "C-l"
      s.line(x[1])
      s.shows(x[2])
    end
    local before = tonumber((p.eval "handled"))
    until_("more messages", function() return tonumber((p.eval "handled")) ~= before end)
  end)
end)

describe("mxrun top on a terminal", function()
  for _, size in ipairs { { 80, 24 }, { 200, 60 } } do
    it(("fits in %dx%d, sorts and leaves as it came"):format(size[1], size[2]), function()
      local p = start(LOADED)
      local s = terminal(("top -d 0.2 %s"):format(p.socket), size[1], size[2])
      local text = s.shows "^mxrun top.* q leaves  s sorts: rate  p holds" and s.text()
      for _, pattern in ipairs { "publish  [%d,.]+/s", "confirm  p50", "rss [%d.]+ MB", "by  lua", "gc       cycles",
                                 "pool     connections", "loop     lag p99", "QUEUE +RATE/s +COUNT", "\norders +[%d,.]+.*\nother " } do
        assert.matches(pattern, text)
      end
      s.keys("s", "s", "s")
      s.shows "s sorts: p99.*"
      s.shows "\nother .*\norders "                        -- whose handler sleeps
      s.keys "p"
      s.shows "p goes on"
      s.keys "q"
      s.shows "left 0"
    end)
  end
end)
