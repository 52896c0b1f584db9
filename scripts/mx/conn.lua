-- A connection as scripts see it: one link for publishing, one for consuming, opened when first used.
local ffi = require "ffi"
local C = ffi.C
local turn, wait, err, check = require "mx.turn", require "mx.wait", require "mx.err", require "mx.check"
local url, log, publish, topology = require "mx.url", require "mx.log", require "mx.publish", require "mx.topology"
local consume, dlq, calls = require "mx.consume", require "mx.dlq", require "mx.call"
local event, task, tls = require "mx.event", require "mx.task", require "mx.tls"

-- background: how many tasks connect again for nobody in particular; impatient: a refusal by the first broker is the end
local M = { open = {}, background = 0, impatient = false }

local Conn = {}
Conn.__index = Conn

function M.is(x) return getmetatable(x) == Conn end

local OPTIONS = {
  urls = "table", url = "string", order = { "random", "listed" }, password_env = "string", name = "string", heartbeat = "seconds",
  connect_timeout = "seconds", rpc_timeout = "seconds", reconnect = "table", max_body = "bytes",
  tls = "table",
}
local TLS = { external = "boolean" }
for name, kind in pairs(tls.OPTIONS) do TLS[name] = kind end
local RECONNECT = { base = "seconds", max = "seconds", jitter = "boolean" }

local function failed(code, text, fields)
  local e = err.new(code, text, fields)
  e.op = "connect"
  return e
end

-- The URL's query beats the script.
local function with_query(a, t) return setmetatable(a.tls or {}, { __index = t }) end

