-- --http: what it answers, to whom, and that no client keeps the loop from turning.
local cli = dofile "spec/cli/run.lua"
local exposition = dofile "spec/lua/exposition.lua"
local MXRUN = os.getenv "MXRUN" or "build/mxrun"

local function eventually(f) return mx.test.eventually(f, 20) end

local Server = {}
Server.__index = Server
local running = {}

-- A script that serves on a free port.
local function serve(code, options, environment)
  local script, log = cli.file(code), os.tmpname()
  local line = ("MXRUN_URLS= %s %s -u %s --http 127.0.0.1:0 %s %s </dev/null >%s 2>&1 & echo $!")
    :format(environment or "", MXRUN, options and options.url or "mem://", options and options.more or "", script, log)
  local p = io.popen(line)
  local self = setmetatable({ pid = p:read "*n", log = log, script = script }, Server)
  p:close()
  running[#running + 1] = self
  eventually(function()
    self.port = cli.read(log):match "http=127.0.0.1:(%d+)"
    return self.port
  end)
  return self
end

function Server:kill(signal) os.execute(("kill -%s %d 2>/dev/null"):format(signal, self.pid)) end

after_each(function()
  for i, s in ipairs(running) do
    s:kill "KILL"
    os.remove(s.script)
    os.remove(s.log)
    running[i] = nil
  end
end)

-- status, body, headers as text | nil, err
function Server:get(path, headers, method, timeout)
  local s, e = mx.tcp("127.0.0.1", tonumber(self.port), { timeout = timeout or 20 })
  if not s then return nil, e end
  s:send(("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n"):format(method or "GET", path, headers or ""))
  local text
  text, e = s:receive "*a"
  s:close()
  if not text then return nil, e end
  local status, head, body = text:match "^HTTP/1.1 (%d+)[^\r\n]*\r\n(.-\r\n)\r\n(.*)$"
  return tonumber(status), body, head
end

-- { status, body }
function Server:says(...)
  local status, body = self:get(...)
  return { status, body }
end

function Server:health()
  local status, body = self:get "/health"
  local report = assert(mx.json.decode(body))
  return status, report
end

local WAITS = "mx.after(300, function() end)"

describe("--http", function()
  it("answers /live, /ready, /health and /metrics", function()
    local s = serve("mx.health('mine', { every = 0.01 }, function() return 'degraded', 'so so' end) mx.counter('x_total'):inc()\n" .. WAITS)
    assert.same({ 200, "ok\n" }, s:says "/live")
    assert.same({ 200, "ready\n" }, s:says "/ready")
    eventually(function() return select(2, s:health()).status == "degraded" end)
    local status, report = s:health()
    assert.same({ 200, "degraded", "so so" }, { status, report.checks.mine.status, report.checks.mine.message })
    assert.is_true(report.checks.mine.since > 1e9)
    local code, text, head = s:get "/metrics"
    assert.equal(200, code)
    assert.matches("Content%-Type: text/plain; version=0.0.4; charset=utf%-8", head)
    local all = exposition(text)
    assert.same({ 1, 1 }, { all.x_total, all['mxrun_health_status{check="mine"}'] })
    code, text, head = s:get("/metrics", "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n")
    assert.equal(200, code)
    assert.matches("Content%-Type: application/openmetrics%-text; version=1.0.0", head)
    assert.equal(1, exposition(text, true).x_total)
  end)

  it("says what promtool has nothing against", function()
    if os.execute "command -v promtool >/dev/null" ~= 0 then return end
    local s = serve("mx.counter('x_total', 'help', { 'a' }):inc(1, 'b') mx.histogram('y_seconds'):observe(1)\n" .. WAITS)
    local path = cli.file(select(2, s:get "/metrics"))
    local out, code = cli.shell("promtool check metrics <" .. path .. " 2>&1")
    os.remove(path)
    assert.same({ "", 0 }, { out, code })
  end)

  it("answers 404, 405 and HEAD as HTTP has them", function()
    local s = serve(WAITS)
    assert.same({ 404, "there is /debug/pprof/, /health, /live, /metrics, /ready\n" }, s:says "/nothing?x=1")
    assert.same({ 405, "GET or HEAD\n" }, s:says("/live", "Content-Length: 3\r\n", "POST"))
    assert.same({ 200, "" }, s:says("/health", "", "HEAD"))
  end)

  it("asks for the token when there is one, and is never without where it is not loopback", function()
    for _, how in ipairs { { "", "MXRUN_HTTP_TOKEN=s3cret" }, { "--http-token-file %s", "" } } do
      local file = cli.file "s3cret\n"
      local s = serve(WAITS, { more = how[1]:format(file) }, how[2])
      for _, path in ipairs { "/live", "/metrics" } do
        assert.equal(401, (s:get(path)))
        assert.equal(401, (s:get(path, "Authorization: Bearer s3cre\r\n")))
        assert.equal(401, (s:get(path, "Authorization: Bearer s3cret1\r\n")))
        assert.equal(401, (s:get(path, "Authorization: Basic s3cret\r\n")))
        assert.equal(200, (s:get(path, "Authorization: Bearer s3cret\r\n")))
      end
      os.remove(file)
    end
    local text, code = cli.both "-u mem:// --http 0.0.0.0:0 -e 'print(1)'"
    assert.equal(2, code)
    assert.equal("mxrun: --http 0.0.0.0:0: everybody could ask there: give a token, MXRUN_HTTP_TOKEN or --http-token-file\n", text)
    text, code = cli.both("-u mem:// --log-level warn --http 0.0.0.0:0 -e 'print(1)'", "MXRUN_HTTP_TOKEN=x")
    assert.same({ "1\n", 0 }, { text, code })
    text, code = cli.both "-u mem:// --http 0 --http-token-file /nowhere -e 'print(1)'"
    assert.equal(2, code)
    assert.matches("^mxrun: %-%-http%-token%-file /nowhere: it cannot be read", text)
  end)

  it("refuses what is no address, and says when it is taken", function()
    for _, address in ipairs { "''", "x", "host.name:80", "127.0.0.1:", "127.0.0.1:70000", "::1:80", "127.0.0.1:8o" } do
      local text, code = cli.both(("-u mem:// --http=%s -e 'print(1)'"):format(address))
      assert.equal(2, code, address)
      assert.matches("expected host:port such as 127.0.0.1:8080", text)
    end
    local s = serve(WAITS)
    local text, code = cli.both(("-u mem:// --http %s -e 'print(1)'"):format(s.port))
    assert.same({ ("mxrun: --http %s: Address already in use\n"):format(s.port), 1 }, { text, code })
    assert.equal("1\n", (cli.both "-u mem:// --log-level warn --http '[::1]:0' -e 'print(1)'"))
    assert.equal("1\n", (cli.both("-u mem:// --log-level warn -e 'print(1)'", "MXRUN_HTTP=localhost:0")))
  end)

  it("does not keep a script that has ended, and answers while it drains", function()
    local s = serve([[
      mx.topology { queues = { q = {} } }
      mx.consume("q", function() mx.sleep(1) while not io.open(mx.config.go) do mx.sleep(0.01) end end)
      mx.publish("", "q", "x")
    ]], { more = "--set go=" .. os.tmpname() .. ".go" })
    local go = cli.read("/proc/" .. s.pid .. "/cmdline"):match "go=(%S-)%z"
    eventually(function() return (s:get "/ready") == 200 end)
    s:kill "TERM"
    eventually(function() return (s:get "/ready") == 503 end)
    assert.same({ 503, "mxrun is stopping\n" }, s:says "/ready")
    assert.equal(200, (s:get "/live"))
    os.execute("touch " .. go)
    eventually(function() return not s:get "/live" end)
    os.remove(go)
  end)

  it("has no /live while Lua is stuck, for it is the loop that answers", function()
    local s = serve("mx.after(0.01, function() while true do end end)\n" .. WAITS, { more = "--turn-limit 3" })
    eventually(function() return not s:get("/live", "", "GET", 0.2) end)
    eventually(function() return (s:get "/live") == 200 end)               -- the turn limit has ended it
  end)

  it("gives up on an answer that takes too long, and tells when a path fails", function()
    local s = serve([[
      local http = require "mx.http"
      http.paths["/slow"] = function() mx.test.clock():advance(11) mx.sleep(3600) end
      http.paths["/bad"] = function() error "no" end
      http.paths["/query"] = function(q) return 200, "text/plain", q.path .. " " .. q.query end
    ]] .. WAITS)
    assert.equal(500, (s:get "/bad"))
    assert.same({ 200, "/query a=1&b" }, s:says "/query?a=1&b")
    assert.same({ 503, "no answer in time\n" }, s:says "/slow")
    assert.equal(200, (s:get "/live"))
    assert.matches("answering over HTTP failed", cli.read(s.log))
  end)

  it("goes on with clients that say nothing, half of it, too much or go away", function()
    local s = serve([[
      require "mx.http".paths["/slow"] = function() mx.sleep(0.5) return 200, "text/plain", "x" end
      require "mx.http".paths["/big"] = function() return 200, "text/plain", ("x"):rep(3e7) end
    ]] .. WAITS)
    local open = {}
    for i = 1, 20 do
      open[i] = assert(mx.tcp("127.0.0.1", tonumber(s.port)))
      open[i]:send(({ "GET /", "GET /live HTTP/1.1\r\nHost: x\r\nX: ", "GET /big HTTP/1.1\r\nHost: x\r\n\r\n", "" })[i % 4 + 1])
    end
    for _ = 1, 20 do
      local c = assert(mx.tcp("127.0.0.1", tonumber(s.port)))
      c:send "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
      c:close()
    end
    assert.equal(431, (s:get("/live", "X: " .. ("y"):rep(20000) .. "\r\n")))
    assert.equal(200, (s:get "/live"))
    assert.equal(200, (s:get "/slow"))
    for _, c in ipairs(open) do c:close() end
  end)

  it("takes 64 connections at once, and the next when one goes", function()
    local s, open = serve(WAITS), {}
    for i = 1, 64 do
      open[i] = assert(mx.tcp("127.0.0.1", tonumber(s.port)))
      open[i]:send "GET /live HTTP/1.1\r\nHost: x\r\n\r\n"
      assert.matches("200 OK", open[i]:receive "*l")
    end
    assert.is_nil(s:get("/live", "", "GET", 0.3))
    for _, c in ipairs(open) do c:close() end
    eventually(function() return (s:get "/live") == 200 end)
  end)
end)

if not cli.amqp then return end

describe("--http on RabbitMQ", function()
  it("tells of a broker that is gone, and that it is back", function()
    local file = os.tmpname()
    local proxy = io.popen(("spec/fault/proxy --to %s --port-file %s 2>/dev/null"):format(cli.amqp:match ":(%d+)[^:]*$", file), "w")
    local function order(...)
      proxy:write(table.concat({ ... }, "\n"), "\n")
      proxy:flush()
    end
    local port = eventually(function() return tonumber(cli.read(file)) end)
    local q = cli.name "http"
    local s = serve(([[
      mx.health.connections { min = 1 }
      mx.queue("%s", { durable = false })
      mx.consume("%s", function() end)
    ]]):format(q, q), { url = cli.amqp:gsub(":%d+([^:]*)$", ":" .. port .. "%1") })
    local function both(code) return (s:get "/ready") == code and (s:get "/health") == code and (s:get "/live") == 200 end
    eventually(function() return both(200) end)
    order("refuse", "kill rst")
    eventually(function() return both(503) end)
    local _, report = s:health()
    assert.equal("0 connections are open, 1 should be", report.checks.connections.message)
    order "accept"
    eventually(function() return both(200) end)
    s:kill "TERM"
    proxy:close()
    os.remove(file)
    local c = assert(mx.connect { url = cli.amqp })
    c:delete_queue(q)
    c:close()
  end)
end)
