-- Connecting: several addresses, and who gives up while it is under way.
local conns = require "mx.conn"

describe("mx.connect", function()
  it("tries every address, and takes the first that answers", function()
    for _ = 1, 5 do
      local c = assert(mx.connect { urls = { "amqp://u:secret@127.0.0.1:1", "mem://urls", "amqp://127.0.0.1:2" } })
      assert.equal("q", c:queue "q")
      c:close()
    end
  end)

  it("names all that it tried, without their passwords, when none will ever do", function()
    local c, e = mx.connect { urls = { "amqp://u:secret@h/%zz" } }
    assert.is_nil(c)
    assert.equal("config", e.code)
    assert.equal("connect", e.op)
    assert.is_nil(tostring(e):find "secret")
  end)

  it("leaves nothing behind when the task that waits for it is cancelled", function()
    local log, lines = require "mx.log", {}
    local write = log.write
    log.write = function(line) lines[#lines + 1] = line return true end
    local before = #conns.open
    local t = mx.spawn(function()
      return mx.connect { urls = { "amqp://u:secret@127.0.0.1:1", "amqp://u:other@127.0.0.1:2" }, order = "listed" }
    end)
    while #lines == 0 do mx.sleep(0.001) end
    t:cancel()
    assert.equal("interrupted", select(2, t:wait(5)).code)
    log.write = write
    assert.equal(before, #conns.open)
    assert.matches("u:%*%*%*@127.0.0.1:1/: connection refused; amqp://u:%*%*%*@127.0.0.1:2/: connection refused", lines[1])
  end)

  it("goes on for the others when the task that began it is cancelled", function()
    local c = conns.new { url = "mem://opener" }
    local first = mx.spawn(function() return c:queue "q" end)
    local second = mx.spawn(function() return c:queue "q" end)
    mx.sleep(0)
    first:cancel()
    assert.equal("interrupted", select(2, first:wait(5)).code)
    assert.same({ true, "q" }, { second:wait(5) })
    c:close()
  end)

  it("begins anew after everybody gave up", function()
    local c = conns.new { url = "mem://anew" }
    local first = mx.spawn(function() return c:queue "q" end)
    mx.sleep(0)
    first:cancel()
    assert.equal("q", c:queue "q")
    first:wait(5)
    c:close()
  end)

  it("tells who waits when the connection is closed before it is open", function()
    local c = conns.new { url = "amqp://127.0.0.1:1", reconnect = { base = 60, jitter = false } }
    local log = require "mx.log"
    local write, said = log.write, false
    log.write = function() said = true return true end
    local t = mx.spawn(function() return c:queue "q" end)
    while not said do mx.sleep(0.001) end
    log.write = write
    c:close()
    local ok, q, e = t:wait(5)
    assert.is_true(ok)
    assert.is_nil(q)
    assert.equal("closed", e.code)
  end)

  it("tells once that a broker blocks a connection, and when it goes on", function()
    local c, seen = assert(mx.connect { url = "mem://blocked" }), {}
    for _, event in ipairs { "blocked", "unblocked" } do
      mx.on(event, function(conn) if conn == c then seen[#seen + 1] = event end end)
    end
    local link = c:link "consume"
    for _, blocked in ipairs { 1, 1, 0, 0 } do
      link.blocked = blocked
      mx.sleep(0.001)
    end
    assert.same({ "blocked", "unblocked" }, seen)
    c:close()
  end)

  it("closes to the end when the task that closes it is cancelled", function()
    local c = assert(mx.connect { url = "mem://close" })
    assert(c:queue "q")
    local done
    assert(c:consume("q", function() mx.sleep(0.02) done = true end))
    assert(c:publish("", "q", "x"))
    while c:queue_info("q").messages > 0 do mx.sleep(0) end
    local t = mx.spawn(function() c:close() end)
    mx.sleep(0)
    t:cancel()
    t:wait(5)
    c:close()
    assert.is_true(done)
    assert.is_true(c.gone)
  end)

  it("may be closed by several handlers at once", function()
    local c = assert(mx.connect { url = "mem://handlers" })
    assert(c:queue "q")
    local ended = 0
    assert(c:consume("q", { concurrency = 3 }, function()
      mx.sleep(0.001)
      c:close()
      ended = ended + 1
    end))
    for _ = 1, 3 do assert(c:publish_async("", "q", "x")) end
    while ended < 3 do mx.sleep(0.001) end
    c:close()
    assert.is_true(c.gone)
  end)
end)