local function options_of(conn, a)
  local anchor = {}
  local function span(text)
    anchor[#anchor + 1] = text
    return topology.span(text or "")
  end
  local o = ffi.new("mx_link_options", {
    scheme = span(a.scheme), host = span(a.host), port = span(a.port or ""), user = span(a.user or ""),
    password = span(a.password or ""), vhost = span(a.vhost or ""), name = span(conn.name or "mxrun"),
    heartbeat = conn.heartbeat, connect_timeout = conn.connect_timeout, rpc_timeout = conn.rpc_timeout, max_body = conn.max_body,
  })
  if a.scheme == "amqps" then
    o.tls, anchor.tls = tls.struct(with_query(a, conn.tls), a.text)
  end
  return o, anchor
end

-- tls | nil, err
local function tls_of(o, addresses)
  local t, encrypted = check.options("mx.connect: tls", o.tls or {}, TLS), 0
  for _, a in ipairs(addresses) do encrypted = encrypted + (a.scheme == "amqps" and 1 or 0) end
  if o.tls and encrypted == 0 then check.fail "mx.connect: tls is for amqps:// URLs, and there is none" end
  for _, a in ipairs(addresses) do
    local wrong = tls.wrong(with_query(a, t))
    if wrong then return nil, failed(wrong.code, wrong.message) end
  end
  return t
end

local function reason(address, link)
  local text = link.error ~= nil and ffi.string(link.error) or "the connection failed"
  local name = C.mx_error_name(link.error_code)
  return failed(name ~= nil and ffi.string(name) or "connection", address.text .. ": " .. text,
                { reply_code = link.reply_code ~= 0 and link.reply_code or nil })
end

-- What no amount of waiting mends; and what the broker may come to see differently, but not soon.
local HOPELESS, REFUSED = { config = true, validation = true }, { access = true, config = true, validation = true }

-- link | nil, err
local function dial(conn, address)
  local o, anchor = options_of(conn, address)
  local ticket = C.mx_wait_new(turn.waits, -1)
  local link = C.mx_link_open(turn.runtime, o, ticket)
  local ok, raised, reply = pcall(turn.await, ticket)
  if ok and (not reply or reply.code >= 0) then return link, nil, anchor end
  local e = ok and reason(address, link)
  if ok and link.error == nil and #reply.text > 0 then e = err.of_reply("connect", reply, address.text) end
  C.mx_link_close(link, 0)
  if not ok then error(raised, 0) end
  return nil, e
end

-- The addresses in the order of one round.
local function shuffled(conn)
  local list = { unpack(conn.addresses) }
  for i = conn.order == "random" and #list or 1, 2, -1 do
    local j = math.random(i)
    list[i], list[j] = list[j], list[i]
  end
  return list
end

-- Tries each address once. link | nil, err; then whether that goes for every address: hopeless, refused
local function round(conn, kind)
  local texts, first, hopeless, refused = {}, nil, true, true
  for _, address in ipairs(shuffled(conn)) do
    local link, e = dial(conn, address)
    if link then
      conn.at[kind] = address
      return link
    end
    hopeless, refused = hopeless and HOPELESS[e.code], refused and REFUSED[e.code]
    if not first or REFUSED[first.code] and not REFUSED[e.code] then first = e end
    texts[#texts + 1] = tostring(e)
  end
  if #texts > 1 then first = failed(first.code, table.concat(texts, "; "), { reply_code = first.reply_code, cause = first }) end
  return nil, first, hopeless, refused
end

local function closed(conn) return failed("closed", conn.text .. " is closed") end

local STABLE = 30                       -- a connection that held so long was none of a series that fails

-- Sleeps between rounds, longer each time. refused: nothing that soon changes
local function pause(conn, kind, refused)
  local r = conn.reconnect
  local delay = refused and r.max or conn.delay[kind] or r.base
  conn.delay[kind] = math.min(delay * 2, r.max)
  wait.sleep(wait.jittered(delay, r.jitter, refused and 0.5 or 0))
end

-- Rounds until there is a link, or no hope: that is given up only before the first one.
local function connect(conn, kind)
  local said
  while not conn.closed do
    local link, e, hopeless, refused = round(conn, kind)
    if link or not conn.lost[kind] and (hopeless or refused and M.impatient) then return link, e end
    if said ~= e.code then log.warn("cannot connect, trying again until it works", { error = tostring(e) }) end
    said = e.code
    pause(conn, kind, refused)
  end
  return nil, closed(conn)
end

-- A link on which everything is declared as it was on the one before.
local function establish(conn, kind)
  if not conn.lost[kind] then return connect(conn, kind) end
  pause(conn, kind)
  while true do
    local link, e = connect(conn, kind)
    if not link then return nil, e end
    local ok, all = pcall(topology.replay, conn, link, kind)
    if ok and all then return link end
    C.mx_link_close(link, 0)
    if not ok then error(all, 0) end
  end
end

local function is_up(conn, kind)
  conn.up_at[kind] = C.mx_now()
  if not conn.up then
    conn.up = true
    event.emit("up", conn)
  elseif conn.lost[kind] then
    conn.lost[kind] = nil
    if next(conn.lost) then return end
    log.info("connected again", { connection = conn.text })
    event.emit("recovered", conn)
  end
end

-- Connects in a task of its own, so that it does not matter which of those who wait for it gives up; the line they wait in.
local function open(conn, kind)
  local line = wait.line()
  conn.opening[kind] = line
  line.dialler = turn.start(establish, function(ok, link, e)
    if not ok then link, e = nil, err.wrap(link, "connect") end
    if link and (conn.closed or conn.opening[kind] ~= line) then
      C.mx_link_close(link, 0)
      link, e = nil, closed(conn)
    end
    if conn.opening[kind] == line then conn.opening[kind], conn.links[kind] = nil, link end
    if link then is_up(conn, kind) end
    if line.background then M.background = M.background - 1 end
    line:wake_all(link or false, e)
  end, conn, kind)
  function line.on_empty()
    conn.opening[kind] = nil
    turn.raise(line.dialler, failed("interrupted", "nobody waits for the connection any more"))
  end
  return line
end

-- Parks until the link is open; only what waiting cannot mend is returned. link | nil, err
function Conn:link(kind)
  turn.here()
  while true do
    local link = self.links[kind]
    if link and link.state == C.MX_OPEN then return link end
    if link or self.closed then return nil, closed(self) end
    local ok, e = (self.opening[kind] or open(self, kind)):wait()
    if not ok then return nil, e end
  end
end

-- What there is to connect to | nil, err
local function addresses_of(o)
  local list, texts = {}, {}
  for i, text in ipairs(o.urls or { o.url or "" }) do
    if type(text) ~= "string" then check.fail("mx.connect: number " .. i .. " of urls is no string, but a " .. type(text)) end
    local address, e = url.parse(text)
    if not address then return nil, e end
    address.password = o.password_env and os.getenv(o.password_env) or address.password
    list[i], texts[i] = address, address.text
  end
  if #list == 0 then check.fail "mx.connect: urls is empty" end
  if o.password_env and not os.getenv(o.password_env) then
    return nil, failed("config", "the environment has no " .. o.password_env .. " (password_env)")
  end
  return list, table.concat(texts, ", ")
end

-- conn | nil, err. Does not wait: the first call that needs the broker does.
function M.new(options)
  local o = check.options("mx.connect", options or {}, OPTIONS)
  local addresses, texts = addresses_of(o)
  if not addresses then return nil, texts end
  local secrets, why = tls_of(o, addresses)
  if not secrets then return nil, why end
  local r = check.options("mx.connect: reconnect", o.reconnect or {}, RECONNECT)
  local self = setmetatable({
    addresses = addresses, text = texts, order = o.order or "random", name = o.name,
    heartbeat = o.heartbeat or 10, connect_timeout = o.connect_timeout or 10, rpc_timeout = o.rpc_timeout or 30,
    max_body = o.max_body or 16 * 1024 * 1024, tls = secrets,
    reconnect = { base = r.base or 0.2, max = r.max or 30, jitter = r.jitter ~= false },
    links = {}, at = {}, opening = {}, lost = {}, delay = {}, up_at = {}, records = {}, deleted = {},
    blocked = {}, dead_letters = {}, queues = {}, declared = {}, exclusive = {},
  }, Conn)
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
  topology = { topology.topology, "table" }, queue = { topology.queue, "string", "table?" },
  exchange = { topology.exchange, "string", "table|string?" }, consume = { consume.consume, "name", "table|function?" },
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
  for _, line in pairs(conn.opening) do turn.raise(line.dialler, closed(conn)) end
  for kind, link in pairs(conn.links) do
    conn.links[kind] = nil
    local ticket = C.mx_wait_new(turn.waits, 5)
    C.mx_link_close(link, ticket)
    turn.await(ticket)
  end
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

-- A link dropped: from now on it is connected again, whether somebody waits for that or not.
local function lose(conn, kind, link)
  local e, first = reason(conn.at[kind], link), next(conn.lost) == nil
  if conn.blocked[kind] then event.emit("unblocked", conn) end
  conn.links[kind], conn.blocked[kind], conn.declared, conn.lost[kind] = nil, nil, {}, true
  if C.mx_now() - conn.up_at[kind] > STABLE then conn.delay[kind] = nil end
  C.mx_link_close(link, 0)
  log.warn("connection lost, connecting again", { error = tostring(e) })
  if first then event.emit("down", conn, e) end
  local line = open(conn, kind)
  line.on_empty, line.background = nil, true
  M.background = M.background + 1
end

-- Once a turn: tells of what happened to connections, and mends it.
function M.look()
  local returns = event.has "returned"
  for _, conn in ipairs(M.open) do
    for kind, link in pairs(conn.links) do
      if link.state == C.MX_CLOSED and not conn.closed then lose(conn, kind, link)
      elseif kind == "publish" then publish.look(conn, link) end
      if (link.blocked ~= 0) ~= (conn.blocked[kind] or false) then
        conn.blocked[kind] = link.blocked ~= 0
        event.emit(link.blocked ~= 0 and "blocked" or "unblocked", conn)
      end
    end
  end
  if returns then publish.each_returned(function(conn, e) event.emit("returned", conn, e) end) end
end

return M
