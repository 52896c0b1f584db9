-- /debug/pprof/: what a running mxrun says of itself, and what mxrun -w says of all its workers.
local cli, file = dofile "spec/cli/run.lua", require "mx.pprof.file"
local MXRUN = os.getenv "MXRUN" or "build/mxrun"

local function eventually(f) return assert(mx.test.eventually(f, 30)) end

local running = {}
local Server = {}
Server.__index = Server

-- A script that works and waits for ever, on a free port.
local WORK = [[
local kept = {}
local function remember() kept[#kept + 1] = ("x"):rep(100000) .. #kept end
local function burn()
  local till, n = mx.now() + 0.01, 0
  while mx.now() < till do n = n + 1 end
end
local function nap() mx.sleep(0.001) return true end
local function work()
  for _ = 1, #kept < 500 and 20 or 0 do remember() end
  burn()
  nap()
end
mx.spawn(function() while true do work() end end)
mx.spawn(function() mx.sleep(1000) end)
]]

local function serve(options, code, environment)
  local script, log = cli.file((code or "") .. WORK), os.tmpname()
  local p = io.popen(("MXRUN_URLS= %s %s -u mem:// --http 127.0.0.1:0 %s %s </dev/null >%s 2>&1 & echo $!")
    :format(environment or "", MXRUN, options or "", script, log))
  local self = setmetatable({ pid = p:read "*n", log = log, script = script }, Server)
  p:close()
  running[#running + 1] = self
  eventually(function()
    self.port = cli.read(log):match "http=127.0.0.1:(%d+)"
    return self.port and (not options or not options:find "-w" or cli.read(log):find "all workers are up")
  end)
  return self
end

after_each(function()
  for i, s in ipairs(running) do
    os.execute(("kill -KILL $(cat /proc/%d/task/%d/children) %d 2>/dev/null"):format(s.pid, s.pid, s.pid))
    os.remove(s.script)
    os.remove(s.log)
    running[i] = nil
  end
end)

-- status, body, headers
function Server:get(path, headers)
  local s = assert(mx.tcp("127.0.0.1", tonumber(self.port), { timeout = 60 }))
  if not path:find "^/" then path = "/debug/pprof/" .. path end
  s:send(("GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n"):format(path, headers or ""))
  local text = assert(s:receive "*a")
  s:close()
  local status, head, body = text:match "^HTTP/1.1 (%d+)[^\r\n]*\r\n(.-\r\n)\r\n(.*)$"
  return tonumber(status), body, head
end

function Server:text(path)
  local status, body, head = self:get(path)
  assert.matches("Content%-Type: text/plain", head)
  return { status, body }
end

local function parsed(bytes)
  local p = file.new()
  assert(p:add(bytes))
  return p
end

function Server:profile(path)
  local status, body, head = self:get(path)
  assert.equal(200, status, body)
  assert.matches("Content%-Type: application/octet%-stream", head)
  return parsed(body), body
end

local function shown(p) return p.types[p:type_called()].type end

-- What the samples of a type have, in which a function of the name is, with the labels.
local function sum(p, type, name, labels)
  local number, total = assert(p:type_called(type)), 0
  p:each({ labels = labels, focus = name }, function(_, _, values) total = total + tonumber(values[number - 1]) end)
  return total
end

-- What it is before gzip: its comments are in there as they are.
local function plain(bytes)
  local path = os.tmpname() .. ".gz"
  local f = assert(io.open(path, "wb"))
  f:write(bytes)
  f:close()
  local text = cli.shell("gzip -dc " .. path)
  os.remove(path)
  return text
end

describe("/debug/pprof/", function()
  it("says what there is", function()
    local s = serve()
    local text = s:text ""
    assert.equal(200, text[1])
    for _, name in ipairs { "allocs", "cmdline", "heap", "profile", "symbol", "tasks", "wait" } do
      assert.is_truthy(text[2]:find("/debug/pprof/" .. name .. "\n", 1, true), name)
    end
    assert.equal(404, (s:get "goroutine"))
  end)

  it("profile has the processor time of so many seconds, at the rate that is asked for", function()
    local s = serve()
    local p, bytes = s:profile "profile?seconds=0.5&hz=400"
    assert.equal("cpu", shown(p))
    assert.is_true(sum(p, "cpu", "burn") > 0)
    assert.is_true(tonumber(p.summary.duration_ns) >= 0.5e9)
    assert.is_truthy(plain(bytes):find("hz 400", 1, true))
  end)

  it("heap has what is held, allocs what was allocated; gc=1 collects first", function()
    local s = serve()
    eventually(function() return sum(s:profile "heap", "inuse_space", "remember") > 5e6 end)
    local held, all = s:profile "heap?gc=1", s:profile "allocs"
    assert.same({ "inuse_space", "alloc_space" }, { shown(held), shown(all) })
    assert.is_true(sum(held, "inuse_space", "remember") > 5e6)
    assert.is_true(sum(all, "alloc_space", "remember") >= sum(held, "inuse_space", "remember"))
  end)

  it("heap?seconds has what grew meanwhile", function()
    local s = serve("", [[
      local function before() for i = 1, 200 do mx.state[i] = ("y"):rep(100000) .. i end end
      before()
    ]])
    eventually(function() return sum(s:profile "heap?gc=1", "inuse_space", "before") > 5e6 end) -- no garbage left to shrink by
    local p = s:profile "heap?seconds=0.2"
    assert.equal(0, sum(p, "inuse_space", "before"))
    assert.is_true(tonumber(p.summary.duration_ns) >= 0.2e9)
  end)

  it("wait has what was waited for, in so many seconds or since somebody began", function()
    local s = serve()
    local p = s:profile "wait?seconds=0.3"
    assert.equal("delay", shown(p))
    assert.is_true(sum(p, "contentions", "nap") > 0 and sum(p, "delay", "nap") >= 0.001e9)
    assert.is_true(sum(p, "contentions", "sleep") >= sum(p, "contentions", "nap"))
    local begun = serve("", "mx.profile.start { 'wait' }\n")
    eventually(function() return sum(begun:profile "wait", "contentions", "nap") > 5 end)
  end)

  it("tasks has those that live by their stacks, and as text", function()
    local s = serve()
    local p = s:profile "tasks"
    assert.equal("tasks", shown(p))
    assert.is_true(sum(p, "tasks") >= 2 and sum(p, "tasks", "sleep") >= 1)
    local text = s:text "tasks?debug=1"
    assert.equal(200, text[1])
    assert.matches("^%d+ tasks\n", text[2])
    assert.matches("1 × sleep: stack traceback:\n.-in function 'sleep'", text[2])
  end)

  it("cmdline and symbol are as go tool pprof wants them", function()
    local s = serve()
    local words = {}
    for word in s:text "cmdline"[2]:gmatch "[^%z]+" do words[#words + 1] = word end
    assert.same({ MXRUN, "-u", "mem://" }, { words[1], words[2], words[3] })
    assert.same({ 200, "num_symbols: 0\n" }, s:text "symbol")
  end)

  it("refuses numbers that are none, or too large", function()
    local s = serve()
    for query, answer in pairs {
      ["profile?seconds=soon"] = "seconds=soon: expected a number from 0.1 to 3600\n",
      ["heap?seconds=0"] = "seconds=0: expected a number from 0.1 to 3600\n",
      ["wait?seconds=1e9"] = "seconds=1e9: expected a number from 0.1 to 3600\n",
      ["profile?seconds=-1"] = "seconds=-1: expected a number from 0.1 to 3600\n",
      ["profile?seconds=nan"] = "seconds=nan: expected a number from 0.1 to 3600\n",
      ["profile?seconds=1&hz=5000"] = "hz=5000: expected a number from 1 to 1000\n",
      ["tasks?debug=9"] = "debug=9: expected a number from 0 to 2\n",
      ["heap?seconds=%3cscript%3e"] = "seconds=?3cscript?3e: expected a number from 0.1 to 3600\n",
    } do
      assert.same({ 400, answer }, s:text(query), query)
    end
    assert.equal(200, (s:get "heap?secondss=x&gc=no"))
  end)

  it("serves several at once, while /live answers", function()
    local s = serve()
    local results, asked = {}, {}
    for i, path in ipairs { "profile?seconds=1", "profile?seconds=0.5", "wait?seconds=0.5", "heap?seconds=0.5", "allocs" } do
      asked[i] = mx.spawn(function() results[i] = s:profile(path) end)
    end
    assert.equal(200, (s:get "/live"))
    for _, t in ipairs(asked) do assert(t:wait()) end
    local names = {}
    for i, p in ipairs(results) do names[i] = shown(p) end
    assert.same({ "cpu", "cpu", "delay", "inuse_space", "alloc_space" }, names)
    assert.is_true(sum(results[1], "cpu", "burn") > sum(results[2], "cpu", "burn"))
  end)

  it("forgets a client that leaves, and serves the next", function()
    local s = serve()
    local sock = assert(mx.tcp("127.0.0.1", tonumber(s.port)))
    sock:send "GET /debug/pprof/profile?seconds=1 HTTP/1.1\r\nHost: x\r\n\r\n"
    sock:close()
    assert.is_true(sum(s:profile "profile?seconds=0.5", "cpu", "burn") > 0)
  end)

  it("asks for the token", function()
    local s = serve("", "", "MXRUN_HTTP_TOKEN=s3cret")
    for _, path in ipairs { "", "heap", "profile?seconds=0.1", "cmdline" } do
      assert.equal(401, (s:get(path)))
      assert.equal(401, (s:get(path, "Authorization: Bearer wrong\r\n")))
      assert.equal(200, (s:get(path, "Authorization: Bearer s3cret\r\n")))
    end
  end)
end)

describe("/debug/pprof/ of mxrun -w", function()
  it("puts the workers together, or takes one", function()
    local s = serve "-w 2"
    local both, one = s:profile "wait?seconds=0.5", s:profile "wait?seconds=0.3&worker=1"
    for worker = 1, 2 do assert.is_true(sum(both, "contentions", "nap", { worker = tostring(worker) }) > 0, worker) end
    assert.is_true(sum(one, "contentions", "nap", { worker = "1" }) > 0)
    assert.equal(0, sum(one, "contentions", "nap", { worker = "2" }))
    assert.same({ 404, "there is no such worker\n" }, s:text "heap?worker=9")
  end)

  it("says what each says when it is text", function()
    local s = serve "-w 2"
    local text = s:text "tasks?debug=1"
    assert.equal(200, text[1])
    assert.matches("worker 1\n%d+ tasks\n", text[2])
    assert.matches("worker 2\n%d+ tasks\n", text[2])
    text = s:text "profile?seconds=soon"
    assert.equal(400, text[1])
    assert.matches("worker 2\nseconds=soon: expected a number", text[2])
  end)

  it("has what the others say when one is killed meanwhile, and says who is missing", function()
    local s = serve("-w 2", [[
      io.stderr:write(("worker %d is %d\n"):format(mx.worker.number, io.open "/proc/self/stat":read "*n"))
    ]])
    local pid
    eventually(function()
      pid = cli.read(s.log):match "worker 1 is (%d+)"
      return pid
    end)
    local p, bytes
    local asked = mx.spawn(function() p, bytes = s:profile "wait?seconds=2" end)
    mx.sleep(0.5)
    os.execute("kill -KILL " .. pid)
    assert(asked:wait())
    assert.is_true(sum(p, "contentions", "nap", { worker = "2" }) > 0)
    assert.equal(0, sum(p, "contentions", "nap", { worker = "1" }))
    assert.is_truthy(plain(bytes):find("worker 1 is missing: it gave no answer", 1, true))
    eventually(function() return sum(s:profile "wait?seconds=0.2", "contentions", "nap", { worker = "1" }) > 0 end)
  end)
end)
