-- Where a message goes: exchanges of each type, bindings, alternates, CC and BCC.
local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)
local broker = dofile "spec/lua/broker.lua"

-- How many copies reach the queue; nil when the broker returns the message as unroutable.
local function reach(c, q, exchange, key, opts)
  local ok, e = c:publish(exchange, key, "x", opts)
  if not ok then
    assert.equal("unroutable", e.code)
    assert.equal(312, e.reply_code)
    return nil
  end
  return broker.ready(c, q)
end

-- An exchange and a queue of their own, deleted with the connection's end as far as brokers do that.
local function pair(c, name, kind, binding)
  local x = assert(c:exchange(name "x", type(kind) == "table" and kind or { type = kind, durable = false, auto_delete = true }))
  local q = assert(c:queue(name "q", { exclusive = true, durable = false }))
  if binding then assert(c:bind(q, x, binding[1], binding[2])) end
  return x, q
end

on_each_broker("a topic exchange", function(connect, name)
  for _, row in ipairs {
    { "order.*", "order.new", 1 }, { "order.*", "order" }, { "order.*", "order.new.eu" }, { "*.new", "order.new", 1 },
    { "*", "order", 1 }, { "*", "" }, { "order.*", "order.", 1 }, { "*.*", "order.", 1 }, { "*.*", "." , 1 },
    { "#", "", 1 }, { "#", "a.b.c", 1 }, { "a.#", "a", 1 }, { "a.#", "a.b.c", 1 }, { "a.#", "ab" }, { "#.c", "c", 1 },
    { "#.c", "a.b.c", 1 }, { "a.#.c", "a.c", 1 }, { "a.#.c", "a.b.b.c", 1 }, { "a.#.c", "a.b.b" }, { "#.a.#", "x.a.y", 1 },
    { "#.*", "a", 1 }, { "#.*", "" }, { "#.#", "", 1 }, { "a.b", "a.b", 1 }, { "a.b", "a.bc" }, { "a.b", "ab" }, { "", "", 1 },
    { "", "a" }, { "a*", "ab" }, { "a#", "ab" }, { "A.b", "a.b" }, { "*.*.#", "a" }, { "*.*.#", "a.b", 1 }, { "#.*.b", "b" },
    { "#.*.b", "a.b", 1 }, { "a..b", "a..b", 1 }, { "a.*.b", "a..b", 1 }, { "order.#.#", "order", 1 },
  } do
    it(("%s %q for %q"):format(row[3] and "takes" or "does not take", row[2], row[1]), function()
      local c = connect()
      local x, q = pair(c, name, "topic", { row[1] })
      assert.equal(row[3], reach(c, q, x, row[2]))
    end)
  end

  it("gives a queue one copy however many of its bindings match", function()
    local c = connect()
    local x, q = pair(c, name, "topic", { "#" })
    assert(c:bind(q, x, "a.*"))
    assert(c:bind(q, x, "*.b"))
    assert.equal(1, reach(c, q, x, "a.b"))
  end)

  it("goes on with the binding that is left", function()
    local c = connect()
    local x, q = pair(c, name, "topic", { "a.#" })
    assert(c:bind(q, x, "a.*"))
    assert(c:unbind(q, x, "a.#"))
    assert.is_nil(reach(c, q, x, "a"))
    assert.equal(1, reach(c, q, x, "a.b"))
  end)
end)

on_each_broker("a direct exchange", function(connect, name)
  for _, row in ipairs { { "k", "k", 1 }, { "k", "K" }, { "k", "" }, { "", "", 1 }, { "a.*", "a.b" }, { "a.*", "a.*", 1 }, { "#", "k" } } do
    it(("%s %q for %q"):format(row[3] and "takes" or "does not take", row[2], row[1]), function()
      local c = connect()
      local x, q = pair(c, name, "direct", { row[1] })
      assert.equal(row[3], reach(c, q, x, row[2]))
    end)
  end

  it("gives each of its queues a copy, and each queue one", function()
    local c = connect()
    local x, q = pair(c, name, "direct", { "k" })
    local other = assert(c:queue(name "q", { exclusive = true, durable = false }))
    assert(c:bind(other, x, "k"))
    assert(c:bind(other, x, "k"))
    assert.equal(1, reach(c, q, x, "k"))
    assert.equal(1, broker.ready(c, other))
  end)

  it("tells bindings apart by their arguments", function()
    local c = connect()
    local x, q = pair(c, name, "direct", { "k", { a = 1 } })
    assert(c:bind(q, x, "k", { a = 2 }))
    assert(c:unbind(q, x, "k"))                         -- there is none without arguments
    assert(c:unbind(q, x, "k", { a = 1 }))
    assert.equal(1, reach(c, q, x, "k"))
    assert(c:unbind(q, x, "k", { a = 2 }))
    local ok, e = c:publish(x, "k", "x")
    assert.is_nil(ok)
    assert.is_true(e.code == "unroutable" or e.reply_code == 404)    -- it was the last binding of an auto_delete exchange
  end)
end)

