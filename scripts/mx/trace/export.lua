-- Spans on their way to a collector: a bounded queue, batches by OTLP/HTTP in JSON, one request at a time. What the queue has no
-- room for, and what the collector does not take, is dropped and counted.
local ffi = require "ffi"
local C = ffi.C
local turn, json, log, series, err = require "mx.turn", require "mx.json", require "mx.log", require "mx.series", require "mx.err"
local wall = require "mx.wall"

ffi.cdef "int getpid(void);"

local M = {}
local TRIES, PAUSE = 4, 1               -- of one batch while the collector is away; the pause doubles
local TRANSIENT = { [429] = true, [502] = true, [503] = true, [504] = true }
local config, head, options
local queue, batch = {}, nil            -- batch: what is being sent
local away = false
local waiters = {}                      -- functions to call when there is nothing left

local function counter(name, help)
  series.help(name, help)
  return series.new("counter", name) or { value = 0 }
end

local function attribute(key, value)
  local kind = type(value)
  if kind == "number" then return { key = key, value = { intValue = ("%.0f"):format(value) } } end
  if kind == "boolean" then return { key = key, value = { boolValue = value } } end
  return { key = key, value = { stringValue = series.valid(tostring(value)) } }
end

local function attributes(list)
  local t = {}
  for i, a in ipairs(list) do t[i] = attribute(a[1], a[2]) end
  return json.array(t)
end

-- Nanoseconds since 1970 as a text, of a time of mx_now.
local function nanoseconds(at)
  local t = wall() - C.mx_now() + at
  return ("%d%09d"):format(math.floor(t), math.floor(t % 1 * 1e9))
end

local function link(l)
  return { traceId = l.trace_id, spanId = l.span_id, traceState = l.state and series.valid(l.state), flags = l.sampled and 1 or 0 }
end

local function shape(s)
  local links
  if s.links then
    links = {}
    for i, l in ipairs(s.links) do links[i] = link(l) end
  end
  return {
    traceId = s.trace_id, spanId = s.span_id, parentSpanId = s.parent_id, traceState = s.state and series.valid(s.state),
    name = series.valid(s.name), kind = s.kind, flags = 1, attributes = attributes(s.attributes),
    startTimeUnixNano = nanoseconds(s.from), endTimeUnixNano = nanoseconds(s.to),
    links = links, droppedLinksCount = s.dropped_links,
    status = s.error and { code = 2, message = series.valid(s.error) } or nil,
  }
end

local function encode(spans)
  local list = {}
  for i, s in ipairs(spans) do list[i] = shape(s) end
  return assert(json.encode { resourceSpans = { { resource = { attributes = attributes(head) },
    scopeSpans = { { scope = { name = "mxrun" }, spans = list } } } } })
end

local send

local function wake_waiters()
  if batch or #queue > 0 then return end
  local list = waiters
  waiters = {}
  for _, f in ipairs(list) do f() end
end

local function done(ok)
  (ok and M.exported or M.dropped).value = (ok and M.exported or M.dropped).value + #batch.spans
  batch = nil
  if #queue >= config.batch or M.closing and #queue > 0 then send() else wake_waiters() end
end

local function again_later(why)
  if not away then log.warn("the collector of traces takes nothing", { error = why }) end
  away = true
  batch.tries = batch.tries + 1
  if batch.tries >= TRIES or M.closing then return done(false) end
  turn.notify(C.mx_wait_new(turn.waits, PAUSE * 2 ^ (batch.tries - 1)), function() M.post() end)
end

local function answered(code, reply)
  if code >= 200 and code < 300 then
    if away then log.info "the collector of traces takes spans again" end
    away = false
    return done(true)
  end
  local why = code > 0 and "HTTP status " .. code or reply and reply.text or err.of_code(code, "trace", "no answer").message
  if code < 0 or TRANSIENT[code] then return again_later(why) end
  log.warn("the collector of traces refuses spans", { error = why })
  done(false)
end

function M.post()
  local ticket = C.mx_wait_new(turn.waits, -1)
  local code = C.mx_upload(turn.runtime, options, batch.body, #batch.body, ticket)
  if code == 0 then return turn.notify(ticket, answered) end
  C.mx_wait_drop(turn.waits, ticket)
  again_later(ffi.string(C.mx_refusal()))
end

function send()
  if batch or #queue == 0 then return end
  local spans, rest = {}, {}
  for i, s in ipairs(queue) do
    if i <= config.batch then spans[i] = s else rest[#rest + 1] = s end
  end
  queue, batch = rest, { spans = spans, tries = 0 }
  batch.body = encode(spans)
  M.post()
end

local function tick()
  turn.notify(C.mx_wait_new(turn.waits, config.delay), function()
    send()
    tick()
  end)
end

-- A span that has ended.
function M.add(span)
  if #queue >= config.queue then
    M.dropped.value = M.dropped.value + 1
    return
  end
  queue[#queue + 1] = span
  if #queue >= config.batch then send() end
end

-- At the end: sends what there is, once; waits for that, at most for the time limit of a request. A collector that is away is not
-- waited for.
function M.close()
  M.closing = true
  send()
  if not batch or away then return end
  local ticket = C.mx_wait_new(turn.waits, config.timeout)
  local task, no = turn.current, turn.current.no
  waiters[1] = function() turn.wake(task, no, 0) end
  turn.await(ticket)
end

function M.start(c, worker)
  config = c
  head = { unpack(c.resource) }
  for _, a in ipairs { { "telemetry.sdk.name", "mxrun" }, { "telemetry.sdk.language", "lua" }, { "process.pid", C.getpid() } } do
    head[#head + 1] = a
  end
  if worker then head[#head + 1] = { "mxrun.worker", worker } end
  M.headers = "Content-Type: application/json\n" .. c.headers
  options = ffi.new("mx_upload_options", { url = c.url, headers = M.headers, ca = c.ca, timeout = c.timeout })
  M.exported = counter("mxrun_trace_spans_exported_total", "spans that the collector took")
  M.dropped = counter("mxrun_trace_spans_dropped_total", "spans that found no room, or a collector that did not take them")
  tick()
end

return M
