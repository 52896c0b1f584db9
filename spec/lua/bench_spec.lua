-- What mxrun bench plays and judges by: schedules, thresholds, verdicts, and what is wrong with a description.
local schedule, thresholds, verdict = require "mx.bench.schedule", require "mx.bench.thresholds", require "mx.bench.verdict"
local workload = require "mx.bench.workload"

-- When each arrival is due, of all producers together.
local function arrivals(stages, o)
  o = o or {}
  local plan, list, of = schedule.new(stages, o.warmup or 0), {}, o.producers or 1
  for index = 0, of - 1 do
    local cursor = schedule.cursor(plan, index, of, o.poisson)
    while true do
      local due = cursor.due(0)
      if due == math.huge then break end
      list[#list + 1] = due
      cursor.take()
    end
  end
  table.sort(list)
  return list, plan
end

local function between(list, from, to)
  local n = 0
  for _, t in ipairs(list) do
    if t >= from and t < to then n = n + 1 end
  end
  return n
end

describe("a schedule", function()
  it("is even at a rate", function()
    local list = arrivals { { rate = 1000, duration = 2 } }
    assert.equal(2000, #list)
    for i, t in ipairs(list) do assert.near((i - 1) / 1000, t, 1e-9) end
  end)

  it("is the same however many producers share it", function()
    local stages = { { rate = 300, duration = 1 }, { ramp = 1000, duration = 2 }, { rate = 100, duration = 1 } }
    local one, seven = arrivals(stages), arrivals(stages, { producers = 7 })
    assert.equal(#one, #seven)
    for i = 1, #one do assert.near(one[i], seven[i], 1e-9) end
  end)

  it("ramps from the rate before to that of the stage", function()
    local list = arrivals { { ramp = 1000, duration = 10 }, { ramp = 0, duration = 10 } }
    assert.equal(10000, #list)
    assert.near(50, between(list, 0, 1), 1)
    assert.near(950, between(list, 9, 10), 1)
    assert.near(950, between(list, 10, 11), 1)
    assert.near(50, between(list, 19, 20), 1)
  end)

  it("follows a function of the time in the stage", function()
    local list = arrivals { { rate = 10, duration = 1 }, { rate = function(t) return 100 + 100 * math.sin(t) end, duration = 6 } }
    for second = 0, 5 do
      local expected = 100 + 100 * (math.cos(second) - math.cos(second + 1))
      assert.near(expected, between(list, second + 1, second + 2), 2)
    end
  end)

  it("has nothing due while the rate is none", function()
    local list = arrivals { { rate = 100, duration = 1 }, { rate = 0, duration = 5 }, { rate = 100, duration = 1 } }
    assert.same({ 100, 0, 100 }, { between(list, 0, 1), between(list, 1, 6 - 1e-9), between(list, 6 - 1e-9, 8) })
  end)

  it("has as many arrivals by chance as evenly, in steps that are exponential", function()
    local list = arrivals({ { rate = 10000, duration = 10 } }, { poisson = true, producers = 3 })
    assert.near(100000, #list, 3000)                    -- nine times the standard deviation
    local short = 0
    for i = 2, #list do
      if list[i] - list[i - 1] < 1e-4 then short = short + 1 end
    end
    assert.near(1 - math.exp(-1), short / #list, 0.02)
  end)

  it("warms up at its first rate, before its stages", function()
    local list, plan = arrivals({ { rate = 100, duration = 1 }, { ramp = 200, duration = 1 } }, { warmup = 2 })
    assert.equal(200, between(list, 0, 2 - 1e-9))
    assert.equal(4, plan.duration)
    assert.same({ "warm-up", "stage 1 of 2", "stage 2 of 2", "stage 2 of 2" },
                { schedule.stage(plan, 1), schedule.stage(plan, 2.5), schedule.stage(plan, 3.5), schedule.stage(plan, 9) })
  end)

  it("says of a stage without a rate that anything is due now", function()
    local plan = schedule.new({ { duration = 1 }, { rate = 10, duration = 1 } }, 0)
    local cursor = schedule.cursor(plan, 0, 1)
    assert.same({ 0.25, false }, { cursor.due(0.25) })
    assert.same({ 1, true }, { cursor.due(1.5) })
    assert.is_false(schedule.new({ { duration = 1 } }, 0).open)
    assert.is_true(plan.open)
  end)

  it("knows how many are still to come", function()
    local plan = schedule.new({ { rate = 1000, duration = 1 } }, 0)
    local a, b = schedule.cursor(plan, 0, 3), schedule.cursor(plan, 1, 3)
    assert.same({ 334, 333 }, { a.left(), b.left() })
    a.take()
    a.skip(10)
    assert.equal(323, a.left())
  end)
end)

-- A result as the runner makes it.
local function latency(p99, count)
  return { count = count or 100, p99 = p99, max = p99, p = function(_, p) return (count or 100) > 0 and p99 * p / 99 or nil end }
end
local function result(more)
  local r = {
    duration = 10, thresholds = {},
    publish = { count = 1000, rate = 100, errors = 0, unsent = 0, confirm = latency(0.01) }, consume = { count = 1000, rate = 100 },
    e2e = latency(0.02), memory = { peak_rss = 20 * 1024 ^ 2 }, gc = { cycles = 3, pause_p99 = 0.001 },
  }
  r.e2e.raw, r.publish.confirm.raw = latency(0.005), latency(0.004)
  for k, v in pairs(more or {}) do r[k] = v end
  return r
end

local function judge(list, r) return thresholds.watch(thresholds.parse(list)).judge(r or result()) end

describe("a threshold", function()
  it("compares a figure of the result, in the units of people", function()
    for name, cases in pairs {
      ["e2e.p99"] = { ["< 20.1ms"] = true, ["< 19.9ms"] = false, ["<= 0.02"] = true },
      ["e2e.p49.5"] = { ["< 11ms"] = true, ["> 11ms"] = false }, ["e2e.p999"] = { ["> 20ms"] = true },
      ["e2e.raw.max"] = { ["== 5ms"] = true }, ["publish.confirm.raw.p99"] = { ["< 4100us"] = true },
      ["publish.confirm.p99"] = { ["< 5ms"] = false }, ["publish.rate"] = { [">= 0.1k"] = true, ["> 100/s"] = false },
      ["publish.errors"] = { ["== 0"] = true, ["~= 0"] = false, ["!= 0"] = false },
      ["memory.peak_rss"] = { ["< 32MB"] = true, ["< 20MB"] = false }, ["duration"] = { ["< 1m"] = true },
    } do
      for expr, ok in pairs(cases) do
        local t = judge { [name] = expr }[1]
        assert.same({ name, expr, ok }, { t.name, t.expr, t.ok })
        assert.equal("number", type(t.value))
      end
    end
  end)

  it("without samples fails", function()
    local r = result { e2e = latency(0.02, 0) }
    local t = judge({ ["e2e.p99"] = "< 1s", ["verify.lost"] = "== 0" }, r)
    assert.same({ false, "no samples" }, { t[1].ok, t[1].why })
    assert.same({ false, "no samples" }, { t[2].ok, t[2].why })
  end)

  it("may be a function of the result, and says why", function()
    local t = judge {
      good = function(r) return r.e2e:p(99.9) < 1 end, bad = function(r) return r.e2e:p(99.9) < 0.001, "tail too long" end,
      worse = function(r) return r.nothing.at_all end,
    }
    assert.same({ "bad", false, "tail too long" }, { t[1].name, t[1].ok, t[1].why })
    assert.same({ "good", true }, { t[2].name, t[2].ok })
    assert.is_false(t[3].ok)
    assert.matches("attempt to index field 'nothing'", t[3].why)
  end)

  it("that is windowed fails when one window did, however good the whole was", function()
    local watching = thresholds.watch(thresholds.parse { ["e2e.p99"] = { "< 100ms", window = 2 } })
    for second = 1, 6 do
      local slow = second == 4
      assert.is_nil(watching.look(second, error, function() return result { e2e = latency(slow and 0.5 or 0.01) } end))
    end
    local t = watching.judge(result())[1]
    assert.same({ false, 0.5, 2 }, { t.ok, t.value, t.window })
  end)

  it("that aborts ends the run, not before its time", function()
    local watching = thresholds.watch(thresholds.parse { ["publish.errors"] = { "== 0", abort = true, after = 3 } })
    local function errors() return result { publish = { errors = 1, count = 1 } } end
    assert.is_nil(watching.look(1, errors, error))
    assert.equal("publish.errors", watching.look(3, errors, error).name)
    assert.is_true(watching.judge(result())[1].aborted)
  end)

  it("is refused when it means nothing", function()
    local function refuses(pattern, list)
      local ok, e = pcall(thresholds.parse, list)
      assert.is_false(ok)
      assert.matches(pattern, e)
    end
    refuses("there is no 'e2e%.p9q', did you mean 'e2e%.p9", { ["e2e.p9q"] = "< 1s" })
    refuses("there is no 'publish%.ratte', did you mean 'publish%.rate'%?", { ["publish.ratte"] = "< 1" })
    refuses("expected one like \"< 20ms\", got \"20ms\"", { ["e2e.p99"] = "20ms" })
    refuses("expected one like \"< 20ms\"", { ["e2e.p99"] = "< 20MB" })
    refuses("unknown option 'windw', did you mean 'window'%?", { ["e2e.p99"] = { "< 1s", windw = 1 } })
    refuses("each needs a name", { "< 1s" })
  end)
end)

describe("a verdict", function()
  local function of(generator, more)
    generator.busy, generator.behind, generator.lag_p99 = generator.busy or 0, generator.behind or 0, generator.lag_p99 or 0
    local r = result(more)
    r.generator = generator
    return verdict.of(r)
  end

  it("is generator-limited when we were behind and worked", function()
    assert.equal("generator-limited", of { behind = 5, busy = 0.9 })
  end)

  it("is not when the broker kept us waiting", function()
    assert.equal("ok", of { behind = 5, busy = 0.1, lag_p99 = 0.0005 })
  end)

  it("takes no account of the time when others had the processor", function()
    assert.near(0.9, verdict.busy { behind = 5, behind_ran = 1.8, behind_waited = 3 }, 1e-9)
    assert.near(0.1, verdict.busy { behind = 5, behind_ran = 0.2, behind_waited = 3 }, 1e-9)
    assert.equal(0, verdict.busy { behind = 0, behind_ran = 0, behind_waited = 0 })
  end)

  it("is not when we were behind for a moment", function() assert.equal("ok", of { behind = 0.2, busy = 1 }) end)

  it("is generator-limited when our lateness is a good part of what was measured", function()
    assert.equal("generator-limited", of { lag_p99 = 0.015 })
    assert.equal("ok", of({ lag_p99 = 0.015 }, { e2e = latency(0.5) }))
    assert.equal("ok", of { lag_p99 = 0.003 })
  end)

  it("says that a threshold was crossed only of what was measured well", function()
    local crossed = { thresholds = { { name = "e2e.p99", ok = false } } }
    assert.equal("threshold", of({}, crossed))
    assert.equal("generator-limited", of({ behind = 5, busy = 0.9 }, crossed))
    assert.same({ 0, 99, 3 }, { verdict.EXIT.ok, verdict.EXIT.threshold, verdict.EXIT["generator-limited"] })
  end)

  it("says nothing of the generator without a rate", function()
    assert.equal("ok", verdict.of(result()))
  end)
end)

describe("the rows of a run", function()
  local function row(t, rate, p99)
    return { t = t, publish_rate = rate, consume_rate = rate, confirm = {}, e2e = { p50 = p99 / 2, p99 = p99, max = 2 * p99 }, rss = t,
             in_flight = 1, loop_lag_p99 = 0.001, generator_lag = 0 }
  end

  it("are one for each second of a run of an hour", function()
    local rows = require "mx.bench.rows".new()
    for t = 1, 3599 do rows.add(row(t, t, 0.1)) end
    assert.same({ 3599, 3599 }, { #rows.list(), rows.list()[3599].t })
  end)

  it("stay few in a run of days, and keep its mean rate and its worst moments", function()
    local rows, n = require "mx.bench.rows".new(), 100001
    for t = 1, n do rows.add(row(t, t % 2 == 0 and 100 or 300, t == 77777 and 5 or 0.1)) end
    local list, sum, most = rows.list(), 0, 0
    for _, r in ipairs(list) do sum, most = sum + r.publish_rate, math.max(most, r.e2e.p99) end
    assert.is_true(#list <= 3600 and #list >= 1800)
    assert.near(200, sum / #list, 1)
    assert.same({ 5, n, n }, { most, list[#list].t, list[#list].rss })
    assert.is_nil(list[1].confirm.p99)
  end)
end)

describe("mx.workload", function()
  local function refuses(pattern, description)
    local ok, e = pcall(mx.workload, description)
    assert.is_false(ok)
    assert.matches(pattern, e)
  end

  it("raises at the script's line what is wrong", function()
    refuses("bench_spec%.lua:%d+: mx%.workload: expected producers or consumers", {})
    refuses("bench_spec%.lua:%d+: .*unknown option 'producer', did you mean 'producers'%?", { producer = {} })
    refuses("producers: unknown option 'rates', did you mean 'rate'%?", { producers = { key = "q", rates = 1 } })
    refuses("producers: key is missing", { producers = {} })
    refuses("consumers: queue is missing", { consumers = {} })
    refuses("stage 2: it needs a duration", { producers = { key = "q", stages = { { duration = 1 }, { rate = 1 } } } })
    refuses("stage 1: rate and ramp exclude", { producers = { key = "q", stages = { { duration = 1, rate = 1, ramp = 1 } } } })
    refuses("rate belongs into the stages", { producers = { key = "q", rate = 1, stages = { { duration = 1 } } } })
    refuses("stage 1: its rate at 0 s is nil", { producers = { key = "q", stages = { { duration = 1, rate = function() end } } } })
    refuses("size: expected { least, most }", { producers = { key = "q", size = { 10, 5 } } })
    refuses("body and size exclude", { producers = { key = "q", size = 1, body = "x" } })
    refuses("arrival", { producers = { key = "q", arrival = "normal" } })
    refuses("there is no 'e2e%.p', did", { producers = { key = "q" }, thresholds = { ["e2e.p"] = "< 1s" } })
  end)

  it("keeps what it was given, printable", function()
    local producers = { key = "q", body = function() return "" end, stages = { { duration = "2s" } } }
    local w = mx.workload { name = "x", producers = producers, warmup = "1s" }
    assert.is_true(workload.is(w))
    assert.equal(3, w.duration)
    assert.same({ name = "x", warmup = "1s", producers = { key = "q", body = "function", stages = { { duration = "2s" } } } }, w.config)
  end)

  it("knows how often each message is to arrive", function()
    local topology = { exchanges = { all = "fanout", some = "topic" }, queues = {
      a = { bind = { { "all", "" } } }, b = { bind = { { "all", "" }, { "some", "#" } } }, c = { bind = { { "all", "" } } } } }
    local function copies(exchange, queue, verify)
      return workload.copies(mx.workload { topology = topology, producers = { exchange = exchange, key = "" },
                                           consumers = { queue = queue }, verify = verify })
    end
    assert.same({ 3, 2, 1, 1, 5 }, { copies("all", { "a", "b", "c" }), copies("all", { "a", "b" }), copies("all", "a"),
                                     copies("some", { "a", "b" }), copies("some", "a", { copies = 5 }) })
  end)
end)
