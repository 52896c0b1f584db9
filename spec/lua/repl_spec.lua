-- What the prompt is made of: values as text, mistakes with a caret, what could follow what is typed.
local print_, syntax, complete = require "mx.repl.print", require "mx.repl.syntax", require "mx.repl.complete"
local figures, doc = require "mx.repl.figures", require "mx.doc"

describe("a value as text", function()
  local text = print_.text

  it("is sorted, and on one line where it fits", function()
    assert.equal("{ 1, 2, a = 3, b = { c = true } }", text { 1, 2, b = { c = true }, a = 3 })
    assert.equal('{ [3] = "x", ["a b"] = 2, [true] = 1 }', text { [true] = 1, ["a b"] = 2, [3] = "x" })
    assert.equal('{\n  first = "xxxxxxxxxxxxxxx",\n  second = "yyyyyyyyyyyyyyy"\n}',
                 text({ first = ("x"):rep(15), second = ("y"):rep(15) }, 40))
    assert.equal("{}", text {})
  end)

  it("has units where it is known what is measured", function()
    assert.equal("{ max = 2 s, p50 = 12 us, p99 = 1.5 ms }", text { p50 = 12e-6, p99 = 0.0015, max = 2 })
    assert.equal("{ max = 2 }", text { max = 2 })
    assert.equal("{ lua = 2 MB, rss = 1 GB, used = 0.5 }", text { lua = 2 ^ 21, rss = 2 ^ 30, used = 0.5 })
    assert.equal("{ rate = 12,346/s }", text { rate = 12345.6 })
  end)

  it("shows no secret", function()
    assert.equal('{ api_token = "***", password = "***", url = "amqp://u:***@h" }',
                 text { password = "p", api_token = { 1 }, url = "amqp://u:p@h" })
    assert.equal('"amqp://u:***@h"', text "amqp://u:p@h")
    assert.same({ password = "***", ["amqp://u:***@h"] = 1 }, print_.plain { password = "p", ["amqp://u:p@h"] = 1 })
  end)

  it("gives a terminal nothing to obey", function()
    assert.equal('"\\x1b[2J\\n\\x00"', text "\27[2J\n\0")
    assert.equal("\\x1b[2J", text(setmetatable({}, { __tostring = function() return "\27[2J" end })))
  end)

  it("ends, whatever it is", function()
    local cyclic, deep, wide = {}, {}, {}
    cyclic.me = cyclic
    local at = deep
    for _ = 1, 1000 do
      at.x = {}
      at = at.x
    end
    for i = 1, 1e5 do wide["k" .. i] = i end
    assert.equal("{ me = (itself, further out) }", text(cyclic))
    assert.equal("{ x = { x = { x = { x = { x = {...} } } } } }", text(deep))
    assert.matches("%.%.%. at least 9901 more\n}$", text(wide))
    assert.is_true(#text { ("x"):rep(1e6) } < 2000)
    assert.equal("(an error object whose __tostring fails)", text(setmetatable({}, { __tostring = error })))
    assert.equal("{ a = 1 }", text(setmetatable({ a = 1 }, { __index = error, __pairs = error, __len = error })))
    assert.equal("9007199254740993LL", text(9007199254740993LL))
    assert.equal("null", text(mx.null))
    assert.is_string(mx.json.encode(print_.plain { cyclic, deep, wide, print, 0 / 0, 1 / 0 }))
  end)

  it("says of functions and errors what they are", function()
    assert.matches("^function .*repl_spec.lua:%d+$", text(function() end))
    assert.equal("no such thing (config)", text(mx.error("config", "no such thing")))
  end)
end)

describe("what is typed", function()
  it("is an expression or statements", function()
    assert.equal(3, syntax.compile "1 + 2"())
    assert.equal(3, syntax.compile "= 1 + 2"())
    assert.equal(3, syntax.compile "local x = 1 + 2 return x"())
  end)

  it("goes on while something is open", function()
    for _, text in ipairs { "for i = 1, 2 do", "f(", "{", "1 +", "function f()", "if x then\nelse", "'a' .." } do
      assert.is_true(syntax.is_unfinished(text), text)
    end
    for _, text in ipairs { "1", "f()", "1 1", ")", "x = = 1", ".tap orders (", "" } do
      assert.is_false(syntax.is_unfinished(text), text)
    end
  end)

  it("has a caret below its mistake", function()
    for text, expected in pairs {
      ["x = = 1"] = "unexpected symbol near '='\n  x = = 1\n      ^",
      ["f(1,, 2)"] = "unexpected symbol near ','\n  f(1,, 2)\n      ^",
      ["1 +"] = "unexpected symbol near '<eof>'\n  1 +\n     ^",
      ["a = 1\nb = = 2"] = "unexpected symbol near '='\n  b = = 2\n      ^",
      ["for i = 1 do end"] = "',' expected near 'do'\n  for i = 1 do end\n            ^",
    } do
      assert.same({ nil, expected }, { syntax.compile(text) })
    end
  end)

  it("keeps what its first statement makes local", function()
    local env = setmetatable({}, { __index = _G })
    setfenv(syntax.compile "local a, b = 1, 2", env)()
    setfenv(syntax.compile "local function f() return a + b end", env)()
    assert.equal(3, env.f())
    setfenv(syntax.compile "local x == 1" or function() end, env)()
    assert.is_nil(rawget(env, "x"))
  end)
end)

describe("completion", function()
  local conn, consumer
  setup(function()
    conn = assert(mx.connect { url = "mem://repl" })
    conn:queue "orders.new"
    consumer = assert(conn:consume("orders.new", function() end))
  end)
  teardown(function() conn:close() end)

  local function words(text, env) return complete.words(text, env or {}) end
  local function has(text, word, env)
    for _, w in ipairs(words(text, env).list) do
      if w == word then return true end
    end
    return false
  end

  it("knows tables, methods and globals of the prompt", function()
    assert.is_true(has("mx.publ", "mx.publish"))
    assert.is_true(has("x = mx.memory.st", "mx.memory.stats"))
    assert.is_true(has("c:pau", "c:pause", { c = consumer }))
    assert.is_false(has("c:que", "c:queue", { c = consumer }))           -- a field, no method
    assert.is_true(has("c.que", "c.queue", { c = consumer }))
    assert.is_true(has("mi", "mine", { mine = 1 }))
    assert.same({ replaced = 7, list = { "mx.publish", "mx.publish_async", "mx.publisher" } }, words "mx.publ")
    assert.same({}, words("nothing.at.all").list)
  end)

  it("calls nothing for it", function()
    local trap = setmetatable({}, { __index = error })
    assert.same({}, words("t.x.y", { t = trap }).list)
  end)

  it("knows options, queues, metrics, commands and the reference", function()
    assert.is_true(has('mx.consume("q", { pre', "prefetch = "))
    assert.is_true(has('mx.consume("q", { prefetch = 5, conc', "concurrency = "))
    assert.is_true(has('mx.publisher { max_', "max_in_flight = "))
    assert.is_true(has('mx.publish("", "q", x, { prio', "priority = "))
    assert.is_true(has('mx.queue("q", { ty', "type = "))
    assert.is_true(has('mx.queue_info("ord', "orders.new"))
    assert.is_true(has(".tap ord", "orders.new"))
    mx.counter("repl_total", "a metric")
    assert.is_true(has('mx.counter("repl', "repl_total"))
    assert.is_true(has(".ta", ".tap") and has(".ta", ".tasks"))
    assert.is_true(has(".doc mx.pub", "mx.publish"))
  end)
end)

describe("the reference at the prompt", function()
  it("has each function of the annotations", function()
    for line in io.lines "docs/meta/mx.lua" do
      local name = line:match "^function ([%w_.:]+)%("
      if name then assert.is_string(doc.find(name), name) end
    end
    assert.matches("[Cc]onsumer:stop%(timeout%)", doc.find "consumer:stop")
    assert.is_nil(doc.find "nothing")
  end)
end)

describe("the figures of several workers", function()
  local function worker(n)
    local s = require("mx.repl.commands").calls.stats()
    local recent = { p50 = 0.001 * n, p99 = 0.01 * n, max = 0.1 * n }
    s.consume = { q = { count = 100 * n, failed = n, in_flight = 1, handler = { recent = recent } } }
    s.publish.count, s.worker, s.uptime = 1000 * n, n, 10 * n
    return s
  end

  it("are sums, and the slowest's latencies; rates are what came in between", function()
    local before = figures.merge { worker(1), worker(2) }
    local all = figures.merge { worker(1), worker(2) }
    all.publish.count, all.consume.q.count = all.publish.count + 500, all.consume.q.count + 60
    figures.rates(all, before, 2)
    local q = all.consume.q
    assert.same({ 360, 3, 2, 30, 250 }, { q.count, q.failed, q.in_flight, q.rate, all.publish.rate })
    assert.same({ 0.02, 0.2, 20 }, { q.handler.p99, q.handler.max, all.uptime })
    local text = figures.text(all, 80)
    assert.matches("q +30 +360 +2 +3", text)
    assert.matches("WORKER +PID +HEALTH", text)
    for line in text:gmatch "[^\n]+" do assert.is_true(#line <= 80, line) end
  end)
end)
