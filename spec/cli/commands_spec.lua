-- mxrun pub, sub, topology: what they print and how they exit.
local cli = dofile "spec/cli/run.lua"

describe("a command", function()
  it("prints its help", function()
    for _, command in ipairs {
      "pub", "sub", "dlq", "topology", "profile", "bench", "init", "doc", "test", "attach", "eval", "top", "health",
    } do
      local out, code = cli.mxrun(command .. " --help")
      assert.equal(0, code)
      assert.matches("^usage: mxrun " .. command, out)
    end
  end)

  it("says what a word that is none may have meant", function()
    local _, code, why = cli.mxrun "-u mem:// pubb a b c"
    assert.equal(2, code)
    assert.matches("cannot open 'pubb', did you mean 'pub'%?", why)
  end)

  it("says what is wrong with its arguments", function()
    for line, expected in pairs {
      ["pub a b"] = "pub: expected EXCHANGE KEY BODY, got 2 words; mxrun pub %-%-help says more",
      ["pub a b c -l"] = "pub: expected EXCHANGE KEY with %-l, got 3 words",
      ["pub a b c --heder x=1"] = "unknown option '%-%-heder', did you mean '%-%-header'%?",
      ["pub a b c -H x"] = "pub: %-%-header wants NAME=VALUE, got 'x'",
      ["pub a b c -n x"] = "pub: %-n wants a whole number, got 'x'",
      ["-u mem:// pub a b c -p prioritty=3"] = "pub: unknown option 'prioritty', did you mean 'priority'%?",
      ["sub"] = "sub: expected one QUEUE, got 0",
      ["sub q -n"] = "sub: %-n wants a value",
      ["sub q -e 'return ('"] = "sub: %(command line%):1: unexpected symbol",
      ["dlq q replay --rate 0"] = "dlq: %-%-rate wants a number above 0",
      ["dlq q sl"] = "dlq: expected QUEUE and one of ls, replay, purge",
      ["topology x.lua"] = "topology: expected FILE and one of %-%-dot, %-%-diff",
      ["topology nowhere.lua --dot"] = "topology: cannot open 'nowhere.lua'",
      ["pub a b c"] = "no broker: give %-u amqp://… or %-u mem://",
    } do
      local _, code, why = cli.mxrun(line)
      assert.equal(2, code)
      assert.matches(expected, why)
    end
  end)

  it("fails at once when no broker is there", function()
    for _, line in ipairs { "pub '' q x", "sub q", "dlq q ls", "topology examples/refunds.lua --diff" } do
      local text, code = cli.both("-u amqp://127.0.0.1:1,amqp://127.0.0.1:2 " .. line, "timeout 20")
      assert.equal(1, code)
      assert.matches("mxrun.*127%.0%.0%.1:1/?: connection refused", text)
      assert.is_nil(text:find("trying again", 1, true), text)
    end
  end)

  it("takes the options of every command before or after its word", function()
    local _, code, why = cli.mxrun "-u mem://a pub '' nowhere x"
    assert.same({ 1, "mxrun pub: message 1: publish: no queue is bound for this key\n" }, { code, why })
    _, code, why = cli.mxrun "pub '' nowhere x --url=mem://a"
    assert.same({ 1, "mxrun pub: message 1: publish: no queue is bound for this key\n" }, { code, why })
    _, code, why = cli.mxrun "pub '' nowhere -u mem://a -- -u"
    assert.same({ 1, "mxrun pub: message 1: publish: no queue is bound for this key\n" }, { code, why })
  end)
end)

describe("mxrun test", function()
  local good = "describe('a', function() it('works', function() assert.is_true(mx.now() > 0) end) end)"

  it("writes TAP and JUnit", function()
    local path = cli.file(good)
    local out, code = cli.mxrun("test -o TAP " .. path)
    assert.equal(0, code)
    assert.matches("^ok 1 %- a works\n", out)
    out, code = cli.mxrun("test -o junit " .. path)
    assert.equal(0, code)
    assert.matches("<testcase [^>]*name='a works'", out)
  end)

  it("exits 1 when something failed, 2 when the options are wrong", function()
    local path = cli.file "it('fails', function() assert.equal(1, 2) end)"
    local _, code = cli.mxrun("test " .. path)
    assert.equal(1, code)
    local why
    _, code, why = cli.mxrun "test --no-such-option"
    assert.equal(2, code)
    assert.matches("^mxrun test: .*no%-such%-option", why)
  end)

  it("says what to install when busted is missing", function()
    local _, code, why = cli.shell("LUA_PATH=none/?.lua LUA_CPATH=none/?.so $MXRUN test " .. cli.file(good))
    assert.equal(2, code)
    assert.matches("^mxrun test: busted is not there: apt%-get install lua%-busted, or luarocks install busted;", why)
  end)
end)

