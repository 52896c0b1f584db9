-- mx.queue, mx.exchange and the rest say at the caller's line what is wrong with how they were called.
local function raises(pattern, f, ...)
  local ok, e = pcall(f, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(e))
  assert.matches("^spec/lua/topology_spec.lua:%d+: ", tostring(e))
end

describe("topology, called wrongly", function()
  local c
  before_each(function() c = assert(mx.connect { url = "mem://topology" }) end)
  after_each(function() c:close() end)

  for _, row in ipairs {
    { { max_lenght = 5 }, "unknown option 'max_lenght', did you mean 'max_length'%?" },
    { { single_active_consumr = true }, "did you mean 'single_active_consumer'%?" },
    { { typ = "quorum" }, "did you mean 'type'%?" },
    { { type = "quorom" }, "option 'type': expected one of .*, got \"quorom\", did you mean 'quorum'%?" },
    { { durable = 1 }, "option 'durable': expected true or false, got 1" },
    { { auto_delete = "yes" }, "option 'auto_delete': expected true or false" },
    { { exclusive = 0 }, "option 'exclusive': expected true or false, got 0" },
    { { ttl = "soon" }, "option 'ttl': expected seconds" }, { { ttl = -1 }, "option 'ttl': expected seconds" },
    { { expires = {} }, "option 'expires': expected seconds" },
    { { max_length = 1.5 }, "option 'max_length': expected an integer" },
    { { max_length = -1 }, "option 'max_length': expected an integer of at least 0, got %-1" },
    { { max_bytes = "1 horse" }, "option 'max_bytes': expected bytes" },
    { { overflow = "drop" }, "option 'overflow': expected one of" },
    { { overflow = "reject-publsh" }, "did you mean 'reject%-publish'%?" },
    { { delivery_limit = -1 }, "option 'delivery_limit': expected an integer" },
    { { max_priority = 0 }, "option 'max_priority': expected an integer from 1 to 255" },
    { { max_priority = 256 }, "option 'max_priority': expected an integer from 1 to 255" },
    { { dlq = 5 }, "option 'dlq': expected a table or a string or true or false, got 5" },
    { { dlq = { exchnge = "x" } }, "mx.queue: dlq: unknown option 'exchnge', did you mean 'exchange'%?" },
    { { bind = "x" }, "option 'bind': expected a table" },
    { { bind = { { "amq.topic", 5 } } }, "option 'bind': expected { exchange, key, args } at %[1%]" },
    { { bind = { { "amq.topic", "k" }, "amq.topic" } }, "option 'bind': expected { exchange, key, args } at %[2%]" },
    { { args = "x" }, "option 'args': expected a table" },
  } do
    it("raises over a queue's options: " .. row[2]:gsub("%%", ""), function()
      raises(row[2], function() c:queue("q", row[1]) end)
      raises(row[2], function() c:topology { queues = { q = row[1] } } end)
    end)
  end

  for _, row in ipairs {
    { { durble = true }, "unknown option 'durble', did you mean 'durable'%?" },
    { { alternat = "x" }, "did you mean 'alternate'%?" }, { { alternate = 5 }, "option 'alternate': expected a string, got 5" },
    { { internal = "no" }, "option 'internal': expected true or false" }, { { type = 1 }, "option 'type': expected a string, got 1" },
  } do
    it("raises over an exchange's options: " .. row[2]:gsub("%%", ""), function()
      raises(row[2], function() c:exchange("x", row[1]) end)
    end)
  end

  it("raises over bindings that are none, before anything is declared", function()
    for _, b in ipairs { { 1, 2 }, { "q" }, { "q", "x", 5 }, { "q", "x", "k", "args" }, "q" } do
      raises("mx.topology: bindings: expected { queue, exchange, key, args } at %[1%]", function()
        c:topology { queues = { not_made = {} }, bindings = { b } }
      end)
    end
    assert.is_nil(c:queue_info "not_made")
  end)

  it("raises over names that are none", function()
    raises("bad argument #1 to queue: expected a string, got nil", function() c:queue() end)
    raises("bad argument #1 to exchange: expected a string, got 5", function() c:exchange(5) end)
    raises("bad argument #1 to bind: expected a name that is not empty, got \"\"", function() c:bind("", "amq.topic") end)
    raises("bad argument #2 to bind: expected a string, got nil", function() c:bind "q" end)
    raises("bad argument #3 to unbind: expected a string, got 5", function() c:unbind("q", "x", 5) end)
    raises("bad argument #4 to bind_exchange: expected a table, got 5", function() c:bind_exchange("q", "x", "k", 5) end)
    for _, f in ipairs { "purge", "delete_queue", "queue_info" } do
      raises("bad argument #1 to " .. f .. ": expected a name that is not empty, got \"\"", function() c[f](c, "") end)
      raises("bad argument #1 to " .. f .. ": expected a name that is not empty, got nil", function() c[f](c) end)
    end
    raises("bad argument #1 to delete_exchange: expected a string", function() c:delete_exchange() end)
  end)

  it("raises over a part of the topology that there is not", function()
    raises("mx.topology: unknown option 'exchange', did you mean 'exchanges'%?", function() c:topology { exchange = {} } end)
    raises("bad argument #2 to queue: expected a table, got 5", function() c:queue("q", 5) end)
    raises("mx.topology: queues.q: expected a table of options, got 5", function() c:topology { queues = { q = 5 } } end)
    raises("bad argument #1 to topology: expected a table, got nil", function() c:topology() end)
  end)

  it("answers an error for a name that AMQP cannot carry", function()
    local _, e = c:queue(("q"):rep(256))
    assert.equal("validation", e.code)
    assert.matches("name is 256 bytes, at most 255", tostring(e))
  end)

  it("makes whole milliseconds of seconds", function()
    for seconds, ms in pairs { [0.001] = 1, [0.1] = 100, [0.3] = 300, [1.001] = 1001, [4.35] = 4350, [16.1] = 16100 } do
      local q = "ttl" .. ms
      assert(c:queue(q, { ttl = seconds }))
      assert(c:queue(q, { args = { ["x-message-ttl"] = ms } }))
    end
    assert(c:queue("texts", { ttl = "100ms", expires = "2m", max_bytes = "64KB" }))
    assert(c:queue("texts", { args = { ["x-message-ttl"] = 100, ["x-expires"] = 120000, ["x-max-length-bytes"] = 65536 } }))
  end)
end)
