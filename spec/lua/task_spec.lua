describe("tasks", function()
  it("sleep for the time that was asked", function()
    local start = mx.now()
    mx.sleep(0.02)
    mx.sleep("10ms")
    local took = mx.now() - start
    assert.is_true(took >= 0.03)
  end)

  it("give back what the task returned, or its error", function()
    assert.same({ true, 42, nil, 1 }, { mx.spawn(function(a) return a * 2, nil, 1 end, 21):wait() })
    local ok, e = mx.spawn(function() error("no luck") end):wait()
    assert.is_nil(ok)
    assert.matches("no luck", tostring(e))
    assert.equal("internal", e.code)
  end)

  it("end a wait that is cancelled", function()
    local seen
    local t = mx.spawn(function() seen = select(2, pcall(mx.sleep, 60)) end)
    mx.sleep(0.001)
    t:cancel()
    t:wait(1)
    assert.equal("interrupted", seen.code)
  end)

  it("that are cancelled before they wait raise at their first wait, and once", function()
    local t = mx.spawn(function()
      local first, second = pcall(mx.sleep, 60), pcall(mx.sleep, 0)
      return first, second
    end)
    t:cancel()
    t:cancel()
    assert.same({ true, false, true }, { t:wait(5) })
  end)

  it("that are awake already keep what they waited for when they are cancelled", function()
    local ch, got = mx.chan(), nil
    local t = mx.spawn(function()
      got = ch:get()
      mx.sleep(60)
    end)
    mx.sleep(0.001)
    ch:put("value")
    t:cancel()
    local ok, e = t:wait(5)
    assert.is_nil(ok)
    assert.equal("interrupted", e.code)
    assert.equal("value", got)
  end)

  it("may cancel themselves, and one that has ended", function()
    local me
    me = mx.spawn(function()
      me:cancel()
      return (pcall(mx.sleep, 60))
    end)
    assert.same({ true, false }, { me:wait(5) })
    me:cancel()
    mx.sleep(0)
    assert.same({ true, false }, { me:wait(5) })
  end)

  it("wait inside pcall, iterators, metamethods and the user's coroutines", function()
    assert.same({ true, 7 }, { pcall(function() mx.sleep(0.001) return 7 end) })
    local sum = 0
    for v in function(_, last) mx.sleep(0.001) if (last or 0) < 3 then return (last or 0) + 1 end end do sum = sum + v end
    assert.equal(6, sum)
    local slow = setmetatable({}, { __index = function(_, k) mx.sleep(0.001) return k end })
    assert.equal("key", slow.key)
    local co = coroutine.wrap(function()
      mx.sleep(0.001)
      local got = coroutine.yield("first")
      mx.sleep(0.001)
      return got
    end)
    assert.equal("first", co())
    assert.equal("second", co("second"))
  end)

  it("cannot wait inside table.sort and string.gsub, and say so with the script's line", function()
    local ok, e = pcall(table.sort, { 3, 2, 1 }, function() mx.sleep(0.001) end)
    assert.is_false(ok)
    assert.matches("task_spec.lua:%d+: cannot wait inside table.sort", e)
    ok, e = pcall(string.gsub, "abc", ".", function() mx.sleep(0.001) end)
    assert.is_false(ok)
    assert.matches("cannot wait inside string.gsub", e)
    ok, e = pcall(table.sort, { 3, 2, 1 }, function() coroutine.wrap(function() mx.sleep(0.001) end)() end)
    assert.is_false(ok)
    assert.matches("task_spec.lua:%d+: cannot wait inside table.sort", e)
  end)

  it("that could not wait are not woken later for it", function()
    local ch, sem = mx.chan(), mx.semaphore(0)
    pcall(table.sort, { 3, 2, 1 }, function() return ch:get() end)
    pcall(table.sort, { 3, 2, 1 }, function() return ch:put("never") end)
    pcall(table.sort, { 3, 2, 1 }, function() return sem:acquire() end)
    local t = mx.spawn(function() return ch:get() end)
    local start = mx.now()
    mx.after(0.005, function()
      sem:release()
      ch:put("value")
    end)
    mx.sleep(0.02)
    assert.is_true(mx.now() - start >= 0.02)
    assert.same({ true, "value" }, { t:wait(5) })
    assert.is_true(sem:acquire(5))
  end)

  it("cannot yield where no coroutine of theirs is, and say so with the line", function()
    local ok, e = mx.spawn(function() coroutine.yield() end):wait(5)
    assert.is_nil(ok)
    assert.matches("task_spec.lua:%d+: attempt to yield from outside a coroutine", tostring(e))
  end)

  it("cannot be resumed by another task while they wait in a coroutine", function()
    local co = coroutine.create(function() mx.sleep(0.01) end)
    local t = mx.spawn(function() return coroutine.resume(co) end)
    mx.sleep(0.001)
    local ok, e = coroutine.resume(co, "not what it waits for")
    assert.is_false(ok)
    assert.matches("cannot resume a coroutine that waits in another task", e)
    assert.is_true(t:wait(5))
    assert.is_nil(coroutine.running())
    assert.equal("thread", coroutine.wrap(function() return type(coroutine.running()) end)())
  end)

  it("cannot wait for themselves", function()
    local me
    me = mx.spawn(function() return pcall(me.wait, me) end)
    local _, ok, e = me:wait(5)
    assert.is_false(ok)
    assert.matches("a task cannot wait for itself", e)
  end)

  it("survive a stack overflow and an error that is nil", function()
    local ok, e = mx.spawn(function()
      local function deep() return 1 + deep() end
      deep()
    end):wait(5)
    assert.is_nil(ok)
    assert.matches("stack overflow", tostring(e))
    ok, e = mx.spawn(function() error(nil) end):wait(5)
    assert.is_nil(ok)
    assert.equal("internal", e.code)
  end)

  it("every runs until cancelled, after runs once", function()
    local n, once = 0, 0
    local t = mx.every(0.005, function() n = n + 1 end)
    mx.after(0.001, function() once = once + 1 end)
    while n < 3 do mx.sleep(0.01) end           -- a busy machine may take its time
    t:cancel()
    local seen = n
    mx.sleep(0.02)
    assert.equal(seen, n)
    assert.equal(1, once)
  end)

  it("ten thousand parked tasks all wake", function()
    local woke = 0
    local tasks = {}
    for i = 1, 10000 do tasks[i] = mx.spawn(function() mx.sleep(0.05) woke = woke + 1 end) end
    for _, t in ipairs(tasks) do t:wait() end
    assert.equal(10000, woke)
  end)
end)

