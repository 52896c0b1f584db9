-- mxrun attach, eval, top, health and -i: looking into a running process.
local control = dofile "spec/cli/control.lua"
local cli, start, until_ = control.cli, control.start, control.until_
local MXRUN = os.getenv "MXRUN" or "build/mxrun"

local LOADED = [[
  mx.topology { queues = { orders = {} } }
  handled, errors = 0, 0
  who = "amqp://user:hidden@host"
  mx.consume("orders", { concurrency = 4 }, function(msg)
    handled = handled + 1
    if msg.data.total < 0 then error "negative" end
  end)
  local n = 0
  mx.every(0.005, function()
    for _ = 1, 5 do
      n = n + 1
      mx.publish_async("", "orders", { id = n, total = n % 1000 })
    end
  end)
  mx.spawn(function()
    mx.sleep(1000)
  end)
]]

after_each(control.stop)

local function attach(p, lines, more)
  local path = os.tmpname()
  local f = assert(io.open(path, "w"))
  f:write(table.concat(lines, "\n"), "\n")
  f:close()
  local out, code, why = cli.shell(("\"$MXRUN\" attach %s %s <%s"):format(more or "", p.socket, path))
  os.remove(path)
  return out .. why, code
end

describe("mxrun eval", function()
  it("prints JSON to a pipe, text when asked for", function()
    local p = start(LOADED)
    local out, code, why = cli.mxrun(("eval %s '{ a = { 1, 2 }, b = \"x\" }'"):format(p.socket))
    assert.same({ { a = { 1, 2 }, b = "x" }, 0, "" }, { mx.json.decode(out), code, why })
    assert.matches("^[^\n]+\n$", out)
    assert.same({ "null\n", 0, "" }, { cli.mxrun(("eval %s 'local x = 1'"):format(p.socket)) })
    assert.equal('{ a = { 1, 2 }, b = "x" }', (p.eval '{ a = { 1, 2 }, b = "x" }'))
    local rate = tonumber((cli.mxrun(("eval %s 'mx.stats().publish.count'"):format(p.socket))))
    assert.is_true(rate >= 0)
  end)

  it("waits where the expression does", function()
    local p = start(LOADED)
    assert.equal('"late"', (p.eval 'mx.sleep(0.2) return "late"'))
    assert.equal("0", (p.eval 'mx.queue_info("orders").messages * 0'))
  end)

  it("exits 1 and says why when it failed, with a caret below a mistake", function()
    local p = start(LOADED)
    assert.same({ "mxrun eval: unexpected symbol near '='\n  x = = 1\n      ^", 1 }, { p.eval "x = = 1" })
    assert.same({ "mxrun eval: prompt:1: undeclared global 'nope'", 1 }, { p.eval "nope" })
    assert.same({ "mxrun eval: boo", 1 }, { p.eval 'error "boo"' })
    assert.same({ "mxrun eval: there is no .queue, did you mean 'queues'?", 1 }, { p.eval ".queue" })
  end)

  it("finds a process by its number, and exits 1 when there is none", function()
    local p = start(LOADED)
    assert.equal("7\n", (cli.mxrun(("eval %d 3+4"):format(p.pid))))
    local _, code, why = cli.mxrun "eval /nowhere/at.all 1"
    assert.same({ 1, "mxrun eval: there is no socket /nowhere/at.all\n" }, { code, why })
    _, code, why = cli.mxrun "eval 1 1"
    assert.equal(1, code)
    assert.matches("no socket that one may see", why)
  end)

  it("shows no password, and logs what was evaluated without one", function()
    local p = start(LOADED)
    assert.equal('"amqp://user:***@host"', (p.eval "who"))
    assert.equal('{ password = "***" }', (p.eval "{ password = 'hidden' }"))
    local out = cli.mxrun(("eval %s '{ who, { api_token = \"hidden\" } }'"):format(p.socket))
    assert.equal('["amqp://user:***@host",{"api_token":"***"}]\n', out)
    p.eval "#'amqp://user:hidden@host'"
    p.prints 'prompt: evaluates by="pid %d+ uid %d+" text=who\n'
    assert.is_nil(p.out():find("user:hidden", 1, true))
  end)
end)

