-- Links of one purpose: which of them the next channel is opened on, when there is to be one more, and when one less.
local ffi = require "ffi"
local C = ffi.C
local turn, wait, err, keep = require "mx.turn", require "mx.wait", require "mx.err", require "mx.keep"

local M = {}

local Pool = {}
Pool.__index = Pool

function M.new(conn, kind)
  local self = setmetatable({ conn = conn, kind = kind, keepers = {}, line = wait.line() }, Pool)
  self.c = ffi.gc(C.mx_pool_new(turn.runtime, conn.channels.max), C.mx_pool_free)
  function self.line.on_empty()
    local e = err.new("interrupted", "nobody waits for the connection any more", { op = "connect" })
    for _, k in ipairs(self.keepers) do k:give_up(e) end
  end
  return self
end

-- Those who wait look again, or hear why not.
function Pool:news(ok, e) self.line:wake_all(ok, e) end

-- Closes what nobody uses, down to the least number; not the first, where exclusive queues live.
function Pool:shrink()
  local now, o, list = C.mx_now(), self.conn.pool, self.keepers
  for i = #list, 2, -1 do
    local link = list[i].link
    if #list > o.min and link and link.channels == 0 and now - link.idle_since >= o.idle then
      table.remove(list, i).link = nil
      C.mx_link_close(link, 0)
    end
  end
  self.shrinking = false
  if #list > o.min and not self.conn.closed then self:watch_idle() end
end

function Pool:watch_idle()
  if self.shrinking then return end
  self.shrinking = true
  turn.notify(C.mx_wait_new(turn.waits, math.max(self.conn.pool.idle, 0.01)), function() self:shrink() end)
end

local function add(self)
  local k = keep.new(self, #self.keepers == 0)
  self.keepers[#self.keepers + 1] = k
  k:open()
  if #self.keepers > self.conn.pool.min then self:watch_idle() end
end

-- Sees to it that there will be another link. false: there are as many as there may be
local function grow(self)
  for _, k in ipairs(self.keepers) do
    if not k.link then
      if not k.dialler then k:open() end
      return true
    end
  end
  if #self.keepers >= self.conn.pool.max then return false end
  add(self)
  return true
end

local function watch_channels(self)
  if self.watching then return end
  self.watching = true
  local ticket = C.mx_wait_new(turn.waits, -1)
  turn.notify(ticket, function()
    self.watching = false
    self:news(true)
  end)
  C.mx_pool_wait(self.c, ticket)
end

local function full(conn)
  return err.new("backpressure", ("%d connections with %d channels each are in use (pool.max, channels.max)"):format(
    conn.pool.max, conn.channels.max), { op = "connect" })
end

-- The least used link that has room for one more channel; parks until there is one. Only what waiting cannot mend is
-- returned, or that all stayed in use: link | nil, err
function Pool:link()
  turn.here()
  local conn, due = self.conn, nil
  while not conn.closed do
    local late = due and C.mx_now() >= due
    if late or #self.keepers >= conn.pool.min then
      local link = C.mx_pool_least_used(self.c, 1)
      if link ~= nil then return link end
    end
    if late then return nil, full(conn) end
    if not grow(self) then watch_channels(self) end
    if not due and C.mx_pool_least_used(self.c, 0) ~= nil then due = C.mx_now() + conn.channels.borrow_timeout end
    local ok, e = self.line:wait(due and math.max(0, due - C.mx_now()), "connect")
    if not ok and e.code ~= "timeout" then return nil, e end
  end
  return nil, conn:closed_error()
end

-- A link for calls, which share a channel; first: the one where exclusive queues live. link | nil, err
function Pool:any(first)
  turn.here()
  while not self.conn.closed do
    local k = self.keepers[1]
    local link = not first and C.mx_pool_least_used(self.c, 0) or k and k.link
    if link and link ~= nil and link.state == C.MX_OPEN then return link end
    if not k then add(self) elseif not k.link and not k.dialler then k:open() end
    local ok, e = self.line:wait()
    if not ok then return nil, e end
  end
  return nil, self.conn:closed_error()
end

function Pool:is_connecting()
  for _, k in ipairs(self.keepers) do
    if k.dialler then return true end
  end
  return false
end

function Pool:look()
  for _, k in ipairs(self.keepers) do k:look() end
end

function Pool:close()
  for _, k in ipairs(self.keepers) do k:close() end
end

-- What it has, as mx.pool.stats() tells it.
function Pool:stats(to)
  local o = self.conn
  to.connections.max = to.connections.max + o.pool.max
  for _, k in ipairs(self.keepers) do
    local link = k.link
    local open = link ~= nil and link.state == C.MX_OPEN
    local used = open and link.channels or 0
    local kind = used > 0 and "active" or open and "idle"
    if open then
      to.connections.total, to.connections[kind] = to.connections.total + 1, to.connections[kind] + 1
      to.channels.total = to.channels.total + math.min(o.channels.max, link.channel_max)
      to.channels.borrowed = to.channels.borrowed + used
    end
    to.links[#to.links + 1] = {
      purpose = self.kind, address = k.at and k.at.text, state = open and "open" or k.lost and "lost" or "connecting",
      blocked = k.blocked, channels = used, errors = k.errors, age = open and C.mx_now() - link.opened_at or 0,
      round_trip = open and link.round_trip or 0,
    }
  end
  return to
end

return M
