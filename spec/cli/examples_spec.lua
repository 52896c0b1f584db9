-- Each example runs as written and prints what it says.
local cli = dofile "spec/cli/run.lua"

-- What it prints, line by line; it ends by itself.
local function lines_of(example, options)
  local out, code, why = cli.mxrun(("-u mem:// %s examples/%s"):format(options or "", example))
  assert.same(0, code, why)
  local lines = {}
  for line in out:gmatch "[^\n]+" do lines[#lines + 1] = line end
  return lines
end

-- Starts it, waits until it has printed the line, ends it with SIGTERM: exit code, what it printed.
local function until_line(line, command)
  local out, code = cli.shell(([[
    out=$(mktemp)
    %s >$out 2>/dev/null & pid=$!
    for i in $(seq 500); do grep -q '%s' $out && break; sleep 0.02; done
    kill $pid; wait $pid && cat $out; rm $out]]):format(command, line))
  return code, out
end

describe("example", function()
  it("call.lua asks five things at once", function()
    assert.same({ "1\t1", "2\t4", "3\t9", "4\t16", "5\t25" }, lines_of "call.lua")
  end)

  it("hello.lua says hello five times", function()
    local lines = lines_of "hello.lua"
    assert.same({ 5, "hello: hello world, 1" }, { #lines, lines[1] })
  end)

  it("ordered.lua keeps each customer in order", function()
    local last, n = {}, 0
    for _, line in ipairs(lines_of "ordered.lua") do
      local customer, i = line:match "^(%a)\tevent (%d)$"
      assert.is_true((last[customer] or 0) < tonumber(i))
      last[customer], n = tonumber(i), n + 1
    end
    assert.equal(9, n)
  end)

  it("orders.lua makes invoices of orders", function()
    local orders = mx.test.load "examples/orders.lua"
    local result = orders:deliver("orders", { id = 7, total = 3 })
    assert.same({ "ack", "invoices" }, { result.decision, result.published[1].key })
    assert.equal("negative total", orders:deliver("orders", { id = 7, total = -3 }).reason)
    orders:close()
  end)

  it("refunds_spec.lua passes, for refunds.lua", function()
    assert.equal(0, select(2, cli.mxrun "test examples/refunds_spec.lua"))
  end)

  it("receipts.lua knows what became of each message", function()
    assert.same({ "1000 messages confirmed", "and one publish: no queue is bound for this key" }, lines_of "receipts.lua")
  end)

  it("routing.lua routes by keys", function()
    local lines = lines_of "routing.lua"
    table.sort(lines)
    assert.same({ "all    order.new.de", "all    order.new.pl", "polish order.new.pl" }, lines)
  end)

  it("ticker.lua ticks", function() assert.matches("^three ticks in %d", lines_of "ticker.lua"[1]) end)

  it("leak.lua finds its own leak", function()
    local out, code = cli.mxrun "-u mem:// --set seconds=1 examples/leak.lua"
    assert.equal(0, code)
    assert.matches("\n *%+[%d.]+MB +%+%d+  remember examples/leak.lua:[78]\n", out)
    assert.matches("\nupvalue seen%[1%] of remember %(examples/leak.lua:6%)\n$", out)
    assert.equal(0, select(2, cli.mxrun "--check examples/leak.lua"))
  end)

  it("batch.lua stores its rows at once, as its spec says", function()
    local out, code = cli.both "test -o TAP examples/batch_spec.lua"
    assert.equal(0, code, out)
    assert.matches("1%.%.4", out)
    local path = cli.file [[
      dofile "examples/batch.lua"
      for i = 1, 10 do assert(mx.publish("", "rows", { id = i, amount = i ~= 7 and i or nil })) end
      mx.test.eventually(function() return mx.queue_info("stored").messages > 0 and mx.dlq("rows"):count() == 1 end)
      print "stored"
      mx.stop()
    ]]
    out, code = cli.shell("$MXRUN -u mem:// " .. path)
    os.remove(path)
    assert.same({ "stored\n", 0 }, { out, code })
  end)

  it("monitoring.lua reports figures and health", function()
    local out, code = cli.shell [[
      log=$(mktemp)
      $MXRUN -u mem:// --http 0 --set report=0.1 examples/monitoring.lua 2>$log & pid=$!
      until grep -q 'report.*handled=[1-9].*health=healthy' $log; do sleep 0.05; done
      address=$(grep -o 'http=.*' $log)
      kill $pid; wait $pid && echo $address; rm $log]]
    assert.equal(0, code)
    assert.matches("^http=127.0.0.1:%d+\n$", out)
    assert.equal(0, select(2, cli.mxrun "--check examples/monitoring.lua"))
  end)

  it("bridge.lua carries messages from one broker to another", function()
    assert.same({ "1\teast", "2\teast", "3\teast" }, lines_of "bridge.lua")
  end)

  it("priority.lua handles what is urgent first", function()
    assert.same({ "9\turgent", "5\timportant", "0\tjob 1", "0\tjob 2", "0\tjob 3" }, lines_of "priority.lua")
  end)

  it("delayed_retry.lua tries again later, and gives up", function()
    local lines = lines_of "delayed_retry.lua"
    assert.same({ "to ann\tattempt 1", "to bob\tattempt 1", "to cec\tattempt 1" }, { unpack(lines, 1, 3) })
    local text = table.concat(lines, "\n")
    assert.matches("to ann\tattempt 3", text)
    assert.is_nil(text:find("to ann\tattempt 4", 1, true))
    assert.matches("to bob\tattempt 4\nto bob\tno such mailbox$", text)
  end)

  it("dedup.lua counts each payment once", function() assert.same({ "paid 30, 2 doubles" }, lines_of "dedup.lua") end)

  it("sqlite.lua has each row in the database, once", function()
    local there = pcall(require, "luasql.sqlite3")
    if not there then return pending "lua-sql-sqlite3 is not installed" end
    assert.same({ "250\t24.5" }, lines_of "sqlite.lua")
  end)

  it("stream.lua reads from the start and from an offset", function()
    local lines = lines_of "stream.lua"
    assert.same({ "all      0 click 1", "all      4 click 5", "resumed  3 click 4", "resumed  4 click 5" },
                { lines[1], lines[5], lines[6], lines[7] })
  end)

  it("quorum.lua holds nobody up for a message that always fails", function()
    assert.same({ "invoice 1: 1 items", "invoice 3: 1 items", "invoice 2 is dead after 2 retries" }, lines_of "quorum.lua")
  end)

  it("metrics.lua counts and measures", function()
    local lines = lines_of "metrics.lua"
    assert.equal("15 by post, 5 by bike", lines[1])
    assert.matches("^the median weighs 10 kg, packed in 0.0%d s$", lines[2])
  end)

  it("http_to_amqp.lua publishes what an HTTP server has", function()
    local code, out = until_line("order 8", [[
      dir=$(mktemp -d)
      echo '[{"id":7},{"id":8}]' >$dir/orders.json
      python3 -u -m http.server --bind 127.0.0.1 --directory $dir 0 >$dir/log 2>/dev/null & server=$!
      trap "kill $server; rm -r $dir" EXIT
      until port=$(grep -o 'port [0-9]*' $dir/log); do sleep 0.05; done
      $MXRUN -u mem:// --set host=127.0.0.1 --set port=${port#port } --set every=0.1 examples/http_to_amqp.lua]])
    assert.same({ 0, "published order 7\npublished order 8\n" }, { code, out })
  end)

  it("alerting.lua says once that a queue is long, and once that it is not any more", function()
    local path = cli.file [[
      dofile "examples/alerting.lua"
      for i = 1, 5 do assert(mx.publish("", "orders", {})) end
      mx.sleep(0.3)
      assert(mx.purge "orders")
      mx.sleep(0.3)
      mx.stop()
    ]]
    local out, code = cli.mxrun("-u mem:// --set high=5 --set low=1 --set every=0.05 " .. path)
    assert.same({ "orders: long, 5 messages\norders: ok, 0 messages\n", 0 }, { out, code })
    os.remove(path)
  end)

  it("rpc_client.lua has its answers from rpc_server.lua", function()
    local path = cli.file [[
      dofile "examples/rpc_server.lua"
      arg = {}
      dofile "examples/rpc_client.lua"
      mx.stop()
    ]]
    assert.equal("tea\t3.50\nmilk\tno such item: milk\n", (cli.mxrun("-u mem:// " .. path)))
    os.remove(path)
  end)
end)

describe("examples", function()
  it("are all run by a spec, are short, and pass --check", function()
    local specs = io.popen("cat spec/cli/*_spec.lua spec/lua/*_spec.lua"):read "*a"
    local n = 0
    for path in io.popen("ls examples/*.lua"):lines() do
      local name, lines = path:match "[^/]*$", select(2, cli.read(path):gsub("\n", ""))
      assert.is_truthy(specs:find(name, 1, true), name)
      assert.is_true(lines <= 50, name)
      assert.is_truthy(cli.read(path):find "^%-%- ", name)
      local missing = name == "sqlite.lua" and not pcall(require, "luasql.sqlite3")
      if not name:find "_spec" and not missing then assert.equal(0, select(2, cli.mxrun("--check " .. path)), name) end
      n = n + 1
    end
    assert.is_true(n >= 15)
  end)
end)

if not cli.amqp then return end

describe("examples on RabbitMQ", function()
  it("rpc_server.lua and rpc_client.lua speak with each other", function()
    local out, code = cli.shell(([[
      $MXRUN -u %s examples/rpc_server.lua & pid=$!
      until $MXRUN -u %s examples/rpc_client.lua coffee | grep '4.20'; do sleep 0.1; done
      kill $pid; wait $pid]]):gsub("%%s", cli.amqp))
    assert.same({ "coffee\t4.20\n", 0 }, { out, code })
  end)
end)