describe("an evaluation", function()
  it("that loops is stopped at its budget, and the process goes on", function()
    local p = start(LOADED, "--eval-limit 50ms")
    assert.same({ "mxrun eval: stopped: it ran 50 ms without waiting (--eval-limit)", 1 }, { p.eval "while true do end" })
    for _, loop in ipairs { "repeat pcall(function() while true do end end) until false", "while true do mx.now() end",
                            "assert(mx.spawn(function() while true do end end):wait())",
                            "setmetatable({}, { __tostring = function() while true do end end })" } do
      assert.matches("stopped: it ran 50 ms", (p.eval(loop)), loop)
    end
    local before = tonumber((p.eval "handled"))
    until_("more messages", function() return tonumber((p.eval "handled")) > before end)
    assert.equal("0", (p.eval "errors"))
  end)

  it("has a limit on what it allocates", function()
    local p = start(LOADED)
    assert.same({ "mxrun eval: stopped: it went beyond 64 MB", 1 },
                { p.eval "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1e5) .. i end" })
    assert.equal("1", (p.eval "1"))
  end)

  it("may give what has no end, or cannot say what it is", function()
    local p = start(LOADED)
    assert.equal("{ a = (itself, further out) }", (p.eval "local t = {} t.a = t return t"))
    assert.matches("^{\n.*%.%.%. at least 9901 more\n}$", (p.eval "local t = {} for i = 1, 2e5 do t[i] = i end return t"))
    assert.equal("(an error object whose __tostring fails)", (p.eval "setmetatable({}, { __tostring = error })"))
    assert.matches("^mxrun eval: %(an error object", (p.eval "error(setmetatable({}, { __tostring = error }))"))
    assert.matches("... %(10000000 bytes%)$", (p.eval "('x'):rep(1e7)"))
    assert.equal('{"a":"..."}\n', (cli.mxrun(("eval %s 'local t = {} t.a = t return t'"):format(p.socket))))
    local out = cli.mxrun(("eval %s 'local t = {} for i = 1, 2e5 do t[i] = i end return t'"):format(p.socket))
    assert.is_true(#out < 1e6 and out:find "^%[1,2," ~= nil)
    assert.matches("limited to 1 MB", (p.eval "for _ = 1, 100 do print(('x'):rep(1e5)) end"))
  end)

  it("may stop the process, and is answered", function()
    local p = start(LOADED)
    assert.equal('"bye"', (p.eval 'mx.stop() return "bye"'))
    assert.equal("0", p.ends())
    assert.is_false(os.execute("test -e " .. p.socket) == 0)
  end)

  it("ends with its client", function()
    local p = start(LOADED)
    local code = 'local ok = pcall(mx.sleep, 1000) _G.ended = not ok mx.log.info "ended"'
    local pid = tonumber(io.popen(("%s eval %s '%s' >/dev/null 2>&1 & echo $!"):format(MXRUN, p.socket, code)):read "*l")
    p.prints "text=\"local ok"
    os.execute("kill -9 " .. pid)
    p.prints " info  ended"
  end)

  it("keeps no process alive", function()
    local p = start "mx.sleep(0.5)"
    local _, code = p.eval "mx.sleep(1000)"
    assert.equal(1, code)
    assert.equal("0", p.ends())
  end)
end)

describe("the socket", function()
  local function raw(p) return assert(mx.tcp("unix:" .. p.socket, { timeout = 10 })) end

  it("is its user's only, and goes with its process", function()
    local p = start(LOADED)
    local pipe = io.popen("stat -c %a " .. p.socket)
    assert.equal("600\n", pipe:read "*a")
    pipe:close()
    os.execute("kill " .. p.pid)
    assert.equal("0", p.ends())
    assert.is_false(os.execute("test -e " .. p.socket) == 0)
  end)

  if io.popen("id -u"):read "*l" == "0" and os.execute "setpriv --version >/dev/null 2>&1" == 0 then
    it("answers no other user, even where the file would let one in", function()
      local p = start(LOADED)
      os.execute("chmod 666 " .. p.socket)
      local ask = ([[/usr/bin/python3 -c 'import socket
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
s.connect("%s")
try:
    s.send(b"{\"id\":1,\"eval\":\"1\"}\n")
    print(s.recv(100))
except OSError as e: print("closed")']]):format(p.socket)
      assert.matches("value", (cli.shell(ask)))
      local out = cli.shell("setpriv --reuid=65534 --regid=65534 --clear-groups " .. ask)
      assert.is_true(out == "b''\n" or out == "closed\n", out)
      assert.is_nil(p.out():find("uid 65534", 1, true))
    end)
  end

  it("is not taken from a process that lives", function()
    local p = start(LOADED)
    local text, code = cli.both(("-u mem:// --socket %s %s"):format(p.socket, p.file))
    assert.same({ ("mxrun: --socket %s: another process listens there\n"):format(p.socket), 1 }, { text, code })
    assert.equal("1", (p.eval "1"))
  end)

  it("answers garbage, half lines and a megabyte without an end, and goes on", function()
    local p = start(LOADED)
    local s = raw(p)
    s:send "garbage\n"
    assert.matches('"error":"expected an object', s:receive())
    s:send "[1,2]\n"
    assert.matches('"error":"expected an object', s:receive())
    s:send '{"id":1}\n'
    assert.matches('"error":"unknown request', s:receive())
    s:send '{"id":2,"ev'
    s:send 'al":"6*7"}\n'
    assert.same({ id = 2, value = "42", done = true }, mx.json.decode((s:receive())))
    s:close()
    s = raw(p)
    s:send(("x"):rep(2 ^ 20))
    assert.matches("a line is at most 65536 bytes", s:receive())
    assert.is_nil((s:receive()))
    assert.equal("1", (p.eval "1"))
  end)

  it("takes 32 clients and refuses more, until one leaves", function()
    local p = start(LOADED)
    local list = {}
    for i = 1, 32 do list[i] = raw(p) end
    list[33] = raw(p)
    assert.matches("too many are connected already", list[33]:receive())
    for _, s in ipairs(list) do s:close() end
    until_("room", function() return p.eval "1" == "1" end)
  end)

  it("leaves out output for a client that does not read, and the messages go on", function()
    local p = start(LOADED)
    local s = raw(p)
    local code = "for i = 1, 1e9 do print(('x'):rep(1e4)) if i % 10 == 0 then mx.sleep(0.001) end end"
    for i = 1, 16 do s:send(('{"id":%d,"eval":"%s"}\n'):format(i, code)) end
    local before = tonumber((p.eval "handled"))
    until_("more messages", function() return tonumber((p.eval "handled")) > before + 100 end)
    s:close()
    assert.equal("1", (p.eval "1"))
  end)

  it("takes 16 evaluations of a client at a time", function()
    local p = start(LOADED)
    local s = raw(p)
    for i = 1, 17 do s:send(('{"id":%d,"eval":"mx.sleep(100)"}\n'):format(i)) end
    assert.same({ id = 17, error = "16 evaluations run already", done = true }, mx.json.decode((s:receive())))
    s:send '{"cancel":3}\n'
    assert.same({ id = 3, error = "cancelled", done = true }, mx.json.decode((s:receive())))
    s:close()
  end)

  it("of which one may only look lets nobody change anything", function()
    local p = start(LOADED, "--socket-read-only")
    for _, text in ipairs { "1 + 1", "handled", "mx.stop()", "mx.stats() mx.stop()", "mx.stats()[mx.stop()]", ".pause", ".reload",
                            ".log debug", ".watch mx.stop()", ".tap orders mx.stop()" } do
      assert.matches("read%-only", (p.eval(text)), text)
    end
    assert.matches("^%d", (p.eval "mx.stats().publish.count"))
    assert.matches("^QUEUE", (p.eval ".queues"))
    assert.matches("^publish", (p.eval ".top"))
    assert.matches("^orders  ", (p.eval ".tap orders 1"))
    assert.equal("healthy\n", (cli.mxrun("health " .. p.socket)))
  end)
end)

describe("mxrun attach", function()
  it("evaluates the lines of a pipe one after the other", function()
    local p = start(LOADED)
    local out, code = attach(p, { "x = 5", "x + 1", "local y = 6", "y", "_ + 1", "for i = 1, 2 do", "print(i)", "end",
                                  "function f()", "return 'f'", "end", "f()", "1 +", "", "2" })
    assert.same({ "6\n6\n7\n1\n2\n\"f\"\nunexpected symbol near '<eof>'\n  1 +\n     ^\n2\n", 0 }, { out, code })
    assert.matches("undeclared global 'x'", (p.eval "x"))          -- each prompt has its own
  end)

  it("exits 1 when the process has gone", function()
    local p = start(LOADED)
    local out, code = attach(p, { "mx.stop()", "mx.sleep(10)", "mx.sleep(10)" })
    assert.equal(1, code)
    assert.matches("the process has gone", out)
  end)

  it("speaks to one worker or to all", function()
    local p = start("mx.every(60, function() end)", "-w 2")
    until_("two sockets", function()
      return os.execute(("test -S %s.1 && test -S %s.2"):format(p.socket, p.socket)) == 0
    end)
    local out = attach(p, { "mx.worker.number", ".worker 2", "mx.worker.number", ".worker 3" })
    assert.equal("1\nspeaks to worker 2\n2\nthere is no worker 3; there are 2\n", out)
    out = attach(p, { "mx.worker.count" }, "--worker 0")
    assert.matches("%[1%] 2\n", out)
    assert.matches("%[2%] 2\n", out)
    assert.equal('{"1":1,"2":2}\n', (cli.mxrun(("eval %s mx.worker.number"):format(p.socket))))
    assert.equal('{"1":1,"2":2}\n', (cli.mxrun(("eval %d mx.worker.number"):format(p.pid))))
    assert.equal("2\n", (cli.mxrun(("eval --worker 2 %s mx.worker.number"):format(p.socket))))
    assert.equal("worker 1: healthy\nworker 2: healthy\n", (cli.mxrun("health " .. p.socket)))
    assert.matches("^mxrun top %- 2 workers", (cli.mxrun("top " .. p.socket)))
  end)
end)

describe("a command of the prompt", function()
  it("looks into the process", function()
    local p = start(LOADED)
    for command, pattern in pairs {
      [".help"] = "%.tap QUEUE %[N%] %[predicate with msg%]", [".top"] = "orders +[%d,]+", [".mem"] = "rss = [%d.]+ MB",
      [".pool"] = "connections = {", [".queues"] = "orders +up +256 +%d of 4", [".health"] = 'status = "healthy"',
      [".tasks"] = "^%d+ tasks", [".watch handled >= 0 0.05 3"] = "^true\ntrue\ntrue\n?$",
      [".doc mx.publish"] = "^mx%.publish%(exchange, key, body, opts%) → .-\n\nWaits%. Publishes and waits",
      [".doc nothing"] = "no \"nothing\" in the reference", [".source nowhere.lua:1"] = "was not loaded",
      [".tap nowhere"] = "nothing here consumes", [".worker"] = "there is one process",
    } do
      assert.matches(pattern, (p.eval(command)), command)
    end
    assert.matches("^ *1  .*\n>    2    handled, errors = 0, 0\n", (p.eval((".source %s:2"):format(p.file))))
  end)

  it("shows messages as they are handled, and takes none", function()
    local p = start(LOADED)
    local out = p.eval ".tap orders 3 msg.data.total > 900"
    assert.equal(3, select(2, out:gsub('orders  [^\n]*"total":9%d%d', "")))
    local first = "timeout 10 $MXRUN eval --text %s '.tap orders 1000000 msg.data.total > 900' | head -1"
    assert.matches('^orders  [^\n]*"total":9%d%d', (cli.shell(first:format(p.socket))))    -- each as it comes
    assert.matches("the tap ended: prompt:1: attempt to index field 'nope'", (p.eval ".tap orders msg.data.nope.x"))
    assert.matches("the tap ended: .*turn limit", (p.eval ".tap orders (function() while true do end end)()"))
    assert.matches("the tap ended: .*cannot wait inside a tap", (p.eval ".tap orders mx.sleep(1)"))
    until_("each handled once", function()
      local figures = mx.json.decode((cli.mxrun(("eval %s '{ handled, mx.stats().consume.orders }'"):format(p.socket))))
      return figures[1] == figures[2].acked and figures[2].failed == 0 and figures[1] > 100
    end)
  end)

  it("taps consumers with order_by, beside other taps, and none that is over", function()
    local p = start [[
      mx.queue "q"
      order = {}
      mx.consume("q", { concurrency = 4, order_by = function(m) return m.data.k end }, function(m)
        mx.sleep(0.001)
        order[m.data.k] = order[m.data.k] or 0
        assert(m.data.n > order[m.data.k])
        order[m.data.k] = m.data.n
      end)
      n = 0
      mx.every(0.005, function()
        n = n + 1
        mx.publish_async("", "q", { k = n % 3 + 1, n = n })
      end)]]
    local results, ended = {}, mx.chan(2)
    for i = 1, 2 do
      mx.spawn(function()
        results[i] = p.eval(".tap q " .. 5 * i)
        ended:put(true)
      end)
    end
    for _ = 1, 2 do ended:get(30) end
    for i = 1, 2 do assert.equal(5 * i, select(2, results[i]:gsub("q  {", ""))) end
    assert.equal("0", (p.eval "mx.stats().consume.q.failed"))
    local before = tonumber((p.eval "n"))
    until_("more", function() return tonumber((p.eval "math.max(unpack(order))")) > before end)
  end)

  it("says where time goes, and what is held", function()
    local p = start [[
      list = {}
      local function burn() for i = 1, 2e4 do list.x = tostring(i) end end
      mx.every(0.01, function()
        burn()
        for i = 1, 2000 do list[#list + 1] = { i, tostring(i) } end
      end)]]
    local prof, leak = p.eval ".prof 1", p.eval ".leak 2"
    assert.matches(p.file:match "[^/]+$":gsub("%p", "%%%0") .. ":2", prof)
    assert.matches(p.file:match "[^/]+$":gsub("%p", "%%%0") .. ":5", leak)
    assert.matches("expected seconds", (p.eval ".prof forever"))
  end)

  it("taps the messages of batches", function()
    local p = start [[
      mx.queue "q"
      sizes, seen = {}, 0
      mx.consume_batch("q", { size = 5, timeout = 0.05 }, function(batch)
        for i = 1, #batch do assert(batch[i].data.n > 0) end
        seen = seen + #batch
      end)
      n = 0
      mx.every(0.005, function()
        n = n + 1
        mx.publish_async("", "q", { n = n })
      end)]]
    local out = p.eval ".tap q 7 msg.data.n % 2 == 0"
    assert.equal(7, select(2, out:gsub('q  {"n":%d*[02468]}', "")))
    local before = tonumber((p.eval "seen"))
    until_("more", function() return tonumber((p.eval "seen")) > before end)
    assert.equal("0", (p.eval "mx.stats().consume.q.failed"))
  end)

  it("pauses consumers and lets them go on", function()
    local p = start(LOADED)
    assert.equal('"1 paused"', '"' .. p.eval ".pause orders" .. '"')
    until_("paused", function() return (p.eval ".queues"):find "paused" end)
    local count = until_("rest", function()
      local n = p.eval "handled"
      mx.sleep(0.1)
      return n == p.eval "handled" and n
    end)
    assert.equal("1 go on", (p.eval ".resume"))
    until_("more", function() return tonumber((p.eval "handled")) > tonumber(count) end)
    assert.matches("nothing here consumes from \"other\"", (p.eval ".pause other"))
  end)

  it("loads the script anew, and sets what is logged", function()
    local p = start(LOADED)
    assert.equal("begun", (p.eval ".reload"))
    p.prints "reloaded generation=2"
    assert.matches("^%d+$", (p.eval "handled"))                    -- of the new generation
    assert.equal("logs debug and worse", (p.eval ".log debug"))
    p.eval "mx.log.debug 'seen'"
    p.prints "debug seen"
    assert.matches("level must be debug", (p.eval ".log loud"))
  end)
end)

describe("mxrun top", function()
  it("writes text to a pipe", function()
    local p = start(LOADED)
    local out, code = cli.mxrun("top -n 2 -d 0.2 " .. p.socket)
    assert.equal(0, code)
    assert.equal(2, select(2, out:gsub("mxrun top %- pid " .. p.pid, "")))
    for _, pattern in ipairs { "publish  [%d,.]+/s", "confirm  p50", "rss [%d.]+ MB", "by  lua", "gc       cycles", "pool     connections",
                               "loop     lag p99", "QUEUE +RATE/s", "orders +[%d,.]+ +[%d,]+" } do
      assert.matches(pattern, out)
    end
    assert.is_nil(out:find "\27")
    local _, wrong, why = cli.mxrun("top --sort nmae " .. p.socket)
    assert.same({ 2, "mxrun top: unknown column 'nmae', did you mean 'name'?; mxrun top --help says more\n" }, { wrong, why })
  end)
end)

describe("mxrun health", function()
  it("exits by the health of a process, asked at its socket or over HTTP", function()
    local p = start([[
      state = "healthy"
      mx.health("mood", { every = 0.05, fail_after = 1, recover_after = 1 }, function() return state, "as told" end)
      mx.every(60, function() end)]], "--http 0")
    local http = p.prints "http=(%S+)"
    for _, where in ipairs { p.socket, "http://" .. http, "http://" .. http .. "/health", tostring(p.pid) } do
      p.eval "_G.state = 'healthy'"
      until_("healthy", function() return (p.eval "mx.health.report().status") == '"healthy"' end)
      assert.same({ "healthy\n  healthy    mood\n", 0 }, { cli.both("health " .. where) })
      p.eval "_G.state = 'unhealthy'"
      until_("unhealthy", function() return (p.eval "mx.health.report().status") == '"unhealthy"' end)
      assert.same({ "unhealthy\n  unhealthy  mood: as told\n", 1 }, { cli.both("health " .. where) })
    end
    local _, code, why = cli.mxrun "health http://127.0.0.1:1"
    assert.equal(1, code)
    assert.matches("^mxrun health: ", why)
  end)
end)

describe("mxrun -i", function()
  it("is a prompt in the process itself", function()
    local path = cli.file "x = 7 mx.every(60, function() end)"
    local out, code = cli.shell(("printf 'x + 1\\nprint(x)\\nnope\\nwhile true do end\\n' | $MXRUN -u mem:// -i %s"):format(path))
    assert.same({ "8\n7\nprompt:1: undeclared global 'nope'\nstopped: it ran 50 ms without waiting (--eval-limit)\n", 0 }, { out, code })
    assert.same({ "42\n", 0 }, { (cli.shell "echo 6*7 | $MXRUN -i"), 0 })
    assert.equal(2, select(2, cli.mxrun("-i -w 2 " .. path)))
    os.remove(path)
  end)
end)