describe("a channel", function()
  it("hands values over in order, and makes a full putter wait", function()
    local ch, got = mx.chan(2), {}
    local t = mx.spawn(function() for i = 1, 10 do ch:put(i) end end)
    for _ = 1, 10 do got[#got + 1] = ch:get() end
    t:wait()
    assert.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, got)
  end)

  it("answers timeout when nothing comes", function()
    local v, e = mx.chan(1):get(0.01)
    assert.is_nil(v)
    assert.equal("timeout", e.code)
    assert.is_true(e.retryable)
  end)

  it("carries false and nil", function()
    local ch = mx.chan(2)
    ch:put(false)
    ch:put(nil)
    assert.is_false(ch:get())
    assert.is_nil(ch:get())
  end)
end)

describe("a line of waiters", function()
  it("keeps nothing of those who gave up", function()
    local ch, sem, t = mx.chan(), mx.semaphore(0), mx.spawn(mx.sleep, 60)
    for _ = 1, 50 do
      ch:get(0)
      ch:put(1, 0)
      sem:acquire(0)
      t:wait(0)
    end
    for _, line in ipairs { ch.getters, ch.putters, sem.queue, t.waiters } do
      assert.is_true(line:is_empty())
      assert.same({ 1, 0 }, { line.first, line.last })
    end
    t:cancel()
  end)

  it("passes over those who gave up", function()
    local ch, got = mx.chan(), {}
    local tasks = {}
    for i = 1, 5 do
      tasks[i] = mx.spawn(function() got[i] = ch:get(i % 2 == 0 and 0.001 or 60) or "gave up" end)
    end
    mx.sleep(0.02)
    for i = 1, 3 do ch:put(i) end
    for i = 1, 5 do tasks[i]:wait(5) end
    assert.same({ 1, "gave up", 2, "gave up", 3 }, got)
  end)
end)

describe("a semaphore", function()
  it("loses no permit to a task that is cancelled", function()
    local sem = mx.semaphore(0)
    local t = mx.spawn(function() sem:acquire() end)
    mx.sleep(0.001)
    t:cancel()
    sem:release()
    t:wait(5)
    assert.is_true(sem:acquire(5))
  end)

  it("lets at most its count in", function()
    local sem, inside, most = mx.semaphore(3), 0, 0
    local tasks = {}
    for i = 1, 12 do
      tasks[i] = mx.spawn(function()
        sem:acquire()
        inside = inside + 1
        most = math.max(most, inside)
        mx.sleep(0.002)
        inside = inside - 1
        sem:release()
      end)
    end
    for _, t in ipairs(tasks) do assert.is_true(t:wait(5)) end
    assert.equal(3, most)
  end)
end)
