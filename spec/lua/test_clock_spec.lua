-- mx.test.clock: an hour passes at once, and what is due in it happens in order.
local clock = mx.test.clock()

describe("the test's clock", function()
  it("moves mx.now, and ends sleeps in their order", function()
    local order = {}
    for i = 3, 1, -1 do
      mx.spawn(function()
        mx.sleep(i * 600)
        order[#order + 1] = i
      end)
    end
    local before = mx.now()
    clock:advance("1h")
    assert.is_true(mx.now() - before >= 3600)
    assert.same({ 1, 2, 3 }, order)
  end)

  it("does not end what is due later", function()
    local done = false
    local t = mx.after(7200, function() done = true end)
    clock:advance(3600)
    assert.is_false(done)
    clock:advance(3601)
    assert.is_true(done)
    t:cancel()
  end)

  it("lets every run as often as it would have", function()
    local n = 0
    local t = mx.every(60, function() n = n + 1 end)
    clock:advance(3601)
    t:cancel()
    assert.equal(60, n)
  end)

  it("lets a task that wakes sleep again within the same step", function()
    local n = 0
    mx.spawn(function() for _ = 1, 10 do mx.sleep(100) n = n + 1 end end)
    clock:advance(950)
    assert.equal(9, n)
    clock:advance(100)
    assert.equal(10, n)
  end)

  it("lets messages expire, and time limits pass", function()
    local c = assert(mx.connect { url = "mem://clock" })
    assert(c:queue("dead"))
    assert(c:queue("short", { ttl = 3600, dlq = "dead" }))
    assert(c:publish("", "short", "x"))
    clock:advance(3599)
    assert.equal(1, c:queue_info("short").messages)
    clock:advance(2)
    assert.equal(0, c:queue_info("short").messages)
    assert.equal(1, c:queue_info("dead").messages)
    local ok, e = mx.chan():get(0.001)
    assert.is_nil(ok)
    assert.equal("timeout", e.code)
    c:close()
  end)
end)

describe("mx.test.eventually", function()
  it("waits for something true and returns it", function()
    local n = 0
    assert.same({ 3, "x" }, { mx.test.eventually(function() n = n + 1 return n >= 3 and n, "x" end) })
  end)

  it("takes assertions, and raises the last one", function()
    local n = 0
    mx.test.eventually(function() n = n + 1 assert.equal(3, n) return true end)
    local ok, e = pcall(mx.test.eventually, function() error "still wrong" end, 0.02)
    assert.is_false(ok)
    assert.matches("still wrong", e)
    ok, e = pcall(mx.test.eventually, function() return false end, "20ms")
    assert.is_false(ok)
    assert.matches("still false after 0.02 s", e)
  end)
end)
