-- mxrun --check: what is wrong with a script, without a broker.
local cli = dofile "spec/cli/run.lua"

local function check(text)
  local path = cli.file(text)
  local out, code = cli.mxrun("--check " .. path)
  os.remove(path)
  return (out:gsub(path:gsub("%p", "%%%0"), "FILE")), code
end

describe("--check", function()
  it("is content with a good script, and says what it declares", function()
    local out, code = check [[
      mx.topology { exchanges = { app = "topic" }, queues = { orders = { dlq = true, bind = { { "app", "order.*" } } } } }
      local total = 0
      counter = 0
      mx.consume("orders", function(msg) total = total + msg.data.n counter = counter + 1 mx.log.info(msg.body) end)
      mx.every(1, function() print(total, arg[0]) end)
    ]]
    assert.equal("FILE: fine, 1 exchange, 2 queues, 1 binding, 1 consumer\n", out)
    assert.equal(0, code)
  end)

  it("finds undeclared globals, also in handlers that do not run, with their lines", function()
    local out, code = check "mx.consume(mx.queue 'q', function(msg)\n  pritn(msg)\n  leaked = 1\nend)"
    assert.equal("FILE:2: undeclared global 'pritn', did you mean 'print'?\nFILE:3: assignment to undeclared global 'leaked'\n", out)
    assert.equal(1, code)
  end)

  it("finds names that mx does not have", function()
    local out, code = check "mx.every(1, function()\n  return mx.publihs('', 'q', 'x')\nend)"
    assert.equal("FILE:2: mx has no 'publihs', did you mean 'publish'?\n", out)
    assert.equal(1, code)
  end)

  it("finds unknown options and wrong types at their line", function()
    local out, code = check "mx.queue('q', {\n  max_lenght = 3 })"
    assert.matches("^FILE:%d: mx.queue: unknown option 'max_lenght', did you mean 'max_length'%?\n$", out)
    assert.equal(1, code)
    assert.matches("FILE:1: mx.consume: option 'prefetch': expected an integer", (check "mx.consume('q', { prefetch = 'x' }, print)"))
  end)

  it("says what does not compile", function()
    local out, code = check "local x = = 3"
    assert.equal("FILE:1: unexpected symbol near '='\n", out)
    assert.equal(1, code)
  end)

  it("warns of quorum queues without delivery_limit, and of queues declared nowhere", function()
    local out, code = check [[
      mx.queue("orders", { type = "quorum", dlq = true })
      mx.queue("fine", { type = "quorum", delivery_limit = 20 })
      mx.consume("orders", print)
      mx.consume("elsewhere", print)]]
    assert.matches('FILE:1: warning: queue "orders" is a quorum queue without delivery_limit', out)
    assert.matches('FILE:4: warning: consumes "elsewhere", which this script does not declare', out)
    assert.is_nil(out:find('"fine"', 1, true))
    assert.is_nil(out:find('"orders.dlq"', 1, true))
    assert.equal(0, code)
  end)

  it("warns of publishes to what the script does not declare, in its main chunk and in handlers that do not run", function()
    local out, code = check [[
      mx.topology { exchanges = { app = "topic" }, queues = { orders = {} } }
      mx.publish("", "ordres", "x")
      local p = mx.publisher { exchange = "ap" }
      mx.publish("app", "order.new", "x")
      mx.consume("orders", function(msg)
        assert(mx.publish("", "invoices", { id = msg.data.id }))
        if msg.data.late then return mx.publish_async("late", "k", "x", {}) end
        mx.call("", "rates", "x") mx.publish("", msg.reply_to, "x") mx.publish("", "orders", "x") mx.publish("amq.topic", "k", "x")
        return p:publish("k", "x")
      end)]]
    assert.equal([[
FILE:2: warning: publishes to queue "ordres", which this script does not declare
FILE:3: warning: publishes to exchange "ap", which this script does not declare
FILE:6: warning: publishes to queue "invoices", which this script does not declare
FILE:7: warning: publishes to exchange "late", which this script does not declare
FILE:8: warning: publishes to queue "rates", which this script does not declare
FILE: fine, 1 exchange, 1 queue, 0 bindings, 1 consumer
]], out)
    assert.equal(0, code)
    assert.equal("FILE: fine, 0 exchanges, 0 queues, 0 bindings, 0 consumers\n", (check "mx.publish('', 'q', 'x')"))
  end)

  it("warns of dead letters that go to what the script does not declare", function()
    local out = check [[
      mx.queue("a", { dlq = { exchange = "dlx" } })
      mx.queue("b", { dlq = { exchange = "dly", wire = false } })
      mx.queue("c", { args = { ["x-dead-letter-exchange"] = "", ["x-dead-letter-routing-key"] = "dead" } })
      mx.exchange("there", "fanout")
      mx.queue("d", { dlq = { exchange = "there" } })
      mx.queue("e", { dlq = "dead.e" })]]
    assert.equal([[
FILE:1: warning: queue "a" sends its dead letters to exchange "dlx", which this script does not declare
FILE:2: warning: queue "b" sends its dead letters to exchange "dly", which this script does not declare
FILE:3: warning: queue "c" sends its dead letters to queue "dead", which this script does not declare
FILE: fine, 1 exchange, 6 queues, 0 bindings, 0 consumers
]], out)
  end)

  it("looks at what a workload declares, publishes to and consumes", function()
    local workload = [[return mx.workload {
      topology = { exchanges = { app = "topic" }, queues = { orders = { bind = { { "app", "#" } } } } },
      producers = { { exchange = "app", key = "a.b" }, { key = { "orders", "%s" } }, { key = function() return "any" end } },
      consumers = { queue = { "orders", "%s" } },
    }]]
    local out, code = check(workload:format("orders", "orders"))
    assert.equal("FILE: fine, 1 exchange, 1 queue, 1 binding, 1 consumer\n", out)
    assert.equal(0, code)
    out, code = check(workload:format("oders", "rest"))
    assert.matches('FILE[:%d]*: warning: publishes to queue "oders", which this script does not declare\n', out)
    assert.matches('FILE[:%d]*: warning: consumes "rest", which this script does not declare\n', out)
    assert.equal(0, code)
  end)

  it("starts no timers and tasks, and ends although the main chunk waits", function()
    local out, code = check "mx.after(0, function() error 'ran' end) mx.spawn(function() error 'ran' end) mx.chan():get()"
    assert.matches("warning: the main chunk still waited", out)
    assert.is_nil(out:find("ran", 1, true))
    assert.equal(0, code)
  end)

  it("wants a file that is there", function()
    local _, code, why = cli.mxrun "--check"
    assert.equal(2, code)
    assert.matches("no FILE given", why)
    _, code, why = cli.mxrun "--check nowhere.lua"
    assert.equal(2, code)
    assert.matches("cannot open 'nowhere.lua'", why)
  end)
end)
