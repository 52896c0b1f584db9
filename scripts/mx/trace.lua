-- OpenTelemetry: W3C's traceparent goes from a delivery to what its handler publishes, and a span of each handler and publish to
-- a collector.
--
-- It is on when the environment asks for it (mx/trace/environment.lua). Only then handlers and the functions that publish are
-- wrapped, when they are made: off, no code of theirs knows of it.
local C = require "ffi".C
local turn, log, err = require "mx.turn", require "mx.log", require "mx.err"
local tohex = require "bit".tohex

local M = {}
local INTERNAL, PRODUCER, CONSUMER = 1, 4, 5
local config = require "mx.trace.environment".read()
M.on = config ~= nil
if not M.on then
  function M.span(_, f, ...) return f(...) end
  return M
end

local export = config.url and require "mx.trace.export"

-- Contexts ------------------------------------------------------------------------------------------------------------

local function is_id(text) return text:find "[^0]" ~= nil end

-- { trace_id, span_id, sampled, state, baggage } of the headers of a message; nil: they have none.
local function extract(headers)
  local text = headers and headers.traceparent
  if type(text) ~= "string" or not config.carry then return nil end
  local version, trace_id, span_id, flags, rest = text:match "^(%x%x)%-(%x+)%-(%x+)%-(%x%x)(.*)$"
  if not version or version == "ff" or #trace_id ~= 32 or #span_id ~= 16 or text:find "%u" then return nil end
  if not is_id(trace_id) or not is_id(span_id) or rest ~= "" and (version == "00" or rest:sub(1, 1) ~= "-") then return nil end
  local state, baggage = headers.tracestate, headers.baggage
  return { trace_id = trace_id, span_id = span_id, sampled = tonumber(flags, 16) % 2 == 1,
           state = type(state) == "string" and state or nil, baggage = type(baggage) == "string" and baggage or nil }
end

local function inject(span, headers)
  local to = {}
  for k, v in pairs(headers or {}) do to[k] = v end
  if not config.carry then return to end
  to.traceparent = ("00-%s-%s-%s"):format(span.trace_id, span.span_id, span.sampled and "01" or "00")
  to.tracestate, to.baggage = to.tracestate or span.state, to.baggage or span.baggage
  return to
end

local function random_id() return tohex(C.mx_random(), 16) end

local function is_sampled(trace_id, parent)
  if parent and config.sampler.parent then return parent.sampled end
  local share = config.sampler.root
  return share >= 1 or tonumber(trace_id:sub(19), 16) < share * 2 ^ 56
end

-- A span that has begun. attributes: a list of { name, value }.
local function begin(name, kind, parent, attributes)
  local trace_id = parent and parent.trace_id or random_id() .. random_id()
  return {
    name = name, kind = kind, trace_id = trace_id, span_id = random_id(), parent_id = parent and parent.span_id, from = C.mx_now(),
    sampled = is_sampled(trace_id, parent), state = parent and parent.state, baggage = parent and parent.baggage,
    attributes = attributes,
  }
end

