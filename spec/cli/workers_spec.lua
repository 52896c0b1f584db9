-- mxrun -w: what the supervisor does for its workers, and what becomes of messages that kill them.
local cli = dofile "spec/cli/run.lua"
local MXRUN = os.getenv "MXRUN" or "build/mxrun"

local running = {}

local function read(path)
  local f = io.open(path)
  if not f then return "" end
  local text = f:read "*a"
  f:close()
  return text
end

local function signal(name, pid) return os.execute(("kill -%s %d 2>/dev/null"):format(name, pid)) == 0 end
local function is_there(pid) return signal("0", pid) end

local function until_(what, f)
  for _ = 1, 1500 do
    local result = f()
    if result then return result end
    mx.sleep(0.02)
  end
  error("in vain: " .. (type(what) == "function" and what() or what), 2)
end

-- Starts mxrun in the background: pid, out() what it printed, then "exit N".
local function start(arguments, environment)
  local base = os.tmpname()
  local p = { path = base }
  os.execute(("(MXRUN_URLS= %s setsid %s %s & echo $! >%s.pid; wait $!; echo exit $?) >%s 2>&1 </dev/null &"):format(
    environment or "", MXRUN, arguments, base, base))
  p.pid = until_("a pid", function() return tonumber(read(base .. ".pid")) end)
  os.remove(base .. ".pid")
  function p.out() return read(base) end
  function p.prints(pattern)
    return until_(function() return pattern .. " in: " .. p.out() end, function() return p.out():match(pattern) end)
  end
  function p.count(pattern) return select(2, p.out():gsub(pattern, "")) end
  function p.workers()
    local pipe, list = io.popen("pgrep -P " .. p.pid), {}
    for pid in pipe:lines() do list[#list + 1] = tonumber(pid) end
    pipe:close()
    return list
  end
  running[#running + 1] = p
  return p
end

local EXITS = "ASAN_OPTIONS=detect_leaks=0"             -- for scripts that call os.exit, which frees nothing

local WAITS = cli.file [[
  print("number " .. mx.worker.number .. " of " .. mx.worker.count)
  io.stdout:flush()
  mx.on("reload", function() mx.log.info "heard" end)
  mx.every(60, function() end)
]]

after_each(function()
  for _, p in ipairs(running) do
    if is_there(p.pid) then signal("KILL", p.pid) end
    os.remove(p.path)
  end
  running = {}
end)
teardown(function() os.remove(WAITS) end)

describe("a worker", function()
  it("knows its number, also in the log, and how many there are", function()
    local p = start("-w 2 -u mem:// " .. cli.file [[
      print(("%d of %d"):format(mx.worker.number, mx.worker.count))
      mx.log.info("hello", { x = 1 })
    ]])
    p.prints "exit 0\n"
    for n = 1, 2 do
      assert.matches(n .. " of 2\n", p.out())
      assert.matches("hello worker=" .. n .. " x=1\n", p.out())
    end
    assert.equal(0, select(2, cli.both("--check " .. cli.file "assert(mx.worker.number == 1 and mx.worker.count == 1)")))
    assert.equal("1 of 1\n", (cli.mxrun "-u mem:// -e 'print(mx.worker.number .. \" of \" .. mx.worker.count)'"))
  end)

  it("leaves what it starts nothing of the supervisor's", function()
    local p = start("-w 1 -u mem:// " .. cli.file [[
      os.execute 'echo "worker=$MXRUN_WORKER fd=$(readlink /proc/self/fd/3)"'
    ]])
    p.prints "exit 0\n"
    assert.matches("worker= fd=\n", p.out())
  end)

  it("that is killed is replaced, and the others go on", function()
    local p = start("-w 3 -u mem:// " .. WAITS)
    p.prints "all workers are up"
    local before = p.workers()
    assert.equal(3, #before)
    signal("KILL", before[1])
    p.prints "a worker died, starting another worker=1 signal=KILL"
    local after = until_("three workers", function()
      local list = p.workers()
      return #list == 3 and list
    end)
    table.sort(after)
    assert.same({ before[2], before[3] }, { after[1], after[2] })
    until_("the new one", function() return p.count "number 1 of 3" == 2 end)
    signal("TERM", p.pid)
    p.prints "exit 0\n"
  end)

  it("that fails is started again after pauses that grow", function()
    local p = start("-w 1 -u mem:// " .. cli.file "mx.sleep(0.1) error 'broken'")
    until_("five deaths", function() return p.count "a worker died" >= 5 end)
    local pauses = {}
    for pause in p.out():gmatch "pause=([%d.]+)" do pauses[#pauses + 1] = tonumber(pause) end
    assert.equal(0, pauses[1])
    assert.is_true(pauses[4] >= 0.2)
    signal("TERM", p.pid)
    p.prints "exit [01]\n"                               -- 1: the pause was over, the next one was failing
  end)

  it("whose loop stands still is killed and replaced", function()
    local p = start("-w 2 --turn-limit 0.2 -u mem:// " .. WAITS)
    p.prints "all workers are up"
    local stuck = p.workers()[1]
    signal("STOP", stuck)
    p.prints("a worker stands still, killing it worker=1 pid=" .. stuck)
    until_("a new one", function() return p.count "number 1 of 2" == 2 and not is_there(stuck) end)
    assert.equal(1, p.count "number 2 of 2")
  end)

  it("ends when its supervisor is killed", function()
    local p = start("-w 2 -u mem:// " .. WAITS)
    p.prints "all workers are up"
    local workers = p.workers()
    signal("KILL", p.pid)
    until_("their end", function() return not is_there(workers[1]) and not is_there(workers[2]) end)
  end)
end)

describe("the supervisor", function()
  it("ends with the worst exit code when every worker has ended", function()
    local p = start("-w 3 -u mem:// " .. cli.file "os.exit(mx.worker.number == 2 and 4 or 0)", EXITS)
    p.prints "exit 4\n"
    assert.equal(0, p.count "a worker died")
  end)

  it("gives up when nothing comes up: at once on misuse, else at the fifth failure", function()
    local p = start "-w 2 -u mem:// nowhere.lua"
    p.prints "exit 2\n"
    p = start("-w 2 -u mem:// " .. cli.file "x x")
    p.prints "exit 1\n"
    assert.is_true(p.count "a worker died, starting another" <= 4)
    assert.equal(1, p.count "no worker comes up, giving up")
  end)

  for _, name in ipairs { "TERM", "INT" } do
    it("passes SIG" .. name .. " on, and each worker drains", function()
      local p = start("-w 2 -u mem:// " .. cli.file [[
        assert(mx.queue "q")
        assert(mx.consume("q", function() mx.log.info "begun" mx.sleep(0.5) mx.log.info "finished" end))
        assert(mx.publish_async("", "q", "x"))
      ]])
      until_("handlers", function() return p.count "begun" == 2 end)
      signal(name, p.pid)
      p.prints "exit 0\n"
      assert.equal(2, p.count "finished")
    end)
  end

  it("passes a second signal on, which does not wait for handlers", function()
    local p = start("-w 2 -u mem:// " .. cli.file [[
      assert(mx.queue "q")
      mx.on("stop", function() mx.log.info "stopping" end)
      assert(mx.consume("q", function() mx.log.info "begun" mx.sleep(20) end))
      assert(mx.publish_async("", "q", "x"))
    ]])
    until_("handlers", function() return p.count "begun" == 2 end)
    signal("TERM", p.pid)
    until_("drains", function() return p.count "stopping" == 2 end)
    signal("TERM", p.pid)
    p.prints "exit 4\n"
    assert.equal(2, p.count "second signal: leaving now")
  end)

  it("kills what is still there 5 s past the drain", function()
    local p = start("-w 2 --turn-limit 0 --drain 0.1 -u mem:// " .. WAITS)
    p.prints "all workers are up"
    signal("STOP", p.workers()[1])
    signal("TERM", p.pid)
    p.prints "workers are still there past the drain, killing them"
    p.prints "exit 137\n"
  end)

  it("passes SIGHUP on, which scripts hear as reload, those of a single process too", function()
    local p = start("-w 2 -u mem:// " .. WAITS)
    p.prints "all workers are up"
    signal("HUP", p.pid)
    until_("both", function() return p.count "heard" == 2 end)
    assert.equal(2, #p.workers())
    p = start("-u mem:// " .. WAITS)
    p.prints "number 1 of 1"
    signal("HUP", p.pid)
    p.prints "heard"
  end)

  it("writes its own lines as --log says, too", function()
    local p = start("--log json -w 1 -u mem:// " .. WAITS)
    p.prints '"level":"info","message":"all workers are up","workers":1}\n'
  end)
end)

describe("systemd", function()
  -- What arrives at a socket as NOTIFY_SOCKET until "STOPPING=1"; abstract when name begins with @.
  local LISTEN = [[
import socket, sys
name = sys.argv[1]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("\0" + name[1:] if name[0] == "@" else name)
print("bound", flush=True)
text = ""
while "STOPPING=1" not in text:
    text = s.recv(4096).decode()
    print(text.replace("\n", " "), flush=True)
]]
  local script = cli.file(LISTEN)
  teardown(function() os.remove(script) end)

  local function listen(name)
    local path = os.tmpname()
    os.execute(("timeout 60 python3 %s %s >%s 2>&1 &"):format(script, name, path))
    until_("the listener", function() return read(path):find "bound" end)
    return function() return read(path) end, path
  end

  for _, kind in ipairs { "-w 2", "" } do
    it("hears what becomes of mxrun " .. kind, function()
      local name = kind == "" and os.tmpname() .. ".sock" or "@" .. cli.name "mxrun-notify"
      local heard, path = listen(name)
      local p = start(kind .. " -u mem:// " .. WAITS, "NOTIFY_SOCKET=" .. name .. " WATCHDOG_USEC=200000")
      until_("READY", function() return heard():find "READY=1 STATUS=" end)
      until_("WATCHDOG", function() return select(2, heard():gsub("WATCHDOG=1", "")) >= 2 end)
      if kind ~= "" then assert.matches("READY=1 STATUS=2 of 2 workers up, 0 restarts", heard()) end
      signal("HUP", p.pid)
      until_("RELOADING", function() return heard():find "RELOADING=1 MONOTONIC_USEC=%d+.*READY=1\n" end)
      signal("TERM", p.pid)
      until_("STOPPING", function() return heard():find "STOPPING=1" end)
      p.prints "exit 0\n"
      assert.equal(2, select(2, heard():gsub("READY=1", "")))
      os.remove(path)
      os.remove(name)
    end)
  end

  it("hears of READY only once the connection is there", function()
    local name = "@" .. cli.name "mxrun-notify"
    local heard, path = listen(name)
    local p = start("-w 1 -u amqp://127.0.0.1:1 " .. cli.file "assert(mx.queue 'q') mx.every(60, function() end)",
                    "NOTIFY_SOCKET=" .. name)
    p.prints "cannot connect"
    mx.sleep(1)
    signal("TERM", p.pid)
    until_("STOPPING", function() return heard():find "STOPPING=1" end)
    assert.is_nil(heard():find "READY=1")
    os.remove(path)
  end)
end)

describe("-w", function()
  it("takes a number from 1 or auto, for scripts only", function()
    for _, value in ipairs { "0", "x", "1025", "-1", "''" } do
      local text, code = cli.both("-w " .. value .. " -e 'print(1)'")
      assert.equal(2, code)
      assert.matches("expected auto or a number from 1 to 1024", text)
    end
    local text, code = cli.both "-w 2 sub q"
    assert.equal(2, code)
    assert.matches("option %-w is for scripts, not for sub", text)
    assert.equal("1\n", (cli.mxrun "-w auto -u mem:// -e 'if mx.worker.number == 1 then print(1) end'"))
    assert.equal("1\n", (cli.shell "MXRUN_WORKERS=1 $MXRUN -u mem:// -e 'print(1)'"))
  end)
end)

if not cli.amqp then return end

describe("on RabbitMQ", function()
  local conn, queue

  before_each(function()
    conn, queue = assert(mx.connect { url = cli.amqp }), cli.name "spec-workers"
    assert(conn:topology { queues = { [queue] = { dlq = true }, [queue .. ".done"] = {} } })
  end)

  after_each(function()
    for _, p in ipairs(running) do
      if is_there(p.pid) then
        signal("TERM", p.pid)
        p.prints "exit %d"
      end
    end
    for _, end_ in ipairs { "", ".dlq", ".done" } do conn:delete_queue(queue .. end_) end
    conn:close()
  end)

  local function start_on(options, script, environment)
    return start(("-u %s %s --set q=%s %s"):format(cli.amqp, options, queue, cli.file(script)), environment)
  end

  local function messages(name) return conn:queue_info(queue .. name).messages end

  for _, how in ipairs { "KILL", "ABRT" } do
    it("a message that kills its workers is dead-lettered after four runs, its neighbours are not: SIG" .. how, function()
      for n = 1, 60 do assert(conn:publish("", queue, n == 20 and "poison" or "good", { id = "m" .. n })) end
      local p = start_on("-w 2", ([[
        require("ffi").cdef "int raise(int);"
        assert(mx.queue(mx.config.q, { dlq = true }))
        mx.consume(mx.config.q, { prefetch = 20, concurrency = 10 }, function(msg)
          mx.sleep(0.001)
          if msg.body == "poison" then
            mx.log.info "run"
            require("ffi").C.raise(%d)
          end
          assert(mx.publish("", mx.config.q .. ".done", msg.id))
        end)
      ]]):format(how == "KILL" and 9 or 6))
      p.prints "a message is not run again .* id=m20"
      until_("an empty queue", function() return messages "" == 0 and messages ".dlq" == 1 end)
      assert.equal(4, p.count "info  run worker=")
      assert.equal(4, p.count "a worker died")
      local dead
      local c = assert(conn:consume(queue .. ".dlq", function(msg) dead = { msg.id, msg.headers["x-mx-error"] } end))
      until_("the dead letter", function() return dead end)
      assert.same({ "m20", "crashed its worker 3 times" }, dead)
      c:stop()
      local done = {}
      c = assert(conn:consume(queue .. ".done", function(msg) done[msg.body] = true end))
      for n = 1, 60 do
        if n ~= 20 then until_("m" .. n, function() return done["m" .. n] end) end
      end
      c:stop()
    end)
  end

  it("a message that kills its workers out of a batch is dead-lettered, the others of the batch are handled", function()
    for n = 1, 30 do assert(conn:publish("", queue, n == 20 and "poison" or "good", { id = "m" .. n })) end
    local p = start_on("-w 1", [[
      mx.consume_batch(mx.config.q, { size = 10, prefetch = 30, timeout = 0.05, concurrency = 2 }, function(batch)
        for _, msg in ipairs(batch) do
          if msg.body == "poison" then os.exit(7) end
        end
        for _, msg in ipairs(batch) do assert(mx.publish("", mx.config.q .. ".done", msg.id)) end
      end)
    ]], EXITS)
    p.prints "a message is not run again .* id=m20"
    until_("an empty queue", function() return messages "" == 0 and messages ".dlq" == 1 end)
    assert.is_true(p.count "a worker died" <= 6)
    local done = {}
    local c = assert(conn:consume(queue .. ".done", function(msg) done[msg.body] = true end))
    for n = 1, 30 do
      if n ~= 20 then until_("m" .. n, function() return done["m" .. n] end) end
    end
    c:stop()
  end)

  it("a message without an id is known by what is in it", function()
    assert(conn:publish("", queue, "poison", { id = "" }))
    local p = start_on("-w 1", [[mx.consume(mx.config.q, function() os.exit(7) end)]], EXITS)
    p.prints "a message is not run again"
    until_("the dead letter", function() return messages ".dlq" == 1 end)
    assert.equal(4, p.count "a worker died, starting another worker=1 exit=7")
  end)

  it("a handler that waits while its worker is killed is no suspect", function()
    assert(conn:publish("", queue, "slow"))
    local p = start_on("-w 1", [[
      mx.consume(mx.config.q, function() mx.log.info "begun" mx.sleep(600) end)
    ]])
    for n = 1, 6 do
      until_("run " .. n, function() return p.count "begun" == n end)
      signal("KILL", p.workers()[1])
    end
    until_("run 7", function() return p.count "begun" == 7 end)
    assert.equal(0, messages ".dlq")
    assert.equal(0, p.count "it ran a redelivered message")
    signal("TERM", p.pid)
    signal("TERM", p.pid)
  end)

  it("nothing is lost while workers are killed in turn", function()
    local COUNT = 3000
    local p = start_on("-w 3", [[
      mx.consume(mx.config.q, { concurrency = 8, prefetch = 50 }, function(msg)
        mx.sleep(0.002)
        assert(mx.publish("", mx.config.q .. ".done", msg.body))
      end)
    ]])
    p.prints "all workers are up"
    local publisher = mx.spawn(function()
      for n = 1, COUNT do
        assert(conn:publish_async("", queue, tostring(n)))
        if n % 300 == 0 then mx.sleep(0.1) end
      end
    end)
    for n = 0, 11 do
      local workers = until_("three workers", function()
        local list = p.workers()
        return #list == 3 and list
      end)
      signal("KILL", workers[n % 3 + 1])
      mx.sleep(0.1)
    end
    publisher:wait()
    local seen, count = {}, 0
    local c = assert(conn:consume(queue .. ".done", function(msg)
      if not seen[msg.body] then seen[msg.body], count = true, count + 1 end
    end))
    until_("all of them", function() return count == COUNT end)
    c:stop()
    until_("an empty queue", function() return messages "" == 0 end)
    assert.equal(0, messages ".dlq")
    assert.is_true(p.count "a worker died" >= 12)
  end)
end)
