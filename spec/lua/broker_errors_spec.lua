-- What the broker refuses, word by word.
local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)
local broker = dofile "spec/lua/broker.lua"
local refused = broker.refused

local function with(x_args) return { durable = true, args = x_args } end
local LOCKED = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '%s' in vhost '/'. It could be originally "
  .. "declared on another connection or the exclusive property value does not match that of the original declaration."

on_each_broker("an argument that cannot be", function(connect, name)
  for _, row in ipairs {
    { "a negative TTL", { ["x-message-ttl"] = -1 }, "'x-message-ttl'", ": {value_negative,-1}" },
    { "a TTL that is text", { ["x-message-ttl"] = "5" }, "'x-message-ttl'", ': "expected integer, got longstr"' },
    { "a TTL with a fraction", { ["x-message-ttl"] = 1.5 }, "'x-message-ttl'", ': "expected integer, got double"' },
    { "a TTL that is a boolean", { ["x-message-ttl"] = true }, "'x-message-ttl'", ': "expected integer, got bool"' },
    { "a TTL above ten years", { ["x-message-ttl"] = 2 ^ 40 }, "'x-message-ttl'", ": {value_too_large,1099511627776}" },
    { "an expiry of 0", { ["x-expires"] = 0 }, "'x-expires'", ": {value_zero,0}" },
    { "a negative expiry", { ["x-expires"] = -1 }, "'x-expires'", ": {value_negative,-1}" },
    { "an expiry that is text", { ["x-expires"] = "s" }, "'x-expires'", ': "expected integer, got longstr"' },
    { "a dead-letter key without an exchange", { ["x-dead-letter-routing-key"] = "k" }, "'x-dead-letter-routing-key'",
      ": routing_key_but_no_dlx_defined" },
    { "a dead-letter key that is a number", { ["x-dead-letter-routing-key"] = 5 }, "'x-dead-letter-routing-key'",
      ": {unacceptable_type,long}" },
    { "a negative length", { ["x-max-length"] = -1 }, "'x-max-length'", ": {value_negative,-1}" },
    { "a length that is text", { ["x-max-length"] = "a" }, "'x-max-length'", ': "expected integer, got longstr"' },
    { "a negative size", { ["x-max-length-bytes"] = -1 }, "'x-max-length-bytes'", ": {value_negative,-1}" },
    { "a priority above 255", { ["x-max-priority"] = 256 }, "'x-max-priority'", ": {max_value_exceeded,256}" },
    { "a negative priority", { ["x-max-priority"] = -1 }, "'x-max-priority'", ": {value_negative,-1}" },
    { "a priority that is text", { ["x-max-priority"] = "s" }, "'x-max-priority'", ': "expected integer, got longstr"' },
    { "an unknown overflow", { ["x-overflow"] = "bad" }, "'x-overflow'", ": invalid_overflow" },
    { "an overflow that is a number", { ["x-overflow"] = 1 }, "'x-overflow'", ": {unacceptable_type,long}" },
    { "an unknown mode", { ["x-queue-mode"] = "bad" }, "'x-queue-mode'", ": \"unsupported queue mode 'bad'\"" },
    { "a mode that is a number", { ["x-queue-mode"] = 1 }, "'x-queue-mode'", ": {unacceptable_type,long}" },
    { "an unknown version", { ["x-queue-version"] = 3 }, "'x-queue-version'", ": \"unsupported queue version '3'\"" },
    { "a version that is text", { ["x-queue-version"] = "s" }, "'x-queue-version'", ': "expected integer, got longstr"' },
    { "a single active consumer that is text", { ["x-single-active-consumer"] = "yes" }, "'x-single-active-consumer'",
      ": {unacceptable_type,longstr}" },
    { "an unknown type", { ["x-queue-type"] = "bad" }, "'x-queue-type'", ": \"unsupported queue type 'bad'\"" },
    { "a type that is a number", { ["x-queue-type"] = 1 }, "'x-queue-type'", ": {unacceptable_type,long}" },
    { "the first of two, in the broker's order", { ["x-message-ttl"] = -1, ["x-expires"] = -1 }, "'x-expires'",
      ": {value_negative,-1}" },
    { "a delivery limit of a classic queue", { ["x-delivery-limit"] = 5 }, "'x-delivery-limit'",
      " of queue type rabbit_classic_queue" },
    { "a dead-letter strategy of a classic queue", { ["x-dead-letter-strategy"] = "at-least-once" }, "'x-dead-letter-strategy'",
      " of queue type rabbit_classic_queue" },
    { "a maximal age of a classic queue", { ["x-max-age"] = "5D" }, "'x-max-age'", " of queue type rabbit_classic_queue" },
    { "an in-memory length of a classic queue", { ["x-max-in-memory-length"] = 5 }, "'x-max-in-memory-length'",
      " of queue type rabbit_classic_queue" },
    { "a group size of a classic queue", { ["x-quorum-initial-group-size"] = 3 }, "'x-quorum-initial-group-size'",
      " of queue type rabbit_classic_queue" },
    { "priorities of a quorum queue", { ["x-queue-type"] = "quorum", ["x-max-priority"] = 5 }, "'x-max-priority'",
      " of queue type rabbit_quorum_queue" },
    { "a mode of a quorum queue", { ["x-queue-type"] = "quorum", ["x-queue-mode"] = "lazy" }, "'x-queue-mode'",
      " of queue type rabbit_quorum_queue" },
    { "a version of a quorum queue", { ["x-queue-type"] = "quorum", ["x-queue-version"] = 2 }, "'x-queue-version'",
      " of queue type rabbit_quorum_queue" },
    { "a strategy that a quorum queue does not know", { ["x-queue-type"] = "quorum", ["x-dead-letter-strategy"] = "bogus" },
      "'x-dead-letter-strategy'", ": invalid_dlx_strategy" },
    { "a group size of 0", { ["x-queue-type"] = "quorum", ["x-quorum-initial-group-size"] = 0 }, "'x-quorum-initial-group-size'",
      ": {value_zero,0}" },
    { "a locator that a quorum queue does not know", { ["x-queue-type"] = "quorum", ["x-queue-leader-locator"] = "foo" },
      "'x-queue-leader-locator'", ": invalid_queue_locator_arg" },
    { "a wrong TTL before what the type does not take",
      { ["x-queue-type"] = "quorum", ["x-message-ttl"] = -1, ["x-max-priority"] = 1 }, "'x-message-ttl'", ": {value_negative,-1}" },
  } do
    it("refuses " .. row[1], function()
      local q = name "bad"
      refused(406, ("PRECONDITION_FAILED - invalid arg %s for queue '%s' in vhost '/'%s"):format(row[3], q, row[4]),
              connect():queue(q, with(row[2])))
    end)
  end

  it("refuses a dead-letter exchange that is no name", function()
    local q = name "bad"
    refused(406, ("PRECONDITION_FAILED - invalid type 'long' for arg 'x-dead-letter-exchange' in queue '%s' in vhost '/'"):format(q),
            connect():queue(q, with { ["x-dead-letter-exchange"] = 5, ["x-message-ttl"] = -1 }))
  end)

  for _, row in ipairs {
    { "non-durable", { durable = false } }, { "exclusive-owner", { exclusive = true } }, { "auto-delete", { auto_delete = true } },
    { "exclusive-owner", { exclusive = true, durable = false }, " before non-durable" },
  } do
    it("refuses a quorum queue that is " .. row[1] .. (row[3] or ""), function()
      local q = name "bad"
      row[2].type = "quorum"
      refused(406, ("PRECONDITION_FAILED - invalid property '%s' for queue '%s' in vhost '/'"):format(row[1], q),
              connect():queue(q, row[2]))
    end)
  end
end)