local function set(span, name, value)
  if value ~= nil and value ~= "" then span.attributes[#span.attributes + 1] = { name, value } end
end

local function fail(span, e)
  span.error = log.redact(type(e) == "table" and e.raised ~= nil and tostring(e.raised) or tostring(e))
  set(span, "error.type", err.is(e) and e.code or "error")
end

local function finish(span)
  span.to = C.mx_now()
  if span.sampled and export then export.add(span) end
end

-- Publishing ----------------------------------------------------------------------------------------------------------

-- As OpenTelemetry's conventions for RabbitMQ name a destination.
local function destination(exchange, key, queue)
  local parts = {}
  for _, part in ipairs { exchange, key, queue } do
    if part ~= "" and part ~= parts[#parts] then parts[#parts + 1] = part end
  end
  return parts[1] and table.concat(parts, ":") or "amq.default"
end

local function common(span, operation, kind, exchange, key, queue)
  set(span, "messaging.system", "rabbitmq")
  set(span, "messaging.operation.name", operation)
  set(span, "messaging.operation.type", kind)
  set(span, "messaging.destination.name", destination(exchange, key, queue))
  set(span, "messaging.rabbitmq.destination.routing_key", key)
end

local function begin_publish(t, exchange, key, body, opts)
  local span = begin("publish " .. (exchange ~= "" and exchange or key), PRODUCER, extract(opts.headers) or t.trace, {})
  common(span, "publish", "send", exchange, key, "")
  set(span, "messaging.message.id", opts.id)
  set(span, "messaging.message.conversation_id", opts.correlation_id)
  if type(body) == "string" then set(span, "messaging.message.body.size", #body) end
  return span
end

local function are_plain(exchange, key, opts)
  if type(exchange) ~= "string" or type(key) ~= "string" then return false end
  return opts == nil or type(opts) == "table" and (opts.headers == nil or type(opts.headers) == "table")
end

-- A function that publishes, with a span around it and the context in the headers. What is wrong with its arguments it says
-- itself; what publishes on behalf of another that does has no span of its own.
function M.publishing(publish)
  return function(self, exchange, key, body, opts)
    local t = turn.current
    if not t or t.sending or not are_plain(exchange, key, opts) then return publish(self, exchange, key, body, opts) end
    local span, o = begin_publish(t, exchange, key, body, opts or {}), {}
    for k, v in pairs(opts or {}) do o[k] = v end
    o.headers = inject(span, o.headers)
    t.sending = true
    local ok, result, e = pcall(publish, self, exchange, key, body, o)
    t.sending = nil
    if not ok or not result then fail(span, not ok and result or e) end
    finish(span)
    if not ok then error(result, 0) end
    return result, e
  end
end

-- Handlers ------------------------------------------------------------------------------------------------------------

local function begin_process(c, msg)
  local span = begin("process " .. c.queue, CONSUMER, extract(msg.headers), {})
  common(span, "process", "process", msg.exchange, msg.key, c.queue)
  set(span, "messaging.message.id", msg.id)
  set(span, "messaging.message.conversation_id", msg.correlation_id)
  set(span, "messaging.message.body.size", msg.size)
  set(span, "messaging.rabbitmq.message.delivery_tag", msg.delivery_tag)
  set(span, "mxrun.attempt", msg.attempt)
  return span
end

-- A batch comes from many: its span is nobody's child, and has a link to the context of each message, of as many as
-- OpenTelemetry lets a span have.
local LINKS = 128

local function begin_batch(c, batch)
  local span, links, unsampled = begin("process " .. c.queue, CONSUMER, nil, {}), {}, 0
  for i = 1, #batch do
    local from = extract(batch[i].headers)
    links[#links + 1] = from
    if from and not from.sampled then unsampled = unsampled + 1 end
  end
  if config.sampler.parent and #links > 0 then span.sampled = unsampled < #links end
  span.dropped_links = math.max(0, #links - LINKS)
  span.links = #links > 0 and { unpack(links, 1, LINKS) } or nil
  common(span, "process", "process", "", "", c.queue)
  set(span, "messaging.batch.message_count", #batch)
  return span
end

-- The context stays with the task until its next handler: the log of a failure has it.
function M.handling(c, handler)
  local begin_of = c.attach and begin_batch or begin_process
  return function(subject)
    local span = begin_of(c, subject)
    turn.current.trace = span
    local ok, verdict, why = xpcall(handler, turn.on_error, subject)
    if not ok or verdict == false or verdict == nil and why ~= nil then
      fail(span, why ~= nil and why or verdict or "the handler returned false")
    elseif type(verdict) == "string" then
      set(span, "mxrun.decision", verdict)
    end
    finish(span)
    if not ok then turn.again(verdict) end
    return verdict, why
  end
end

local function ended(span, t, before, ok, ...)
  t.trace = before
  if not ok then fail(span, (...)) end
  finish(span)
  if not ok then turn.again((...)) end
  return ...
end

-- Calls f(...) in a span of its own, under that of the handler; returns what it returned.
function M.span(name, f, ...)
  local t = turn.current
  if not t then return f(...) end
  local before, span = t.trace, begin(name, INTERNAL, t.trace, {})
  t.trace = span
  return ended(span, t, before, xpcall(f, turn.on_error, ...))
end

-- Its life ------------------------------------------------------------------------------------------------------------

function M.setup(worker)
  if config.wrong then log.warn("traces", { error = config.wrong }) end
  local context = log.context
  function log.context()
    local fields, span = context(), turn.current and turn.current.trace
    if fields and span then fields.trace_id, fields.span_id = span.trace_id, span.span_id end
    return fields
  end
  if export then export.start(config, worker) end
end

-- Before the process ends.
function M.close()
  if export then export.close() end
end

return M
