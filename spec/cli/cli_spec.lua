-- What the command prints and how it exits: MXRUN is the binary under test.
local cli = dofile "spec/cli/run.lua"
local run, script = cli.both, cli.file

describe("the command line", function()
  it("prints help and version", function()
    local text, code = run "--help"
    assert.equal(0, code)
    assert.matches("usage: mxrun %[options%] FILE", text)
    text, code = run "--version"
    assert.equal(0, code)
    assert.matches("^mxrun %d+%.%d+%.%d+", text)
  end)

  it("says what an unknown option may have meant", function()
    local text, code = run "--lgo json x.lua"
    assert.equal(2, code)
    assert.matches("unknown option '%-%-lgo', did you mean '%-%-log'%?", text)
  end)

  it("says that a file is missing", function()
    local text, code = run "-u mem:// nowhere.lua"
    assert.equal(2, code)
    assert.matches("cannot open 'nowhere.lua'", text)
  end)

  it("wants a broker when nobody is there to read a hint", function()
    local text, code = run("-e 'mx.queue(\"q\")'", "MXRUN_URLS=")
    assert.equal(2, code)
    assert.matches("give %-u amqp://… or %-u mem://", text)
  end)

  it("runs -e, passes --set and arguments", function()
    local text, code = run [[-u mem:// --set n=7 --set s=abc -e 'print(mx.config.n + 1, mx.config.s, ...)' a b]]
    assert.equal(0, code)
    assert.equal("8\tabc\ta\tb\n", text)
  end)

  it("takes the URL from MXRUN_URLS, and the option before it", function()
    local text, code = run("-e 'assert(mx.queue(\"q\")) print \"fine\"'", "MXRUN_URLS=mem://")
    assert.equal(0, code)
    assert.equal("fine\n", text)
  end)
end)

describe("a script", function()
  it("is told of its own line in a folder that is called as the runtime's, too", function()
    local dir = os.tmpname()
    os.remove(dir)
    assert(os.execute("mkdir -p " .. dir .. "/mx") == 0)
    local f = assert(io.open(dir .. "/mx/misuse.lua", "w"))
    f:write "local x = 1\nmx.sleep('soon')\n"
    f:close()
    local pipe = io.popen(("b=$(realpath %s); cd %s && $b -u mem:// mx/misuse.lua 2>&1; rm -r %s"):format(
      os.getenv "MXRUN" or "build/mxrun", dir, dir))
    local text = pipe:read "*a"
    pipe:close()
    assert.matches("^mxrun: mx/misuse.lua:2: ", text)
  end)

  it("exits 0 when nothing is left to wait for", function()
    local text, code = run("-u mem:// " .. script [[mx.after(0.01, function() print "after" end)]])
    assert.equal(0, code)
    assert.equal("after\n", text)
  end)

  it("exits 1 with a traceback of its own lines when the main chunk fails", function()
    local path = script "local function inner()\n  error 'no luck'\nend\ninner()\n"
    local text, code = run("-u mem:// " .. path)
    assert.equal(1, code)
    assert.matches(path:gsub("%p", "%%%0") .. ":2: no luck", text)
    assert.matches(path:gsub("%p", "%%%0") .. ":4: in", text)
  end)

  it("may not read an undeclared global", function()
    local text, code = run [[-u mem:// -e 'print(undeclared_thing)']]
    assert.equal(1, code)
    assert.matches("undeclared global 'undeclared_thing'", text)
  end)

  it("may not assign a global outside the main chunk", function()
    local text, code = run [[-u mem:// -e 'declared = 1 local function f() leaked = 1 end f()']]
    assert.equal(1, code)
    assert.matches("assignment to undeclared global 'leaked'", text)
  end)

  it("is stopped by the turn limit with a traceback", function()
    local path = script "local function spin() while true do end end\nspin()\n"
    local text, code = run("-u mem:// --turn-limit 0.2 " .. path)
    assert.equal(1, code)
    assert.matches("ran past the turn limit", text)
    assert.matches(path:gsub("%p", "%%%0") .. ":1: in", text)
  end)

  it("drains on SIGTERM: handlers finish, exit 0", function()
    local text, code = run("-u mem:// " .. script [[
      require('ffi').cdef 'int getpid(void);'
      assert(mx.queue "q")
      assert(mx.consume("q", function(m)
        io.popen("kill -TERM " .. require("ffi").C.getpid()):close()
        mx.sleep(0.2)
        print "finished"
      end))
      assert(mx.publish("", "q", "x"))
    ]])
    assert.equal(0, code)
    assert.equal("finished\n", text)
  end)

  it("drains on SIGTERM: what batches have gathered is handled and published, however long they would wait", function()
    local text, code = run("-u mem:// " .. script [[
      require('ffi').cdef 'int getpid(void);'
      assert(mx.queue "q")
      assert(mx.queue "out")
      local p = mx.publisher { batch = { size = 100, timeout = 600 } }
      local consumer = assert(mx.consume_batch("q", { size = 100, timeout = 600 }, function(b)
        print(#b .. " handled")
        for _, m in ipairs(b) do assert(p:publish_async("out", m.body)) end
      end))
      mx.on("stop", function() mx.sleep(0) end)
      for i = 1, 3 do assert(mx.publish("", "q", tostring(i))) end
      while consumer:stats().in_flight < 3 do mx.sleep(0.001) end
      assert(p:publish_async("out", "0"))
      io.popen("kill -TERM " .. require("ffi").C.getpid()):close()
    ]])
    assert.same({ 0, "3 handled\n" }, { code, text })
  end)

  it("stops a batch's policy at the turn limit; the batch's own limits go on", function()
    local text, code = run("-u mem:// --turn-limit 0.5 " .. script [[
      assert(mx.queue "q")
      assert(mx.consume_batch("q", { size = 2, timeout = 600, policy = function() while true do end end }, function(b)
        print(#b .. " handled")
        mx.stop()
      end))
      for i = 1, 2 do assert(mx.publish("", "q", tostring(i))) end
    ]])
    assert.equal(0, code, text)
    assert.matches("a batch's policy failed.*ran past the turn limit", text)
    assert.matches("2 handled", text)
  end)

  it("says so when its own script deletes the queue under a consumer, which is over then", function()
    for _, broker in ipairs { "mem://", os.getenv "MXRUN_SPEC_AMQP" } do
      local text, code = run("-u " .. broker .. " " .. script [[
        local q = assert(mx.queue("deleted-under-consumer", { durable = false }))
        assert(mx.consume(q, function() end))
        mx.sleep(0.05)
        assert(mx.delete_queue(q))
      ]])
      assert.equal(0, code)
      assert.matches('the broker ended the consumer of "deleted%-under%-consumer": the queue was deleted', text)
    end
  end)

  it("exits 4 when the drain runs out", function()
    local text, code = run("-u mem:// --drain 0.2 " .. script [[
      assert(mx.queue "q")
      assert(mx.consume("q", function(m) mx.stop() mx.sleep(20) end))
      assert(mx.publish("", "q", "x"))
    ]])
    assert.equal(4, code)
    assert.matches("the drain ran out", text)
  end)
end)

describe("a failing handler of mx.on(\"error\")", function()
  it("is logged once, and asked again for the next failure only", function()
    local text, code = run("-u mem:// " .. script [[
      mx.on("error", function() error "in the handler" end)
      mx.spawn(function() error "first" end)
      mx.spawn(function() error(setmetatable({}, { __tostring = function() error "no text" end, __index = error })) end)
      mx.spawn(function() error(nil) end)
      mx.sleep(0.05)
    ]])
    assert.equal(0, code)
    assert.equal(3, select(2, text:gsub("in the handler", "")))
    assert.equal(6, select(2, text:gsub("a task failed", "")))
  end)
end)

describe("require", function()
  local directory
  local function module(name, text)
    local f = assert(io.open(directory .. "/" .. name .. ".lua", "w"))
    f:write(text)
    f:close()
  end
  local function run_with_modules(text)
    return run("-u mem:// " .. script(text), "LUA_PATH='" .. directory .. "/?.lua'")
  end

  before_each(function()
    directory = os.tmpname()
    os.remove(directory)
    os.execute("mkdir " .. directory)
  end)
  after_each(function() os.execute("rm -r " .. directory) end)

  it("says that modules require each other in a loop", function()
    module("a", "require 'b'")
    module("b", "require 'a'")
    local text, code = run_with_modules "require 'a'"
    assert.equal(1, code)
    assert.matches("b.lua:1: loop or previous error loading module 'a'", text)
  end)

  it("shows the lines of a module that fails, and leaves nothing of it loaded", function()
    module("bad", "package.loaded.bad = {}\nlocal function inner() error 'broken' end\ninner()\n")
    local text, code = run_with_modules "print(pcall(require, 'bad')) print(package.loaded.bad) require 'bad'"
    assert.equal(1, code)
    assert.matches("bad.lua:2: broken\nnil\n", text)
    assert.matches("bad.lua:3: in", text)
  end)

  it("runs a module once, also when it waits and two tasks want it", function()
    module("slow", "mx.sleep(0.01) loads = (loads or 0) + 1 return { loads }")
    local text = run_with_modules [[
      loads = 0
      local a, b = mx.spawn(require, "slow"), mx.spawn(require, "slow")
      print(select(2, a:wait()) == select(2, b:wait()), loads)
    ]]
    assert.equal("true\t1\n", text)
  end)

  it("refuses bytecode, as loadfile, dofile and load do", function()
    module("code", string.dump(function() return 1 end))
    local text = run_with_modules(([[
      local path = "%s/code.lua"
      print(pcall(require, "code"))
      print(loadfile(path))
      print(pcall(dofile, path))
      print(load(string.dump(function() end)))
    ]]):format(directory))
    assert.equal(4, select(2, text:gsub("attempt to load chunk with wrong mode", "")))
  end)
end)

describe("the default connection", function()
  it("is that of the first mx.connect when nothing else names a broker", function()
    local text, code = run("-e '" .. [[
      local c = assert(mx.connect { url = "mem://mine" })
      assert(mx.queue "q")
      assert(mx.publish("", "q", "x"))
      print(c:queue_info("q").messages)
      c:close()
      print(select(2, mx.publish("", "q", "x")).code)
      local d = assert(mx.connect { url = "mem://other" })
      assert(mx.queue "q")
      assert(mx.publish("", "q", "x"))
      print(d:queue_info("q").messages)
    ]] .. "'", "MXRUN_URLS=")
    assert.equal(0, code)
    assert.equal("1\nclosed\n1\n", text)
  end)

  it("is that of the command line first, then that of the environment", function()
    for _, how in ipairs { { "-u mem://named", "" }, { "", "MXRUN_URLS=mem://named" } } do
      local text = run(how[1] .. [[ -e 'mx.connect { url = "mem://other" }
        mx.queue "q" print(mx.connect { url = "mem://named" }:queue_info("q").messages)']], how[2])
      assert.equal("0\n", text)
    end
  end)

  it("takes the next URL when one does not answer", function()
    local text, code = run("-u amqp://127.0.0.1:1 -u mem://second -e 'print(mx.queue \"q\")'")
    assert.equal(0, code)
    assert.equal("q\n", text)
  end)
end)

describe("mx.stop", function()
  it("ends the waits of tasks, in the main chunk, in handlers and in timers", function()
    for _, text in ipairs {
      "mx.spawn(mx.sleep, 600) mx.stop() mx.sleep(600)", "mx.after(0, mx.stop) mx.spawn(mx.sleep, 600) mx.sleep(0.01)",
      "mx.every(0.001, function() mx.stop() mx.sleep(600) end)", "mx.stop() mx.stop()",
      "mx.queue 'q' mx.consume('q', function() mx.stop() end) mx.publish('', 'q', 'x')",
    } do
      local out, code = run("-u mem:// --drain 20 " .. script(text))
      assert.equal("", out)
      assert.equal(0, code)
    end
  end)
end)

describe("the examples", function()
  it("hello.lua prints what the README shows", function()
    local text, code = run "-u mem:// examples/hello.lua"
    assert.equal(0, code)
    local shown = io.open("README.md"):read "*a":match "```\n(hello: hello world, 1\n.-)```"
    assert.equal(shown, text)
  end)

  it("receipts.lua tells confirmed from unroutable", function()
    local text, code = run "-u mem:// examples/receipts.lua"
    assert.equal(0, code)
    assert.equal("1000 messages confirmed\nand one publish: no queue is bound for this key\n", text)
  end)

  it("routing.lua shows who got what", function()
    local text, code = run "-u mem:// examples/routing.lua"
    assert.equal(0, code)
    local lines = {}
    for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
    table.sort(lines)
    assert.same({ "all    order.new.de", "all    order.new.pl", "polish order.new.pl" }, lines)
  end)

  it("ticker.lua counts three ticks", function()
    local text, code = run "-u mem:// examples/ticker.lua"
    assert.equal(0, code)
    assert.matches("^three ticks in 0%.%d s\n$", text)
  end)
end)

describe("a wrong URL", function()
  it("is told in one line, before the script runs", function()
    local text, code = run "-u http://x -e 'print(1)'"
    assert.equal(2, code)
    assert.equal("mxrun: URL http://x: expected amqp://user:password@host:port/vhost or mem://NAME\n", text)
  end)
end)
