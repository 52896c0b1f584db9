-- Who holds which bytes, the limit, and what is done as it comes near.
local on_each_broker, eventually = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

local MB = 1024 ^ 2
local function held(name) return mx.memory.stats()[name] end

describe("the account of memory", function()
  it("counts Lua's heap, as the VM does", function()
    collectgarbage()
    local before = held "lua"
    local kept = {} -- luacheck: ignore
    for i = 1, 100 do kept[i] = ("x"):rep(20000 + i) end
    collectgarbage "stop"                                -- nothing goes between the two looks
    local s, count = mx.memory.stats(), collectgarbage "count"
    collectgarbage "restart"
    assert.is_true(s.lua - before > 2e6, s.lua - before)
    assert.near(count, s.lua / 1024, 16)
    assert.is_true(s.lua_peak >= s.lua and s.objects > 1000)
    for i = 1, 100 do kept[i] = nil end
    collectgarbage()
    assert.is_true(held "lua" < before + 1e6)
  end)

  it("has an owner for every byte that the process holds", function()
    local s = mx.memory.stats()
    local sum = 0
    for _, name in ipairs { "lua", "messages", "unconfirmed", "buffers", "deliveries", "receipts", "broker", "tls", "profiler", "pools",
                            "other" } do
      assert.is_true(s[name] >= 0, name)
      sum = sum + s[name]
    end
    assert.near(s.total, sum, 1)
    assert.is_true(s.rss > 1e6)
  end)
end)