on_each_broker("a fanout exchange", function(connect, name)
  for _, row in ipairs { { "", "" }, { "a", "b" }, { "a.#", "" } } do
    it(("takes %q for %q"):format(row[2], row[1]), function()
      local c = connect()
      local x, q = pair(c, name, "fanout", { row[1] })
      assert.equal(1, reach(c, q, x, row[2]))
    end)
  end

  it("without bindings takes nothing", function()
    local c = connect()
    local x, q = pair(c, name, "fanout")
    assert.is_nil(reach(c, q, x, "k"))
  end)
end)

on_each_broker("a headers exchange", function(connect, name)
  local null = mx.null
  local all, any = "all", "any"
  for _, row in ipairs {
    { "all of one", { ["x-match"] = all, a = 1 }, { a = 1 }, 1 },
    { "all among others", { ["x-match"] = all, a = 1 }, { a = 1, b = 2 }, 1 },
    { "all with another value", { ["x-match"] = all, a = 1 }, { a = 2 } },
    { "all with one missing", { ["x-match"] = all, a = 1, b = 2 }, { a = 1 } },
    { "all of two", { ["x-match"] = all, a = 1, b = "two" }, { a = 1, b = "two", c = 3 }, 1 },
    { "all is what counts without x-match", { a = 1, b = 2 }, { a = 1 } },
    { "no x-match, all there", { a = 1 }, { a = 1 }, 1 },
    { "all of nothing", { ["x-match"] = all }, { a = 1 }, 1 },
    { "all of nothing, no headers", { ["x-match"] = all }, nil, 1 },
    { "all, no headers", { ["x-match"] = all, a = 1 }, nil },
    { "any of two", { ["x-match"] = any, a = 1, b = 2 }, { b = 2 }, 1 },
    { "any with other values", { ["x-match"] = any, a = 1, b = 2 }, { a = 2, b = 1 } },
    { "any of nothing", { ["x-match"] = any }, { a = 1 } },
    { "any, no headers", { ["x-match"] = any, a = 1 }, nil },
    { "a void for presence", { ["x-match"] = all, a = null }, { a = "whatever" }, 1 },
    { "a void for absence", { ["x-match"] = all, a = null }, { b = 1 } },
    { "any by a void", { ["x-match"] = any, a = null, b = 1 }, { a = false }, 1 },
    { "text", { ["x-match"] = all, a = "x" }, { a = "x" }, 1 },
    { "other text", { ["x-match"] = all, a = "x" }, { a = "X" } },
    { "a number is no text", { ["x-match"] = all, a = "1" }, { a = 1 } },
    { "a boolean", { ["x-match"] = all, a = true }, { a = true }, 1 },
    { "another boolean", { ["x-match"] = all, a = true }, { a = false } },
    { "a boolean is no number", { ["x-match"] = all, a = true }, { a = 1 } },
    { "a fraction", { ["x-match"] = all, a = 1.5 }, { a = 1.5 }, 1 },
    { "a list", { ["x-match"] = all, a = { 1, "b" } }, { a = { 1, "b" } }, 1 },
    { "another list", { ["x-match"] = all, a = { 1, "b" } }, { a = { 1, "c" } } },
    { "all passes over x- headers", { ["x-match"] = all, ["x-a"] = 1, b = 2 }, { b = 2 }, 1 },
    { "any passes over x- headers", { ["x-match"] = any, ["x-a"] = 1, b = 2 }, { ["x-a"] = 1 } },
    { "all-with-x asks for them", { ["x-match"] = "all-with-x", ["x-a"] = 1, b = 2 }, { b = 2 } },
    { "all-with-x finds them", { ["x-match"] = "all-with-x", ["x-a"] = 1, b = 2 }, { ["x-a"] = 1, b = 2 }, 1 },
    { "any-with-x finds them", { ["x-match"] = "any-with-x", ["x-a"] = 1, b = 2 }, { ["x-a"] = 1 }, 1 },
    { "any-with-x, neither", { ["x-match"] = "any-with-x", ["x-a"] = 1, b = 2 }, { ["x-a"] = 2 } },
    { "all-with-x of nothing", { ["x-match"] = "all-with-x" }, { a = 1 }, 1 },
    { "any-with-x of nothing", { ["x-match"] = "any-with-x" }, { a = 1 } },
  } do
    it((row[4] and "takes " or "does not take ") .. row[1], function()
      local c = connect()
      local x, q = pair(c, name, "headers", { "", row[2] })
      assert.equal(row[4], reach(c, q, x, "any key", { headers = row[3] }))
    end)
  end

  it("does not look at the key", function()
    local c = connect()
    local x, q = pair(c, name, "headers", { "k", { a = 1 } })
    assert.equal(1, reach(c, q, x, "other", { headers = { a = 1 } }))
    assert.equal(2, reach(c, q, x, "k", { headers = { a = 1 } }))
    assert.is_nil(reach(c, q, x, "k", { headers = { a = 2 } }))
    assert.is_nil(reach(c, q, x, "k"))
  end)

  for _, row in ipairs {
    { "bogus", 'Invalid x-match field value <<"bogus">>; expected all, any, all-with-x, or any-with-x' },
    { 5, "Invalid x-match field type long (value 5); expected longstr" },
  } do
    it("refuses a binding with x-match = " .. row[1], function()
      local c = connect()
      local x, q = pair(c, name, "headers")
      broker.refused(406, "PRECONDITION_FAILED - " .. row[2], c:bind(q, x, "", { ["x-match"] = row[1], a = 1 }))
    end)
  end

  it("has no say in what other exchanges take as x-match", function()
    local c = connect()
    local x, q = pair(c, name, "direct", { "k", { ["x-match"] = "bogus" } })
    assert.equal(1, reach(c, q, x, "k"))
  end)
end)

