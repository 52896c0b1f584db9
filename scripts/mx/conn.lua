-- A connection as scripts see it: links for publishing and links for consuming, opened when first used.
local C = require "ffi".C
local turn, wait, check = require "mx.turn", require "mx.wait", require "mx.check"
local url, log, publish, topology = require "mx.url", require "mx.log", require "mx.publish", require "mx.topology"
local dial, pool = require "mx.dial", require "mx.pool"
local consume, dlq, calls, batch = require "mx.consume", require "mx.dlq", require "mx.call", require "mx.batch"
local event, task = require "mx.event", require "mx.task"

local M = { open = {} }

local Conn = {}
Conn.__index = Conn

function M.is(x) return getmetatable(x) == Conn end

local OPTIONS = {
  urls = "table", url = "string", order = { "random", "listed" }, password_env = "string", name = "string", heartbeat = "seconds",
  connect_timeout = "seconds", rpc_timeout = "seconds", reconnect = "table", max_body = "bytes",
  tls = "table", pool = "table", channels = "table",
}
M.OPTIONS = OPTIONS
local RECONNECT = { base = "seconds", max = "seconds", jitter = "boolean" }
local POOL = { min = "integer>0", max = "integer>0", idle = "seconds" }
local CHANNELS = { max = "integer>0", borrow_timeout = "seconds" }

function Conn:closed_error() return dial.failed("closed", self.text .. " is closed") end

-- A link for a channel of its own: to "publish" or to "consume"; queue: what is consumed. Parks until it is open; only what
-- waiting cannot mend is returned. link | nil, err
function Conn:link(kind, queue)
  if self.exclusive[queue] then return self.pools.consume:any(true) end
  return self.pools[kind]:link()
end

-- Parks until the broker is there. link | nil, err
function Conn:reach() return self.pools.consume:any(true) end

-- A link for calls about what is named; what is exclusive to a link lives on the first that consumes. link | nil, err
function Conn:control(name)
  if self.exclusive[name] then return self.pools.consume:any(true) end
  return self.pools.publish:any()
end

-- What there is to connect to | nil, err
local function addresses_of(o)
  local list, texts = {}, {}
  local password = o.password_env and C.mx_environment(o.password_env)
  if password and password.p == nil then
    return nil, dial.failed("config", "the environment has no " .. o.password_env .. " (password_env)")
  end
  for i, text in ipairs(o.urls or { o.url or "" }) do
    if type(text) ~= "string" and not url.is_given(text) then
      check.fail("mx.connect: number " .. i .. " of urls is no string, but a " .. type(text))
    end
    local address, e = url.parse(text)
    if not address then return nil, e end
    address.password = password or address.password
    list[i], texts[i] = address, address.text
  end
  if #list == 0 then check.fail "mx.connect: urls is empty" end
  return list, table.concat(texts, ", ")
end