on_each_broker("a queue that exists otherwise", function(connect, name)
  local D = "the value '%s' of type '%s'"
  for _, row in ipairs {
    { "durable", { durable = true }, { durable = false }, "durable", "'false'", "'true'" },
    { "transient", { durable = false }, { durable = true }, "durable", "'true'", "'false'" },
    { "durable, before anything else", { durable = true }, { durable = false, auto_delete = true, max_length = 1 }, "durable",
      "'false'", "'true'" },
    { "auto_delete", { auto_delete = true }, {}, "auto_delete", "'false'", "'true'" },
    { "not auto_delete", {}, { auto_delete = true }, "auto_delete", "'true'", "'false'" },
    { "with another max_length", { max_length = 10 }, { max_length = 5 }, "x-max-length", "'5'", "'10'" },
    { "with a max_length", { max_length = 10 }, {}, "x-max-length", "none", D:format("10", "long") },
    { "without a max_length", {}, { max_length = 10 }, "x-max-length", D:format("10", "long"), "none" },
    { "with another max_bytes", { max_bytes = 10 }, { max_bytes = "5KB" }, "x-max-length-bytes", "'5120'", "'10'" },
    { "with another TTL", { ttl = 60 }, { ttl = "5s" }, "x-message-ttl", "'5000'", "'60000'" },
    { "with another expiry", { expires = 60 }, { expires = 61 }, "x-expires", "'61000'", "'60000'" },
    { "with another overflow", { max_length = 5, overflow = "drop-head" }, { max_length = 5, overflow = "reject-publish" },
      "x-overflow", "'reject-publish'", "'drop-head'" },
    { "with an overflow", { max_length = 5, overflow = "drop-head" }, { max_length = 5 }, "x-overflow", "none",
      D:format("drop-head", "longstr") },
    { "with other priorities", { max_priority = 5 }, { max_priority = 6 }, "x-max-priority", "'6'", "'5'" },
    { "with a single active consumer", { single_active_consumer = true }, {}, "x-single-active-consumer", "none",
      D:format("true", "bool") },
    { "with no single active consumer", { single_active_consumer = true }, { single_active_consumer = false },
      "x-single-active-consumer", "'false'", "'true'" },
    { "with a mode", with { ["x-queue-mode"] = "lazy" }, {}, "x-queue-mode", "none", D:format("lazy", "longstr") },
    { "with a version", with { ["x-queue-version"] = 2 }, {}, "x-queue-version", "none", D:format("2", "long") },
    { "of type quorum", { type = "quorum" }, {}, "x-queue-type", "none", D:format("quorum", "longstr") },
    { "of type quorum, not classic", { type = "quorum" }, { type = "classic" }, "x-queue-type", "'classic'", "'quorum'" },
    { "of type classic", { type = "classic" }, { type = "quorum" }, "x-queue-type", "'quorum'", "'classic'" },
    { "with another delivery limit", { type = "quorum", delivery_limit = 2 }, { type = "quorum", delivery_limit = 3 },
      "x-delivery-limit", "'3'", "'2'" },
    { "with a delivery limit", { type = "quorum", delivery_limit = 2 }, { type = "quorum" }, "x-delivery-limit", "none",
      D:format("2", "long") },
    { "before it looks whether the new argument is possible", {}, with { ["x-message-ttl"] = -1 }, "x-message-ttl",
      D:format("-1", "long"), "none" },
  } do
    it(row[1] .. " is told as such", function()
      local c, q = connect(), name "exists"
      assert(c:queue(q, row[2]))
      refused(406, ("PRECONDITION_FAILED - inequivalent arg '%s' for queue '%s' in vhost '/': received %s but current is %s")
        :format(row[4], q, row[5], row[6]), c:queue(q, row[3]))
      assert(c:delete_queue(q))
    end)
  end

  it("is explained in the script's words", function()
    local c, q = connect(), name "exists"
    assert(c:queue(q, { max_length = 500 }))
    local _, e = c:queue(q, { max_length = 10000 })
    assert.matches(("^queue %q exists with x%%-max%%-length=500, script says 10000 "):format(q), tostring(e))
    _, e = c:queue(q)
    assert.matches(("^queue %q exists with x%%-max%%-length=500, script says none "):format(q), tostring(e))
  end)

  for _, row in ipairs {
    { "nothing", {}, {} }, { "the default type", {}, { type = "classic" }, true }, { "its own type", { type = "classic" }, {}, true },
    { "its TTL as text", { ttl = 1 }, { ttl = "1000ms" } }, { "its size as text", { max_bytes = 1024 }, { max_bytes = "1KB" } },
    { "an argument that nobody knows", with { mine = 1 }, {} }, { "an x-argument that nobody knows", with { ["x-mine"] = 1 }, {} },
    { "its TTL given as an argument", { ttl = 1 }, with { ["x-message-ttl"] = 1000 } },
    { "its bindings", {}, { bind = { { "amq.direct", "k" } } } },
  } do
    it("is the same when asked for with " .. row[1], function()
      local c, q = connect(), name "same"
      assert(c:queue(q, row[2]))
      assert.equal(q, assert(c:queue(q, row[3])))
      assert(c:delete_queue(q))
    end)
  end
end)

