-- mx.counter, mx.gauge and mx.histogram: one of each name, used as it was made; and what /metrics says of them.
local exposition = dofile "spec/lua/exposition.lua"
local on_each_broker, eventually = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

local function samples() return (exposition((require "mx.stats".text()))) end
local function raises_here(pattern, f)
  local line = debug.getinfo(f, "S").linedefined
  local ok, e = pcall(f)
  assert.is_false(ok)
  assert.matches("metrics_spec.lua:" .. line .. ": .*" .. pattern, tostring(e))
end

describe("a metric", function()
  it("that is made twice is the same one", function()
    local a, b = mx.counter("metrics_twice", "help", { "country" }), mx.counter("metrics_twice", "help", { "country" })
    a:inc(1, "PL")
    b:inc(2, "PL")
    assert.equal(3, a:get "PL")
    mx.histogram("metrics_h"):observe(1)
    assert.is_true(mx.histogram("metrics_h"):p(50) > 0.9)
    mx.gauge("metrics_g"):set(7)
    assert.equal(7, mx.gauge("metrics_g"):get())
  end)

  it("of another kind or other labels cannot have its name", function()
    mx.counter("metrics_taken", nil, { "a", "b" })
    raises_here("mx.gauge: 'metrics_taken' is there already: a counter with the labels { a, b }", function() mx.gauge "metrics_taken" end)
    raises_here("mx.counter: 'metrics_taken' is there already", function() mx.counter("metrics_taken", nil, { "b", "a" }) end)
  end)

  it("says at the caller's line what is wrong", function()
    raises_here("mx.counter: 'bad name' is not a metric's name", function() assert(mx.counter "bad name") end)
    raises_here("bad argument #3 to mx.counter: expected a string, got 5", function() mx.counter("metrics_labels", nil, { 5 }) end)
    raises_here("'__x' cannot be a label here", function() mx.counter("metrics_labels", nil, { "__x" }) end)
    raises_here("'a' cannot be a label here", function() mx.counter("metrics_labels", nil, { "a", "a" }) end)
    raises_here("'le' cannot be a label here", function() mx.histogram("metrics_labels", nil, { "le" }) end)
    raises_here("names that begin with mxrun_ or messaging_ are mxrun's own", function() mx.counter "mxrun_x" end)
    raises_here("mx.gauge: a function gives one number", function() mx.gauge("metrics_labels", function() return 1 end, { "a" }) end)
  end)

  it("has a series for each combination of the values of its labels, by their place", function()
    local c = mx.counter("metrics_places_total", "help", { "a", "b" })
    c:inc(1, "x", "y")
    c:inc(2, "y", "x")
    c:inc(4, "x", "y")
    c:inc(8, "x", nil)
    c:inc(16, 5, "x")
    c:inc(32, "5", "x")
    assert.same({ 5, 2, 8, 48, 0 }, { c:get("x", "y"), c:get("y", "x"), c:get("x", ""), c:get("5", "x"), c:get("z", "z") })
    local all = samples()
    assert.same({ 5, 48, 8 }, { all['metrics_places_total{a="x",b="y"}'], all['metrics_places_total{a="5",b="x"}'],
                                all['metrics_places_total{a="x",b=""}'] })
    raises_here("counter metrics_places_total: expected a text for each of its labels: a, b", function() c:inc(1, "x", "y", "z") end)
  end)

  it("has labels whatever its kind", function()
    local g, h = mx.gauge("metrics_lg", "help", { "shop" }), mx.histogram("metrics_lh_seconds", "help", { "shop" })
    g:set(3, "a")
    g:set(4, "b")
    h:observe(0.004, "a")
    h:observe(2, "b")
    assert.same({ 3, 4, 1, 0 }, { g:get "a", g:get "b", h:count "a", h:count "c" })
    assert.is_true(h:p(50, "a") < 0.005 and h:p(50, "b") > 1)
    local all = samples()
    assert.same({ 4, 1, 0, 1 }, { all['metrics_lg{shop="b"}'], all['metrics_lh_seconds_bucket{shop="a",le="0.005"}'],
                                  all['metrics_lh_seconds_bucket{shop="b",le="1.0"}'], all['metrics_lh_seconds_count{shop="b"}'] })
  end)

  it("has at most 1000 series, and what is beyond is counted", function()
    local c, before = mx.counter("metrics_many_total", "help", { "n" }), samples().mxrun_series_dropped_total
    for i = 1, 1005 do c:inc(1, "n" .. i) end
    c:inc(1, "n1")
    assert.same({ 2, 1, 0 }, { c:get "n1", c:get "n1000", c:get "n1001" })
    local n, all = 0, samples()
    for name in pairs(all) do n = n + (name:find "^metrics_many_total{" and 1 or 0) end
    assert.same({ 1000, before + 5 }, { n, all.mxrun_series_dropped_total })
  end)

  it("does not grow with values that are the same text", function()
    local c, cut = mx.counter("metrics_same_total", "help", { "n" }), ("x"):rep(2000)
    for i = 1, 20000 do c:inc(1, cut .. i) end
    for i = 1, 20000 do c:inc(1, 1 + i * 2 ^ -52) end
    assert.is_true(c.leaves <= 4000 and c.made <= 100)
  end)

  it("allocates nothing when it is updated", function()
    local c, h = mx.counter("metrics_alloc_total", "help", { "a", "b" }), mx.histogram "metrics_alloc_seconds"
    local values = { "x", "y", "z" }
    local function update(n)
      for i = 1, n do
        c:inc(1, values[i % 3 + 1], "b")
        h:observe(i * 1e-6)
      end
    end
    update(1000)
    collectgarbage()
    collectgarbage "stop"
    local before = collectgarbage "count"
    update(100000)
    local grown = collectgarbage "count" - before
    collectgarbage "restart"
    assert.is_true(grown < 64, grown .. " KB")              -- traces and their like
  end)
end)