describe("mxrun topology --dot", function()
  it("draws exchanges, queues, bindings, dead letters and the consumer", function()
    local path = cli.file [[
      mx.topology { exchanges = { app = "topic", ["all"] = "fanout" },
                    queues = { orders = { type = "quorum", dlq = true, bind = { { "app", "order.*" } } } } }
      mx.bind_exchange("all", "app", "#")
      mx.consume("orders", print)]]
    local out, code, why = cli.mxrun(("topology %s --dot"):format(path))
    assert.same({ 0, "" }, { code, why })
    assert.equal(([[
digraph topology {
  rankdir=LR
  "exchange all" [shape=box, label="all\nfanout"]
  "exchange app" [shape=box, label="app\ntopic"]
  "queue orders" [shape=cylinder, label="orders\nquorum"]
  "queue orders.dlq" [shape=cylinder, label="orders.dlq\nquorum"]
  "exchange app" -> "queue orders" [label="order.*"]
  "exchange app" -> "exchange all" [label="#"]
  "queue orders" -> "queue orders.dlq" [label="dead letters", style=dashed]
  "queue orders" -> "FILE"
}
]]):gsub("FILE", path), out)
  end)
end)

if not cli.amqp then return end

describe("on RabbitMQ", function()
  local conn, q
  before_each(function()
    conn = assert(mx.connect { url = cli.amqp })
    q = assert(conn:queue(cli.name "cli"))
  end)
  after_each(function()
    conn:delete_queue(q)
    conn:close()
  end)

  local function run(line) return cli.shell((line:gsub("%$Q", q):gsub("%$U", cli.amqp))) end

  local function received(n)
    local list, ch = {}, mx.chan(n)
    local c = assert(conn:consume(q, function(msg)
      ch:put { body = msg.body, headers = msg.headers, priority = msg.priority, type = msg.content_type, mode = msg.correlation_id }
    end))
    for i = 1, n do list[i] = assert(ch:get(10)) end
    c:stop()
    return list
  end

  it("pub sends a body with headers and properties, confirmed", function()
    local options = "-H tenant=x -H n=7 -p priority=3 -p content_type=text/plain -p correlation_id=42"
    local out, code, why = run("$MXRUN pub -u $U " .. options .. " '' $Q 'hello you'")
    assert.same({ "", 0, "" }, { out, code, why })
    assert.same({ { body = "hello you", headers = { tenant = "x", n = 7 }, priority = 3, type = "text/plain", mode = "42" } }, received(1))
  end)

  it("pub reads stdin: whole, or a message a line", function()
    local _, code = run "printf 'a\\nb' | $MXRUN pub -u $U '' $Q -"
    assert.equal(0, code)
    assert.equal("a\nb", received(1)[1].body)
    _, code = run "{ echo one; sleep 0.1; printf 'two\\n\\nfour'; } | $MXRUN pub -u $U '' $Q -l"
    assert.equal(0, code)
    local bodies = {}
    for i, m in ipairs(received(4)) do bodies[i] = m.body end
    assert.same({ "one", "two", "", "four" }, bodies)
  end)

  it("pub exits 1 and says which message was not taken", function()
    local _, code, why = run "$MXRUN pub -u $U '' no-such-queue x"
    assert.same({ 1, "mxrun pub: message 1: publish: no queue is bound for this key\n" }, { code, why })
    _, code, why = run "$MXRUN pub -u $U no-such-exchange k x"
    assert.equal(1, code)
    assert.matches("no exchange 'no%-such%-exchange'", why)
  end)

  it("sub prints n messages and acks those only", function()
    local _, code = run "seq 1 5 | $MXRUN pub -u $U '' $Q -l"
    assert.equal(0, code)
    local out
    out, code = run "$MXRUN sub -u $U $Q -n 3"
    assert.same({ "1\n2\n3\n", 0 }, { out, code })
    out = run "$MXRUN sub -u $U $Q -n 2"
    assert.equal("4\n5\n", out)
  end)

  it("sub runs code with msg: prints an expression, obeys a decision", function()
    run "$MXRUN pub -u $U '' $Q '{\"id\":7}'"
    local out, code = run "$MXRUN sub -u $U $Q -n 1 -e 'msg.key, msg.data.id'"
    assert.same({ q .. "\t7\n", 0 }, { out, code })
    run "$MXRUN pub -u $U '' $Q x"
    assert.equal("x\n", (run "$MXRUN sub -u $U $Q -n 1 -e 'print(msg.body)'"))
    run "seq 1 2 | $MXRUN pub -u $U '' $Q -l"
    out, code = run "$MXRUN sub -u $U $Q -n 2 -e 'print(\"got\", msg.body) if msg.body == \"1\" then return \"reject\" end'"
    assert.same({ "got\t1\ngot\t2\n", 0 }, { out, code })
  end)

  it("sub keeps the message when the code fails", function()
    run "$MXRUN pub -u $U '' $Q x"
    local _, code, why = run "$MXRUN sub -u $U $Q -e 'msg.data.id.x'"
    assert.equal(1, code)
    assert.matches("attempt to index", why)
    assert.equal("x\n", (run "$MXRUN sub -u $U $Q -n 1"))
  end)

  it("sub | head loses nothing", function()
    run "seq 1 50 | $MXRUN pub -u $U '' $Q -l"
    local out, code = run "$MXRUN sub -u $U $Q | head -n 7"
    assert.same({ "1\n2\n3\n4\n5\n6\n7\n", 0 }, { out, code })
    local seen = {}
    for line in (run "$MXRUN sub -u $U $Q -n 43"):gmatch "%d+" do seen[tonumber(line)] = true end
    for i = 8, 50 do assert.is_true(seen[i]) end
  end)

  it("sub ends with SIGINT, and says when the queue is missing", function()
    run "$MXRUN pub -u $U '' $Q x"
    local out, code = run "$MXRUN sub -u $U $Q & pid=$!; sleep 0.5; kill -INT $pid; wait $pid"
    assert.same({ "x\n", 0 }, { out, code })
    local _, why
    _, code, why = run "$MXRUN sub -u $U no-such-queue"
    assert.equal(1, code)
    assert.matches("^mxrun sub: .*no queue 'no%-such%-queue'", why)
  end)

  it("dlq lists, replays and purges dead letters", function()
    local name = cli.name "dlq"
    assert(conn:queue(name, { dlq = true }))
    local c = assert(conn:consume(name, function(m) return "reject", "bad " .. m.body end))
    for _, body in ipairs { "a", "b\nb", "c" } do assert(conn:publish("", name, body)) end
    mx.test.eventually(function() return conn:queue_info(name .. ".dlq").messages == 3 end, 10)
    c:stop()
    local function dlq(rest) return run(("$MXRUN dlq -u $U %s %s"):format(name, rest)) end
    local _, out, code, why
    out, code, why = dlq "ls -n 2"
    assert.matches("^bad a\tretries 0\t%d+%-%d%d%-%S+\ta\nbad b b\tretries 0\t%S+\tb b\n$", out)
    assert.same({ 0, "3 in all\n" }, { code, why })
    assert.matches("\n3 in all\n$", (dlq "ls 2>&1"))
    assert.same({ "1 replayed\n", 0, "" }, { dlq [[replay --where 'msg.body == "c"']] })
    assert.equal("c\n", (run("$MXRUN sub -u $U -n 1 " .. name)))
    out, code, why = dlq [[replay --where 'error "odd"']]
    assert.same({ "0 replayed\n", 0 }, { out, code })
    assert.matches("^mxrun dlq: %S+ stays: .*odd\nmxrun dlq: %S+ stays: .*odd\n$", why)
    assert.same({ "1 replayed\n", 0, "" }, { dlq "replay -n 1 --rate 10" })
    assert.same({ "1 purged\n", 0, "" }, { dlq "purge" })
    _, code, why = run "$MXRUN dlq -u $U no-such-queue ls"
    assert.equal(1, code)
    assert.matches("^mxrun dlq: .*no%-such%-queue.dlq", why)
    conn:delete_queue(name)
    conn:delete_queue(name .. ".dlq")
  end)

  it("topology --diff tells missing, same and different", function()
    local other = cli.name "missing"
    local path = cli.file(("mx.queue(%q, { max_length = 10 })"):format(q))
    local out, code = run("$MXRUN topology -u $U --diff " .. path)
    assert.equal(1, code)
    assert.matches("^differs  queue " .. q .. ": x%-max%-length is none, the script says .*10", out)
    path = cli.file(("mx.queue(%q)"):format(q))
    out, code = run("$MXRUN topology -u $U --diff " .. path)
    assert.same({ "same     queue " .. q .. "\n", 0 }, { out, code })
    path = cli.file(("mx.queue(%q) mx.exchange(%q)"):format(other, other))
    out, code = run("$MXRUN topology -u $U --diff " .. path)
    assert.same({ ("missing  queue %s\nmissing  exchange %s\n"):format(other, other), 1 }, { out, code })
    assert.is_nil((conn:queue_info(other)))
  end)
end)
