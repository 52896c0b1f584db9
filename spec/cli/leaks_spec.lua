-- Leaks: what grew between two moments, by line of the source, and who holds an object.
local cli = dofile "spec/cli/run.lua"

-- What the script prints, with its own path as "script"; it must succeed.
local function lines_of(code)
  local path = cli.file(code)
  local out, exit, errors = cli.mxrun("-u mem:// --log-level error " .. path)
  os.remove(path)
  assert.same({ 0, "" }, { exit, errors }, out)
  local list = {}
  for line in (out:gsub(path:gsub("%p", "%%%0"), "script")):gmatch "[^\n]+" do list[#list + 1] = line end
  return list
end

local LEAK = [[
local cache = {}
local function remember(id)
  cache[id] = { id = id, body = ("x"):rep(65000 + id) }
  return cache[id].body
end
local function forget(id)
  local body = ("y"):rep(65000 + id)
  return #body
end
assert(mx.queue "orders")
local done = mx.chan(1)
mx.consume("orders", function(msg)
  local id = tonumber(msg.body)
  remember(id)
  forget(id)
  if id == 400 then done:put(true) end
end)
local before = mx.memory.snapshot()
for i = 1, 400 do assert(mx.publish("", "orders", tostring(i))) end
done:get()
]]

describe("mx.memory.snapshot", function()
  it("and diff name the line that leaks first", function()
    local out = lines_of("jit.off()\n" .. LEAK .. [[
      local grown = before:diff(mx.memory.snapshot())
      local x = grown[1]
      print(x.file, x.line, x.func, x.bytes > 10e6 and x.bytes < 60e6, x.objects > 100, grown.owners.lua > 20e6)
      mx.stop()
    ]])
    assert.same({ "script\t4\tremember\ttrue\ttrue\ttrue" }, out)
  end)

  it("and diff name the function in compiled code, where the line may be the one behind", function()
    local out = lines_of(LEAK .. [[
      local x = before:diff(mx.memory.snapshot())[1]
      print(x.func, x.line == 3 or x.line == 4, x.bytes > 10e6)
      mx.stop()
    ]])
    assert.same({ "remember\ttrue\ttrue" }, out)
  end)

  it("and diff say what shrank last", function()
    local out = lines_of("jit.off()\n" .. LEAK .. [[
      local full = mx.memory.snapshot()
      for i = 1, 400 do cache[i] = nil end
      local d = full:diff(mx.memory.snapshot())
      local x = d[#d]
      print(x.line, x.bytes < -10e6, d.owners.lua < -20e6)
      mx.stop()
    ]])
    assert.same({ "4\ttrue\ttrue" }, out)
  end)

  it("print well", function()
    local out = lines_of("jit.off()\n" .. LEAK .. [[
      local after = mx.memory.snapshot()
      io.write(tostring(before:diff(after)), tostring(after), tostring(mx.memory.top(1)))
      mx.stop()
    ]])
    assert.matches("^grew in [%d.e-]+s: lua %+%d[%d.]*MB", out[1])
    assert.equal("    growth  objects  line", out[2])
    assert.matches("^ *%+%d[%d.]*MB +%+%d+  remember script:4$", out[3])
    local all = table.concat(out, "\n")
    assert.matches("\nheld by Lua: %d[%d.]*MB in %d+ objects; all: %d[%d.]*MB\n     bytes  objects  line\n"
      .. " *%d[%d.]*MB +%d+  remember script:4\n", all)
    assert.matches("     bytes  objects  line\n *%d[%d.]*MB +%d+  remember script:4$", all)
  end)

  it("names a line of the script, though it is mxrun that allocates for it", function()
    local out = lines_of [[
      jit.off()
      local texts, all = {}, {}
      for i = 1, 1000 do texts[i] = ('{"a":"%s"}'):format(("z"):rep(10000) .. i) end
      local before = mx.memory.snapshot()
      for i = 1, 1000 do all[i] = mx.json.decode(texts[i]) end
      local x = before:diff(mx.memory.snapshot())[1]
      print(x.file, x.line, #all)
    ]]
    assert.same({ "script\t5\t1000" }, out)
  end)

  it("refuse what is none", function()
    local out = lines_of [[
      local s = mx.memory.snapshot()
      print(select(2, pcall(s.diff, s, {})))
      print(select(2, pcall(mx.memory.top, 0)))
    ]]
    assert.same({
      "script:2: snapshot:diff: expected a later snapshot",
      "script:3: bad argument #1 to mx.memory.top: expected an integer above 0, got 0",
    }, out)
  end)
end)

describe("mx.memory.top", function()
  it("has the lines that hold most, as many as were asked for", function()
    local out = lines_of("jit.off()\n" .. LEAK .. [[
      local top = mx.memory.top(2)
      print(#top <= 2, top[1].line, top[1].func)
      mx.stop()
    ]])
    assert.same({ "true\t4\tremember" }, out)
  end)
end)

describe("mx.memory.who", function()
  it("names the table that a leak lies in", function()
    local out = lines_of [[
      cache = { k = {} }
      for i = 1, 3 do cache.k[i] = { body = ("x"):rep(100) .. i } end
      cache["no name"] = {}
      local key = {}
      cache[key] = true
      print(mx.memory.who(cache.k[3]))
      print(mx.memory.who(cache.k[3].body))
      print(mx.memory.who(cache["no name"]))
      print(mx.memory.who(key))
      print(mx.memory.who(cache))
      setmetatable(cache, { __index = { x = {} } })
      print(mx.memory.who(cache.x))
      mx.state.kept = { {} }
      print(mx.memory.who(mx.state.kept[1]))
    ]]
    assert.same({
      "_G.cache.k[3]", "_G.cache.k[3].body", '_G.cache["no name"]', "_G.cache<key>", "_G.cache",
      "_G.cache<metatable>.__index.x", "mx.state.kept[1]",
    }, out)
  end)

  it("names upvalues by the functions that have them, however mxrun holds those", function()
    local out = lines_of [[
      local seen, waiting, late = { {} }, {}, {}
      local function handler(msg) seen[#seen + 1] = msg end
      assert(mx.queue "q")
      mx.consume("q", handler)
      mx.after(100, function() return waiting end)
      callbacks = { [17] = function() return late end }
      print(mx.memory.who(seen))
      print(mx.memory.who(seen[1]))
      print(mx.memory.who(waiting))
      print(mx.memory.who(late))
      mx.stop()
    ]]
    assert.same({
      "upvalue seen of handler (script:2)", "upvalue seen[1] of handler (script:2)", "upvalue waiting of a function (script:5)",
      "upvalue late of _G.callbacks[17] (script:6)",
    }, out)
  end)

  it("names what tasks, handlers and coroutines that wait hold on their stacks", function()
    local out = lines_of [[
      local probe = setmetatable({}, { __mode = "v" })
      mx.spawn(function()
        local t = { n = {} }
        probe[1] = t.n
        mx.sleep(100)
        return t
      end)
      local go = mx.chan()
      mx.spawn(function(...)
        probe[2] = ...
        go:get()
        return ...
      end, {})
      assert(mx.queue "q")
      mx.consume("q", function(msg)
        local held = { msg.body }
        probe[3] = held
        go:get()
        return held and true
      end)
      assert(mx.publish("", "q", "x"))
      kept = coroutine.create(function()
        local z = {}
        probe[4] = z
        coroutine.yield()
        return z
      end)
      coroutine.resume(kept)
      while not (probe[1] and probe[2] and probe[3]) do mx.sleep(0.001) end
      for i = 1, 4 do print(mx.memory.who(probe[i])) end
      for _ = 1, 2 do go:put(true) end
      mx.stop()
    ]]
    assert.same({
      "local t.n in task sleeping at script:5", "an argument in task waiting for chan:get at script:11",
      "local held in handler of q waiting for chan:get at script:18", "local z in coroutine _G.kept at script:25",
    }, out)
  end)

  it("finds what modules hold", function()
    local out = lines_of [[
      package.preload.orders = function() return { pending = { {} } } end
      print(mx.memory.who(require "orders".pending[1]))
      print(mx.memory.who(require "mx.turn".alive))
    ]]
    assert.same({ "package.loaded.orders.pending[1]", 'package.loaded["mx.turn"].alive' }, out)
  end)

  it("says nothing of what only the one who asks has, or weak tables", function()
    local out = lines_of [[
      weak = setmetatable({}, { __mode = "kv" })
      local mine, deep = {}, { {} }
      weak[1], weak[mine] = mine, mine
      print(select("#", mx.memory.who(mine)), (mx.memory.who(mine)))
      print(mx.memory.who(deep[1]))
      print(coroutine.wrap(function() local x = {} return mx.memory.who(x) end)())
    ]]
    assert.same({ "2\tnil", "local deep[1] in task running at script:5", "nil\tnil" }, out)
  end)

  it("lets others run meanwhile, and finds it though tables change", function()
    local out = lines_of [[
      big, beats = {}, 0
      for i = 1, 300000 do big[i] = { i } end
      mx.every(0.001, function()
        beats = beats + 1
        big["more" .. beats] = {}
      end)
      local path, e = mx.memory.who({}, { seconds = 60 })
      print(path, e, beats > 2)
      print(mx.memory.who(big[300000], { seconds = 60 }))
      mx.stop()
    ]]
    assert.same({ "nil\tnil\ttrue", "_G.big[300000]" }, out)
  end)

  it("gives up in time, and with so many objects", function()
    local out = lines_of [[
      big = {}
      for i = 1, 300000 do big[i] = { i } end
      local path, e = mx.memory.who({}, { seconds = 0.001 })
      print(path, e.code)
      path, e = mx.memory.who({}, { objects = 1000 })
      print(path, e.code, tonumber(e.message:match "among (%d+)") < 2000)
    ]]
    assert.same({ "nil\ttimeout", "nil\tmemory\ttrue" }, out)
  end)

  it("works where nothing may wait", function()
    local out = lines_of [[
      cache, path = { {} }, ""
      table.sort({ 1, 2 }, function() path = mx.memory.who(cache[1]) return false end)
      print(path)
    ]]
    assert.same({ "_G.cache[1]" }, out)
  end)

  it("is asked by two at once", function()
    local out = lines_of [[
      big = {}
      for i = 1, 100000 do big[i] = { i } end
      local function ask() return mx.memory.who({}, { seconds = 60 }) end
      local a, b = mx.spawn(ask), mx.spawn(ask)
      print(a:wait()) print(b:wait())
    ]]
    assert.same({ "true\tnil\tnil", "true\tnil\tnil" }, out)
  end)

  it("refuses what nobody holds", function()
    local out = lines_of [[
      for _, x in ipairs { 1, true } do print(select(2, pcall(mx.memory.who, x))) end
      print(select(2, pcall(mx.memory.who, nil)))
      print(select(2, pcall(mx.memory.who, {}, { second = 1 })))
    ]]
    assert.same({
      "script:1: mx.memory.who: expected an object, got 1", "script:1: mx.memory.who: expected an object, got true",
      "script:2: mx.memory.who: expected an object, got nil",
      "script:3: mx.memory.who: unknown option 'second', did you mean 'seconds'?",
    }, out)
  end)
end)
