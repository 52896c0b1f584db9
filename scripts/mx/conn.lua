-- A connection as scripts see it: one link for publishing, one for consuming, opened when first used.
local ffi = require "ffi"
local C = ffi.C
local turn, task, err, check = require "mx.turn", require "mx.task", require "mx.err", require "mx.check"
local url, log, publish, topology = require "mx.url", require "mx.log", require "mx.publish", require "mx.topology"
local consume = require "mx.consume"

local M = { open = {}, emit = function() end }

local Conn = {}
Conn.__index = Conn

local OPTIONS = {
  urls = "table", url = "string", password_env = "string", name = "string", heartbeat = "seconds", connect_timeout = "seconds",
  rpc_timeout = "seconds", reconnect = "table", max_body = "bytes",
}
local RECONNECT = { base = "seconds", max = "seconds", jitter = "boolean" }

local function options_of(conn)
  local a, anchor = conn.address, {}
  local function span(text)
    anchor[#anchor + 1] = text
    return topology.span(text or "")
  end
  local o = ffi.new("mx_link_options", {
    scheme = span(a.scheme), host = span(a.host), port = span(a.port or ""), user = span(a.user or ""),
    password = span(a.password or ""), vhost = span(a.vhost or ""), name = span(conn.name or "mxrun"),
    heartbeat = conn.heartbeat, connect_timeout = conn.connect_timeout, rpc_timeout = conn.rpc_timeout, max_body = conn.max_body,
  })
  return o, anchor
end

local function reason(conn, link)
  local text = link.error ~= nil and ffi.string(link.error) or "the connection failed"
  local name = C.mx_error_name(link.error_code)
  return err.new(name ~= nil and ffi.string(name) or "connection", conn.address.text .. ": " .. text,
                 { reply_code = link.reply_code ~= 0 and link.reply_code or nil })
end

-- What no amount of waiting mends.
local function final(e) return e.code == "access" or e.code == "config" or e.code == "validation" end

local function dial(conn)
  local o, anchor = options_of(conn)
  local ticket = C.mx_wait_new(turn.waits, -1)
  local link = C.mx_link_open(turn.runtime, o, ticket)
  local _, reply = turn.await(ticket)
  if not reply or reply.code >= 0 then return link, nil, anchor end
  local e = reason(conn, link)
  if e.message:find("connection failed", 1, true) and #reply.text > 0 then
    e = err.new(ffi.string(C.mx_error_name(reply.code)), conn.address.text .. ": " .. reply.text)
  end
  C.mx_link_close(link, 0)
  return nil, e
end

-- Parks until the link is open; only what waiting cannot mend is returned. link | nil, err
function Conn:link(kind)
  local link = self.links[kind]
  if link then
    if link.state == 1 then return link end
    if link.state >= 2 then return nil, err.new("closed", self.address.text .. " is closed") end
  end
  if self.closed then return nil, err.new("closed", self.address.text .. " is closed") end
  if self.opening[kind] then
    table.insert(self.opening[kind], { task = turn.current, no = turn.current.no })
    turn.park()
    return self:link(kind)
  end
  self.opening[kind] = {}
  local delay, said, e = self.reconnect.base, false -- luacheck: ignore 311
  repeat
    link, e = dial(self)
    if not link and not final(e) then
      if not said then log.warn("cannot connect, trying again until it works", { error = tostring(e) }) end
      said = true
      task.sleep(self.reconnect.jitter and delay * math.random() or delay)
      delay = math.min(delay * 2, self.reconnect.max)
    end
  until link or final(e)
  self.links[kind] = link
  local waiters = self.opening[kind]
  self.opening[kind] = nil
  for _, w in ipairs(waiters) do turn.wake(w.task, w.no) end
  if not link then return nil, e end
  M.emit("up", self)
  return link
end

-- conn | nil, err. Does not wait: the first call that needs the broker does.
function M.new(options, level)
  local o = check.options("mx.connect", options or {}, OPTIONS, level + 1)
  local address, e = url.parse(o.url or (o.urls and o.urls[1]) or "")
  if not address then return nil, e end
  if o.password_env then
    address.password = os.getenv(o.password_env)
    if not address.password then
      return nil, err.new("config", "the environment has no " .. o.password_env .. " (password_env)")
    end
  end
  local r = check.options("mx.connect: reconnect", o.reconnect or {}, RECONNECT, level + 1)
  local self = setmetatable({
    address = address, name = o.name, heartbeat = o.heartbeat or 10, connect_timeout = o.connect_timeout or 10,
    rpc_timeout = o.rpc_timeout or 30, max_body = o.max_body or 16 * 1024 * 1024,
    reconnect = { base = r.base or 0.2, max = r.max or 30, jitter = r.jitter ~= false },
    links = {}, opening = {}, dlq = {}, queues = {}, declared = {},
  }, Conn)
  M.open[#M.open + 1] = self
  return self
end

function Conn:publisher()
  self.default_publisher = self.default_publisher or publish.publisher(self)
  return self.default_publisher
end

function Conn:publish(exchange, key, body, opts) return publish.send_and_wait(self:publisher(), exchange, key, body, opts) end
function Conn:publish_async(exchange, key, body, opts) return publish.send(self:publisher(), exchange, key, body, opts) end
function Conn:consume(queue, options, handler) return consume.consume(self, queue, options, handler) end
function Conn:topology(t) return topology.topology(self, t, 3) end
function Conn:queue(name, options) return topology.queue(self, name, options, 3) end
function Conn:exchange(name, options) return topology.exchange(self, name, options, 3) end
for _, name in ipairs { "bind", "unbind", "bind_exchange", "purge", "delete_queue", "delete_exchange", "queue_info" } do
  Conn[name] = function(self, ...) return topology[name](self, ...) end
end

-- Orderly: handlers finish, settlements and publishes leave; then the links go, and what C held with them.
function Conn:close()
  if self.closed then return end
  self.closed = true
  consume.close_all(self)
  publish.close_all(self)
  for kind, link in pairs(self.links) do
    self.links[kind] = nil
    local ticket = C.mx_wait_new(turn.waits, 5)
    C.mx_link_close(link, ticket)
    turn.await(ticket)
  end
  for i = #M.open, 1, -1 do
    if M.open[i] == self then table.remove(M.open, i) end
  end
end

-- A connection that dropped, if any: conn, err.
function M.dropped()
  for _, conn in ipairs(M.open) do
    for _, link in pairs(conn.links) do
      if link.state == 3 and not conn.closed then return conn, reason(conn, link) end
    end
  end
end

return M