on_each_broker("the account of memory", function(connect, name)
  it("knows what deliveries hold until they are settled", function()
    local c, q, kept = connect(), name "unacked", {}
    assert(c:queue(q, { durable = false }))
    assert(c:consume(q, { manual = true, concurrency = 50 }, function(m) kept[#kept + 1] = m end))
    for i = 1, 50 do assert(c:publish("", q, ("x"):rep(20000) .. i)) end
    assert(eventually(function() return #kept == 50 end))
    local s = mx.memory.stats()
    assert.is_true(s.unacked >= MB * 0.9, s.unacked)
    assert.is_true(s.deliveries > 0)
    assert.is_true(mx.pool.stats().objects.deliveries.live >= 50)
    for _, m in ipairs(kept) do m:ack() end
    assert(eventually(function() return held "unacked" < 20001 end))
  end)

  it("knows what is kept until it is confirmed, and the receipts", function()
    local c, q = connect(), name "unconfirmed"
    assert(c:queue(q, { durable = false }))
    local before, p = mx.memory.stats(), mx.publisher { conn = c, max_in_flight = 1000 }
    local receipts, most = {}, 0
    for i = 1, 100 do
      receipts[i] = assert(p:publish_async(q, ("x"):rep(20000)))
      local s = mx.memory.stats()
      most = math.max(most, s.unconfirmed + s.messages - before.unconfirmed - before.messages)
    end
    assert.is_true(most > MB, most)
    assert.is_true(held "receipts" > before.receipts)
    assert(mx.wait_all(receipts, 10))
    c:purge(q)
    p:close()
    assert(eventually(function()
      local s = mx.memory.stats()
      return s.receipts == before.receipts and s.unconfirmed <= before.unconfirmed + 512 * 1024 and s.messages <= before.messages + MB
    end))
  end)
end)

describe("the account of memory at rest", function()
  it("has nothing in pools once nobody has asked them for 10 s", function()
    local c = assert(mx.connect { url = "mem://memory-rest" })
    assert(c:queue "memory.rest")
    for _ = 1, 100 do assert(c:publish("", "memory.rest", "x")) end
    assert(c:purge "memory.rest")
    assert.is_true(held "pools" > 0)
    local clock = mx.test.clock()
    for _ = 1, 20 do                                     -- somebody may have asked meanwhile
      if held "pools" == 0 then break end
      clock:advance(11)
      mx.sleep(0.01)
    end
    assert.equal(0, held "pools")
    c:close()
  end)

  it("has what is resident and in use by nobody", function()
    local waste = {}
    for i = 1, 100000 do waste[i] = { i } end
    local before = mx.memory.stats()
    for i = 1, #waste, 2 do waste[i] = false end         -- their neighbours stay, and so does what they lay in
    collectgarbage()
    local s = mx.memory.stats()
    assert.is_true(s.lua < before.lua - 2e6 and s.retained > before.retained + 1e6, s.retained - before.retained)
    assert.is_true(s.total + s.retained <= s.rss * 1.05)
    assert.equal(100000, #waste)
  end)
end)

describe("the account of mem://", function()
  it("has what lies in queues, and what they are made of", function()
    local c = assert(mx.connect { url = "mem://memory-queues" })
    local before = mx.memory.stats()
    assert(c:queue "deep")
    for _ = 1, 1000 do assert(c:publish_async("", "deep", ("x"):rep(1000))) end
    local s = mx.memory.stats()
    assert.is_true(s.messages - before.messages > MB * 0.9)
    assert.is_true(s.broker > before.broker)
    c:purge "deep"
    local purged = mx.memory.stats()
    assert.is_true(purged.messages - before.messages < 1e5, purged.messages - before.messages)
    local list = mx.pool.stats().objects.messages
    assert.is_true(list.hit >= 0 and list.hit <= 1)
    if list.hit > 0 then                                 -- a build with sanitizers keeps none
      assert.is_true(purged.pools > 0 and purged.pools >= before.pools)
      assert.is_true(list.free > 0)
    end
    c:close()
  end)
end)

describe("mx.memory.limit", function()
  -- Leaves so much beside what is held now.
  local function leave(bytes)
    collectgarbage()
    local s = mx.memory.stats()
    mx.memory.limit(s.total - s.other + bytes)
  end
  -- Makes what is held now that share of the limit.
  local function share(f)
    local s = mx.memory.stats()
    mx.memory.limit(math.floor((s.total - s.other) / f))
  end
  before_each(function() collectgarbage() end)
  after_each(function() mx.memory.limit(0) end)

  it("ends who goes beyond it with an error, and the rest goes on", function()
    leave(64 * MB)
    local before = held "lua"
    local t = mx.spawn(function()
      local all = {} -- luacheck: ignore
      for i = 1, 1e9 do all[i] = { i } end
    end)
    local ok, e = t:wait(30)
    assert.is_nil(ok)
    assert.equal("memory", e.code)
    assert.match("went beyond the memory limit", e.message)
    assert.is_true(held "lua" < before + 40 * MB)
    assert.is_true(mx.spawn(function() return #("x"):rep(1e6) end):wait(5))
  end)

  it("ends nobody over what is garbage", function()
    leave(64 * MB)
    local ok, n = mx.spawn(function()
      local n = 0
      for i = 1, 200 do n = n + #(("x"):rep(1e6) .. i) end
      return n
    end):wait(30)
    assert.is_true(ok)
    assert.is_true(n > 2e8)
  end)

  it("cannot be passed by catching the error", function()
    leave(64 * MB)
    local caught = 0
    local ok, e = mx.spawn(function()
      local all = {}
      while true do
        pcall(function() for _ = 1, 1e6 do all[#all + 1] = {} end end)
        caught = caught + 1
      end
    end):wait(30)
    assert.is_nil(ok)
    assert.equal("memory", e.code)
  end)

  it("tells what it is", function()
    mx.memory.limit "1GB"
    assert.equal(2 ^ 30, mx.memory.limit())
    assert.equal(2 ^ 30, held "limit")
    mx.memory.limit(0)
    assert.equal(0, held "used")
    assert.has_error(function() mx.memory.limit "a lot" end)
  end)

  it("lets a step of the ladder act once it is near, and takes that back", function()
    local heard = {}
    mx.on("memory", function(x) heard[#heard + 1] = x.step .. " " .. tostring(x.active) end)
    mx.memory.ladder { [0.7] = "refuse_publish" }
    mx.memory.collect_at(1)
    share(0.75)
    assert(eventually(function() return mx.memory.stats().ladder.refuse_publish.active end))
    local c = assert(mx.connect { url = "mem://refused" })
    local ok, e = c:publish("", "nowhere", "x")
    assert.is_nil(ok)
    assert.equal("memory", e.code)
    assert.match("publishing is refused until there is room", e.message)
    share(0.68)                                          -- not yet far enough below
    mx.sleep(0.15)
    assert.is_true(mx.memory.stats().ladder.refuse_publish.active)
    share(0.5)
    assert(eventually(function() return not mx.memory.stats().ladder.refuse_publish.active end))
    assert.is_true(c:publish("", "nowhere", "x", { mandatory = false }))
    assert.equal(1, mx.memory.stats().ladder.refuse_publish.count)
    assert(eventually(function() return #heard == 2 end))
    assert.same({ "refuse_publish true", "refuse_publish false" }, heard)
    c:close()
  end)

  it("tells who watches it, once for each time", function()
    local calls, asked, flag = 0, 0, false
    local a = mx.memory.watch(0.7, function(m)
      calls = calls + 1
      assert.is_true(m.used > 0.5)
    end)
    local b = mx.memory.watch(function(m) return m.rss > 0 and flag end, function() asked = asked + 1 end)
    mx.memory.ladder {}
    share(0.8)
    assert(eventually(function() return calls == 1 end))
    mx.sleep(0.25)
    assert.equal(1, calls)
    share(0.4)
    mx.sleep(0.15)
    share(0.8)
    assert(eventually(function() return calls == 2 end))
    assert.equal(0, asked)
    flag = true
    assert(eventually(function() return asked == 1 end))
    a:cancel()
    b:cancel()
  end)

  it("refuses a ladder that cannot be", function()
    assert.has_error(function() mx.memory.ladder { [0.7] = "colect" } end,
                     "mx.memory.ladder: unknown step 'colect', did you mean 'collect'?")
    assert.has_error(function() mx.memory.ladder { "collect", [2] = "collect" } end)
    assert.has_error(function() mx.memory.ladder { [0.7] = "collect", [0.8] = "collect" } end,
                     "mx.memory.ladder: 'collect' is there twice")
    assert.has_error(function() mx.memory.watch(2, function() end) end)
  end)
end)

describe("the collector", function()
  it("is driven between turns, and what that takes is counted", function()
    collectgarbage("setpause", 1000)                     -- so that the VM's own collector does not come first
    collectgarbage()
    local before = mx.memory.stats().gc
    assert(eventually(function()
      local kept = {} -- luacheck: ignore
      for k = 1, 20000 do kept[k] = { k } end
      local gc = mx.memory.stats().gc
      return gc.cycles > before.cycles and gc.pause_total > before.pause_total
    end))
    collectgarbage("setpause", 200)
    local gc = mx.memory.stats().gc
    assert.is_true(gc.pause_total > before.pause_total)
    assert.is_true(gc.pause_max >= gc.pause_p99 and gc.pause_p99 >= gc.pause_p50)
  end)
end)
