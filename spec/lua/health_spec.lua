-- mx.health: checks, what damps them, the built-in ones, and whether the process is ready.
local on_each_broker, eventually = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

-- An instance with checks of its own, which end with the spec.
local health
before_each(function()
  local kept = package.loaded["mx.health"]
  package.loaded["mx.health"] = nil
  health = require "mx.health"
  package.loaded["mx.health"] = kept
  health.setup()
end)
after_each(function() health.running = false end)

local function of(name) return health.report().checks[name] end
local function is(name, status) eventually(function() return of(name).status == status end) end

local FAST = { every = 0.005, fail_after = 1, recover_after = 1 }

-- Results are given one at a time: each waits until the check asked for it.
local function by_hand(options)
  local results, asked = mx.chan(), 0
  options.every, options.timeout = 0.001, 30
  health.api("hand", options, function()
    asked = asked + 1
    return unpack(results:get())
  end)
  return function(...)
    local n = asked
    results:put { ... }
    eventually(function() return asked > n end)
    return of "hand".status
  end
end

describe("a check", function()
  it("is healthy with nothing or true, and whatever else it says, it says in the report", function()
    for name, result in pairs { nothing = {}, yes = { true }, no = { false, "why" }, degraded = { "degraded", "so so", { a = 1 } },
                                unhealthy = { "unhealthy" }, odd = { 5 } } do
      health.api(name, FAST, function() return unpack(result) end)
    end
    health.api("raises", FAST, function() error("boom", 0) end)
    is("nothing", "healthy")
    is("yes", "healthy")
    is("raises", "unhealthy")
    for _, name in ipairs { "no", "unhealthy", "odd" } do is(name, "unhealthy") end
    is("degraded", "degraded")
    local r = health.report()
    assert.same({ "unhealthy", { healthy = 2, degraded = 1, unhealthy = 4, unknown = 0 } }, { r.status, r.summary })
    assert.same({ "why", "so so", { a = 1 }, "boom" },
                { of "no".message, of "degraded".message, of "degraded".details, of "raises".message })
    assert.matches("health_spec.lua:%d+: a check answers 'degraded', 'unhealthy' or nothing, got 5", of "odd".message)
    assert.is_true(of "yes".duration >= 0 and of "yes".since <= os.time() and of "yes".message == nil)
  end)

  it("gets what mx.stats() answers", function()
    local seen
    health.api("stats", FAST, function(s) seen = s end)
    is("stats", "healthy")
    assert.is_true(seen.uptime > 0 and seen.memory.rss > 1e6 and seen.loop.lag_p99 >= 0)
  end)

  it("changes after fail_after and recover_after results in a row", function()
    local answer = by_hand { fail_after = 3, recover_after = 2 }
    assert.same({ "healthy", "healthy", "healthy" }, { answer(), answer "unhealthy", answer "unhealthy" })
    assert.same({ "healthy", "healthy", "healthy", "unhealthy" }, { answer(), answer "unhealthy", answer "unhealthy", answer "unhealthy" })
    assert.same({ "unhealthy", "unhealthy", "unhealthy", "healthy" }, { answer(), answer "unhealthy", answer(), answer() })
  end)

  it("is unknown until it has failed often enough to be unhealthy", function()
    local answer = by_hand { fail_after = 2 }
    assert.same({ "unknown", "unhealthy" }, { answer "unhealthy", answer "unhealthy" })
    assert.equal("unhealthy", health.report().status)
  end)

  it("fails at its time limit, and for as long as it does not end", function()
    local ended = false
    health.api("slow", { every = 0.01, timeout = 0.02, fail_after = 3 }, function()
      while not ended do pcall(mx.sleep, 0.01) end
    end)
    is("slow", "unhealthy")
    assert.equal("it ran past its time limit of 0.02 s", of "slow".message)
    ended = true
    is("slow", "healthy")
  end)

  it("of the same name takes the place of the one before", function()
    health.api("same", FAST, function() return false end)
    is("same", "unhealthy")
    health.api("same", FAST, function() end)
    is("same", "healthy")
    assert.equal(1, health.report().summary.healthy)
  end)

  it("says at the caller's line what is wrong", function()
    for text, f in pairs {
      ["unknown option 'evry', did you mean 'every'"] = function() mx.health("x", { evry = 1 }, function() end) end,
      ["bad argument #3 to mx.health: expected a function, got nil"] = function() mx.health "x" end,
      ["bad argument #1 to mx.health.memory"] = function() mx.health.memory "lots" end,
      ["bad argument #1 to mx.health.tasks"] = function() mx.health.tasks(0) end,
      ["bad argument #1 to mx.health.connections"] = function() mx.health.connections "all" end,
      ["bad argument #2 to mx.health.progress"] = function() mx.health.progress "orders" end,
    } do
      local ok, e = pcall(f)
      assert.is_false(ok)
      assert.matches("health_spec.lua:" .. debug.getinfo(f, "S").linedefined .. ": .*" .. text:gsub("[.'#]", "%%%0"), e)
    end
  end)
end)

