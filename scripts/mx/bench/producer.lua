-- A producer: sends what is due, each message with its stamp, and says when the next one is.
--
-- Design: one pump for all producers of the process. It runs when a timer says that something is due, or when a window has room
-- again; what is overdue then leaves in one burst. What keeps a message back is told apart: the broker (no room in the window, no
-- channel), or we, who came late. Lateness counts from when the message was due and could have left.
local ffi = require "ffi"
local C, band = ffi.C, require "bit".band
local turn, err = require "mx.turn", require "mx.err"
local publish, json = require "mx.publish", require "mx.json"
local schedule = require "mx.bench.schedule"
local fieldtable = require "mx.fieldtable"
local max, random, huge, type, tostring = math.max, math.random, math.huge, type, tostring

local M = {}
local EAGAIN, ECLOSED = err.number.again, err.number.closed
local STAMP = 32                        -- bytes of an mx_stamp
local HEADER = "x-mx-bench"

-- What a message is made of -------------------------------------------------------------------------------------------

local function filler(size)
  local text = ffi.new("uint8_t[?]", max(size, STAMP))
  for i = 0, size - 1 do text[i] = 97 + i % 26 end
  return text
end

-- { pointer to a stamp, props with it in a header, the text that the props point to }
local function stamped_header(p)
  local table_bytes = assert(fieldtable.encode { [HEADER] = ("x"):rep(STAMP) })
  local bytes, props = ffi.new("uint8_t[?]", #table_bytes), ffi.new "mx_props"
  ffi.copy(bytes, table_bytes, #table_bytes)            -- a text as the initializer of an array writes one byte more
  props.flags = C.MX_P_DELIVERY_MODE + C.MX_P_HEADERS
  props.delivery_mode = p.persistent and 2 or 1
  props.headers.p, props.headers.n = bytes, #table_bytes
  return { stamp = ffi.cast("mx_stamp *", bytes + #table_bytes - STAMP), props = props, anchor = bytes }
end

local function body_function(body)
  if type(body) == "function" then return body end
  return function() return body end
end

-- A text, its content type
local function text_of(body)
  if type(body) == "string" then return body end
  if type(body) == "table" then
    local text, e = json.encode(body)
    if not text then error("producers: body: " .. tostring(e), 0) end
    return text, "application/json"
  end
  if type(body) == "number" then return tostring(body) end
  error("producers: body returned a " .. type(body) .. ", expected a string or a table", 0)
end

local function size_function(size)
  if type(size) == "function" then return size end
  if type(size) == "number" then return function() return size end end
  local low, high = size[1], size[2]
  return function() return random(low, high) end
end

-- next(i) → body, size, props, flags of the i-th message; stamp(number, due, sent) is called before that.
local function maker(p, group)
  local header, buffer, room = stamped_header(p), filler(STAMP), STAMP
  local stamp = ffi.new "mx_stamp"
  local size_of, body_of = size_function(group.size), group.body ~= nil and body_function(group.body)
  local options, plain = group.options, p.publisher.flags
  local function with_options(i, content_type, in_body)
    local given, o, headers = type(options) == "function" and options(i) or options or {}, {}, {}
    for k, v in pairs(given) do o[k] = v end
    if not in_body then
      for k, v in pairs(given.headers or {}) do headers[k] = v end
      headers[HEADER] = ffi.string(stamp, STAMP)
      o.headers = headers
    end
    local props, why = publish.properties(p.publisher, o, content_type)
    if not props then error(why, 0) end
    p.anchor = why
    return props, plain
  end
  return stamp, function(i)
    local body, size, content_type, in_body
    if body_of then
      body, content_type = text_of(body_of(i))
      size, in_body = #body, false
    else
      size = size_of(i)
      if type(size) ~= "number" or size < 0 or size % 1 ~= 0 then error("producers: size returned " .. tostring(size), 0) end
      if size > room then buffer, room = filler(2 * size), 2 * size end
      body, in_body = buffer, size >= STAMP
      if in_body then ffi.copy(buffer, stamp, STAMP) end
    end
    if options or content_type then return body, size, with_options(i, content_type, in_body) end
    if in_body then return body, size, nil, plain end
    ffi.copy(header.stamp, stamp, STAMP)
    return body, size, header.props, plain
  end
end

-- The usual case: each body of the same size, which its stamp fits into.
local function same_size(p, group)
  local body = filler(group.size)
  local stamp, flags, size = ffi.cast("mx_stamp *", body), p.publisher.flags, group.size
  p.anchor = body
  return stamp, function() return body, size, nil, flags end
end

local function key_function(p, group)
  local key = group.key
  if type(key) ~= "function" then return nil, type(key) == "table" and key[p.index % #key + 1] or key end
  return function(i)
    local text = key(i, p.index + 1)
    if type(text) ~= "string" then error("producers: key returned a " .. type(text) .. ", expected a string", 0) end
    return text
  end
end

-- Sending -------------------------------------------------------------------------------------------------------------

-- A burst of p: sends what is due until nothing is, the window is full, or others have to get a turn. p.due: when the next
-- message is; p.state: "waits" for that, "more" when it was interrupted, "full", "closed", or "over".
local function burst_of(p, run)
  local group, tallies, number, t = p.group, run.tallies, run.number, turn.t
  local cursor, index, of = p.cursor, p.index, p.of
  local exchange, last = group.exchange, group.messages or huge
  local is_simple = group.body == nil and not group.options and type(group.size) == "number" and group.size >= STAMP
  local stamp, make = (is_simple and same_size or maker)(p, group)
  local key_of, key = key_function(p, group)
  local pub, probe = p.pub, C.mx_pub_probe(p.pub, tallies, number)
  local ring, mask = probe.due, probe.mask
  local next_due, take, now_of = cursor.due, cursor.take, C.mx_now
  stamp.run, stamp.producer = tallies.run, p.global
  p.stamp = stamp                       -- of the last message
  return function(start, stop)
    local tick, now = t.tick, now_of()
    while p.sent < last do
      local due, scheduled = next_due(now - start)
      due = due + start
      if due > now then
        p.due = due
        return due == huge and "over" or "waits"
      end
      if tallies.stop ~= 0 or now > stop then return "over" end
      local n = p.sent + 1
      local i = p.sent * of + index + 1
      ring[band(n, mask)] = due
      stamp.number, stamp.due, stamp.sent = n, due, now
      local k = key_of and key_of(i) or key
      local body, size, props, flags = make(i)
      local seq = C.mx_publish(pub, exchange, #exchange, k, #k, body, size, props, flags, 0)
      if seq < 0 then
        p.due, p.refusal = due, seq
        return "full"
      end
      p.sent = n
      C.mx_tally_sent(tallies, number, due, scheduled and now - max(due, p.free) or -1)
      if scheduled then take() end
      if t.tick ~= tick then
        p.due = due
        return "more"
      end
      now = now_of()
    end
    return "over"
  end
end

-- Each arrival is a task that runs the script's function; its end is what a confirm is to a message.
local function burst_of_tasks(p, run)
  local group, tallies, number, t = p.group, run.tallies, run.number, turn.t
  local mine = C.mx_tally_of(tallies, number)
  local confirm = C.mx_tally_hist(tallies, number, C.MX_TALLY_CONFIRM)
  local raw = C.mx_tally_hist(tallies, number, C.MX_TALLY_CONFIRM_RAW)
  local window, last = group.max_in_flight or 10000, group.messages or huge
  p.running = 0
  local function ended(due, sent, ok, answer, why)
    p.running = p.running - 1
    local now = C.mx_now()
    if due >= tallies.from then
      if ok and answer ~= false and not (answer == nil and why ~= nil) then
        mine.confirmed = mine.confirmed + 1
        C.mx_hist_record(confirm, now - due)
        C.mx_hist_record(raw, now - sent)
      else
        run.failed_runs = run.failed_runs + 1
        run.complain(ok and why or answer)
      end
    end
    p.go_on()
  end
  return function(start, stop)
    local tick, now = t.tick, C.mx_now()
    while p.sent < last do
      local due, scheduled = p.cursor.due(now - start)
      due = due + start
      if due > now then
        p.due = due
        return due == huge and "over" or "waits"
      end
      if tallies.stop ~= 0 or now > stop then return "over" end
      p.due = due
      if p.running >= window then return "full" end
      local sent, i = now, p.sent * p.of + p.index + 1
      p.sent, p.running = p.sent + 1, p.running + 1
      turn.start(group.run, function(...) ended(due, sent, ...) end, i)
      C.mx_tally_sent(tallies, number, due, scheduled and now - max(due, p.free) or -1)
      mine.published = mine.published - 1               -- nothing is to arrive for it
      if scheduled then p.cursor.take() end
      if t.tick ~= tick then return "more" end
      now = C.mx_now()
    end
    return "over"
  end
end

-- A function that p goes on by, once what kept it back is over.
local function going_on(p, run)
  return function()
    if p.state ~= "full" then return end
    p.state, p.free = "waits", C.mx_now()
    run.pump()
  end
end

-- Waits for room, or for a channel.
local function wait_for_room(p, run)
  if p.group.run then return end
  if p.refusal == EAGAIN then
    local ticket = C.mx_wait_new(turn.waits, -1)
    turn.notify(ticket, p.go_on)
    C.mx_pub_watch(p.pub, ticket)
  elseif p.refusal == ECLOSED then
    turn.start(function() return publish.ready(p.publisher) end, function(ok, is_open, e)
      if ok and is_open then return p.go_on() end
      run.fail(ok and e or is_open)
    end)
  else
    error(err.of_code(p.refusal, "publish", "publish: " .. ffi.string(C.mx_refusal())), 0)
  end
end

-- Producers -----------------------------------------------------------------------------------------------------------

-- group of a workload, index in it (from 0) of how many; global: of all producers of the run. Opens its channel. p | nil, err
function M.new(run, group, index, global)
  local p = {
    group = group, index = index, of = group.count, global = global, sent = 0, free = 0, due = 0, state = "waits",
    persistent = group.persistent ~= false, cursor = schedule.cursor(group.schedule, index, group.count, group.arrival == "poisson"),
  }
  p.go_on = going_on(p, run)
  if group.run then
    p.burst = burst_of_tasks(p, run)
    return p
  end
  p.conn = run.connect()
  p.publisher = publish.publisher(p.conn, {
    exchange = group.exchange, max_in_flight = group.max_in_flight, confirm = group.confirm, persistent = group.persistent,
    mandatory = group.mandatory, timeout = group.timeout,
  })
  local ok, e = publish.ready(p.publisher)
  if not ok then return nil, e end
  p.pub = p.publisher.pub
  p.burst = burst_of(p, run)
  return p
end

local function advance(p, run, start, stop)
  p.state = p.burst(start, stop)
  if p.state == "full" then wait_for_room(p, run) end
  return p.state
end

local FINE = 2e-4                       -- seconds: what is due within it of each other leaves together

-- The pump of the producers of a process. start: when the schedule begins; stop: when sending ends at the latest.
-- { pump = function, is_over = function }
function M.pump(run, producers, start, stop)
  local ticket, armed, on_timer = nil, huge, nil
  local function arm(due)
    if due >= armed then return end
    if ticket then turn.forget(ticket) end
    armed, ticket = due, C.mx_wait_new(turn.waits, max(0, due - C.mx_now()))
    turn.notify(ticket, on_timer)
  end
  local function pump()
    local soonest, now = huge, C.mx_now()
    for i = 1, #producers do
      local p = producers[i]
      local state = p.state
      if state == "more" or state == "waits" and p.due <= now then state = advance(p, run, start, stop) end
      if state == "more" then soonest = 0
      elseif state == "waits" and p.due < soonest then soonest = p.due end
    end
    if soonest < huge then arm(soonest == 0 and 0 or max(soonest, now + FINE)) end
  end
  local function guarded()
    local ok, e = turn.guard(pump)
    if not ok then run.fail(e) end
  end
  function on_timer()
    ticket, armed = nil, huge
    guarded()
  end
  for _, p in ipairs(producers) do p.due = start end
  return guarded
end

-- How long the oldest message that is due and could not leave yet has waited.
function M.behind(producers, now)
  local most = 0
  for _, p in ipairs(producers) do
    if p.state ~= "over" and p.due < now then most = max(most, now - p.due) end
  end
  return most
end

function M.is_over(producers)
  for _, p in ipairs(producers) do
    if p.state ~= "over" then return false end
  end
  return true
end

-- Nothing more leaves. When the last did that had to.
function M.finish(producers)
  local last, now = 0, C.mx_now()
  for _, p in ipairs(producers) do
    p.state = "over"
    last = max(last, p.stamp and p.stamp.sent or now)
  end
  return last
end

-- How many have not ended.
function M.pending(producers)
  local n = 0
  for _, p in ipairs(producers) do n = n + (p.group.run and p.running or p.pub.seq - p.pub.settled) end
  return n
end

local CHUNKS = 200

-- Arrivals that never left have waited until now: they count in the latencies as if they ended now. How many there are.
function M.count_unsent(p, run, start, now)
  local left = p.group.messages and 0 or p.cursor.left()
  if left == 0 or run.tallies.stop == 1 then return 0 end
  local step = math.ceil(left / CHUNKS)
  for at = 0, left - 1, step do
    local n = math.min(step, left - at)
    p.cursor.skip((n - 1) / 2)
    local due = p.cursor.due(now - start) + start
    p.cursor.skip((n + 1) / 2)
    if due < huge and due >= run.tallies.from then
      for _, which in ipairs { "MX_TALLY_CONFIRM", "MX_TALLY_E2E" } do
        local has = which == "MX_TALLY_E2E" and run.has_consumers or which == "MX_TALLY_CONFIRM" and (p.group.confirm ~= false)
        if has then C.mx_hist_many(C.mx_tally_hist(run.tallies, run.number, C[which]), max(0, now - due), n) end
      end
    end
  end
  return left
end

-- Publishes that failed need not arrive. How many of those did not.
function M.excused(p, run, streams)
  local n, seq = 0, p.pub and C.mx_pub_failure(p.pub, 0) or 0
  while seq > 0 do
    for stream = 0, streams - 1 do
      if C.mx_tally_has(run.tallies, p.global * streams + stream, seq) == 0 then n = n + 1 end
    end
    seq = C.mx_pub_failure(p.pub, seq)
  end
  return n
end

return M