on_each_broker("an exchange that exists otherwise", function(connect, name)
  local ae = function(x) return { args = { ["alternate-exchange"] = x } } end
  for _, row in ipairs {
    { "of another type", "topic", "direct", "type", "'direct'", "'topic'" },
    { "transient", { durable = false }, {}, "durable", "'true'", "'false'" },
    { "auto_delete", { auto_delete = true }, {}, "auto_delete", "'false'", "'true'" },
    { "internal", { internal = true }, {}, "internal", "'false'", "'true'" },
    { "with an alternate", { alternate = "ae" }, {}, "alternate-exchange", "none", "the value 'ae' of type 'longstr'" },
    { "without an alternate", {}, { alternate = "ae" }, "alternate-exchange", "the value 'ae' of type 'longstr'", "none" },
    { "with another alternate", { alternate = "ae" }, ae "be", "alternate-exchange", "'be'", "'ae'" },
  } do
    it(row[1] .. " is told as such", function()
      local c, x = connect(), name "exists"
      assert(c:exchange(x, row[2]))
      refused(406, ("PRECONDITION_FAILED - inequivalent arg '%s' for exchange '%s' in vhost '/': received %s but current is %s")
        :format(row[4], x, row[5], row[6]), c:exchange(x, row[3]))
      assert(c:delete_exchange(x))
    end)
  end

  it("is the same when asked for with an argument that nobody knows", function()
    local c, x = connect(), name "same"
    assert(c:exchange(x))
    assert(c:exchange(x, { args = { mine = 1 } }))
    assert(c:delete_exchange(x))
  end)

  it("refuses an alternate that is no name", function()
    local x = name "bad"
    refused(406, ("PRECONDITION_FAILED - invalid type 'long' for arg 'alternate-exchange' in exchange '%s' in vhost '/'"):format(x),
            connect():exchange(x, ae(5)))
  end)
end)

