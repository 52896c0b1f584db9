-- Properties and headers, there and back, and what is refused before a byte is sent.
local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)
local ft = require "mx.fieldtable"
local amqp = mx.amqp

local function raises_here(pattern, f)
  local line = debug.getinfo(f, "S").linedefined + 1
  local ok, e = pcall(f)
  assert.is_false(ok)
  assert.matches("values_spec.lua:" .. line .. ": .*" .. pattern, tostring(e))
end

local function refused(pattern, value, e)
  assert.is_nil(value)
  assert.equal("validation", e.code)
  assert.matches(pattern, tostring(e))
end

-- depth tables, one in the other, the outermost counted.
local function nested(depth)
  local t = { bottom = true }
  for _ = 2, depth do t = { inner = t } end
  return t
end

on_each_broker("values", function(connect, name)
  local c, q
  before_each(function() -- luacheck: ignore 113
    c = connect()
    q = assert(c:queue(name "values", { durable = false }))
  end)

  -- What f makes of the message, once it has come back.
  local function there_and_back(opts, f, body)
    assert(c:publish("", q, body or "", opts))
    local result
    local consumer = assert(c:consume(q, function(m) result = { f(m) } end))
    local due = mx.now() + 10
    while not result and mx.now() < due do mx.sleep(0.002) end
    consumer:stop()
    assert(result, "nothing came back")
    return unpack(result)
  end

  it("carry every property of basic", function()
    local fields = { "id", "correlation_id", "reply_to", "content_type", "content_encoding", "type", "app_id", "user_id",
                     "timestamp", "priority", "expiration", "persistent" }
    local function read(m)
      local t = {}
      for _, k in ipairs(fields) do t[k] = m[k] end
      return t
    end
    local all = { id = "i", correlation_id = "c", reply_to = "r", content_type = "text/plain", content_encoding = "gzip",
                  type = "t", app_id = "a", user_id = "guest", timestamp = 1700000000, priority = 255, expiration = 600.5,
                  persistent = true }
    assert.same(all, there_and_back(all, read))
    assert.same({ id = "i", persistent = false, priority = 0, timestamp = 0, correlation_id = "" },
                there_and_back({ id = "i", persistent = false, priority = 0, timestamp = 0, correlation_id = "" }, read))
  end)

  it("keep a timestamp exact beyond 2^53", function()
    local ns = 1700000000123456789LL
    local t = there_and_back({ timestamp = ns }, function(m) return m.timestamp end)
    assert.is_true(t == ns)
    assert.equal(2 ^ 53, there_and_back({ timestamp = 2 ^ 53 }, function(m) return m.timestamp end))
  end)

  it("keep every type of a header, and its width on the way on", function()
    local headers = {
      yes = true, no = false, int8 = amqp.int8(-5), uint8 = amqp.uint8(200), int16 = amqp.int16(-300), uint16 = amqp.uint16(65535),
      int32 = amqp.int32(-2 ^ 31), uint32 = amqp.uint32(2 ^ 32 - 1), int64 = 7, big = 9223372036854775807LL,
      float32 = amqp.float32(1.5), double = 0.1, whole = amqp.double(3), decimal = amqp.decimal "-1.50",
      text = "grün\0", bytes = amqp.bytes "\255\0", time = amqp.timestamp(1700000000), void = mx.null,
      list = { 1, amqp.int8(2), "three", { x = {} }, mx.json.array {} }, table = { deep = { deeper = amqp.int16(1) } },
    }
    local came, bytes = there_and_back({ headers = headers }, function(m) return m.headers, ft.encode(m.headers) end)
    assert.same({ true, false, -5, 200, -300, 65535, -2 ^ 31, 2 ^ 32 - 1, 7, 1.5, 0.1, 3 },
                { came.yes, came.no, came.int8, came.uint8, came.int16, came.uint16, came.int32, came.uint32, came.int64,
                  came.float32, came.double, came.whole })
    assert.is_true(came.big == 9223372036854775807LL)
    assert.equal("-1.50", tostring(came.decimal))
    assert.equal(amqp.timestamp(1700000000), came.time)
    assert.equal("\255\0", came.bytes.value)
    assert.equal(mx.null, came.void)
    assert.equal("grün\0", came.text)
    assert.equal(2, came.list[2])
    for _, typed in ipairs { "\4int8b", "\5uint8B", "\5int16s", "\6uint16u", "\5int32I", "\6uint32i", "\5int64l", "\7float32f",
                             "\6doubled", "\5wholed", "\7decimalD", "\5bytesx", "\4timeT", "\4voidV", "\6deepers" } do
      assert.truthy(bytes:find(typed, 1, true), typed:sub(2))
    end
  end)

  it("of 255 bytes pass, of 256 are refused by name, limit and length", function()
    local fits, long = ("x"):rep(255), ("x"):rep(256)
    for _, field in ipairs { "id", "correlation_id", "reply_to", "content_type", "content_encoding", "type", "app_id" } do
      assert.equal(fits, there_and_back({ [field] = fits }, function(m) return m[field] end))
      refused(field .. " is 256 bytes, at most 255", c:publish("", q, "", { [field] = long }))
    end
    assert.equal(1, there_and_back({ headers = { [fits] = 1 } }, function(m) return m.headers[fits] end))
    refused('the key "x+%.%.%." is 256 bytes, at most 255', c:publish("", q, "", { headers = { [long] = 1 } }))
    refused("routing key is 256 bytes, at most 255", c:publish("", long, ""))
    refused("exchange is 256 bytes, at most 255", c:publish(long, q, ""))
    assert.equal(0, c:queue_info(q).messages)
  end)

  it("nest to 32 tables, and number 4096", function()
    there_and_back({ headers = nested(32) }, function(m) return m.headers end)
    refused('key "inner.*nested deeper than 32 tables', c:publish("", q, "", { headers = nested(33) }))
    local many = {}
    for i = 1, 4095 do many[i] = 1 end
    assert.equal(4095, #there_and_back({ headers = { many = many } }, function(m) return m.headers.many end))
    many[4096] = 1
    refused('key "many%[4096%]": more than 4096 entries', c:publish("", q, "", { headers = { many = many } }))
  end)

  it("that are too large are refused before a byte is sent", function()
    refused("headers: they are 1048%d%d%d bytes, at most 1048576", c:publish("", q, "", { headers = { a = ("x"):rep(2 ^ 20) } }))
    refused("priority is 256, at most 255", c:publish("", q, "", { priority = 256 }))
    refused("expiration is 4294968 s, at most 4294967.295", c:publish("", q, "", { expiration = 4294968 }))
    assert(c:publish("", q, "", { expiration = 4294967.295 }))
    refused("body is 16777217 bytes, at most 16777216", c:publish("", q, ("x"):rep(2 ^ 24 + 1)))
    refused("18446744073709551615 does not fit int64", c:publish("", q, "", { headers = { a = -1ULL } }))
    assert.equal(1, c:queue_info(q).messages)
  end)

  it("round up an expiration to whole milliseconds", function()
    assert.equal(600.001, there_and_back({ expiration = 600.0002 }, function(m) return m.expiration end))
    assert.equal(612.346, there_and_back({ expiration = 612.3451 }, function(m) return m.expiration end))
  end)

  it("of a wrong type raise at the line that passes them", function()
    raises_here('headers: key "a.b%[2%]": cannot send a function', function()
      c:publish("", q, "", { headers = { a = { b = { 1, print } } } })
    end)
    raises_here("the key 7 is a number; keys are strings", function()
      c:publish("", q, "", { headers = { [7] = 1 } })
    end)
    raises_here('key "a": NaN and Infinity cannot be sent', function()
      c:publish("", q, "", { headers = { a = 0 / 0 } })
    end)
    raises_here('key "a": a table with the keys 1 and "x"', function()
      c:publish("", q, "", { headers = { a = { 1, x = 2 } } })
    end)
    raises_here('key "a": sparse array', function()
      c:publish("", q, "", { headers = { a = { 1, nil, 3 } } })
    end)
    raises_here("option 'timestamp': expected whole seconds since 1970, got %-1", function()
      c:publish("", q, "", { timestamp = -1 })
    end)
    raises_here("option 'correlation_id': expected a string, got 7", function()
      c:publish("", q, "", { correlation_id = 7 })
    end)
    raises_here("body must be a string, a table or a buffer, got nil", function()
      c:publish("", q, nil)
    end)
    assert.equal(0, c:queue_info(q).messages)
  end)

  it("of arguments are checked like headers, at the line that passes them", function()
    raises_here('args: key "x%-odd": cannot send a function', function()
      c:queue(name "odd", { args = { ["x-odd"] = print } })
    end)
    raises_here('args: key "x%-odd": cannot send a function', function()
      c:consume(q, { args = { ["x-odd"] = print } }, print)
    end)
    refused('args: the key "x+%.%.%." is 256 bytes, at most 255', c:queue(name "odd", { args = { [("x"):rep(256)] = 1 } }))
  end)

  it("that do not fit a frame are refused by length and limit", function()
    refused("properties and headers are 131%d%d%d bytes, at most 131052",
            c:publish("", q, "", { headers = { a = ("x"):rep(131072) } }))
  end)

  it("refuse a table that contains itself", function()
    local t = { inner = {} }
    t.inner.outer = t
    refused("the table contains itself", c:publish("", q, "", { headers = t }))
    refused("the table contains itself", c:publish("", q, "", { headers = { a = t } }))
    local shared = { 1 }
    there_and_back({ headers = { a = shared, b = shared } }, function(m) return m.headers end)
  end)

  it("of any size are the same on both sides: bodies at the frames' edges", function()
    local edge = 131072 - 8
    for _, size in ipairs { 0, 1, edge - 1, edge, edge + 1, 2 * edge, 2 ^ 20, 2 ^ 24 } do
      local body = ("\0\1\2\206a"):rep(math.ceil(size / 5)):sub(1, size)
      assert.is_true(body == there_and_back({}, function(m) return m.body end, body))
    end
  end)

  it("keep their types through a retry and into the dead-letter queue", function()
    local queue = assert(c:queue(name "retried", { durable = false, dlq = true }))
    local runs = 0
    assert(c:publish("", queue, "x", { headers = { n = amqp.int32(7), t = amqp.timestamp(5), f = amqp.float32(0.5) },
                                       timestamp = 1700000000123456789LL }))
    assert(c:consume(queue, { retry = { max = 1, base = 0.01, jitter = false } }, function()
      runs = runs + 1
      error "no"
    end))
    local dead
    assert(c:consume(queue .. ".dlq", function(m) dead = { ft.encode(m.headers), m.timestamp } end))
    local due = mx.now() + 10
    while not dead and mx.now() < due do mx.sleep(0.01) end
    assert.equal(2, runs)
    for _, entry in ipairs { "\1nI\0\0\0\7", "\1tT\0\0\0\0\0\0\0\5", "\1ff\63\0\0\0" } do
      assert.truthy(dead[1]:find(entry, 1, true), entry)
    end
    assert.is_true(dead[2] == 1700000000123456789LL)
  end)
end)