-- conn | nil, err. Does not wait: the first call that needs the broker does.
function M.new(options)
  local o = check.options("mx.connect", options or {}, OPTIONS)
  local addresses, texts = addresses_of(o)
  if not addresses then return nil, texts end
  local secrets, why = dial.tls(o, addresses)
  if not secrets then return nil, why end
  local r = check.options("mx.connect: reconnect", o.reconnect or {}, RECONNECT)
  local p = check.options("mx.connect: pool", o.pool or {}, POOL)
  local channels = check.options("mx.connect: channels", o.channels or {}, CHANNELS)
  p.min, p.idle = p.min or 1, p.idle or 300
  p.max = p.max or math.max(8, p.min)
  if p.max < p.min then check.fail(("mx.connect: pool: min is %d, max %d"):format(p.min, p.max)) end
  local self = setmetatable({
    addresses = addresses, text = texts, order = o.order or "random", name = o.name,
    heartbeat = o.heartbeat or 10, connect_timeout = o.connect_timeout or 10, rpc_timeout = o.rpc_timeout or 30,
    max_body = o.max_body or 16 * 1024 * 1024, tls = secrets,
    reconnect = { base = r.base or 0.2, max = r.max or 30, jitter = r.jitter ~= false },
    pool = p, channels = { max = channels.max or 100, borrow_timeout = channels.borrow_timeout or 5 },
    lost = 0, records = {}, deleted = {}, dead_letters = {}, queues = {}, declared = {}, exclusive = {}, unnamed = {},
  }, Conn)
  self.pools = { publish = pool.new(self, "publish"), consume = pool.new(self, "consume") }
  M.open[#M.open + 1] = self
  return self
end

function Conn:publisher()
  self.default_publisher = self.default_publisher or publish.publisher(self)
  return self.default_publisher
end

function Conn:publish(exchange, key, body, opts) return publish.send_and_wait(self:publisher(), exchange, key, body, opts) end
function Conn:call(exchange, key, body, opts) return calls.call(self, exchange, key, body, opts) end
function Conn:publish_async(exchange, key, body, opts) return publish.send(self:publisher(), exchange, key, body, opts) end

-- What a connection does: the function, and the types of its arguments. mx does the same with the default connection.
-- An empty name of a queue would stand for the one declared last, whichever that was.
M.calls = {
  topology = { topology.topology, "table" }, queue = { topology.script_queue, "string", "table?" },
  exchange = { topology.exchange, "string", "table|string?" }, consume = { consume.consume, "name", "table|function?" },
  consume_batch = { batch.consume, "name", "table|function?" },
  bind = { topology.bind, "name", "string", "string?", "table?" },
  unbind = { topology.unbind, "name", "string", "string?", "table?" },
  bind_exchange = { topology.bind_exchange, "string", "string", "string?", "table?" },
  dlq = { dlq.dlq, "name" }, purge = { topology.purge, "name" }, queue_info = { topology.queue_info, "name" },
  delete_queue = { topology.delete_queue, "name" }, delete_exchange = { topology.delete_exchange, "string" },
}
for name, call in pairs(M.calls) do
  local f, types = call[1], { unpack(call, 2) }
  Conn[name] = function(self, ...)
    check.args(name, types, ...)
    return f(self, ...)
  end
end

local function shut(conn)
  consume.close_all(conn)
  calls.close(conn)
  publish.close_all(conn)
  conn.closed = true
  for _, p in pairs(conn.pools) do p:close() end
end

-- Orderly: handlers finish, settlements and publishes leave; then the links go, and what C held with them. It goes on when
-- the caller does not wait any more.
function Conn:close()
  local caller = turn.here()
  if self.gone or self.closing and caller.delivery then return end
  if not self.closing then
    self.closing = wait.line()
    local closer = turn.start(shut, function(ok, e)
      if not ok then log.error("closing a connection failed", { connection = self.text, error = task.text_of(e) }) end
      self.gone = true
      for i = #M.open, 1, -1 do
        if M.open[i] == self then table.remove(M.open, i) end
      end
      self.closing:wake_all(true)
    end, self)
    closer.delivery, closer.consumer = caller.delivery, caller.consumer -- a handler that closes its connection is not waited for
  end
  self.closing:wait()
end

-- Once a turn: tells of what happened to connections, and mends it.
function M.look()
  local returns = event.has "returned"
  for _, conn in ipairs(M.open) do
    conn.pools.publish:look()
    conn.pools.consume:look()
    if not conn.closed then publish.look(conn) end
  end
  if returns then publish.each_returned(function(conn, e) event.emit("returned", conn, e) end) end
end

-- Whether a link of any connection is being made.
function M.is_connecting()
  for _, conn in ipairs(M.open) do
    if conn.pools.publish:is_connecting() or conn.pools.consume:is_connecting() then return true end
  end
  return false
end

local function no_stats()
  return { connections = { active = 0, idle = 0, total = 0, max = 0 }, channels = { total = 0, borrowed = 0 }, links = {} }
end

local function add_stats(conn, to)
  for _, p in pairs(conn.pools) do p:stats(to) end
  return to
end

function Conn:stats() return add_stats(self, no_stats()) end

-- Of all connections together.
function M.stats()
  local to = no_stats()
  for _, conn in ipairs(M.open) do add_stats(conn, to) end
  return to
end

return M