on_each_broker("what is missing or reserved", function(connect, name)
  local DEFAULT = "ACCESS_REFUSED - operation not permitted on the default exchange"
  local function no_queue(q) return ("NOT_FOUND - no queue '%s' in vhost '/'"):format(q) end
  local function no_exchange(x) return ("NOT_FOUND - no exchange '%s' in vhost '/'"):format(x) end
  for _, row in ipairs {
    { "a passive declaration of a missing queue", 404, no_queue "q.none", function(c) return c:queue("q.none", { passive = true }) end },
    { "information about a missing queue", 404, no_queue "q.none", function(c) return c:queue_info "q.none" end },
    { "purging a missing queue", 404, no_queue "q.none", function(c) return c:purge "q.none" end },
    { "consuming from a missing queue", 404, no_queue "q.none", function(c) return c:consume("q.none", function() end) end },
    { "binding a missing queue", 404, no_queue "q.none", function(c) return c:bind("q.none", "amq.direct", "k") end },
    { "binding to a missing exchange", 404, no_exchange "x.none", function(c, q) return c:bind(q, "x.none", "k") end },
    { "binding nothing to nothing", 404, no_exchange "x.none", function(c) return c:bind("q.none", "x.none", "k") end },
    { "binding an exchange to a missing one", 404, no_exchange "x.none",
      function(c) return c:bind_exchange("amq.fanout", "x.none", "k") end },
    { "binding a missing exchange", 404, no_exchange "x.none", function(c) return c:bind_exchange("x.none", "amq.fanout", "k") end },
    { "binding a missing exchange to another", 404, no_exchange "y.none",
      function(c) return c:bind_exchange("x.none", "y.none", "k") end },
    { "publishing to a missing exchange", 404, no_exchange "x.none", function(c) return c:publish("x.none", "k", "x") end },
    { "a passive declaration of a missing exchange", 404, no_exchange "x.none",
      function(c) return c:exchange("x.none", { passive = true }) end },
    { "a queue in the broker's own namespace", 403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
      function(c) return c:queue "amq.mine" end },
    { "an exchange in the broker's own namespace", 403,
      "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'", function(c) return c:exchange "amq.mine" end },
    { "asking for a queue in the broker's own namespace", 404, no_queue "amq.mine",
      function(c) return c:queue("amq.mine", { passive = true }) end },
    { "asking for an exchange in the broker's own namespace", 404, no_exchange "amq.mine",
      function(c) return c:exchange("amq.mine", { passive = true }) end },
    { "deleting a predeclared exchange", 403,
      "ACCESS_REFUSED - deletion of system exchange 'amq.topic' in vhost '/' not allowed",
      function(c) return c:delete_exchange "amq.topic" end },
    { "deleting an exchange of that namespace that is missing", 403,
      "ACCESS_REFUSED - deletion of system exchange 'amq.none' in vhost '/' not allowed",
      function(c) return c:delete_exchange "amq.none" end },
    { "a predeclared exchange with another type", 406,
      "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'amq.topic' in vhost '/': received 'direct' but current is 'topic'",
      function(c) return c:exchange("amq.topic", "direct") end },
    { "a predeclared exchange with other properties", 406,
      "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'amq.direct' in vhost '/': received 'false' but current is 'true'",
      function(c) return c:exchange("amq.direct", { durable = false }) end },
    { "declaring the default exchange", 403, DEFAULT, function(c) return c:exchange "" end },
    { "asking for the default exchange", 403, DEFAULT, function(c) return c:exchange("", { passive = true }) end },
    { "deleting the default exchange", 403, DEFAULT, function(c) return c:delete_exchange "" end },
    { "binding to the default exchange", 403, DEFAULT, function(c, q) return c:bind(q, "", "k") end },
    { "binding a missing queue to the default exchange", 403, DEFAULT, function(c) return c:bind("q.none", "", "k") end },
    { "unbinding from the default exchange", 403, DEFAULT, function(c, q) return c:unbind(q, "", q) end },
    { "binding an exchange to the default one", 403, DEFAULT, function(c) return c:bind_exchange("amq.fanout", "", "k") end },
    { "binding the default exchange", 403, DEFAULT, function(c) return c:bind_exchange("", "amq.fanout", "k") end },
  } do
    it(row[1] .. " is refused with " .. row[2], function()
      local c = connect()
      local q = assert(c:queue(name "there", { exclusive = true, durable = false }))
      refused(row[2], row[3], row[4](c, q))
      assert(c:queue_info(q))                           -- and the connection goes on
    end)
  end

  for _, row in ipairs {
    { "deleting a missing queue", function(c) return c:delete_queue "q.none" end },
    { "deleting a missing exchange", function(c) return c:delete_exchange "x.none" end },
    { "unbinding from a missing exchange", function(c, q) return c:unbind(q, "x.none", "k") end },
    { "unbinding a missing queue", function(c) return c:unbind("q.none", "amq.direct", "k") end },
    { "unbinding what was not bound", function(c, q) return c:unbind(q, "amq.direct", "k") end },
    { "declaring a predeclared exchange as it is", function(c) return c:exchange("amq.topic", "topic") end },
    { "asking for a predeclared exchange by another type",
      function(c) return c:exchange("amq.topic", { type = "direct", passive = true }) end },
  } do
    it(row[1] .. " succeeds", function()
      local c = connect()
      assert(row[2](c, assert(c:queue(name "there", { exclusive = true, durable = false }))))
    end)
  end

  it("refuses a server's name to be declared by a client", function()
    local c, q = connect(), "amq.gen-mine"
    refused(403, ("ACCESS_REFUSED - queue name '%s' contains reserved prefix 'amq.*'"):format(q),
            c:queue(q, { exclusive = true, durable = false }))
  end)
end)

