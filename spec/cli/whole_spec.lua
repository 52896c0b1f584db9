-- --http of mxrun -w: it is opened once, and what it says is of all workers.
local cli = dofile "spec/cli/run.lua"
local exposition = dofile "spec/lua/exposition.lua"
local MXRUN = os.getenv "MXRUN" or "build/mxrun"

local function eventually(f) return mx.test.eventually(f, 30) end

local running = {}
local Whole = {}
Whole.__index = Whole

-- Two workers that run the code and then wait for ever.
local function start(code, options)
  local script, log = cli.file(code .. "\nmx.every(60, function() end)"), os.tmpname()
  local word = os.tmpname()
  local p = io.popen(("MXRUN_URLS= %s -w 2 -u mem:// --http 127.0.0.1:0 --set word=%s %s %s </dev/null >%s 2>&1 & echo $!")
    :format(MXRUN, word, options or "", script, log))
  local self = setmetatable({ pid = p:read "*n", log = log, script = script, word = word }, Whole)
  p:close()
  running[#running + 1] = self
  eventually(function()
    self.port = cli.read(log):match "http=127.0.0.1:(%d+)"
    return self.port
  end)
  eventually(function() return cli.read(log):find "all workers are up" end)
  return self
end

function Whole:signal(name, pid) os.execute(("kill -%s %d 2>/dev/null"):format(name, pid or self.pid)) end

function Whole:workers()
  local list = {}
  for pid in cli.read(("/proc/%d/task/%d/children"):format(self.pid, self.pid)):gmatch "%d+" do list[#list + 1] = tonumber(pid) end
  return list
end

function Whole:get(path, headers)
  local s = mx.tcp("127.0.0.1", tonumber(self.port), { timeout = 20 })
  if not s then return nil end
  s:send(("GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n"):format(path, headers or ""))
  local text = s:receive "*a"
  s:close()
  if not text then return nil end
  local status, body = text:match "^HTTP/1.1 (%d+).-\r\n\r\n(.*)$"
  return tonumber(status), body
end

function Whole:says(path)
  local status, body = self:get(path)
  return { status, body }
end

function Whole:metrics() return exposition(select(2, self:get "/metrics")) end

function Whole:health()
  local status, body = self:get "/health"
  return status, assert(mx.json.decode(body))
end

-- The worker of that number finds a file, see TROUBLE.
function Whole:trouble(number) os.execute("touch " .. self.word .. "." .. number) end

after_each(function()
  for i, w in ipairs(running) do
    for _, pid in ipairs(w:workers()) do w:signal("CONT", pid) end
    w:signal "KILL"
    os.execute("rm -f " .. table.concat({ w.script, w.log, w.word, w.word .. ".*" }, " "))
    running[i] = nil
  end
end)

local TROUBLE = "local function in_trouble() return io.open(mx.config.word .. '.' .. mx.worker.number) ~= nil end\n"

describe("--http of several workers", function()
  it("is opened once, by the supervisor, and its numbers are the sums", function()
    local w = start [[
      mx.counter("x_total", "of x", { "a" }):inc(mx.worker.number, "b")
      mx.gauge("level", function() return 10 end)
      mx.histogram("h_seconds"):observe(mx.worker.number)
      assert(mx.queue "q")
      mx.consume("q", function() end)
      for _ = 1, mx.worker.number do assert(mx.publish("", "q", "x")) end
    ]]
    assert.equal(1, select(2, cli.read(w.log):gsub("serving /live /ready /health /metrics", "")))
    local want = { ['x_total{a="b"}'] = 3, level = 20, h_seconds_count = 2, h_seconds_sum = 3, ['messaging_consume_total{queue="q"}'] = 3,
                   messaging_publish_total = 3, ['mxrun_workers{state="up"}'] = 2, mxrun_worker_restarts_total = 0, mxrun_consumers = 2 }
    local got
    eventually(function()
      local all = w:metrics()
      got = {}
      for name in pairs(want) do got[name] = all[name] end
      return pcall(assert.same, want, got)
    end)
    assert.same(want, got)
    local all = w:metrics()
    for n = 1, 2 do assert.is_true(all[('mxrun_uptime_seconds{worker="%d"}'):format(n)] > 0) end
    local _, text = w:get("/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n")
    assert.equal(3, exposition(text, true)['x_total{a="b"}'])
    assert.same({ 404, "there is /debug/pprof/, /health, /live, /metrics, /ready\n" }, w:says "/nothing")
    assert.same({ 200, "ok\n" }, w:says "/live")
    eventually(function() return (w:get "/ready") == 200 end)
    w:signal "TERM"
    eventually(function() return not w:get "/live" end)
    assert.is_nil(cli.read(w.log):find "error")
  end)

  it("keeps what a worker counted that was killed, but none of its gauges", function()
    local w = start [[
      mx.counter "x_total":inc(5)
      mx.histogram "h_seconds":observe(1)
      mx.gauge "level":set(1)
    ]]
    for kills = 1, 3 do
      w:signal("KILL", w:workers()[1])
      local all                                          -- the new one sets one after the other
      eventually(function()
        all = w:metrics()
        return all.x_total == 10 + 5 * kills and all.level == 2
      end)
      assert.same({ 2, 2 + kills, kills }, { all.level, all.h_seconds_count, all.mxrun_worker_restarts_total })
    end
  end)

  it("keeps what a worker counted that ended, in order or with an error", function()
    local w = start(TROUBLE .. [[
      mx.counter "x_total":inc(5)
      mx.histogram "h_seconds":observe(1)
      assert(mx.publish("", assert(mx.queue "q"), "x"))
      mx.every(0.05, function() if mx.worker.number == 1 and in_trouble() then mx.stop() end end)
      while mx.worker.number == 2 do
        mx.sleep(0.05)
        if in_trouble() and os.remove(mx.config.word .. ".2") then error "so bad" end
      end
    ]])
    w:trouble(1)
    eventually(function() return w:metrics()['mxrun_workers{state="ended"}'] == 1 end)
    local all = w:metrics()
    assert.same({ 10, 2 }, { all.x_total, all.h_seconds_count })
    eventually(function() return w:metrics().messaging_publish_total == 2 end)
    eventually(function() return (w:get "/ready") == 200 end)
    assert.equal(200, (w:get "/health"))
    w:trouble(2)
    eventually(function() return w:metrics().x_total == 15 end)
    assert.equal(3, w:metrics().h_seconds_count)
  end)

  it("does not let sums fall while a worker is down", function()
    local w = start "mx.counter 'x_total':inc(5) if io.open(mx.config.word .. '.broken') then os.exit(7) end"
    w:trouble "broken"
    w:signal("KILL", w:workers()[1])
    local last = 0
    eventually(function()
      local all = w:metrics()
      assert.is_true(all.x_total >= last)
      last = all.x_total
      return all['mxrun_workers{state="down"}'] == 1 and all.mxrun_worker_restarts_total >= 3
    end)
    assert.is_true(last >= 20)
    local status, body = w:get "/ready"
    assert.equal(503, status)
    assert.matches("^worker 1: ", body)
  end)

  it("is unhealthy when one worker is, and tells which", function()
    local w = start(TROUBLE .. [[
      mx.health("mine", { every = 0.05, fail_after = 1 }, function() if in_trouble() then return "unhealthy", "so bad" end end)
    ]])
    eventually(function()
      local status, report = w:health()
      return status == 200 and report.status == "healthy" and report.workers[2].checks.mine.status == "healthy"
    end)
    w:trouble(2)
    eventually(function() return (w:health()) == 503 end)
    local _, report = w:health()
    assert.same({ "unhealthy", 1, "healthy", 2, "unhealthy", "so bad" },
                { report.status, report.workers[1].number, report.workers[1].status, report.workers[2].number, report.workers[2].status,
                  report.workers[2].checks.mine.message })
    assert.equal(1, report.workers[2].summary.unhealthy)
    local all = w:metrics()
    assert.same({ 0, 2 }, { all['mxrun_health_status{worker="1",check="mine"}'], all['mxrun_health_status{worker="2",check="mine"}'] })
  end)

  it("tells of a report that is too long, or no JSON, what there is room for", function()
    local w = start [[
      mx.health("long", { every = 0.05, fail_after = 1 }, function() return "degraded", ("x"):rep(20000) end)
    ]]
    eventually(function()
      local status, report = w:health()
      return status == 200 and report.status == "degraded" and report.workers[2].missing == "the checks are too long"
    end)
  end)

  it("is ready when every worker is", function()
    local w = start(TROUBLE .. [[
      local function look()
        if in_trouble() then return mx.connect { url = "amqp://127.0.0.1:1" } end
        mx.after(0.05, look)
      end
      look()
    ]])
    eventually(function() return (w:get "/ready") == 200 end)
    w:trouble(1)
    eventually(function() return (w:get "/ready") == 503 end)
    assert.matches("^worker 1: amqp://[^ ]+ no connection to %l+\n$", (select(2, w:get "/ready")))
    assert.equal(200, (w:get "/live"))
  end)

  it("is not live while the loop of one stands still", function()
    local w = start("", "--turn-limit 0")
    assert.same({ 200, "ok\n" }, w:says "/live")
    local stopped = w:workers()[1]
    w:signal("STOP", stopped)
    eventually(function() return (w:get "/live") == 503 end)
    assert.same({ 503, "worker 1: its loop does not turn\n" }, w:says "/live")
    assert.same({ 503, "worker 1: stuck\n" }, w:says "/ready")
    assert.equal("stuck", select(2, w:health()).workers[1].state)
    w:signal("CONT", stopped)
    eventually(function() return (w:get "/live") == 200 end)
  end)

  it("ends mxrun before any worker when it cannot be opened", function()
    local text, code = cli.both "-w 2 -u mem:// --http 0.0.0.0:0 -e 'print(1)'"
    assert.same({ "mxrun: --http 0.0.0.0:0: everybody could ask there: give a token, MXRUN_HTTP_TOKEN or --http-token-file\n", 2 },
                { text, code })
    local w = start ""
    text, code = cli.both(("-w 2 -u mem:// --http %s -e 'print(1)'"):format(w.port))
    assert.same({ ("mxrun: --http %s: Address already in use\n"):format(w.port), 1 }, { text, code })
  end)

  it("does not keep workers that have ended, and asks for the token", function()
    local text, code = cli.both("-w 2 -u mem:// --log-level warn --http 0 -e 'print(1)'", "MXRUN_HTTP_TOKEN=x")
    assert.same({ "1\n1\n", 0 }, { text, code })
    local file = cli.file "s3cret\n"
    local w = start("", "--http-token-file " .. file)
    assert.equal(401, (w:get "/live"))
    assert.equal(200, (w:get("/live", "Authorization: Bearer s3cret\r\n")))
    os.remove(file)
  end)
end)
