-- A link that is kept: connected when it is first needed, and again whenever it was lost.
local ffi = require "ffi"
local C = ffi.C
local turn, wait, err, event = require "mx.turn", require "mx.wait", require "mx.err", require "mx.event"
local log, dial, topology = require "mx.log", require "mx.dial", require "mx.topology"

-- background: how many tasks connect again for nobody in particular; impatient: one round is tried, for a person waits
local M = { background = 0, impatient = false }

local Keeper = {}
Keeper.__index = Keeper

-- first: what is exclusive to one link lives on this one
function M.new(pool, first)
  return setmetatable({ conn = pool.conn, pool = pool, first = first, errors = 0, blocked = false, lost = false }, Keeper)
end

local STABLE = 30                       -- a connection that held so long was none of a series that fails

-- Sleeps between rounds, longer each time. refused: nothing that soon changes
local function pause(k, refused)
  local r = k.conn.reconnect
  local delay = refused and r.max or k.delay or r.base
  k.delay = math.min(delay * 2, r.max)
  wait.sleep(wait.jittered(delay, r.jitter, refused and 0.5 or 0))
end

-- Rounds until there is a link, or no hope: that is given up only before the first one.
local function connect(k)
  local said
  while not k.conn.closed do
    local link, at, hopeless, refused = dial.round(k.conn)
    if link then
      k.at = at
      return link
    end
    k.errors = k.errors + 1
    if not k.lost and (hopeless or M.impatient) then return nil, at end
    if said ~= at.code then log.warn("cannot connect, trying again until it works", { error = tostring(at) }) end
    said = at.code
    pause(k, refused)
  end
  return nil, k.conn:closed_error()
end

-- A link on which everything is declared as it was on the one before.
local function establish(k)
  if not k.lost then return connect(k) end
  pause(k)
  while true do
    local link, e = connect(k)
    if not link then return nil, e end
    local ok, all = pcall(topology.replay, k.conn, link, k.pool.kind == "consume" and k.first)
    if ok and all then return link end
    C.mx_link_close(link, 0)
    if not ok then error(all, 0) end
  end
end

local function is_up(k)
  local conn = k.conn
  k.up_at = C.mx_now()
  C.mx_pool_add(k.pool.c, k.link)
  if not conn.up then
    conn.up = true
    event.emit("up", conn)
  elseif k.lost then
    k.lost, conn.lost = false, conn.lost - 1
    if conn.lost > 0 then return end
    log.info("connected again", { connection = conn.text })
    event.emit("recovered", conn)
  end
end

-- What came of connecting; given_up: somebody may be at it anew.
local function connected(k, given_up, link, e)
  if link and (k.conn.closed or given_up) then
    C.mx_link_close(link, 0)
    link, e = nil, k.conn:closed_error()
  end
  if given_up then return end
  if k.background then M.background, k.background = M.background - 1, false end
  k.dialler, k.link = nil, link
  if link then is_up(k) end
  k.pool:news(link ~= nil, e)
end

-- Connects in a task of its own, so that it does not matter which of those who wait for it gives up.
function Keeper:open()
  local dialler
  dialler = turn.start(establish, function(ok, link, e)
    if not ok then link, e = nil, err.wrap(link, "connect") end
    connected(self, self.dialler ~= dialler, link, e)
  end, self)
  self.dialler = dialler
end

-- Nobody waits for it any more.
function Keeper:give_up(e)
  local dialler = self.dialler
  if not dialler or self.background then return end
  self.dialler = nil
  turn.raise(dialler, e)
end

-- The link dropped: from now on it is connected again, whether somebody waits for that or not.
local function lose(k)
  local conn, link = k.conn, k.link
  local e = dial.reason(k.at, link)
  if k.blocked then event.emit("unblocked", conn) end
  k.link, k.blocked, k.lost, k.errors = nil, false, true, k.errors + 1
  conn.declared, conn.lost = {}, conn.lost + 1
  if C.mx_now() - k.up_at > STABLE then k.delay = nil end
  C.mx_link_close(link, 0)
  log.warn("connection lost, connecting again", { error = tostring(e) })
  if conn.lost == 1 then event.emit("down", conn, e) end
  k.background, M.background = true, M.background + 1
  k:open()
end

-- Once a turn: tells of what happened to the link, and mends it.
function Keeper:look()
  local link = self.link
  if not link then return end
  if link.state == C.MX_CLOSED and not self.conn.closed then return lose(self) end
  if (link.blocked ~= 0) ~= self.blocked then
    self.blocked = link.blocked ~= 0
    event.emit(self.blocked and "blocked" or "unblocked", self.conn)
  end
end

function Keeper:close()
  if self.dialler then turn.raise(self.dialler, self.conn:closed_error()) end
  local link = self.link
  if not link then return end
  self.link = nil
  local ticket = C.mx_wait_new(turn.waits, 5)
  C.mx_link_close(link, ticket)
  turn.await(ticket, "close")
end

return M
