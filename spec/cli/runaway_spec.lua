-- Scripts that run away: each shape is stopped at the turn limit, and the process goes on consuming. MXRUN_TIMES repeats them.
local MXRUN = os.getenv "MXRUN" or "build/mxrun"
local TIMES = tonumber(os.getenv "MXRUN_TIMES" or 1)

local SHAPES = {
  ["an empty loop"] = "while true do end",
  ["a counting loop"] = "local x = 0 for i = 1, 1e18 do x = x + i end",
  ["pcall around a loop, again and again"] = "while true do pcall(function() while true do end end) end",
  ["a coroutine.wrap that loops"] = "coroutine.wrap(function() while true do end end)()",
  ["a loop of resumes"] = "local co = coroutine.create(function() while true do coroutine.yield() end end)\n"
    .. "while true do coroutine.resume(co) end",
  ["a generator without end"] = "for _ in coroutine.wrap(function() while true do coroutine.yield(1) end end) do end",
  ["a loop that allocates"] = "local t = {} while true do t[#t % 100 + 1] = {} end",
  ["a loop of tostring"] = "local i = 0 while true do i = i + 1 local _ = tostring(i) end",
  ["a loop of strings"] = "local s = '' while true do s = (s .. 'x'):sub(-100) end",
  ["an FFI loop"] = "local p = require'ffi'.new('int[10]') while true do p[0] = p[0] + 1 end",
  ["FFI calls of the runtime"] = "while true do mx.now() end",
  ["a tail recursion"] = "local function r() return r() end r()",
  ["pcall(error) without end"] = "repeat until pcall(error, 'x') and false",
  ["a comparison in table.sort"] = "table.sort({ 3, 2, 1 }, function() while true do end end)",
  ["a callback of gsub"] = "string.gsub('abc', '.', function() while true do end end)",
  ["a metamethod"] = "local _ = setmetatable({}, { __index = function() while true do end end }).foo",
  ["a script that took the hook away"] = "debug.sethook() while true do end",
  ["a script that turned the JIT off"] = "jit.off() while true do end",
  ["a looping error handler"] = "xpcall(function() while true do end end, function() while true do end end)",
}

-- What no hook reaches: the process leaves, and says why.
local UNSTOPPABLE = {
  ["a finalizer"] = "require'ffi'.gc(require'ffi'.new('int[1]'), function() while true do end end) collectgarbage() collectgarbage()",
  ["C code that matches a pattern"] = "return ('a'):rep(2e5):find('.-.-.-b')",
}

local function start(options, text, errors)
  local path = os.tmpname()
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
  if not options:find "-u " then options = "-u mem:// " .. options end
  return assert(io.popen(("timeout 300 %s %s %s %s; echo exit $?; rm -f %s"):format(MXRUN, options, path, errors, path)))
end

local function result(p)
  local out = p:read "*a"
  p:close()
  return out
end

-- The handler runs the shape for each delivery that says so, and counts the others; it prints the longest overrun.
local CONSUMES = [[
  local shape = assert(loadstring(%q))
  local LIMIT, worst, ended, good = 0.05, 0, 0, 0
  assert(mx.topology { queues = { work = { dlq = true } } })
  local from
  mx.consume("work", { retry = { max = 0 } }, function(msg)
    if ended > 0 then worst = math.max(worst, from and mx.now() - from - LIMIT or 0) end
    from = nil
    if msg.body == "bad" then
      ended, from = ended + 1, mx.now()
      shape()
      ended = ended - 1                 -- not reached
    else
      good = good + 1
    end
  end)
  for _ = 1, %d do
    assert(mx.publish("", "work", "bad"))
    assert(mx.publish("", "work", "good"))
  end
  while good < %d do mx.sleep(0.01) end
  while mx.queue_info "work.dlq".messages < %d do mx.sleep(0.01) end
  print(("ended %%d good %%d"):format(ended, good))
  io.write(("overrun %%.0f ms\n"):format(worst * 1000))
  mx.stop()
]]

describe("a runaway handler", function()
  for what, shape in pairs(SHAPES) do
    it("is stopped at the turn limit: " .. what, function()
      local out = result(start("--turn-limit 0.05", CONSUMES:format(shape, TIMES, TIMES, TIMES), "2>/dev/null"))
      local overrun = out:match "overrun (%d+) ms\n"
      assert.equal(("ended %d good %d\nexit 0\n"):format(TIMES, TIMES), (out:gsub("overrun %d+ ms\n", "")))
      if TIMES > 1 then io.stderr:write(("%-40s %d times, at most %s ms past the limit\n"):format(what, TIMES, overrun)) end
    end)
  end

  it("ends the process where nothing can stop it", function()
    local running = {}
    for what, code in pairs(UNSTOPPABLE) do running[what] = start("--turn-limit 0.05", code, "2>&1") end
    for what, p in pairs(running) do
      local out = result(p)
      assert.matches("mxrun: Lua could not be stopped 5 s past the turn limit.*exit 1\n$", out, what)
    end
  end)

  for _, broker in ipairs { "mem://", os.getenv "MXRUN_SPEC_AMQP" } do
    it("costs its message, and the next one is handled, on " .. broker:match "^%a+", function()
      local out = result(start("--turn-limit 0.5 -u " .. broker, [[
        local q = assert(mx.queue("spec-runaway", { durable = false, auto_delete = true, dlq = true }))
        mx.purge "spec-runaway.dlq"
        local dead, good
        assert(mx.publish("", q, "loop"))
        assert(mx.publish("", q, "good"))
        assert(mx.consume(q, { retry = { max = 0 } }, function(m)
          if m.body == "loop" then while true do end end
          good = true
        end))
        assert(mx.consume(q .. ".dlq", function(m) dead = m.headers["x-mx-error"] end))
        while not (dead and good) do mx.sleep(0.01) end
        print(dead)
        mx.stop()
      ]], "2>/dev/null"))
      assert.matches("turn limit.*exit 0\n$", out)
    end)
  end

  it("is stopped in a file that is called almost as the runtime's own", function()
    local dir = os.tmpname()
    os.remove(dir)
    assert(os.execute("mkdir -p " .. dir .. "/mx") == 0)
    local f = assert(io.open(dir .. "/mx/turnip.lua", "w"))
    f:write "while true do end"
    f:close()
    local command = "b=$(realpath %s); cd %s && timeout 60 $b --turn-limit 0.05 -u mem:// mx/turnip.lua 2>&1; echo exit $?; rm -r %s"
    local out = result(io.popen(command:format(MXRUN, dir, dir)))
    assert.matches("mx/turnip.lua:1: ran past the turn limit.*exit 1\n$", out)
  end)

  it("leaves the time of a turn to what deals with its failure", function()
    local out = result(start("--turn-limit 0.5", [[
      local q = assert(mx.queue("q", { dlq = true }))
      assert(mx.publish("", q, "loop"))
      assert(mx.consume(q, { retry = { max = 1, delay = function()
        local due = mx.now() + 0.1
        while mx.now() < due do end
        return nil
      end } }, function() while true do end end))
      while mx.queue_info "q.dlq".messages < 1 do mx.sleep(0.01) end
      mx.stop()
    ]], "2>/dev/null"))
    assert.equal("exit 0\n", out)
  end)
end)
