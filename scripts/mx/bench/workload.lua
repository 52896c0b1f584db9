-- mx.workload: checks the description of a benchmark and keeps it.
local check, topology = require "mx.check", require "mx.topology"
local schedule, thresholds = require "mx.bench.schedule", require "mx.bench.thresholds"

local M = {}
local Workload = {}
Workload.__index = Workload

local DURATION = 10                     -- of a workload that says nothing about it

local WORKLOAD = {
  name = "string", topology = "table", producers = "table", consumers = "table", warmup = "seconds", verify = "boolean|table",
  thresholds = "table", setup = "function", done = "function", duration = "seconds", drain = "seconds",
}
local PRODUCERS = {
  count = "integer>=0", exchange = "string", key = "string|function|table", size = "integer 0..536870912|table|function",
  body = "string|table|function", options = "table|function", max_in_flight = "integer>0", stages = "table",
  rate = "number>=0|function", arrival = { "uniform", "poisson" }, confirm = "boolean", persistent = "boolean",
  mandatory = "boolean", timeout = "seconds", messages = "integer>0", run = "function",
}
local STAGE = { rate = "number>=0|function", ramp = "number>=0", duration = "seconds" }
local CONSUMERS = {
  count = "integer>=0", queue = "string|table", prefetch = "integer 0..65535", concurrency = "integer>0", handler = "function",
  auto_ack = "boolean", timeout = "seconds", priority = "integer", args = "table", messages = "integer>0", retry = "table",
}
local VERIFY = { copies = "integer>0" }

local function list_of_names(what, given)
  if type(given) ~= "table" then return given end
  for i = 1, #given do
    if type(given[i]) ~= "string" then check.fail(("mx.workload: %s: number %d is no name"):format(what, i)) end
  end
  if #given == 0 then check.fail(("mx.workload: %s: expected names"):format(what)) end
  return given
end

local function stages_of(o, duration)
  if o.stages and o.rate then check.fail "mx.workload: producers: rate belongs into the stages when there are stages" end
  local given = o.stages or { { rate = o.rate, duration = duration or DURATION } }
  if #given == 0 then check.fail "mx.workload: producers: stages: expected at least one" end
  local list = {}
  for i, stage in ipairs(given) do
    local s = check.options(("mx.workload: stage %d"):format(i), stage, STAGE)
    if not s.duration or s.duration <= 0 then check.fail(("mx.workload: stage %d: it needs a duration"):format(i)) end
    if s.rate and s.ramp then check.fail(("mx.workload: stage %d: rate and ramp exclude each other"):format(i)) end
    list[i] = s
  end
  return list
end

local function check_size(size)
  if type(size) ~= "table" then return end
  local low, high = size[1], size[2]
  if type(low) ~= "number" or type(high) ~= "number" or low < 0 or low > high or low % 1 ~= 0 or high % 1 ~= 0 then
    check.fail "mx.workload: producers: size: expected { least, most } in bytes"
  end
end

local function producers_of(given, duration, warmup)
  local o = check.options("mx.workload: producers", given, PRODUCERS)
  if o.body ~= nil and o.size ~= nil then check.fail "mx.workload: producers: body and size exclude each other" end
  check_size(o.size)
  o.key = list_of_names("producers: key", o.key)
  if not o.key and not o.run then check.fail "mx.workload: producers: key is missing; with exchange = \"\" it is the queue's name" end
  local ok, plan = pcall(schedule.new, stages_of(o, duration), warmup)
  if not ok then check.fail("mx.workload: producers: " .. tostring(plan)) end
  o.schedule, o.count, o.exchange, o.size = plan, o.count or 1, o.exchange or "", o.size or 64
  return o
end

local function consumers_of(given)
  local o = check.options("mx.workload: consumers", given, CONSUMERS)
  o.queue = list_of_names("consumers: queue", o.queue)
  if not o.queue then check.fail "mx.workload: consumers: queue is missing" end
  o.count = o.count or 1
  return o
end

-- One group, or a list of them.
local function groups(given, f, ...)
  if not given then return {} end
  local list = {}
  for i, group in ipairs(type(given[1]) == "table" and given or { given }) do list[i] = f(group, ...) end
  return list
end

-- The description as data, for the result: what is a list and more gets names throughout, as JSON wants it.
local function printable(v, depth)
  if type(v) == "function" then return "function" end
  if type(v) ~= "table" then return v end
  if depth > 6 then return "..." end
  local t, is_list = {}, #v > 0
  for k in pairs(v) do is_list = is_list and type(k) == "number" end
  for k, x in pairs(v) do t[is_list and k or tostring(k)] = printable(x, depth + 1) end
  return t
end

-- A workload; raises at the script's line.
function M.new(given)
  local o = check.options("mx.workload", given, WORKLOAD)
  if o.topology then topology.check(o.topology) end
  local self = setmetatable({
    name = o.name, topology = o.topology, warmup = o.warmup or 0, setup = o.setup, done = o.done, drain = o.drain or 30,
    verify = o.verify and (o.verify == true and {} or check.options("mx.workload: verify", o.verify, VERIFY)) or nil,
    thresholds = thresholds.parse(o.thresholds or {}), config = printable(given, 0),
  }, Workload)
  self.producers = groups(o.producers, producers_of, o.duration, self.warmup)
  self.consumers = groups(o.consumers, consumers_of)
  if #self.producers + #self.consumers == 0 then check.fail "mx.workload: expected producers or consumers" end
  self.duration = #self.producers == 0 and self.warmup + (o.duration or DURATION) or 0
  for _, p in ipairs(self.producers) do self.duration = math.max(self.duration, p.schedule.duration) end
  return self
end

function M.is(x) return getmetatable(x) == Workload end

-- How many queues get each message of a group: of a fanout exchange those that are bound to it and consumed here.
local function copies_of(w, group, queues)
  local exchange = w.topology and (w.topology.exchanges or {})[group.exchange]
  if (type(exchange) == "table" and exchange.type or exchange) ~= "fanout" then return 1 end
  local n = 0
  for _, name in ipairs(queues) do
    local queue = (w.topology.queues or {})[name]
    for _, bind in ipairs(queue and queue.bind or {}) do
      if bind[1] == group.exchange then
        n = n + 1
        break
      end
    end
  end
  return math.max(n, 1)
end

-- The queues that are consumed, each once.
function M.queues(w)
  local list, seen = {}, {}
  for _, group in ipairs(w.consumers) do
    for _, name in ipairs(type(group.queue) == "table" and group.queue or { group.queue }) do
      if group.count > 0 and not seen[name] then
        list[#list + 1], seen[name] = name, #list + 1
      end
    end
  end
  return list, seen
end

-- How often each message is to arrive; more than 1: once in each queue.
function M.copies(w)
  if w.verify and w.verify.copies then return w.verify.copies end
  local queues, n = M.queues(w), 1
  for _, group in ipairs(w.producers) do n = math.max(n, copies_of(w, group, queues)) end
  return n
end

return M