describe("a gauge", function()
  it("that is a function is asked when somebody wants to know, and may fail", function()
    local value = 1
    mx.gauge("metrics_asked", function() return value end)
    assert.equal(1, samples().metrics_asked)
    value = 2
    assert.same({ 2, 2 }, { samples().metrics_asked, mx.gauge("metrics_asked"):get() })
    local log, lines = require "mx.log", {}
    local write = log.write
    function log.write(line) lines[#lines + 1] = line return true end
    mx.gauge("metrics_failing", "help", function() error "no depth" end)
    samples()
    assert.is_nil(samples().metrics_failing)
    mx.gauge("metrics_failing", function() mx.sleep(1) return 1 end)
    assert.is_nil(samples().metrics_failing)
    log.write = write
    mx.gauge("metrics_failing", function() return 3 end)
    assert.equal(3, samples().metrics_failing)
    assert.equal(1, #lines)
    assert.matches("a gauge's function failed .*no depth", lines[1])
  end)
end)

describe("a histogram", function()
  it("knows all samples, and those of the last 10 to 20 s", function()
    local h, clock = mx.histogram "metrics_window_seconds", mx.test.clock()
    h:observe(3)
    assert.is_true(h:recent(99) > 2.9)
    clock:advance(30)
    mx.sleep(0.001)
    h:observe(0.001)
    assert.is_true(h:recent(99) < 0.002 and h:p(99) > 2.9 and h:count() == 2)
    clock:advance(30)
    mx.sleep(0.001)
    assert.equal(0, h:recent(99))
  end)
end)

describe("the text of /metrics", function()
  it("holds whatever is in help and labels", function()
    local odd = { "", '"', "\\", "a\nb", "\\n", "zażółć", "a\255\254", "\237\160\128", "\240\159\152\128", ("ż"):rep(1000), "}", '",x="' }
    local c = mx.counter("metrics_odd_total", 'back\\slash, "quotes"\nand\rlines \255', { "v" })
    for _, v in ipairs(odd) do c:inc(1, v) end
    for _, openmetrics in ipairs { false, true } do
      local text = require "mx.stats".text(openmetrics)
      local all, types = exposition(text, openmetrics)
      local n = 0
      for name in pairs(all) do n = n + (name:find "^metrics_odd_total{" and 1 or 0) end
      assert.equal(#odd, n)
      assert.equal("counter", types[openmetrics and "metrics_odd" or "metrics_odd_total"])
      assert.equal(1, all['metrics_odd_total{v="a\239\191\189\239\191\189"}'])
      assert.equal(1, all['metrics_odd_total{v="\240\159\152\128"}'])
    end
  end)
end)

on_each_broker("what mxrun counts itself", function(connect, name)
  it("are batches, too, by what made them, and how old they were", function()
    local c = connect()
    local q = assert(c:queue(name "batches", { durable = false }))
    for _ = 1, 7 do assert(c:publish("", q, "x")) end
    local consumer = assert(c:consume_batch(q, { size = 3, timeout = 0.05 }, function() end))
    eventually(function() return consumer:stats().acked == 7 end)
    assert.equal(3, mx.stats().consume[q].batches)
    assert(consumer:stop())
    local all, queue = samples(), ('{queue="%s"'):format(q)
    assert.same({ 2, 1, 3 }, { all["messaging_batches_total" .. queue .. ',reason="size"}'],
      all["messaging_batches_total" .. queue .. ',reason="time"}'], all["messaging_batch_age_seconds_count" .. queue .. "}"] })
  end)

  it("is by queue, and does not fall when one of two consumers leaves", function()
    local c, q = connect(), name "metrics"
    assert(c:queue(q, { durable = false }))
    local label = ('{queue="%s"}'):format(q)
    local a = assert(c:consume(q, function(m) if m.body == "bad" then return "reject", "bad" end end))
    local b = assert(c:consume(q, function(m) if m.body == "bad" then return "reject", "bad" end end))
    local before = samples()
    for i = 1, 20 do assert(c:publish("", q, i % 10 == 0 and "bad" or "good")) end
    eventually(function() return samples()["messaging_consume_total" .. label] == 20 end)
    eventually(function() return samples()[('messaging_consume_settled_total{queue="%s",outcome="rejected"}'):format(q)] == 2 end)
    assert(a:stop())
    local all = samples()
    assert.same({ 20, 0 }, { all["messaging_consume_total" .. label], all["messaging_consume_inflight" .. label] })
    assert.is_true(all["messaging_consume_duration_seconds_count" .. label] > 0)
    assert.is_true(all.messaging_publish_total - before.messaging_publish_total >= 20)
    assert.is_true(all.messaging_publish_duration_seconds_count - before.messaging_publish_duration_seconds_count >= 20)
    assert.is_true(all.messaging_pool_connections_active >= 2 and all.process_resident_memory_bytes > 1e6)
    assert(b:stop())
    assert(c:delete_queue(q))
  end)

  it("times each handler, those that raise too, and what came before it", function()
    local c, q, n = connect(), name "metrics", 0
    assert(c:queue(q, { durable = false, dlq = false }))
    for _ = 1, 300 do assert(c:publish_async("", q, "x")) end
    local consumer = assert(c:consume(q, { retry = { max = 0 } }, function()
      n = n + 1
      if n == 100 then mx.sleep(0.2) end
      if n % 100 == 50 then error "no" end
    end))
    local label = ('{queue="%s"}'):format(q)
    eventually(function() return samples()["messaging_consume_duration_seconds_count" .. label] == 300 end)
    assert.equal(300, n)
    local all = samples()
    assert.equal(300, all["messaging_consume_wait_seconds_count" .. label])
    assert.is_true(all["messaging_consume_duration_seconds_sum" .. label] >= 0.2)
    local s = mx.stats().consume[q]
    assert.is_true(s.handler.max >= 0.2 and s.handler.p95 < 0.2)
    assert.is_true(s.wait.max >= 0.15 and s.wait.max < 30)            -- those behind the one that slept
    assert(consumer:stop())
    assert(c:delete_queue(q))
  end)

  it("is gone with the last consumer of the queue", function()
    local c, q = connect(), name "metrics"
    assert(c:queue(q, { durable = false }))
    local consumer = assert(c:consume(q, function() end))
    local series = ('messaging_consume_total{queue="%s"}'):format(q)
    assert.equal(0, samples()[series])
    assert(consumer:stop())
    consumer = nil -- luacheck: ignore
    eventually(function()
      collectgarbage()
      return samples()[series] == nil
    end)
    assert(c:delete_queue(q))
  end)
end)

describe("a script under test", function()
  it("has metrics of its own", function()
    local script = dofile("spec/cli/run.lua").file "n = mx.counter('metrics_own') n:inc()"
    for _ = 1, 2 do
      local h = mx.test.load(script)
      assert.equal(1, h.env.n:get())
      h:close()
    end
    os.remove(script)
  end)
end)