on_each_broker("the predeclared exchanges", function(connect, name)
  for _, row in ipairs {
    { "amq.direct", "k", {}, "k", nil }, { "amq.fanout", "", {}, "k", nil }, { "amq.topic", "key.*", {}, "key.k", nil },
    { "amq.headers", "", { spec = true }, "k", { spec = true } }, { "amq.match", "", { spec = true }, "k", { spec = true } },
  } do
    it("are there: " .. row[1], function()
      local c, unique = connect(), name "k"
      local q = assert(c:queue(name "q", { exclusive = true, durable = false }))
      local args, headers = row[3], row[5]
      if headers then args[unique], headers[unique] = 1, 1 end
      assert(c:bind(q, row[1], row[2], args))
      assert.equal(1, reach(c, q, row[1], row[4], headers and { headers = headers }))
    end)
  end
end)

on_each_broker("the default exchange", function(connect, name)
  it("goes by the queue's name, whatever else the queue is bound to", function()
    local c = connect()
    local _, q = pair(c, name, "direct", { "k" })
    assert.equal(1, reach(c, q, "", q))
    assert.is_nil(reach(c, q, "", "k"))
  end)

  it("says so when there is no such queue, if it was asked to", function()
    local c = connect()
    local _, q = pair(c, name, "direct", { "k" })
    assert.is_nil(reach(c, q, "", name "none"))
    assert.is_true(c:publish("", name "none", "x", { mandatory = false }))
  end)

  it("shows up as an empty name, with the queue as key", function()
    local c = connect()
    local q = assert(c:queue(name "q", { exclusive = true, durable = false }))
    broker.fill(c, q, "x")
    local m = broker.take(c, q, 1)[1]
    assert.same({ "", q }, { m.exchange, m.key })
  end)
end)

