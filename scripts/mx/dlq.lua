-- mx.dlq: the dead letters of a queue, to be counted, looked at, replayed and purged.
local ffi = require "ffi"
local C = ffi.C
local task, err, check = require "mx.task", require "mx.err", require "mx.check"
local msg, consume, publish = require "mx.msg", require "mx.consume", require "mx.publish"
local handover, topology = require "mx.handover", require "mx.topology"
local type, setmetatable = type, setmetatable

local M = {}
local IDLE = 1                          -- seconds without a delivery: somebody else has the rest
local BACK = 2                          -- seconds until what was given back counts as taken by somebody else

local Dlq = {}
Dlq.__index = Dlq

-- dlq | nil, err
function M.dlq(conn, queue)
  local target = conn.dead_letters[queue] or { queue = queue .. ".dlq" }
  if not target.queue then
    return nil, err.new("config", ("mx.dlq: the dead letters of %q go to exchange %q, not to a queue"):format(queue, target.exchange))
  end
  return setmetatable({ conn = conn, queue = queue, name = target.queue }, Dlq)
end

-- How many there are | nil, err
function Dlq:count()
  local info, e = topology.queue_info(self.conn, self.name)
  if not info then return nil, e end
  return info.messages
end

-- How many were deleted | nil, err
function Dlq:purge() return topology.purge(self.conn, self.name) end

-- Waits until n are ready again: a quorum queue takes a while to have them back.
local function await_back(self, n)
  local due = C.mx_now() + BACK
  while C.mx_now() < due do
    local ready = self:count()
    if not ready or ready >= n then return end
    task.sleep(0.01)
  end
end

-- Takes up to n deliveries of those there in order, f(m) for each; what f does not settle goes back to its place.
-- true | nil, err
local function each(self, there, n, f)
  if n == 0 then return true end
  local seen, progress, failure = 0, task.semaphore(0), nil
  local consumer, e = consume.consume(self.conn, self.name, {
    manual = true, prefetch = math.min(n, 65535), timeout = 86400,
  }, function(m)
    if seen == n or failure then return end
    local ok, why = pcall(f, m)
    if not ok then failure = { why } end
    if ok and why == "enough" then n = seen + 1 end
    seen = seen + 1
    progress:release()
  end)
  if not consumer then return nil, e end
  while seen < n and not failure and (progress:acquire(IDLE) or consumer.active > 0) do end
  consumer:stop()
  await_back(self, there - consumer:stats().acked)
  if failure then error(failure[1], 0) end
  return true
end

-- An iterator over the first n, which stay where they are | nil, err
function Dlq:peek(n)
  n = check.arg(1, "dlq:peek", n or 20, "integer>0")
  local count, e = self:count()
  if not count then return nil, e end
  local list, i = {}, 0
  local ok, why = each(self, count, math.min(n, count), function(m) list[#list + 1] = m:keep() end)
  if not ok then return nil, why end
  return function()
    i = i + 1
    return list[i]
  end
end

-- Replaying -----------------------------------------------------------------------------------------------------------

-- Where the broker took a message from, when it was not mxrun that handed it on.
local function from_death(headers, queue)
  local deaths = headers["x-death"]
  for _, d in ipairs(type(deaths) == "table" and deaths or {}) do
    if type(d) == "table" and d.queue == queue and type(d["routing-keys"]) == "table" then
      return d.exchange, d["routing-keys"][1]
    end
  end
end

-- What a dead letter was before it failed: exchange, key, body and options of a publish.
local function as_it_was(self, m)
  local headers = assert(msg.read_headers(m.m))
  local exchange, key = headers["x-mx-origin-exchange"], headers["x-mx-origin-key"]
  if type(key) ~= "string" then exchange, key = from_death(headers, self.queue) end
  for _, name in ipairs { "x-mx-error", "x-mx-retries", "x-mx-first-seen", "x-mx-origin", "x-mx-origin-exchange", "x-mx-origin-key",
                          "x-death", "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason" } do
    headers[name] = nil
  end
  local o = handover.options_of(m.m, headers)
  return { exchange = type(exchange) == "string" and exchange or "", key = type(key) == "string" and key or self.queue,
           body = m.body, headers = headers, options = o }
end

local function edited(edit, was)
  if not edit then return was end
  local body = edit(was)
  if body ~= nil then was.body = body end
  was.options.headers = was.headers
  return was
end

local REPLAY = { where = "function", rate = "number>0", limit = "integer>=0", edit = "function" }

-- Publishes them again, each confirmed before it leaves the dead letters. where(m) chooses; edit(t) may change t.body,
-- .headers, .exchange, .key, or return another body. How many | nil, err with .count: the rest stays
function Dlq:replay(options)
  local o = check.options("dlq:replay", options or {}, REPLAY)
  local there, e = self:count()
  if not there then return nil, e end
  local limit, done, failed, due = o.limit or there, 0, nil, C.mx_now()
  local ok, why = each(self, there, limit > 0 and there or 0, function(m)
    if o.where and not o.where(m) then return end
    if o.rate then
      task.sleep(math.max(0, due - C.mx_now()))
      due = math.max(due, C.mx_now() - 1) + 1 / o.rate
    end
    local was = edited(o.edit, as_it_was(self, m))
    local sent
    sent, failed = publish.send_and_wait(self.conn:publisher(), was.exchange, was.key, was.body, was.options)
    if not sent then return "enough" end
    m:ack()
    done = done + 1
    return done == limit and "enough" or nil
  end)
  e = failed or not ok and why
  if not e then return done end
  e.count = done
  return nil, e
end

return M