on_each_broker("a name that is not UTF-8", function(connect, name)
  it("is refused here, since RabbitMQ would end the connection for it", function()
    local c, q = connect(), name "utf8"
    assert(c:queue(q, { durable = false }))
    for what, call in pairs {
      declared = function(s) return c:queue(s) end, deleted = function(s) return c:delete_queue(s) end,
      bound = function(s) return c:bind(q, "amq.topic", s) end, exchanged = function(s) return c:exchange(s) end,
      consumed = function(s) return c:consume(s, function() end) end,
    } do
      for _, bad in ipairs { "\255\254", "q\255", "\192\175", "\237\160\128", "\244\144\128\128", "\226\130" } do
        local ok, e = call(bad)
        assert.same({ nil, "validation" }, { ok, e.code }, what)
      end
    end
    local ok, e = c:consume(("x"):rep(256), function() end)
    assert.same({ nil, "validation", "consume: queue name is 256 bytes, at most 255" }, { ok, e.code, tostring(e) })
    for _, good in ipairs { "grün", "\226\130\172", "\240\159\144\135" } do assert(c:bind(q, "amq.topic", good)) end
    assert(c:delete_queue(q))
  end)
end)

on_each_broker("an exclusive queue", function(connect, name, again)
  for _, row in ipairs {
    { "declaring it", function(c, q) return c:queue(q, { exclusive = true, durable = false }) end },
    { "declaring it not exclusive", function(c, q) return c:queue(q, { durable = false }) end },
    { "looking at it", function(c, q) return c:queue_info(q) end }, { "purging it", function(c, q) return c:purge(q) end },
    { "deleting it", function(c, q) return c:delete_queue(q) end },
    { "binding it", function(c, q) return c:bind(q, "amq.direct", "k") end },
    { "consuming from it", function(c, q) return c:consume(q, function() end) end },
  } do
    it("is locked for other connections: " .. row[1], function()
      local c = connect()
      local q = assert(c:queue(name "mine", { exclusive = true, durable = false }))
      refused(405, LOCKED:format(q), row[2](again(c), q))
    end)
  end

  it("takes what other connections publish", function()
    local c = connect()
    local q = assert(c:queue(name "mine", { exclusive = true, durable = false }))
    assert(again(c):publish("", q, "from outside"))
    assert.equal("from outside", broker.bodies(c, q, 1))
  end)

  it("cannot be declared again as not exclusive, nor the other way round", function()
    local c, a, b = connect(), name "mine", name "ours"
    assert(c:queue(a, { exclusive = true, durable = false }))
    refused(405, LOCKED:format(a), c:queue(a, { durable = false }))
    assert(c:queue(b))
    refused(405, LOCKED:format(b), c:queue(b, { exclusive = true, durable = false }))
    assert(c:delete_queue(b))
  end)

  it("goes with its connection", function()
    local c = connect()
    local other = again(c)
    local q = assert(other:queue(name "mine", { exclusive = true, durable = false }))
    other:close()
    broker.eventually(function() return c:queue(q, { exclusive = true, durable = false }) end)
  end)
end)

