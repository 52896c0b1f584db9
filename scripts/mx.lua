-- The table that scripts hold: the whole public API can be read here.
local ffi = require "ffi"
local C = ffi.C
local turn, task, err, event = require "mx.turn", require "mx.task", require "mx.err", require "mx.event"
local check, receipt = require "mx.check", require "mx.receipt"
local conns, publish = require "mx.conn", require "mx.publish"
local json, log, metrics, stats = require "mx.json", require "mx.log", require "mx.metrics", require "mx.stats"
local memory, generation = require "mx.memory", require "mx.generation"

local mx = { null = json.null, amqp = require("mx.amqp").values, config = {}, state = {}, worker = { number = 1, count = 1 } }
mx.json = { encode = json.encode, decode = json.decode, array = json.array, is_array = json.is_array }
mx.log = { configure = log.configure }
for _, level in ipairs { "debug", "info", "warn", "error" } do
  local write = log[level]
  mx.log[level] = function(text, fields)
    if type(text) ~= "string" and not err.is(text) then
      check.fail(("mx.log.%s: expected a text or an error, got a %s"):format(level, type(text)))
    end
    write(text, fields)
  end
end

-- Connecting
local default, publisher

-- The connection that mx.publish, mx.consume and the rest use.
local function conn()
  if not default then
    local e
    default, e = conns.new { urls = conns.default_urls() }
    if not default then error(e, 0) end
  end
  return default
end

-- For a generation that is undone: a function that makes default what it is now, unless it is none of that generation's.
function conns.remember()
  local c, p = default, publisher
  return function(g)
    if default and default.generation == g then default, publisher = c, p end
  end
end

-- conn | nil, err; parks until the broker is there. Without a URL it goes where mx.publish would. It is the default
-- connection when the command line and the environment name none, and no other is open.
function mx.connect(options)
  local o = {}
  for k, v in pairs(options or {}) do o[k] = v end
  if not o.url and not o.urls then o.urls = conns.default_urls() end
  local c, e = conns.new(o)
  if not c then return nil, e end
  c.generation = generation.mine()
  local before = default
  if not conns.has_urls and (not before or before.closed or before.generation and before.generation ~= c.generation) then
    default, publisher = c, nil
  end
  local ok, link, why = pcall(c.reach, c)
  if ok and link then return c end
  if default == c then default, publisher = before, nil end
  c:close()
  if not ok then error(link, 0) end
  return nil, why
end

-- Topology, mx.consume and mx.dlq
for name, call in pairs(conns.calls) do
  local f, types = call[1], { unpack(call, 2) }
  mx[name] = function(...)
    check.args("mx." .. name, types, ...)
    return f(conn(), ...)
  end
end

-- Publishing
local send, send_and_wait = publish.send, publish.send_and_wait
local function default_publisher()
  publisher = conn():publisher()
  return publisher
end
function mx.publish(exchange, key, body, opts) return send_and_wait(publisher or default_publisher(), exchange, key, body, opts) end
function mx.publish_async(exchange, key, body, opts) return send(publisher or default_publisher(), exchange, key, body, opts) end
function mx.call(exchange, key, body, opts) return conn():call(exchange, key, body, opts) end
function mx.publisher(options)
  check.args("mx.publisher", { "table?" }, options)
  local o = {}
  for k, v in pairs(options or {}) do o[k] = v end
  if o.conn ~= nil and not conns.is(o.conn) then check.fail "mx.publisher: option 'conn': expected a connection" end
  local c = o.conn or conn()
  o.conn = nil
  local p = publish.publisher(c, o)
  p.generation = generation.mine()
  return p
end
mx.wait_all = receipt.wait_all

-- Tasks
mx.sleep, mx.every, mx.after, mx.spawn = task.sleep, task.every, task.after, task.spawn
mx.chan, mx.semaphore = task.chan, task.semaphore
function mx.now() return C.mx_now() end

-- Sockets
mx.tcp = require("mx.tcp").tcp

-- Metrics
mx.counter, mx.gauge, mx.histogram = metrics.counter, metrics.gauge, metrics.histogram
function mx.stats() return stats.stats() end
mx.memory = { limit = memory.limit, collect_at = memory.collect_at, watch = memory.watch, ladder = memory.ladder, stats = memory.stats }
-- What looks for leaks is loaded when it is first asked for.
for name, module in pairs { snapshot = "mx.leaks", top = "mx.leaks", who = "mx.who" } do
  mx.memory[name] = function(...) return require(module)[name](...) end
end
mx.pool = { stats = function()
  local s = conns.stats()
  s.objects = memory.pools()
  return s
end }

-- Traces
local span = require "mx.trace".span
function mx.trace(name, f, ...)
  check.arg(1, "mx.trace", name, "string")
  check.arg(2, "mx.trace", f, "function")
  return span(name, f, ...)
end

-- Health
mx.health = require("mx.health").api

-- Profiles
mx.profile = require("mx.profile").api

-- Events
mx.on = event.on

-- Drains and exits; returns at once.
function mx.stop() turn.request_stop() end

-- Benchmarks: what mxrun bench plays.
function mx.workload(description)
  check.args("mx.workload", { "table" }, description)
  return require("mx.bench.workload").new(description)
end

mx.error = err.new

-- What only specs use is loaded when it is first asked for.
return setmetatable(mx, { __index = function(t, name)
  if name ~= "test" then return nil end
  t.test = require "mx.test"
  return t.test
end })