describe("a check that comes with mxrun", function()
  it("takes a number: past it unhealthy, near it degraded", function()
    local s = mx.stats()
    health.api.tasks(1e6, FAST)
    health.api.loop("1h", FAST)
    health.api.memory("1TB", FAST)
    is("tasks", "healthy")
    is("loop", "healthy")
    is("memory", "healthy")
    health.api.memory(1024, FAST)
    is("memory", "unhealthy")
    assert.matches("MB are used, 0.0 may be", of "memory".message)
    health.api.memory(s.memory.rss * 1.1, FAST)
    is("memory", "degraded")
    health.api.memory(1, FAST)
    is("memory", "healthy")
  end)

  it("takes a function, which answers a number or as a check does", function()
    local got
    health.api.memory(function(m) got = m return "degraded", "as I say" end, FAST)
    is("memory", "degraded")
    assert.is_true(got.lua > 0 and got.rss > 0 and got.machine > got.rss and got.used < 1)
    health.api.tasks(function(n) return n + 1000 end, FAST)
    is("tasks", "healthy")
    health.api.tasks(function() return 0 end, FAST)
    is("tasks", "unhealthy")
    health.api.loop(function(lag) return lag < 0 and false end, FAST)
    is("loop", "unhealthy")
  end)

  it("of memory sees a squeeze", function()
    local limit = mx.stats().memory.rss + 40e6
    health.api.memory(limit, FAST)
    eventually(function() return of "memory".status ~= "unknown" end)
    assert.is_true(of "memory".status ~= "unhealthy")
    local hog = {}
    eventually(function()                                -- what was retained is used first, and some is given back meanwhile
      while mx.stats().memory.rss < limit do hog[#hog + 1] = ("x"):rep(1e6 + #hog) end
      return of "memory".status == "unhealthy"
    end)
    assert.is_true(#hog > 0)
  end)
end)

on_each_broker("progress", function(connect, name)
  it("is missing while a handler hangs, and back when it goes on", function()
    local c, q, go = connect(), name "health", mx.chan()
    assert(c:queue(q, { durable = false }))
    local consumer = assert(c:consume(q, function() go:get() end))
    health.api.progress(q, 0.05, FAST)
    is("progress:" .. q, "healthy")
    assert(c:publish("", q, "x"))
    is("progress:" .. q, "unhealthy")
    assert.matches('none of the messages in "' .. q:gsub("%p", "%%%0") .. '" was handled for', of("progress:" .. q).message)
    go:put(true)
    is("progress:" .. q, "healthy")
    assert(consumer:stop())
    assert(c:delete_queue(q))
  end)

  it("is missing while messages wait and nobody consumes", function()
    local c, q = connect(), name "health"
    assert(c:queue(q, { durable = false }))
    local consumer = assert(c:consume(q, function() end))
    health.api.progress(q, function(idle) return idle > 0.05 and "degraded" or nil end, FAST)
    is("progress:" .. q, "healthy")
    assert(consumer:stop())
    assert(c:publish("", q, "x"))
    is("progress:" .. q, "degraded")
    assert(consumer:resume())
    is("progress:" .. q, "healthy")
    assert(consumer:stop())
    assert(c:delete_queue(q))
  end)
end)

on_each_broker("the process", function(connect, name)
  it("is ready when every consumer is subscribed", function()
    local c, q = connect(), name "health"
    assert(c:queue(q, { durable = false }))
    eventually(health.ready)
    local consumer = assert(c:consume(q, function() end))
    assert.is_true(health.ready())
    local inbox = consumer.sub.inbox
    local state = inbox.state
    inbox.cancelled, inbox.state = 1, 3                 -- as when the broker ends it; seen before anything is mended
    assert.same({ false, ("the consumer of %q is not subscribed"):format(q) }, { health.ready() })
    inbox.cancelled, inbox.state = 0, state
    assert(consumer:pause())
    assert.is_true(health.ready())
    assert(c:delete_queue(q))
  end)
end)

describe("a process", function()
  it("is not ready while a connection is being made", function()
    eventually(health.ready)
    local task = mx.spawn(function() return mx.connect { url = "amqp://127.0.0.1:1" } end)
    eventually(function() return not health.ready() end)
    assert.matches("127.0.0.1:1.*: no connection to %a+$", (select(2, health.ready())))
    task:cancel()
    eventually(health.ready)
  end)
end)

describe("a script under test", function()
  it("has checks of its own, which do not run", function()
    local script = dofile("spec/cli/run.lua").file [[
      mx.health('own', { every = 0.001 }, error)
      mx.health.memory(0.85)
      report = mx.health.report
    ]]
    local h = mx.test.load(script)
    mx.sleep(0.01)
    local r = h.env.report()
    assert.same({ "unknown", "unknown", "healthy" }, { r.checks.own.status, r.checks.memory.status, r.status })
    assert.is_nil(mx.health.report().checks.own)
    h:close()
    os.remove(script)
  end)
end)
