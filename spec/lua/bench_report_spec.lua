-- What mxrun bench tells of a run: figures as text, the live line, the files, the comparison with another run.
local result = dofile "spec/bench/result.lua"
local format, live = require "mx.bench.report.format", require "mx.bench.report.live"
local compare, observer = require "mx.bench.report.compare", require "mx.bench.report.observer"

local function read(path)
  local f = assert(io.open(path))
  local text = f:read "*a"
  f:close()
  return text
end

local function small()
  return {
    name = "small", verdict = "ok", duration = 2,
    publish = { count = 2000, rate = 1000, errors = 1, confirm = { p50 = 1e-4, max = 2e-4 } },
    series = {
      { t = 1, publish_rate = 990, consume_rate = 0, confirm = { p50 = 1e-4, p99 = 2e-4, max = 2e-4 }, rss = 8388608, in_flight = 3 },
      { t = 2, publish_rate = 1010.5, consume_rate = 0 / 0, loop_lag_p99 = 1e-5, generator_lag = 0 },
    },
    histograms = { confirm = { { 0.001, 50 }, { 0.002, 40 }, { 0.004, 9 }, { 0.016, 1 } } },
  }
end

describe("figures", function()
  it("have three digits that count, and the unit that fits", function()
    local list = {}
    for _, s in ipairs { 0, 4.2e-7, 1.5e-5, 0.0009999, 0.00123, 0.0999, 0.25, 12.345, 123.4 } do list[#list + 1] = format.time(s) end
    assert.same({ "0 us", "0.420 us", "15.0 us", "1.00 ms", "1.23 ms", "99.9 ms", "250 ms", "12.3 s", "123 s" }, list)
    assert.same({ "1,234,568", "-1,000", "999" }, { format.count(1234567.8), format.count(-1000), format.count(999) })
    assert.same({ "12,346/s", "0.500/s" }, { format.rate(12345.6), format.rate(0.5) })
    assert.same({ "1.00 KB", "9.50 MB", "2.00 GB" }, { format.bytes(1024), format.bytes(9.5 * 1024 ^ 2), format.bytes(2 ^ 31) })
  end)

  it("of a threshold are in the unit of their path", function()
    assert.equal("12.0 ms", format.value("publish.confirm.p99", 0.012))
    assert.equal("9.00 MB", format.value("memory.peak_rss", 9 * 1024 ^ 2))
    assert.equal("1,000/s", format.value("publish.rate", 1000))
    assert.equal("3", format.value("verify.lost", 3))
    assert.equal("no samples", format.value("e2e.p99", nil))
  end)
end)

describe("the live line", function()
  local s = { elapsed = 4, duration = 10, publish_rate = 1000, consume_rate = 999.6, e2e = { p99 = 0.002 }, rss = 8 * 1024 ^ 2,
              in_flight = 12, generator_lag = 0.01, stage = 2 }

  it("is a plain line where nobody can write over it", function()
    assert.equal("   4 s of 10  publish 1,000/s  consume 1,000/s  e2e p99 2.00 ms  8.00 MB  12 in flight"
      .. "  generator 10.0 ms late  stage 2\n", live.line(s))
  end)

  it("has a bar on a terminal, is no wider than that, and is written over", function()
    local line = live.line(s, 60)
    assert.equal("\r   4 s [########------------]  40 %  publish 1,000/s\27[K", line)
    assert.equal("\r   4 s [########-\27[K", live.line(s, 18))
    assert.matches("8.00 MB  12 in flight\27%[K$", live.line(s, 120))
  end)

  it("says what there is", function()
    assert.equal("   1 s  publish 5.00/s\n", live.line { t = 1, publish_rate = 5 })
    assert.equal("   1 s  ?[31mramp\n", live.line { t = 1, stage = "\27[31mramp" })
  end)
end)

describe("the summary", function()
  local text = require "mx.bench.report.summary".text

  it("has all figures of a run", function()
    assert.equal([[
by hand: ok, 10.0 s
  published            10,000   1,000/s
  consumed             10,000   1,000/s
  latency                               p50       p95       p99     p99.9       max
    confirm                         1.00 ms   2.00 ms   4.00 ms   8.00 ms   16.0 ms
    confirm, from the real send      800 us   1.60 ms   3.20 ms   6.40 ms   12.8 ms
    end to end                      2.00 ms   4.00 ms   8.00 ms   16.0 ms   32.0 ms
    end to end, from the real send   1.80 ms   3.60 ms   7.20 ms   14.4 ms   28.8 ms
    handler                         20.0 us   40.0 us   80.0 us    160 us    320 us
  verified     0 lost, 0 duplicated, 0 reordered
  processor    75.0 us a message (user 500 ms, system 250 ms)
  memory       9.00 MB at most, 9.00 MB per 1,000 messages/s
  collector    3 cycles, a step 200 us on average, 1.00 ms at most
  generator    20.0 us behind its schedule (p99), 0 sent late
  thresholds
    ok   e2e.p99 < 20ms: 8.00 ms
    ok   verify.lost == 0: 0
]], text(result()))
  end)

  it("leaves out what was not measured", function()
    assert.equal([[
small: ok, 2.00 s
  published             2,000   1,000/s   1 errors
  latency                               p50       p95       p99     p99.9       max
    confirm                          100 us         -         -         -    200 us
]], text(small()))
  end)

  it("says which threshold was crossed, and what a limited generator means", function()
    local r = result()
    r.verdict = "generator-limited"
    r.thresholds = { { name = "e2e.p99", expr = "< 5ms", value = 0.008, ok = false }, { name = "tail", ok = false, value = "too long" },
                     { name = "consume.handler.p99", expr = "< 1ms", ok = false } }
    local all = text(r)
    assert.matches("by hand: generator%-limited, 10.0 s\n  the generator could not keep the schedule", all)
    r.aborted = { at = 3.5, name = "e2e.p99" }
    assert.matches("\n  ended after 3.50 s: e2e.p99\n", text(r))
    r.generator.unsent, r.verify.unread, r.thresholds[2].why = 7, 3, "too long"
    r.thresholds[2].value = nil
    r.gc = { cycles = 4, pause_avg = 0, pause_max = 0 }
    all = text(r)
    assert.matches("\n  collector    4 cycles\n", all)
    assert.matches("0 lost, 0 duplicated, 0 reordered, 3 still in the queues\n", all)
    assert.matches(", 0 sent late, 7 never sent\n", all)
    r.thresholds = { { name = "tail", ok = true } }
    assert.matches("    ok   tail: holds\n$", text(r))
    assert.matches("    FAIL e2e.p99 < 5ms: 8.00 ms\n    FAIL tail: too long\n    FAIL consume.handler.p99 < 1ms: no samples\n$", all)
  end)

  it("gives a terminal no control characters that a name holds", function()
    assert.matches("^a%?%[2Jb: ok", text(result { name = "a\27[2Jb" }))
  end)
end)

describe("the files", function()
  local path
  before_each(function() path = os.tmpname() end)
  after_each(function() os.remove(path) end)

  it("CSV has a line a second, empty where nothing was measured", function()
    assert.equal([[
t,publish_rate,consume_rate,confirm_p50,confirm_p99,confirm_max,e2e_p50,e2e_p99,e2e_max,rss,in_flight,loop_lag_p99,generator_lag
1,990,0,0.0001,0.0002,0.0002,,,,8388608,3,,
2,1010.5,,,,,,,,,,1e-05,0
]], require "mx.bench.report.csv".text(small()))
  end)

  it("hgrm is what HdrHistogram prints", function()
    assert.equal([[
       Value     Percentile TotalCount 1/(1-Percentile)

       1.000 0.000000000000         50           1.00
       1.000 0.100000000000         50           1.11
       1.000 0.200000000000         50           1.25
       1.000 0.300000000000         50           1.43
       1.000 0.400000000000         50           1.67
       1.000 0.500000000000         50           2.00
      16.000 0.550000000000        100           2.22
      16.000 1.000000000000        100
#[Mean    =        8.500, StdDeviation   =        7.500]
#[Max     =       16.000, Total count    =          100]
#[Buckets =           23, SubBuckets     =         2048]
]], require "mx.bench.report.hgrm".text { { 0.001, 50 }, { 0.016, 50 } })
  end)

  it("are written when the run is over, one of hgrm for each latency", function()
    local base = path .. ".dir"
    assert.equal(0, os.execute("mkdir " .. base))
    local o = { quiet = true, json = base .. "/a.json", csv = base .. "/a.csv", hgrm = base .. "/a.hgrm", html = base .. "/a.html" }
    assert.equal(0, assert(observer.new(o)).done(result()))
    assert.matches("^t,publish_rate", read(o.csv))
    assert.matches("Total count    =        10000", read(base .. "/a.hgrm"))
    assert.matches("Max     =       16.000", read(base .. "/a.confirm.hgrm"))
    assert.matches("Max     =       28.800", read(base .. "/a.e2e_raw.hgrm"))
    assert.matches("^<!doctype html>", read(o.html))
    os.execute("rm -r " .. base)
  end)

  it("JSON comes back as it was, empty lists as lists, what JSON has no number for as text", function()
    local r = small()
    r.thresholds, r.config = {}, { size = function() end, [1.5] = "a", deep = { rate = math.huge } }
    assert.equal(0, assert(observer.new { quiet = true, json = path }).done(r))
    local t = assert(observer.read(path))
    assert.same({ 2000, 1000, "nan" }, { t.publish.count, t.publish.rate, (tostring(t.series[2].consume_rate):gsub("-", "")) })
    assert.same({ { 0.001, 50 }, { 0.002, 40 }, { 0.004, 9 }, { 0.016, 1 } }, t.histograms.confirm)
    assert.same({ size = "function", ["1.5"] = "a", deep = { rate = "inf" } }, t.config)
    assert.matches('"thresholds":%[%]', read(path))
  end)

  it("that cannot be written are refused before the run", function()
    local o, why = observer.new { html = "/nowhere/a.html" }
    assert.is_nil(o)
    assert.matches("^%-%-html: /nowhere/a.html: No such file", why)
  end)

  it("that are no result cannot be compared with", function()
    for text, expected in pairs { ["[1"] = "is no result of mxrun bench %-%-json: JSON:", ["{}"] = "of mxrun bench %-%-json$" } do
      local f = assert(io.open(path, "w"))
      f:write(text)
      f:close()
      local o, why = observer.new { compare = path }
      assert.is_nil(o)
      assert.matches(expected, why)
    end
    assert.matches("^%-%-compare: /nowhere: No such file", select(2, observer.new { compare = "/nowhere" }))
  end)
end)

describe("a comparison", function()
  local function verdicts(base, new, tolerance)
    local c, list = compare.compare(base, new, tolerance), {}
    for _, row in ipairs(c.rows) do list[row.name] = row.verdict end
    return list, c
  end

  it("of a run with itself sees no difference", function()
    local list, c = verdicts(result(), result())
    for _, name in ipairs { "publish.rate", "consume.rate", "publish.confirm.p50", "publish.confirm.p99", "e2e.p50", "e2e.p99" } do
      assert.equal("no difference seen", list[name])
    end
    assert.is_false(c.regressed)
  end)

  it("says how much slower, the interval of that, and that it is a regression", function()
    local c = compare.compare(result(), result { rate = 900, latency = 0.003 })
    assert.is_true(c.regressed)
    assert.equal([[
  compared with the base
    FAIL publish.rate                900/s, was      1,000/s: slower by 10 % (9.3 to 10.6)
    FAIL consume.rate                900/s, was      1,000/s: slower by 10 % (9.4 to 10.7)
    FAIL publish.confirm.p50       1.91 ms, was      1.27 ms: slower by 50 % (44.2 to 56)
    FAIL publish.confirm.p99       6.00 ms, was      4.00 ms: slower by 50 % (39.1 to 62.1)
    FAIL e2e.p50                   3.82 ms, was      2.55 ms: slower by 50 % (44.2 to 56)
    FAIL e2e.p99                   12.0 ms, was      8.00 ms: slower by 50 % (39 to 66)
    regression: the whole 95 % interval is worse than 5 %
]], compare.text(c))
  end)

  it("says how much faster, and that is none", function()
    local list, c = verdicts(result(), result { rate = 1200, latency = 0.001 })
    assert.matches("^faster by 20 %% %(19%.%d to 20%.%d%)$", list["publish.rate"])
    assert.matches("^faster by 50 %% %(4%d.* to 5%d.*%)$", list["e2e.p99"])
    assert.is_false(c.regressed)
  end)

  it("is no regression while a part of the interval is within the tolerance", function()
    local list, c = verdicts(result(), result { rate = 955 })
    assert.matches("^slower by 4%.5 %%", list["publish.rate"])
    assert.is_false(c.regressed)
    assert.is_true(select(2, verdicts(result(), result { rate = 955 }, 0.02)).regressed)
    list, c = verdicts(result { wobble = 0.6 }, result { wobble = 0.6, rate = 900 })      -- an unsteady run proves little
    assert.equal("no difference seen", list["publish.rate"])
    assert.is_false(c.regressed)
  end)

  it("looks at whole seconds of sending only", function()
    local base, new = result(), result()
    table.insert(new.series, 1, { t = 0.001, publish_rate = 1 })
    table.insert(new.series, { t = 11, publish_rate = 3 })
    assert.equal("no difference seen", verdicts(base, new)["publish.rate"])
    assert.equal(compare.compare(base, base).rows[1].new_text, compare.compare(base, new).rows[1].new_text)
  end)

  it("of two days takes no longer than a handler may run", function()
    local base, new = result { seconds = 86400 }, result { seconds = 86400, rate = 990 }
    assert.matches("^slower by 1 %%", verdicts(base, new)["publish.rate"])
  end)

  it("says the same each time", function()
    local base, new = result(), result { rate = 950, wobble = 0.1 }
    assert.same(compare.text(compare.compare(base, new)), compare.text(compare.compare(base, new)))
  end)

  it("notes what makes two runs hard to compare", function()
    local new = result { name = "another" }
    new.config.producers.size, new.verdict = 256, "generator-limited"
    local text = compare.text(compare.compare(result(), new))
    assert.matches('    note: name: the base has "by hand", this run "another"\n', text)
    assert.matches("    note: producers.size: the base has 64, this run 256\n", text)
    new.config.producers.size = { 1, 2 }
    assert.matches("producers.size: the base has 64, this run %[1,2%]", compare.text(compare.compare(result(), new)))
    assert.matches("    note: this run was limited by its generator\n", text)
  end)

  it("of two that measured nothing in common says so", function()
    local text = compare.text(compare.compare({ publish = {} }, result()))
    assert.equal("  compared with the base\n    nothing that both measured\n", text)
  end)

  it("makes the observer answer 98, and nothing else does", function()
    local path = os.tmpname()
    assert.equal(0, assert(observer.new { quiet = true, json = path }).done(result()))
    local function code(change, tolerance)
      return assert(observer.new { quiet = true, compare = path, tolerance = tolerance }).done(result(change))
    end
    assert.same({ 0, 98, 0 }, { code(), code { rate = 900 }, code { rate = 1100 } })
    assert.same({ 0, 98 }, { code({ rate = 900 }, 20), code({ rate = 960 }, 1) })
    os.remove(path)
  end)
end)

describe("the page", function()
  local page = require "mx.bench.report.page".text

  it("has no markup that came from a name, and refers to nothing outside", function()
    local hostile = [[</script><script>alert(1)</script><!--]]
    local r = result { name = hostile }
    r.config.producers.key, r.system["<b>"] = hostile, "<i>"
    local text = page(r)
    local data = text:match '<script type="application/json" id="data">(.-)</script>'
    assert.is_nil(data:find "<")
    local t = assert(mx.json.decode(data))
    assert.same({ hostile, hostile, "<i>" }, { t.title, t.result.config.producers.key, t.result.system["<b>"] })
    assert.equal(2, select(2, text:gsub("</script>", "")))
    assert.is_nil(text:find "https?://")
    assert.is_nil(text:find "@import")
    assert.is_nil(text:find "url%(")
    assert.is_nil(text:find "innerHTML")
  end)

  it("stays small however long the run was", function()
    assert.is_true(#page(result { seconds = 20000 }) < 250000)
    local t = mx.json.decode(page(result { seconds = 20000 }):match 'id="data">(.-)</script>')
    assert.is_true(#t.series <= 600)
    assert.equal(20000, t.series[#t.series].t)
  end)
end)
