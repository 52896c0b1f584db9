-- mx.counter, mx.gauge and mx.histogram: one of each name, used as it was made.
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
