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
end)