on_each_broker("bindings between exchanges", function(connect, name)
  local function fanout(c) return assert(c:exchange(name "x", { type = "fanout", durable = false, auto_delete = true })) end

  it("pass a message on with its first exchange and its key", function()
    local c = connect()
    local y, q = pair(c, name, "topic", { "a.*" })
    local x = fanout(c)
    assert(c:bind_exchange(y, x, ""))
    assert(c:publish(x, "a.b", "through"))
    local m = broker.take(c, q, 1)[1]
    assert.same({ x, "a.b", "through" }, { m.exchange, m.key, m.body })
    assert.is_nil(reach(c, q, x, "b.a"))
  end)

  it("ask the first exchange's own question", function()
    local c = connect()
    local y, q = pair(c, name, "fanout", { "" })
    local x = assert(c:exchange(name "x", { type = "topic", durable = false, auto_delete = true }))
    assert(c:bind_exchange(y, x, "a.#"))
    assert.equal(1, reach(c, q, x, "a.b"))
    assert.is_nil(reach(c, q, x, "b"))
  end)

  it("lead through headers exchanges", function()
    local c = connect()
    local y, q = pair(c, name, "headers", { "", { a = 1 } })
    local x = fanout(c)
    assert(c:bind_exchange(y, x, ""))
    assert.equal(1, reach(c, q, x, "k", { headers = { a = 1 } }))
    assert.is_nil(reach(c, q, x, "k", { headers = { a = 2 } }))
    assert.equal(2, reach(c, q, x, "k", { headers = { a = 1 } }))
  end)

  it("give one copy over two ways", function()
    local c = connect()
    local last, q = pair(c, name, "fanout", { "" })
    local x, left, right = fanout(c), fanout(c), fanout(c)
    for _, way in ipairs { left, right } do
      assert(c:bind_exchange(way, x, ""))
      assert(c:bind_exchange(last, way, ""))
    end
    assert.equal(1, reach(c, q, x, "k"))
  end)

  it("may go in circles", function()
    local c = connect()
    local x, q = pair(c, name, "fanout", { "" })
    local y = fanout(c)
    assert(c:bind_exchange(y, x, ""))
    assert(c:bind_exchange(x, y, ""))
    assert(c:bind_exchange(x, x, ""))
    assert.equal(1, reach(c, q, y, "k"))
  end)

  it("end with the exchange they lead to", function()
    local c = connect()
    local x, y = name "x", name "y"
    assert(c:exchange(x, "fanout"))
    assert(c:exchange(y, "fanout"))
    local q = assert(c:queue(name "q", { exclusive = true, durable = false, bind = { { y } } }))
    assert(c:bind_exchange(y, x, ""))
    assert(c:delete_exchange(y))
    assert.is_nil(reach(c, q, x, "k"))
    assert(c:delete_exchange(x))
  end)

  it("let an internal exchange take what others pass on", function()
    local c = connect()
    local y, q = pair(c, name, { type = "fanout", internal = true, durable = false, auto_delete = true }, { "" })
    local x = fanout(c)
    assert(c:bind_exchange(y, x, ""))
    assert.equal(1, reach(c, q, x, "k"))
  end)
end)

on_each_broker("an alternate exchange", function(connect, name)
  local function lost(c)
    local x, q = pair(c, name, "fanout", { "" })
    return x, q
  end
  local function with(c, alternate, kind)
    return assert(c:exchange(name "x", { type = kind or "direct", alternate = alternate, durable = false }))
  end

  it("takes what no binding took, as it was published", function()
    local c = connect()
    local ae, q = lost(c)
    local x = with(c, ae)
    assert(c:publish(x, "nobody", "lost"))
    local m = broker.take(c, q, 1)[1]
    assert.same({ x, "nobody", "lost" }, { m.exchange, m.key, m.body })
    assert(c:delete_exchange(x))
  end)

  it("gets nothing that a binding took", function()
    local c = connect()
    local ae, q = lost(c)
    local x = with(c, ae)
    local own = assert(c:queue(name "own", { exclusive = true, durable = false, bind = { { x, "k" } } }))
    assert.equal(0, reach(c, q, x, "k"))
    assert.equal(1, broker.ready(c, own))
    assert.equal(1, reach(c, q, x, "other"))
    assert(c:delete_exchange(x))
  end)

  it("leads on to its own", function()
    local c = connect()
    local ae, q = lost(c)
    local y = with(c, ae)
    local x = with(c, y, "headers")
    assert.equal(1, reach(c, q, x, "k"))
    assert(c:delete_exchange(x))
    assert(c:delete_exchange(y))
  end)

  it("may be missing", function()
    local c = connect()
    local _, q = lost(c)
    local x = with(c, name "none")
    assert.is_nil(reach(c, q, x, "k"))
    assert(c:delete_exchange(x))
  end)

  it("may be the exchange itself, and still there is nobody", function()
    local c, x = connect(), name "self"
    local _, q = lost(c)
    assert(c:exchange(x, { alternate = x, durable = false }))
    assert.is_nil(reach(c, q, x, "k"))
    assert(c:delete_exchange(x))
  end)

  it("of an exchange in the middle counts too", function()
    local c = connect()
    local ae, q = lost(c)
    local y = with(c, ae)
    local x = assert(c:exchange(name "x", { type = "fanout", durable = false, auto_delete = true }))
    assert(c:bind_exchange(y, x, ""))
    assert.equal(1, reach(c, q, x, "k"))
    assert(c:delete_exchange(y))
  end)

  it("is no matter of CC that matched", function()
    local c = connect()
    local ae, q = lost(c)
    local x = with(c, ae)
    local own = assert(c:queue(name "own", { exclusive = true, durable = false, bind = { { x, "k" } } }))
    assert.equal(0, reach(c, q, x, "nobody", { headers = { CC = { "k" } } }))
    assert.equal(1, broker.ready(c, own))
    assert(c:delete_exchange(x))
  end)
end)

