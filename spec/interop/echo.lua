-- Sends back what pika sent: the message as it was, or a JSON text of what was read.
local function plain(v)
  if type(v) == "cdata" then return v end
  if type(v) ~= "table" then return v end
  if v.type and v.value then return { v.type, v.type == "bytes" and #v.value or tostring(v) } end
  local t = mx.json.is_array(v) and mx.json.array {} or {}
  for k, x in pairs(v) do t[k] = plain(x) end
  return t
end

local PROPERTIES = { "id", "correlation_id", "reply_to", "content_type", "content_encoding", "type", "app_id", "user_id",
                     "timestamp", "priority", "expiration", "persistent" }

local function options_of(msg)
  local o = { headers = msg.headers }
  for _, name in ipairs(PROPERTIES) do o[name] = msg[name] end
  return o
end

-- Values as a script writes them, for pika's own decoder.
local function written()
  local a = mx.amqp
  return {
    yes = true, no = false, int = 7, big = 9007199254740993LL, double = 0.5, text = "grün", bytes = a.bytes "\255\0",
    time = a.timestamp(1700000000), decimal = a.decimal "-1.50", void = mx.null, list = { 1, "two", {} }, table = { deep = { x = 1 } },
    int16 = a.int16(-300), uint16 = a.uint16(65535), int32 = a.int32(-5), uint32 = a.uint32(2 ^ 32 - 1), empty = mx.json.array {},
  }
end

assert(mx.queue("interop.in", { durable = false, dlq = true }))
assert(mx.queue("interop.out", { durable = false }))
mx.consume("interop.in", function(msg)
  if msg.type == "stop" then return mx.stop() end
  local options, body = options_of(msg), msg.body
  if msg.type == "read" then body = mx.json.encode(plain(msg.headers)) end
  if msg.type == "write" then options.headers = written() end
  assert(mx.publish("", "interop.out", body, options))
end)
