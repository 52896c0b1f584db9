-- The table that scripts hold: the whole public API can be read here.
local ffi = require "ffi"
local C = ffi.C
local turn, task, err, check = require "mx.turn", require "mx.task", require "mx.err", require "mx.check"
local conns, publish, consume, topology = require "mx.conn", require "mx.publish", require "mx.consume", require "mx.topology"
local json, log, metrics = require "mx.json", require "mx.log", require "mx.metrics"

local mx = { null = json.null, json = json, log = log, config = {}, test = nil }

-- Connecting
local default

-- The connection that mx.publish, mx.consume and the rest use.
local function conn()
  if not default then
    local e
    default, e = conns.new({ url = mx.default_url() }, 2)
    if not default then error(e, 0) end
  end
  return default
end

-- conn | nil, err; parks until the broker is there
function mx.connect(options)
  local c, e = conns.new(options, 3)
  if not c then return nil, e end
  local link, why = c:link("consume")
  if not link then return nil, why end
  return c
end

-- Topology
function mx.topology(t) return topology.topology(conn(), t, 3) end
function mx.queue(name, options) return topology.queue(conn(), name, options, 3) end
function mx.exchange(name, options) return topology.exchange(conn(), name, options, 3) end
for _, name in ipairs { "bind", "unbind", "bind_exchange", "purge", "delete_queue", "delete_exchange", "queue_info" } do
  mx[name] = function(...) return topology[name](conn(), ...) end
end

-- Publishing
local send, send_and_wait = publish.send, publish.send_and_wait
local publisher
local function default_publisher()
  publisher = conn():publisher()
  return publisher
end
function mx.publish(exchange, key, body, opts) return send_and_wait(publisher or default_publisher(), exchange, key, body, opts) end
function mx.publish_async(exchange, key, body, opts) return send(publisher or default_publisher(), exchange, key, body, opts) end
function mx.publisher(options)
  local o = {}
  for k, v in pairs(options or {}) do o[k] = v end
  local c = o.conn or conn()
  o.conn = nil
  return publish.publisher(c, o)
end
mx.wait_all = publish.wait_all

-- Consuming
function mx.consume(queue, options, handler) return consume.consume(conn(), queue, options, handler) end

-- Tasks
mx.sleep, mx.every, mx.after, mx.spawn = task.sleep, task.every, task.after, task.spawn
mx.chan, mx.semaphore = task.chan, task.semaphore
function mx.now() return C.mx_now() end

-- Metrics
mx.counter, mx.gauge, mx.histogram = metrics.counter, metrics.gauge, metrics.histogram
function mx.stats() return metrics.stats() end

-- Events
local EVENTS = { up = true, down = true, recovered = true, blocked = true, unblocked = true, returned = true, cancelled = true,
                 memory = true, reload = true, stop = true, error = true }
local handlers = {}
function mx.on(event, f)
  if not EVENTS[event] then
    error("mx.on: unknown event '" .. tostring(event) .. "'" .. (check.nearest(tostring(event), EVENTS) or ""), 2)
  end
  if type(f) ~= "function" then error("mx.on: expected a function, got " .. type(f), 2) end
  handlers[event] = handlers[event] or {}
  table.insert(handlers[event], f)
end
function conns.emit(event, ...)
  for _, f in ipairs(handlers[event] or {}) do task.spawn(f, ...) end
end

-- Drains and exits; returns at once.
function mx.stop() turn.request_stop() end

mx.error = err.new
return mx
