-- Handlers that take all memory there is: each costs its delivery, never the process, with the JIT and without.
local run = dofile "spec/cli/run.lua"

local SCRIPT = [[
  %s
  mx.memory.limit "64MB"
  local ffi, cjson = require "ffi", require "cjson"
  local BOMBS = {
    table = function() local t = {} for i = 1, 1e9 do t[i] = i end end,
    string = function() local t = {} for i = 1, 1e9 do t[i] = ("x"):rep(1000) .. i end end,
    concat = function() local s = "x" while true do s = s .. s end end,
    closure = function() local t = {} for i = 1, 1e9 do t[i] = function() return i end end end,
    coroutine = function() local t = {} for i = 1, 1e9 do t[i] = coroutine.create(function() end) end end,
    cdata = function() local t = {} for i = 1, 1e9 do t[i] = ffi.new "char[1000]" end end,
    cjson = function() local t = {} for i = 1, 1e9 do t[i] = cjson.decode '{"a":[1,2,3],"b":{}}' end end,
    gsub = function() local t, s = {}, ("x"):rep(1e5) for i = 1, 1e9 do t[i] = s:gsub("x", "yy" .. i) end end,
    recursion = function() local function f(n) return { f(n + 1) } end f(1) end,
    pcall = function() local t = {} while true do pcall(function() for _ = 1, 1e6 do t[#t + 1] = {} end end) end end,
  }
  local good, count = 0, 0
  for _ in pairs(BOMBS) do count = count + 1 end
  assert(mx.queue("work", { dlq = true }))
  for name in pairs(BOMBS) do
    assert(mx.publish_async("", "work", name))
    for _ = 1, 10 do assert(mx.publish_async("", "work", "good")) end
  end
  mx.consume("work", { retry = { max = 0 } }, function(msg)
    if BOMBS[msg.body] then BOMBS[msg.body]() end
    good = good + 1
  end)
  mx.every(0.05, function()
    local dead = mx.queue_info("work.dlq").messages
    if good < 10 * count or dead < count then return end
    local reasons = {}
    for m in mx.dlq("work"):peek(count) do reasons[#reasons + 1] = m.body .. ": " .. m.headers["x-mx-error"] end
    table.sort(reasons)
    collectgarbage()
    local s = mx.memory.stats()
    print(good, dead, s.lua < 16 * 2 ^ 20, s.lua_peak < 64 * 2 ^ 20 * 1.1 + 128 * 2 ^ 20)
    print(table.concat(reasons, "\n"))
    mx.stop()
  end)
]]

for _, mode in ipairs { "on", "off" } do
  describe("a memory bomb, the JIT " .. mode, function()
    it("costs its delivery, and the process goes on", function()
      local file = run.file(SCRIPT:format(mode == "off" and "jit.off()" or ""))
      local out, code, errors = run.mxrun("-u mem:// --log-level error " .. file)
      os.remove(file)
      assert.equal(0, code, errors)
      local good, dead, lua, peak, reasons = out:match "^(%d+)\t(%d+)\t(%a+)\t(%a+)\n(.+)\n$"
      assert.same({ "100", "10", "true", "true" }, { good, dead, lua, peak }, out .. errors)
      for line in reasons:gmatch "[^\n]+" do
        assert.match(line:find "^recursion" and "stack overflow" or "went beyond the memory limit", line)
      end
    end)
  end)
end

-- A process of its own: what the limit is about is all that a process holds.
local BACKLOG = [[
  local seen, count, queue = {}, 0, arg[1]
  assert(mx.queue(queue, { durable = false }))
  for i = 1, 400 do assert(mx.publish_async("", queue, ("%05d"):format(i) .. ("x"):rep(65536))) end
  while mx.queue_info(queue).messages < 400 do mx.sleep(0.01) end
  collectgarbage()
  local s = mx.memory.stats()
  mx.memory.limit(s.total - s.other + 14 * 2 ^ 20)
  local consumer
  local function done()
    local steps = mx.memory.stats().ladder
    mx.memory.limit(0)
    while consumer.held or not consumer.sub or consumer.prefetch < 400 do mx.sleep(0.01) end
    assert(mx.publish("", queue, "99999"))
    while count < 401 do mx.sleep(0.01) end
    print(steps.lower_prefetch.count > 0, consumer.prefetch)
    mx.delete_queue(queue)
    mx.stop()
  end
  local arrived = 0
  local function is_squeezed() return mx.memory.stats().ladder.lower_prefetch.count > 0 end
  consumer = assert(mx.consume(queue, { prefetch = 400, concurrency = 400 }, function(m)
    arrived = arrived + 1
    repeat mx.sleep(0.2) until arrived >= 400 or is_squeezed()
    local i = m.body:sub(1, 5)
    if not seen[i] then seen[i], count = true, count + 1 end
    if count == 400 and i ~= "99999" then mx.spawn(done) end
  end))
]]

describe("a memory limit that deliveries come near", function()
  it("makes consumers take less, and nothing is lost", function()
    local file = run.file(BACKLOG)
    -- what lies in a queue of mem:// is held already, so its consumers are left alone
    local answers = { ["mem://"] = "false\t400\n", [run.amqp or "mem://"] = run.amqp and "true\t400\n" or "false\t400\n" }
    for url, answer in pairs(answers) do
      local out, code, errors = run.mxrun(("-u %s --log-level error %s %s"):format(url, file, run.name "backlog"))
      assert.equal(answer, out, errors)
      assert.equal(0, code, errors)
    end
    os.remove(file)
  end)
end)

describe("--memory-limit", function()
  it("beats the script's own limit", function()
    assert.equal("67108864\n", (run.mxrun "--memory-limit 64MB -u mem:// -e 'mx.memory.limit \"1GB\" print(mx.memory.limit())'"))
    assert.equal("1073741824\n", (run.mxrun "-u mem:// -e 'mx.memory.limit \"1GB\" print(mx.memory.limit())'"))
    assert.equal("33554432\n", (run.shell 'MXRUN_MEMORY_LIMIT=32M "$MXRUN" -u mem:// -e "print(mx.memory.limit())"'))
  end)

  it("says what a size looks like", function()
    local text, code = run.both "--memory-limit lots -u mem:// -e ''"
    assert.equal(2, code)
    assert.match("--memory%-limit: expected a size such as 512MB or 2GB, got 'lots'", text)
    text, code = run.both "--memory-limit 2K -u mem:// -e ''"
    assert.equal(2, code)
    assert.match("--memory%-limit: the limit is 2048 bytes, and %d+ are held already", text)
  end)
end)