on_each_broker("a publish that cannot be", function(connect, name)
  for _, row in ipairs {
    { "a CC that is text", { headers = { CC = "q" } }, 'invalid message: {unacceptable_type_in_header,"CC",longstr}' },
    { "a BCC that is a number", { headers = { BCC = 5 } }, 'invalid message: {unacceptable_type_in_header,"BCC",long}' },
  } do
    it("closes its channel over " .. row[1] .. ", and the next one opens another", function()
      local c = connect()
      local q = assert(c:queue(name "there", { exclusive = true, durable = false }))
      refused(406, "PRECONDITION_FAILED - " .. row[3], c:publish("", q, "x", row[2]))
      assert.is_true(c:publish("", q, "y", { expiration = 4294967 }))
    end)
  end

  it("names a missing exchange before a wrong CC", function()
    refused(404, "NOT_FOUND - no exchange 'x.none' in vhost '/'", connect():publish("x.none", "k", "x", { headers = { CC = 5 } }))
  end)

  it("is refused at an internal exchange", function()
    local c, x = connect(), name "internal"
    assert(c:exchange(x, { internal = true }))
    local ok, e = c:publish(x, "k", "x")
    refused(403, ("ACCESS_REFUSED - cannot publish to internal exchange '%s' in vhost '/'"):format(x), ok, e)
    assert.equal("access", e.code)
    assert(c:delete_exchange(x))
  end)
end)

