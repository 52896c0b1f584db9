-- Streams: read again and again, from where the consumer says.
local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)
local broker = dofile "spec/lua/broker.lua"
local typed = require("mx.fieldtable").typed

-- "0:a 1:b": offsets and bodies that a consumer got within a while. RabbitMQ sends a stream in chunks: wait(n) ends it early.
local function read(c, q, offset, n)
  local got = {}
  local consumer = assert(c:consume(q, { prefetch = 10, args = { ["x-stream-offset"] = offset } }, function(m)
    got[#got + 1] = ("%d:%s%s"):format(m.headers["x-stream-offset"], m.body, m.redelivered and "r" or "")
  end))
  if n > 0 then
    broker.eventually(function() return #got >= n end, function() return #got .. " of " .. n .. " came" end)
  else
    mx.sleep(0.1)
  end
  assert(consumer:stop())
  return table.concat(got, " ")
end

on_each_broker("a stream", function(connect, name)
  local function stream(c, ...)
    local q = assert(c:queue(name "stream", { type = "stream" }))
    broker.fill(c, q, ...)
    return q
  end

  for _, row in ipairs {
    { "the first", "first", "0:a 1:b 2:c" }, { "a number", 1, "1:b 2:c" }, { "0", 0, "0:a 1:b 2:c" },
    { "a number below 0, as from the first", -1, "0:a 1:b 2:c" }, { "the last", "last", "2:c" },
    { "the next, of which there is none", "next", "" },
    { "an hour ago", "1h", "0:a 1:b 2:c" }, { "a time", typed.timestamp(os.time() - 100), "0:a 1:b 2:c" },
  } do
    it("is read from " .. row[1], function()
      local c = connect()
      local q = stream(c, "a", "b", "c")
      assert.equal(row[3], read(c, q, row[2], select(2, row[3]:gsub(":", ""))))
      assert(c:delete_queue(q))
    end)
  end

  it("is read again and again, and never marks anything as redelivered", function()
    local c = connect()
    local q = stream(c, "a", "b")
    for _ = 1, 3 do assert.equal("0:a 1:b", read(c, q, "first", 2)) end
    assert(c:delete_queue(q))
  end)

  it("is read by several at once, each in its own pace", function()
    local c = connect()
    local q = stream(c, "a", "b", "c")
    local args = { ["x-stream-offset"] = "first" }
    local slow = broker.hold(c, q, { prefetch = 1, args = args })
    slow.wait(1)
    assert.equal("0:a 1:b 2:c", read(c, q, "first", 3))
    assert.equal(1, #slow.got)
    slow.finish(true)
    broker.eventually(function() return #slow.got == 3 end)
    assert(slow.consumer:stop())
    assert(c:delete_queue(q))
  end)

  it("goes on with what is published later", function()
    local c = connect()
    local q, got = stream(c, "a"), {}
    local consumer = assert(c:consume(q, { prefetch = 10, args = { ["x-stream-offset"] = "next" } }, function(m)
      got[#got + 1] = m.headers["x-stream-offset"] .. ":" .. m.body
    end))
    broker.fill(c, q, "b", "c")
    broker.eventually(function() return #got == 2 end)
    assert.same({ "1:b", "2:c" }, got)
    assert(consumer:stop())
    assert(c:delete_queue(q))
  end)

  it("keeps properties and headers", function()
    local c = connect()
    local q, got = stream(c), nil
    assert(c:publish("", q, "x", { id = "i", type = "t", headers = { mine = 1 } }))
    local consumer = assert(c:consume(q, { args = { ["x-stream-offset"] = "first" } }, function(m)
      got = { m.id, m.type, m.headers.mine, m.headers["x-stream-offset"], m.key, m.exchange }
    end))
    broker.eventually(function() return got end)
    assert.same({ "i", "t", 1, 0, q, "" }, got)
    assert(consumer:stop())
    assert(c:delete_queue(q))
  end)

  -- Dead letters reach a stream on mem:// and on later versions of RabbitMQ; 3.10 loses them.
  it("takes what exchanges route to it", function()
    local c, k = connect(), name "k"
    local q = assert(c:queue(name "stream", { type = "stream", bind = { { "amq.direct", k } } }))
    assert(c:publish("amq.direct", k, "routed"))
    assert.equal("0:routed", read(c, q, "first", 1))
    assert(c:delete_queue(q))
  end)

  it("knows no priorities of consumers", function()
    local c = connect()
    local q = stream(c)
    broker.refused(406, ("PRECONDITION_FAILED - invalid arg 'x-priority' for queue '%s' in vhost '/' of queue type rabbit_stream_queue")
      :format(q), c:consume(q, { priority = 5, args = { ["x-stream-offset"] = "first" } }, function() end))
    assert(c:delete_queue(q))
  end)

  for _, row in ipairs {
    { "max_priority", 5, "x-max-priority" }, { "ttl", 1, "x-message-ttl" }, { "expires", 1, "x-expires" },
    { "max_length", 5, "x-max-length" }, { "overflow", "drop-head", "x-overflow" },
    { "single_active_consumer", true, "x-single-active-consumer" },
    { "dead letters", { ["x-dead-letter-exchange"] = "x" }, "x-dead-letter-exchange" },
  } do
    it("has no " .. row[1], function()
      local c, q = connect(), name "stream"
      local o = type(row[2]) == "table" and { args = row[2] } or { [row[1]] = row[2] }
      o.type = "stream"
      broker.refused(406, ("PRECONDITION_FAILED - invalid arg '%s' for queue '%s' in vhost '/' of queue type rabbit_stream_queue")
        :format(row[3], q), c:queue(q, o))
    end)
  end

  for _, row in ipairs {
    { "non-durable", { durable = false } }, { "exclusive-owner", { exclusive = true } }, { "auto-delete", { auto_delete = true } },
  } do
    it("is not " .. row[1], function()
      local c, q = connect(), name "stream"
      row[2].type = "stream"
      broker.refused(406, ("PRECONDITION_FAILED - invalid property '%s' for queue '%s' in vhost '/'"):format(row[1], q),
                     c:queue(q, row[2]))
    end)
  end

  it("may have a size and an age", function()
    local c, q = connect(), name "stream"
    local o = { type = "stream", max_bytes = "1MB", args = { ["x-max-age"] = "7D" } }
    assert(c:queue(q, o))
    assert(c:queue(q, o))
    broker.refused(406, "'x-max-age'", c:queue(q, { type = "stream", max_bytes = "1MB", args = { ["x-max-age"] = "1D" } }))
    assert(c:delete_queue(q))
  end)
end)