on_each_broker("an auto_delete exchange", function(connect, name)
  local function is_there(c, x) return (c:exchange(x, { passive = true })) ~= nil end

  it("stays until it had a binding, and goes with its last one", function()
    local c = connect()
    local x, q = pair(c, name, "fanout")
    assert.is_true(is_there(c, x))
    assert(c:bind(q, x, "a"))
    assert(c:bind(q, x, "b"))
    assert(c:unbind(q, x, "a"))
    assert.is_true(is_there(c, x))
    assert(c:unbind(q, x, "b"))
    assert.is_false(is_there(c, x))
  end)

  it("goes with the last queue that was bound to it", function()
    local c = connect()
    local x, q = pair(c, name, "fanout", { "" })
    assert(c:delete_queue(q))
    assert.is_false(is_there(c, x))
  end)

  it("goes with the last exchange that was bound to it, and so on", function()
    local c = connect()
    local y, q = pair(c, name, "fanout", { "" })
    local x = assert(c:exchange(name "x", { type = "fanout", durable = false, auto_delete = true }))
    assert(c:bind_exchange(y, x, ""))
    assert(c:delete_queue(q))
    assert.is_false(is_there(c, y))
    assert.is_false(is_there(c, x))
  end)

  it("stays when only what it is bound to goes", function()
    local c = connect()
    local y = pair(c, name, "fanout", { "" })
    local x = assert(c:exchange(name "x", { type = "fanout", durable = false }))
    assert(c:bind_exchange(y, x, ""))
    assert(c:delete_exchange(x))
    assert.is_true(is_there(c, y))
  end)
end)

on_each_broker("CC and BCC", function(connect, name)
  local function three(c)
    local list = {}
    for i = 1, 3 do list[i] = assert(c:queue(name "cc", { exclusive = true, durable = false })) end
    return unpack(list)
  end

  it("are further keys at the default exchange", function()
    local c = connect()
    local a, b, d = three(c)
    assert(c:publish("", a, "x", { headers = { CC = { b, d } } }))
    assert.same({ 1, 1, 1 }, { broker.ready(c, a), broker.ready(c, b), broker.ready(c, d) })
  end)

  it("are further keys at other exchanges", function()
    local c = connect()
    local x, q = pair(c, name, "topic", { "a.#" })
    assert.equal(1, reach(c, q, x, "b", { headers = { CC = { "c", "a.b" } } }))
    assert.equal(2, reach(c, q, x, "b", { headers = { BCC = { "a" } } }))
    assert.is_nil(reach(c, q, x, "b", { headers = { CC = { "c" } } }))
    assert.equal(3, reach(c, q, x, "a.a", { headers = { CC = { "a.b" }, BCC = { "a" } } }))
  end)

  it("make a message routable whose own key is not", function()
    local c = connect()
    local a, b = three(c)
    assert.is_true(c:publish("", name "none", "x", { headers = { CC = { a }, BCC = { b } } }))
    assert.same({ 1, 1 }, { broker.ready(c, a), broker.ready(c, b) })
  end)

  it("show the message's own key everywhere; CC stays, BCC does not", function()
    local c = connect()
    local a, b, d = three(c)
    assert(c:publish("", a, "x", { headers = { CC = { b }, BCC = { d }, mine = 1 } }))
    for _, q in ipairs { a, b, d } do
      local m = broker.take(c, q, 1)[1]
      assert.equal(a, m.key)
      assert.same({ CC = { b }, mine = 1 }, m.headers)
    end
  end)

  it("pass over what is no text", function()
    local c = connect()
    local a, b = three(c)
    assert(c:publish("", a, "x", { headers = { CC = { 5, b, true } } }))
    assert.same({ 1, 1 }, { broker.ready(c, a), broker.ready(c, b) })
  end)

  it("give a queue one copy", function()
    local c = connect()
    local a = three(c)
    assert.equal(1, reach(c, a, "", a, { headers = { CC = { a, a }, BCC = { a } } }))
  end)
end)
