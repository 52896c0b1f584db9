-- The script loaded anew while it runs: by SIGHUP, and by --watch.
local cli = dofile "spec/cli/run.lua"

-- Runs FILE, whose text is `first`, in the background; then the lines of shell, in which `seen N WORD` waits until as many lines
-- of what it prints and logs have the word, `is TEXT` replaces the file, and `hup` is SIGHUP.
local SHELL = [[
dir=$(mktemp -d) url=%s
trap 'kill $pid 2>/dev/null; rm -rf $dir' EXIT
seen() { until [ $(grep -c -- "$2" $dir/out) -ge $1 ]; do kill -0 $pid || break; sleep 0.02; done; }
is() { cat >$dir/new.lua; mv $dir/new.lua $dir/${1:-main}.lua; }
hup() { kill -HUP $pid; }
is <<'END'
%s
END
cd $dir
%s
"$MXRUN" -u $url %s main.lua >out 2>&1 & pid=$!
%s
kill $pid; wait $pid; echo exit $?; cat out
]]

local function run(url, first, shell, options, before)
  local binary = io.popen("realpath " .. (os.getenv "MXRUN" or "build/mxrun")):read "*l"
  local text = SHELL:format(url, first, before or "", options or "", shell):gsub('"$MXRUN"', (binary:gsub("%%", "%%%%")))
  return (cli.shell((text:gsub('"%$MXRUN"', binary))))
end

local function count(text, word) return select(2, text:gsub(word, "")) end

local SAY = "io.stdout:setvbuf 'no'\n"

