-- mxrun bench: what it measures and says, on mem:// and on RabbitMQ, also behind a proxy that misbehaves.
local cli = dofile "spec/cli/run.lua"
local json = require "mx.json"

-- The result of a run, its exit code and what it printed. Whether the machine was busy decides nothing here: then it is 3.
local function bench(arguments, before)
  local path = os.tmpname()
  local out, code, err = cli.shell(("%s \"$MXRUN\" bench --json %s %s"):format(before or "", path, arguments))
  local text = cli.read(path)
  os.remove(path)
  local r = text ~= "" and assert(json.decode(text)) or nil
  return r, code, out .. err
end

-- A run that must come to an end in order.
local function fine(arguments)
  local r, code, text = bench(arguments)
  assert.is_true(code == 0 or code == 3, text)
  return r, text
end

local function delete(queue)
  if not cli.amqp then return end
  local c = assert(mx.connect { url = cli.amqp })
  c:delete_queue(queue)
  c:close()
end

local brokers = { ["mem://"] = "mem://" }
if cli.amqp then brokers.RabbitMQ = cli.amqp end

for name, url in pairs(brokers) do
  describe("mxrun bench on " .. name, function()
    local function run(arguments) return fine("-u " .. url .. " " .. arguments) end

    it("sends what the rate asks for, and all of it arrives once", function()
      local queue = cli.name "bench"
      local r = run("-x 2 -y 2 -r 200 -z 1 --queue " .. queue)
      assert.same({ 400, 400, 400 }, { r.publish.count, r.consume.count, r.verify.expected })
      assert.same({ 0, 0, 0, 0 }, { r.verify.lost, r.verify.duplicated, r.publish.errors, r.publish.unsent })
      assert.is_true(r.publish.rate > 40 and r.publish.rate < 420, r.publish.rate)  -- a busy machine may take its time
      for _, latency in ipairs { r.publish.confirm, r.publish.confirm.raw, r.e2e, r.e2e.raw } do
        assert.equal(400, latency.count)
        assert.is_true(latency.p50 > 0 and latency.p50 <= latency.p99 and latency.p99 <= latency.max)
      end
      assert.is_true(r.e2e.raw.p50 <= r.e2e.p50 * 1.01)
      assert.is_true(r.cpu.us_per_message > 0 and r.memory.peak_rss > 1e6 and r.generator.lag_p99 > 0)
      assert.is_true(#r.series >= 1 and #r.histograms.e2e > 0 and r.system.cpus > 0)
    end)

    it("goes as fast as it can without a rate, and says nothing of the generator", function()
      local r, _ = run("-x 2 -y 2 -z 0.5 --queue " .. cli.name "bench")
      assert.is_true(r.publish.count > 100)
      assert.same({ "ok", 0, 0 }, { r.verdict, r.verify.lost, r.verify.duplicated })
      assert.is_nil(r.generator)
    end)

    it("carries its stamp in a header when the body is too small for it", function()
      local r = run("-r 100 -z 1 -s 3 --queue " .. cli.name "bench")
      assert.same({ 100, 100, 0, 0 }, { r.e2e.count, r.consume.count, r.verify.lost, r.verify.strange })
    end)

    it("publishes as often as it is told, to as many queues", function()
      local base = cli.name "bench"
      local r = run(("-x 3 -y 3 -C 50 -z 20 -qp %s-%%d -qpt 3"):format(base))
      assert.same({ 150, 150, 0 }, { r.publish.count, r.consume.count, r.verify.lost })
    end)

    it("measures without confirms, and with persistent messages", function()
      local r = run("-r 100 -z 1 --no-confirm -f persistent --queue " .. cli.name "bench")
      assert.same({ 100, 0, 100, 0 }, { r.publish.count, r.publish.confirm.count, r.e2e.count, r.verify.lost })
    end)

    it("plays a script: sizes, bodies, options, a handler, set-up and end", function()
      local queue = cli.name "bench"
      local path = cli.file(([[
        local seen = { set_up = 0, handled = 0, bodies = {} }
        return mx.workload {
          name = "all of it", topology = { queues = { [%q] = { durable = false, max_priority = 9 } } },
          producers = {
            { key = %q, size = { 10, 100 }, rate = 100 },
            { key = function() return %q end, body = function(i) return { id = i } end, rate = 50, count = 2,
              options = function(i) return { priority = i %% 9, headers = { kind = "json" } } end },
            { key = %q, body = "constant", rate = 10, arrival = "poisson", options = { expiration = 60 } },
          },
          consumers = { queue = %q, concurrency = 10, handler = function(msg)
            if msg.headers.kind then
              seen.bodies[msg.data.id] = msg.priority
              mx.sleep(0.001)
            end
            seen.handled = seen.handled + 1
          end },
          duration = 2, warmup = 0.5, verify = true,
          thresholds = { ["verify.lost"] = "== 0" },
          setup = function() seen.set_up = seen.set_up + 1 end,
          done = function(s)
            print(seen.set_up, seen.handled == s.verify.expected, #seen.bodies, seen.bodies[10], s.e2e:p(100) > 0)
          end,
        }]]):format(queue, queue, queue, queue, queue))
      local r, text = run(path)
      assert.matches("1\ttrue\t125\t1\ttrue\n", text)
      assert.equal("all of it", r.name)
      assert.same({ 0, 0 }, { r.verify.lost, r.verify.duplicated })
      assert.is_true(r.publish.count >= 300 and r.publish.count < r.verify.expected)
      assert.is_true(r.consume.handler.count > 0 and r.consume.handler.max >= 0.001)
      assert.same({ "verify.lost", true, 0 }, { r.thresholds[1].name, r.thresholds[1].ok, r.thresholds[1].value })
      os.remove(path)
      delete(queue)
    end)

    it("plays the workloads of the examples", function()
      for _, example in ipairs { "ramp", "soak", "fanout", "rpc", "priority" } do
        local r, text = fine(("-u %s --set seconds=0.5 --set rate=200 --set warmup=0.1 examples/workloads/%s.lua"):format(url, example))
        assert.equal(example, r.name)
        assert.is_true(r.publish.count > 25, text)
        for _, t in ipairs(r.thresholds) do
          if t.name == "verify.lost" then assert.is_true(t.ok, text) end
        end
      end
      for _, q in ipairs { "ramp", "soak", "fanout.audit", "fanout.billing", "fanout.search", "rpc", "priority" } do
        delete("bench." .. q)
      end
    end)
  end)
end

describe("mxrun bench", function()
  it("is generator-limited when it is asked for more than it can send", function()
    local r, code = bench "-u mem:// -z 1 -r 50000000"
    assert.same({ 3, "generator-limited" }, { code, r.verdict })
    assert.is_true(r.publish.unsent > 0 and r.publish.count > 0)
    -- what never left has waited, too
    assert.is_true(r.publish.confirm.count > r.publish.confirm.raw.count and r.publish.confirm.p50 > r.publish.confirm.raw.p50)
  end)

  it("exits 99 when a threshold is crossed, or had no samples", function()
    for _, case in ipairs {
      { '["publish.count"] = "< 10"', false, 20 }, { '["e2e.p99"] = "< 1h"', false }, { '["publish.count"] = "> 10"', true, 20 },
    } do
      local path = cli.file(([[
        return mx.workload { topology = { queues = { q = {} } }, duration = 1, producers = { key = "q", rate = 20 },
                             thresholds = { %s, odd = function() return true end } }]]):format(case[1]))
      local r, code = bench("-u mem:// " .. path)
      if r.verdict ~= "generator-limited" then assert.equal(case[2] and 0 or 99, code) end
      local t = r.thresholds[1].name == "odd" and r.thresholds[2] or r.thresholds[1]
      assert.same({ case[2], case[3] }, { t.ok, t.value })
      os.remove(path)
    end
  end)

  it("ends early at a threshold that says so, and at SIGINT", function()
    local path = cli.file [[
      return mx.workload { topology = { queues = { q = {} } }, producers = { key = "q", rate = 100 }, duration = 50,
                           thresholds = { ["publish.count"] = { "< 100", abort = true } } }]]
    local r, code = bench("-u mem:// " .. path)
    assert.is_true(code == 99 or code == 3)
    assert.equal("publish.count", r.aborted.name)
    assert.is_true(r.duration < 40 and r.thresholds[1].aborted)
    os.remove(path)
    r, code = bench("-u mem:// -r 100 -z 50 2>$log & pid=$!; until grep -q ' 1 s of' $log; do sleep 0.1; done; "
      .. "kill -INT $pid; wait $pid; code=$?; rm $log; exit $code; :", "log=$(mktemp);")
    assert.is_true(code == 0 or code == 3)
    assert.equal("signal", r.aborted.name)
    assert.is_true(r.duration < 40 and r.publish.count > 0 and r.verify.lost == 0)
  end)

  it("says what is wrong with its arguments", function()
    for line, expected in pairs {
      ["-u mem:// bench nowhere.lua"] = "bench: cannot open 'nowhere.lua'",
      ["-u mem:// bench examples/hello.lua"] = "hello.lua returns no workload; it has to end with: return mx.workload",
      ["-u mem:// bench -x 0 -y 0"] = "bench: no producers and no consumers",
      ["-u mem:// bench -f durable"] = "%-%-flag is persistent or mandatory, got 'durable'",
      ["-u mem:// bench -qp bench"] = "%-%-queue%-pattern wants a %%d in it, got 'bench'",
      ["-u mem:// bench -w 2"] = "%-w needs a broker that its processes can share",
      ["-u mem:// bench --rat 5"] = "unknown option '%-%-rat', did you mean '%-%-rate'%?",
      ["-u mem:// bench a b"] = "expected one FILE, got 2 words",
      ["-u mem:// bench -R 0"] = "%-%-consumer%-rate wants a number above 0",
      ["-u mem:// bench -R nan"] = "%-R wants a number, got 'nan'",
      ["-u mem:// bench -L inf"] = "%-L wants a number, got 'inf'",
      ["-u mem:// bench -x x"] = "%-x wants a whole number, got 'x'",
      ["-u mem:// bench --json /nowhere/at/all"] = "/nowhere/at/all",
      ["-u mem:// bench -s 1e12"] = "size': expected an integer from 0 to 536870912",
      ["-u mem:// bench -q 70000"] = "prefetch': expected an integer from 0 to 65535, got 70000",
      ["-u mem:// bench -e x -t fannout"] = "unknown type 'fannout', did you mean 'fanout'%?",
      ["-u mem:// bench -w some"] = "%-w wants auto or a number from 1 to 1024, got 'some'",
      ["-u mem:// -w 2 bench"] = "option %-w is for scripts, not for bench; it has its own, behind its name",
      ["bench"] = "no broker: give %-u amqp://… or %-u mem://",
    } do
      local _, code, why = cli.mxrun(line)
      assert.same({ 2, true }, { code, why:find(expected) ~= nil }, why)
    end
    local path = cli.file "return mx.workload { producers = { key = 'q', sise = 5 } }"
    local _, code, why = cli.mxrun("-u mem:// bench " .. path)
    assert.equal(1, code)
    assert.matches("%.lua:1: mx%.workload: producers: unknown option 'sise', did you mean 'size'%?", why)
    os.remove(path)
    path = cli.file "return mx.workload {\n topology = { queues = { q = { durabel = true } } }, producers = { key = 'q' } }"
    _, code, why = cli.mxrun("--check " .. path)
    assert.equal(1, code, why)
    _, code, why = cli.mxrun("-u mem:// bench " .. path)
    assert.equal(1, code)
    assert.matches("%.lua:1: mx%.queue: unknown option 'durabel', did you mean 'durable'%?", why)
    os.remove(path)
  end)

  it("ends when a function of the script raises", function()
    local path = cli.file [[return mx.workload { topology = { queues = { q = {} } }, duration = 20, producers = {
      key = "q", rate = 50, body = function(i) if i == 3 then error "no third" end return "x" end } }]]
    local csv = os.tmpname()
    os.remove(csv)
    local _, code, text = bench("-u mem:// --csv " .. csv .. " " .. path)
    assert.equal(1, code)
    assert.matches("mxrun bench: [^\n]*%.lua:2: no third\n", text)
    assert.is_nil(io.open(csv))                         -- nothing is left of what was to be written
    os.remove(path)
  end)

  it("keeps its hot loop compiled", function()
    local log = os.tmpname()
    local path = cli.file(([[
      require("jit.v").start(%q)
      return mx.workload { topology = { queues = { q = { durable = false } } }, producers = { key = "q", messages = 300000 },
                           consumers = { queue = "q" }, duration = 40 }]]):format(log))
    local r, code = bench("-u mem:// " .. path)
    assert.same({ 0, 300000 }, { code, r.consume.count })
    local compiled
    for line in io.lines(log) do
      assert.is_nil(line:match "producer%.lua:%d+ .*blacklisted.*" or line:match "schedule%.lua:%d+ .*blacklisted.*")
      compiled = compiled or line:match "producer%.lua:%d+ loop"
    end
    assert.is_truthy(compiled)
    os.remove(log)
    os.remove(path)
  end)

  it("keeps its memory however long it runs", function()
    local few = bench("-u mem:// -C 200000 -z 40", "ASAN_OPTIONS=quarantine_size_mb=1")
    local many = bench("-u mem:// -C 2000000 -z 40", "ASAN_OPTIONS=quarantine_size_mb=1")
    assert.same({ 200000, 2000000, 0 }, { few.consume.count, many.consume.count, many.verify.lost })
    assert.is_true(many.memory.peak_rss < few.memory.peak_rss + 16 * 1024 ^ 2)
  end)
end)

if not cli.amqp then return end

local function queue() return " --queue " .. cli.name "bench" end

-- Runs bench through the proxy, which gets its orders once the run has gone on for a second.
local function through_proxy(arguments, orders)
  local port = cli.amqp:match ":(%d+)[^:]*$"
  local url = cli.amqp:gsub(":%d+([^:]*)$", ":$(cat $dir/port)%1")
  local before = ([[
    dir=$(mktemp -d); mkfifo $dir/orders
    spec/fault/proxy --to %s --port-file $dir/port <$dir/orders & proxy=$!
    exec 3>$dir/orders
    until [ -e $dir/port ]; do sleep 0.05; done
    (until grep -q ' 1 s of' $dir/log 2>/dev/null; do sleep 0.02; done; %s) &
  ]]):format(port, orders)
  local after = ("-u %s %s 2>$dir/log; code=$?; exec 3>&-; cat $dir/log; wait $proxy; rm -r $dir; exit $code; :"):format(url, arguments)
  return bench(after, before)
end

describe("mxrun bench on a broker that", function()
  it("stops for a second shows it in what counts from the schedule, not in what counts from the send", function()
    local r, _, text = through_proxy("-r 1000 -c 8 -z 4" .. queue(), "echo freeze both >&3; sleep 1; echo calm >&3")
    for _, latency in ipairs { r.publish.confirm, r.e2e } do
      assert.is_true(latency.p99 >= 0.85, text)
      assert.is_true(latency.raw.p99 < latency.p99 / 2, text)
    end
    assert.same({ 4000, 0 }, { r.publish.count, r.verify.lost })
    assert.matches("from the real send", text)
  end)

  it("is slow is not taken for a slow generator", function()
    local r, code, text
    for _ = 1, 3 do                                       -- on a machine that stood still meanwhile the verdict is another, rightly
      r, code, text = through_proxy("-r 2000 -z 3 -s 1000" .. queue(), "echo rate 100000 >&3; sleep 2.5; echo calm >&3")
      if code == 0 then break end
    end
    assert.same({ 0, "ok" }, { code, r.verdict }, text)
    assert.is_true(r.generator.busy < 0.5 and r.publish.confirm.p99 > 0.5, text)
  end)

  local LOSE = "echo freeze up >&3; sleep 0.5; echo kill rst >&3; echo calm >&3"

  it("loses its connection loses messages without confirms, which is counted", function()
    local r, _, text = through_proxy("-r 500 -z 4 --no-confirm" .. queue(), LOSE)
    assert.is_true(r.verify.lost > 0 and r.verify.lost < r.verify.expected, text)
  end)

  it("loses its connection loses none with confirms", function()
    local r, _, text = through_proxy("-r 500 -z 4 -ad false -f persistent" .. queue(), LOSE)
    assert.same({ 2000, 0 }, { r.verify.expected, r.verify.lost }, text)
  end)
end)

describe("mxrun bench -w", function()
  it("shares the work out and adds up what each measured", function()
    local r = fine("-u " .. cli.amqp .. " -w 3 -x 4 -y 5 -r 50 -z 2" .. queue())
    assert.same({ 400, 400, 400, 3 }, { r.publish.count, r.consume.count, r.e2e.count, r.system.workers })
    assert.same({ 0, 0 }, { r.verify.lost, r.verify.duplicated })
  end)

  it("ends when one of its processes fails", function()
    local _, code, text = bench("-u " .. cli.amqp .. " -w 2 -x 2 -y 2 -p -z 5 --queue no-such-queue-" .. os.time())
    assert.equal(1, code)
    assert.matches("no queue 'no%-such%-queue", text)
  end)

  it("leaves no process behind when it is killed", function()
    local out = cli.shell(([[
      $MXRUN -u %s bench -w 2 -x 2 -y 2 -r 10 -z 30 %s 2>/dev/null & pid=$!
      until child=$(cat /proc/$pid/task/$pid/children) && [ "$child" ]; do sleep 0.1; done
      kill -9 $pid
      for i in $(seq 100); do kill -0 $child 2>/dev/null || break; sleep 0.1; done
      kill -0 $child 2>/dev/null || echo gone]]):format(cli.amqp, queue()))
    assert.equal("gone\n", out)
  end)
end)