on_each_broker("a consumer that cannot be", function(connect, name)
  it("has a priority that is text", function()
    local c = connect()
    local q = assert(c:queue(name "there", { exclusive = true, durable = false }))
    refused(406, ("PRECONDITION_FAILED - invalid arg 'x-priority' for queue '%s' in vhost '/': \"expected integer, got longstr\"")
      :format(q), c:consume(q, { args = { ["x-priority"] = "s" } }, function() end))
  end)

  it("has a priority with a fraction", function()
    local c = connect()
    local q = assert(c:queue(name "there", { exclusive = true, durable = false }))
    refused(406, ("PRECONDITION_FAILED - invalid arg 'x-priority' for queue '%s' in vhost '/': \"expected integer, got double\"")
      :format(q), c:consume(q, { args = { ["x-priority"] = 1.5 } }, function() end))
  end)

  for _, row in ipairs {
    { "joins an exclusive one", { { exclusive = true }, {} } }, { "is exclusive beside another", { {}, { exclusive = true } } },
    { "is the second exclusive one", { { exclusive = true }, { exclusive = true } } },
    { "is exclusive where one is the single active one", { { exclusive = true } }, { single_active_consumer = true } },
  } do
    it(row[1], function()
      local c, q = connect(), name "there"
      local options = row[3] or {}
      options.exclusive, options.durable = true, false
      assert(c:queue(q, options))
      for i, o in ipairs(row[2]) do
        if i < #row[2] then
          assert(c:consume(q, o, function() end))
        else
          local ok, e = c:consume(q, o, function() end)
          refused(403, ("ACCESS_REFUSED - queue '%s' in vhost '/' in exclusive use"):format(q), ok, e)
        end
      end
    end)
  end

  it("is free to come when the exclusive one has gone", function()
    local c = connect()
    local q = assert(c:queue(name "there", { exclusive = true, durable = false }))
    local first = assert(c:consume(q, { exclusive = true }, function() end))
    assert(first:stop())
    assert(c:consume(q, {}, function() end))
  end)
end)