-- Publishes and handles while it is replaced; what is handled is counted in mx.state, by what the message is.
local LOAD = [[
io.stdout:setvbuf "no"
local s = mx.state
s.generation = (s.generation or 0) + 1
local me = s.generation
s.seen, s.out, s.sent, s.fired, s.live = s.seen or {}, s.out or {}, s.sent or 0, s.fired or 0, (s.live or 0) + 1
assert(mx.topology { queues = { [%q] = { durable = false } } })
ballast = ("x"):rep(1e6) .. me
assert(mx.consume(%q, { concurrency = 8, prefetch = 50 }, function(msg)
  local n = tonumber(msg.body)
  s.seen[n] = (s.seen[n] or 0) + 1
  if n %% 10 == 0 then mx.sleep(0.02) end
end))
mx.every(0.2, function() s.fired = s.fired + 1 end)
local p = mx.publisher()
local task = mx.spawn(function()
  while true do
    local last = s.sent + 20
    while s.sent < last do
      s.sent = s.sent + 1
      local n = s.sent
      assert(p:publish_async(%q, tostring(n)))
      s.out[n] = true
    end
    mx.sleep(0.005)
  end
end)
mx.on("reload", function() s.live = s.live - 1 task:cancel() end)
if not s.from then
  s.from = mx.now()
  s.heap = {}
end
if me %% 20 == 1 then
  collectgarbage() collectgarbage()
  s.heap[#s.heap + 1] = collectgarbage "count"
end
if me == 101 then
  task:cancel()
  s.due = (mx.now() - s.from) / 0.2
  s.counted = s.fired
  mx.spawn(function()
    local done
    for _ = 1, 500 do
      mx.sleep(0.02)
      done = mx.queue_info(%q).messages == 0 and mx.stats().consume[%q].in_flight == 0 and mx.stats().publish.in_flight == 0
      if done then break end
    end
    local once, other = 0, 0
    for i = 1, s.sent do
      if s.seen[i] == (s.out[i] and 1) then once = once + 1 else other = other + 1 end
    end
    print("sent", s.sent >= 1000, "other", other, "live", s.live)
    print("heap", s.heap[#s.heap] - s.heap[2] < 4000 or table.concat(s.heap, " "))
    print("timer", math.abs(s.counted - s.due) < 3 or s.counted .. " of " .. s.due)
    mx.delete_queue(%q)
    print "the end"
  end)
else
  print "started"
end
]]

for _, url in ipairs { "mem://", cli.amqp } do
  describe("a hundred reloads under load on " .. url:match "^%a+", function()
    it("lose no message and handle none twice, leave the timers as they are, and no memory behind", function()
      local q = cli.name "reload"
      local out = run(url, LOAD:format(q, q, q, q, q, q), [[
        seen 1 started
        for i in $(seq 100); do hup; seen $i 'info  reloaded generation'; done
        seen 1 'the end'
      ]])
      assert.matches("sent\ttrue\tother\t0\tlive\t1\n", out)
      assert.matches("heap\ttrue\n", out)
      assert.matches("timer\ttrue\n", out)
      assert.equal(100, count(out, "info  reloaded generation"))
      assert.matches("^exit 0\n", out)
      assert.is_nil(out:match "error  ?[^\n]*")
    end)

    it("lets handlers that run finish with the code that they began with", function()
      local q = cli.name "reload"
      local out = run(url, SAY .. ([[
        local gate = mx.chan()
        word = "old"
        mx.on("reload", function() mx.spawn(function() gate:put(1) end) end)
        assert(mx.queue(%q, { durable = false }))
        mx.consume(%q, function() print "taken" gate:get() mx.sleep(0.1) print("handled by the " .. word) end)
        assert(mx.publish("", %q, "x"))
      ]]):format(q, q, q), ([[
        seen 1 taken
        is <<'END'
          word = "new"
          mx.delete_queue(%q)
          mx.queue(%q)
          mx.consume(%q, function(m) print(m.body .. " by the " .. word) end)
          mx.publish("", %q, "next")
END
        hup; seen 1 'next by'; seen 1 'handled by'
        ]]):format(q .. ".2", q .. ".2", q .. ".2", q .. ".2"))
      assert.matches("handled by the old\n", out)
      assert.matches("next by the new\n", out)
      assert.matches("reloaded generation=2 handlers=1 tasks=0\n", out)
      assert.matches("^exit 0\n", out)
    end)

    it("lets batches be handled by the code that gathered them", function()
      local q = cli.name "reload"
      local out = run(url, SAY .. ([[
        mx.state.n = (mx.state.n or 0) + 1
        local me = mx.state.n
        assert(mx.queue(%q, { durable = false, expires = 60 }))
        local c = assert(mx.consume_batch(%q, { size = 10, timeout = 600, policy = function(b) return me == 2 end }, function(batch)
          print(me .. " handled " .. table.concat(batch:bodies(), " "))
        end))
        if me == 2 then
          mx.after(0.3, function() mx.publish("", %q, "4") end)
          return
        end
        mx.spawn(function()
          for i = 1, 3 do assert(mx.publish("", %q, tostring(i))) end
          while c:stats().in_flight < 3 do mx.sleep(0.005) end
          print "gathered"
        end)
      ]]):format(q, q, q, q), "seen 1 gathered; hup; seen 2 handled")
      assert.matches("1 handled 1 2 3\n", out)
      assert.matches("2 handled 4\n", out)
      assert.matches("^exit 0\n", out)
    end)

    it("deletes the queues to which the broker of an older generation gave the name, and no connection is made anew", function()
      local out = run(url, SAY .. [[
        local s = mx.state
        s.names = s.names or {}
        table.insert(s.names, assert(mx.queue("")))
        assert(mx.consume(s.names[#s.names], function() end))
        local total = mx.pool.stats().connections.total
        s.total = s.total or total
        mx.spawn(function()
          if #s.names < 3 then return print "started" end
          while mx.queue_info(s.names[1]) or mx.queue_info(s.names[2]) do mx.sleep(0.02) end
          print("left", mx.queue_info(s.names[3]).consumers, s.total == total)
        end)
      ]], "seen 1 started; hup; seen 1 'generation=2'; hup; seen 1 '^left'")
      assert.matches("left\t1\ttrue\n", out)
      assert.matches("^exit 0\n", out)
    end)

    it("replaces exclusive consumers", function()
      local q = cli.name "reload"
      local out = run(url, SAY .. ([[
        assert(mx.queue(%q, { durable = false }))
        assert(mx.consume(%q, { exclusive = true }, function(m) print("got " .. m.body) end))
        mx.state.n = (mx.state.n or 0) + 1
        if mx.state.n == 2 then error "not this one" end
        mx.after(0.1, function() mx.publish("", %q, tostring(mx.state.n)) end)
      ]]):format(q, q, q), "seen 1 'got 1'; hup; seen 1 'not this one'; hup; seen 1 'got 3'")
      assert.matches("not reloaded, the script goes on as it was error=[^\n]*not this one", out)
      assert.matches("got 3\n", out)
      assert.equal(1, count(out, " error "))
      assert.matches("^exit 0\n", out)
    end)
  end)
end

describe("a reload", function()
  it("does nothing when the file cannot be compiled or has mistakes that --check finds", function()
    local out = run("mem://", SAY .. "mx.every(0.02, function() print 'old' end)", [[
      seen 1 old
      echo 'mx.every(' | is; hup; seen 1 'not reloaded'
      echo 'mx.every(1, function() pritn(1) end)' | is; hup; seen 2 'not reloaded'
      rm main.lua; hup; seen 3 'not reloaded'
      n=$(grep -c old out); seen $((n + 2)) old
    ]])
    assert.matches("main.lua:2: unexpected symbol near '<eof>'", out)
    assert.matches("main.lua:1: undeclared global 'pritn', did you mean 'print'", out)
    assert.matches("cannot open main.lua", out)
    assert.matches("^exit 0\n", out)
  end)

  it("is undone when the main chunk raises: all that it made goes, and the old goes on", function()
    local out = run("mem://", SAY .. [[
      mx.queue "q"
      local n = 0
      greeting = "old"
      mx.consume("q", function(m) n = n + 1 print(("%s handled %s"):format(greeting, m.body)) end)
      local t = mx.every(0.02, function() mx.publish("", "q", tostring(mx.stats().tasks)) end)
      mx.gauge("g", function() return 1 end)
      mx.health("h", { every = 0.02 }, function() mx.state.checked = "old" end)
      mx.on("error", function() print "old heard" end)
      mx.after(0.7, function() error "later" end)
      mx.after(0.8, function() print("gauge", mx.gauge "g":get(), mx.state.checked) end)
    ]], [[
      seen 3 'old handled'
      is <<'END'
        greeting = "new"
        mx.queue "q"
        mx.consume("q", function(m) print("new handled " .. m.body) end)
        mx.every(0.02, function() print "new timer" end)
        mx.spawn(function() mx.sleep(0.2) print "new task" end)
        mx.gauge("g", function() return 2 end)
        mx.health("h", { every = 0.02 }, function() mx.state.checked = "new" end)
        mx.on("error", function() print "new heard" end)
        if mx.state.really == nil then mx.state.really = true end
        mx.sleep(0.01)
        local f = assert(io.open(mx.state.path or "fine"))
        f:close()
        assert(os.remove "fine")
END
      touch fine
      hup; seen 1 'not reloaded'
      seen 1 'old heard'
      n=$(grep -c 'old handled' out); seen $((n + 3)) 'old handled'
      seen 1 '^gauge'
    ]])
    assert.matches("error=[^\n]*No such file[^\n]* generation=1", out)
    assert.is_nil(out:match "new task")
    assert.is_nil(out:match "new heard")
    assert.equal(0, count(out:match "not reloaded(.*)", "new timer"))
    assert.equal(0, count(out:match "old heard(.*)", "new handled"))
    assert.matches("\ngauge\t1\told\n", out)
    assert.matches("^exit 0\n", out)
  end)

  it("keeps mx.state, and begins with fresh globals, modules and the same arguments", function()
    local out = run("mem://", SAY .. [[
      package.path = "./?.lua"
      local m = require "words"
      mx.state.n = (mx.state.n or 0) + 1
      if mx.state.n == 3 then require("ffi").cdef "struct mine { int a; };" end
      print(mx.state.n, m.word, rawget(_G, "leaked"), #arg)
      leaked = true
      mx.on("reload", function() print("replaced", mx.state.n, require "words".word, leaked) end)
      mx.every(60, function() end)
    ]], [[
      seen 1 '^1'
      echo 'return { word = "second" }' | is words; hup; seen 1 '^replaced'
      hup; seen 2 '^replaced'
    ]], nil, [[echo 'return { word = "first" }' | is words]])
    assert.matches("\n1\tfirst\tnil\t0\n", out)
    assert.matches("\n2\tsecond\tnil\t0\n", out)
    assert.matches("\nreplaced\t2\tfirst\ttrue\n", out)
    assert.matches("\n3\tsecond\tnil\t0\n", out)
    assert.matches("^exit 0\n", out)
  end)

  it("may give a metric other labels, also when it is undone", function()
    local out = run("mem://", SAY .. [[
      local n = mx.state.n or 1
      mx.state.n = n + 1
      local c = n == 1 and mx.counter "c" or mx.counter("c", "", { "l" .. n })
      if n == 1 then c:inc() else c:inc(1, "x") end
      if n == 2 then error "not this one" end
      mx.on("reload", function() print("still", n == 1 and c:get()) end)
      mx.every(60, function() end)
      print "up"
    ]], "seen 1 '^up'; hup; seen 1 'not this one'; hup; seen 1 '^still'")
    assert.matches("still\t1\n", out)
    assert.matches("reloaded generation=2", out)
    assert.matches("^exit 0\n", out)
  end)

  it("ends the old main chunk and its tasks, counts a main chunk that goes on as started, and closes what it opened", function()
    local out = run("mem://", SAY .. [[
      local mine = assert(mx.connect { url = "mem://other" })
      mx.state.n = (mx.state.n or 0) + 1
      local n = mx.state.n
      mx.spawn(function() while true do print("task " .. n) mx.sleep(0.02) end end)
      print("main " .. n .. " " .. mx.pool.stats().connections.total)
      while true do mx.sleep(0.05) end
    ]], [[
      seen 1 'main 1'; hup; seen 1 'a generation has ended'
      n=$(grep -c 'task 2' out); seen $((n + 5)) 'task 2'
      hup; seen 1 'main 3'
    ]], "--log-level debug")
    assert.matches("reloaded generation=2 handlers=0 tasks=2\n", out)
    assert.equal(0, count(out:match "a generation has ended generation=1(.*)", "task 1"))
    assert.equal(2 * tonumber(out:match "main 1 (%d+)"), tonumber(out:match "main 3 (%d+)"))
    assert.is_nil(out:match " error ")
    assert.matches("^exit 0\n", out)
  end)
end)

describe("--watch", function()
  it("loads the script anew when its file or a module of it is replaced or written, also one that was broken", function()
    local out = run("mem://", SAY .. [[
      package.path = "./?.lua"
      print("word", require "words")
      mx.every(60, function() end)
    ]], [[
      seen 1 'word.one'
      echo 'return "two"' | is words; seen 1 'generation=2'
      echo 'return "three' >words.lua; seen 1 'not reloaded'
      echo 'return "three"' >words.lua; seen 1 'generation=3'
      (sed 's/"word"/"verb"/' main.lua) | is; seen 1 'generation=4'
    ]], "--watch", [[echo 'return "one"' | is words]])
    assert.matches("word\tone\n.*word\ttwo\n.*not reloaded.*word\tthree\n.*verb\tthree\n", out)
    assert.matches("^exit 0\n", out)
  end)

  it("is for a file", function()
    local out, code = cli.both "--watch -e 'print(1)'"
    assert.same({ "mxrun: option --watch is for a FILE, and there is none\n", 2 }, { out, code })
  end)
end)
