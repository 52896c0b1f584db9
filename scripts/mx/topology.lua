-- Exchanges, queues and bindings; dead-letter queues and the delay queues of retries.
local ffi = require "ffi"
local C = ffi.C
local turn, err, check, fieldtable = require "mx.turn", require "mx.err", require "mx.check", require "mx.fieldtable"
local log, record, wait, event = require "mx.log", require "mx.record", require "mx.wait", require "mx.event"
local generation = require "mx.generation"
local type, pairs, ipairs, tohex = type, pairs, ipairs, require "bit".tohex

local M = {}

function M.span(s) return { p = ffi.cast("const uint8_t *", s), n = #s } end
local span = M.span

local OP = {
  queue = C.MX_DECLARE_QUEUE, exchange = C.MX_DECLARE_EXCHANGE, bind = C.MX_BIND, unbind = C.MX_UNBIND,
  bind_exchange = C.MX_BIND_EXCHANGE, purge = C.MX_PURGE, delete_queue = C.MX_DELETE_QUEUE, delete_exchange = C.MX_DELETE_EXCHANGE,
}

local function flags_of(passive, durable, exclusive, auto_delete, internal)
  return (passive and C.MX_F_PASSIVE or 0) + (durable and C.MX_F_DURABLE or 0) + (exclusive and C.MX_F_EXCLUSIVE or 0)
       + (auto_delete and C.MX_F_AUTO_DELETE or 0) + (internal and C.MX_F_INTERNAL or 0)
end

-- What a 406 means: what is there, and what was asked for; also as e.differs = { argument, there, asked }.
local function explain(e, what)
  local arg, got, current = e.message:match "inequivalent arg '(.-)' for .- in vhost '.-': received (.+) but current is (.+)$"
  if not arg then return e end
  local function value(s) return s:match "^the value '(.*)' of type" or s:match "^'(.*)'$" or s end
  local said = e.message:sub(#what + 3)
  e.differs = { argument = arg, there = value(current), asked = value(got) }
  e.message = ("%s exists with %s=%s, script says %s (%s)"):format(what, arg, e.differs.there, e.differs.asked, said)
  return e
end

-- One operation on a link. reply | nil, err
local function ask(link, op, request, bytes, what)
  local source, key = request.source or "", request.key or ""
  local c = ffi.new("mx_call", { op = OP[op], flags = request.flags or 0, name = span(request.name), source = span(source),
                                 key = span(key), args = span(bytes) })
  local ticket = C.mx_wait_new(turn.waits, -1)
  local code = C.mx_link_call(link, c, ticket)
  if code < 0 then
    C.mx_wait_drop(turn.waits, ticket)
    return nil, err.of_code(code, "declare", what .. ": " .. ffi.string(C.mx_refusal()))
  end
  local _, reply = turn.await(ticket, "topology")
  if reply and reply.code < 0 then return nil, explain(err.of_reply("declare", reply, what), what) end
  return reply or {}
end

-- Its arguments as a field table.
local function encoded(request)
  if not request.args or not next(request.args) then return "" end
  return fieldtable.encode(request.args, "args")
end

-- One operation on the broker; all of them may be done twice, so one that was under way when the connection went is done
-- again on the next. reply | nil, err
local function call(conn, op, request, what)
  local bytes, wrong, misuse = encoded(request)
  if misuse then check.fail(what .. ": " .. wrong) end
  if not bytes then return nil, wrong end
  if op == "queue" then conn.deleted[request.name] = nil end
  while true do
    local link, why = conn:control(request.name)
    if not link then return nil, why end
    if conn.capture then return conn.capture(op, request) end         -- a script under test: mx/test/harness.lua
    if op == "delete_queue" then conn.deleted[request.name] = true end    -- its consumers may hear of it first
    local reply, e = ask(link, op, request, bytes, what)
    if reply then
      record.note(conn.records, op, request, what)
      return reply
    end
    if op == "delete_queue" then conn.deleted[request.name] = nil end
    if e.code ~= "connection" or link.state == C.MX_OPEN then return nil, e end
  end
end
M.call = call

-- RabbitMQ holds an exclusive queue for the connection that was, until it notices that that one is dead.
local LOCKED = { 0.5, 1, 2, 4, 8 }

local function again(link, x)
  local bytes = encoded(x.request)
  for i = 1, #LOCKED + 1 do
    local reply, e = ask(link, x.op, x.request, bytes, x.what)
    if reply or e.reply_code ~= 405 or i > #LOCKED then return reply, e end
    wait.sleep(LOCKED[i])
  end
end

-- Says everything again that the connection had declared, on a new link; exclusive: also what lives on that one; queue: only
-- what belongs to that queue. What the broker does not want any more is told of, and the rest goes on. nil: the link was
-- lost meanwhile.
function M.replay(conn, link, exclusive, queue)
  for _, x in ipairs { unpack(conn.records) } do
    if (exclusive or not conn.exclusive[x.request.name]) and (not queue or x.request.name == queue) then
      local reply, e = again(link, x)
      if not reply and link.state ~= C.MX_OPEN then return nil end
      if not reply then
        log.error("what was declared cannot be declared again", { error = tostring(e) })
        event.emit("error", e)
      end
    end
  end
  return true
end

-- The queue's declaration and bindings again, where the script made them.
function M.redeclare_queue(conn, name)
  local link = conn:control(name)
  return link and M.replay(conn, link, true, name)
end

-- Queues ----------------------------------------------------------------------------------------------------------

local QUEUE = {
  type = { "classic", "quorum", "stream" }, durable = "boolean", auto_delete = "boolean", exclusive = "boolean", ttl = "seconds",
  expires = "seconds", max_length = "integer>=0", max_bytes = "bytes",
  overflow = { "drop-head", "reject-publish", "reject-publish-dlx" }, delivery_limit = "integer>=0",
  max_priority = "integer 1..255", single_active_consumer = "boolean", dlq = "table|string|boolean", bind = "table", args = "table",
  passive = "boolean",
}
M.QUEUE = QUEUE
local DLQ = { exchange = "string", key = "string", wire = "boolean" }

local function milliseconds(seconds) return seconds and math.floor(seconds * 1000 + 0.5) end

local function arguments(o)
  local args = {}
  for k, v in pairs(o.args or {}) do args[k] = v end
  for name, value in pairs {
    ["x-queue-type"] = o.type, ["x-message-ttl"] = milliseconds(o.ttl), ["x-expires"] = milliseconds(o.expires),
    ["x-max-length"] = o.max_length,
    ["x-max-length-bytes"] = o.max_bytes, ["x-overflow"] = o.overflow, ["x-delivery-limit"] = o.delivery_limit,
    ["x-max-priority"] = o.max_priority, ["x-single-active-consumer"] = o.single_active_consumer,
  } do
    args[name] = value
  end
  return args
end

-- Where rejected messages of the queue go: { exchange, key, queue }.
local function dead_letters(name, dlq)
  if dlq == true then return { exchange = "", key = name .. ".dlq", queue = name .. ".dlq", wire = true } end
  if type(dlq) == "string" then return { exchange = "", key = dlq, queue = dlq, wire = true } end
  local o = check.options("mx.queue: dlq", dlq, DLQ)
  return { exchange = o.exchange or "", key = o.key or name, wire = o.wire ~= false }
end

local function declare(conn, name, o, args)
  local durable, exclusive = o.durable ~= false, o.exclusive
  local flags = flags_of(o.passive, durable, exclusive, o.auto_delete)
  if exclusive then conn.exclusive[name] = true end
  return call(conn, "queue", { name = name, flags = flags, args = args }, ("queue %q"):format(name))
end
M.declare = declare

-- Keeps a queue of which only the dead-letter arguments differ, as an older script may have made it: what mxrun itself
-- rejects goes where this script says.
local function declare_kept(conn, name, o, args)
  local said
  while true do
    local reply, e = declare(conn, name, o, args)
    if reply or e.reply_code ~= 406 then return reply, e end
    local differs = e.differs
    if not differs or not differs.argument:find "^x%-dead%-letter%-" then return nil, e end
    local arg, value = differs.argument, differs.there ~= "none" and differs.there or nil
    if args[arg] == value then return nil, e end
    if not said then log.warn("the queue is kept with the dead-letter arguments that it has", { queue = name, error = tostring(e) }) end
    said, args[arg] = true, value
    if not args["x-dead-letter-exchange"] then args["x-dead-letter-routing-key"] = nil end
  end
end

-- The queue of dead letters. From RabbitMQ 4 on a quorum queue drops what was given back 20 times, and to look is to give back:
-- -1 is no limit there, while 3.x takes it for 0.
local function declare_dead(conn, name, options, kind)
  local link = kind == "quorum" and conn:control(name)
  local args = { ["x-queue-type"] = kind, ["x-delivery-limit"] = link and not conn.capture and link.rabbit >= 4 and -1 or nil }
  local ok, e = declare(conn, name, options, args)
  if ok or not args["x-delivery-limit"] or not e.differs or e.differs.argument ~= "x-delivery-limit" then return ok, e end
  log.warn("the queue of dead letters is kept with the delivery limit that it has", { queue = name, error = tostring(e) })
  args["x-delivery-limit"] = tonumber(e.differs.there)
  return declare(conn, name, options, args)
end

-- Consumers of a connection, by queue: what is known of a deleted queue goes with the last of them.
local function forget(conn, name)
  local users, delays = conn.users or {}, name .. ".retry."
  if users[name] or not conn.deleted[name] then return end
  conn.queues[name], conn.exclusive[name], conn.deleted[name], conn.declared[name] = nil, nil, nil, nil
  for declared in pairs(conn.declared) do
    if declared:sub(1, #delays) == delays then conn.declared[declared] = nil end
  end
end

function M.use(conn, name)
  conn.users = conn.users or {}
  conn.users[name] = (conn.users[name] or 0) + 1
end

function M.leave(conn, name)
  conn.users[name] = conn.users[name] > 1 and conn.users[name] - 1 or nil
  if not conn.users[name] then record.unused(conn.records, name) end
  forget(conn, name)
end

local function binding(op, what)
  return function(conn, target, source, key, args)
    local ok, e = call(conn, op, { name = target, source = source, key = key or "", args = args },
                       ("%s %q to %q"):format(what, target, source))
    if not ok then return nil, e end
    return true
  end
end
local bind = binding("bind", "bind")

local function is_binding(exchange, key, args)
  return type(exchange) == "string" and type(key or "") == "string" and type(args or {}) == "table"
end

local function check_bind(list)
  for i, b in ipairs(list) do
    if type(b) ~= "table" or not is_binding(b[1], b[2], b[3]) then
      check.fail(("mx.queue: option 'bind': expected { exchange, key, args } at [%d]"):format(i))
    end
  end
end

-- A name that nobody else has. RabbitMQ's own (amq.gen-...) are new ones on each connection; this one stays.
local function own_name()
  return "mx.gen-" .. tohex(C.mx_random()) .. tohex(C.mx_random())
end

local function queue_options(options)
  local o = check.options("mx.queue", options or {}, QUEUE)
  check_bind(o.bind or {})
  return o
end

-- name | nil, err
function M.queue(conn, name, options)
  local o = queue_options(options)
  if name == "" then
    name = own_name()
    if o.durable == nil then o.durable = false end
    if o.exclusive == nil then o.exclusive = true end
  end
  local args = arguments(o)
  if o.dlq then
    local target = dead_letters(name, o.dlq)
    local kind = args["x-queue-type"]
    if kind == "stream" then target.wire, kind = false, nil end     -- it rejects nothing: mxrun copies, to a plain queue
    if target.queue then
      local ok, e = declare_dead(conn, target.queue, { durable = o.durable }, kind)
      if not ok then return nil, e end
    end
    if target.wire then
      args["x-dead-letter-exchange"] = args["x-dead-letter-exchange"] or target.exchange
      args["x-dead-letter-routing-key"] = args["x-dead-letter-routing-key"] or target.key
    end
    target.options, target.type = { durable = o.durable }, kind
    conn.dead_letters[name] = target
  end
  local reply, e = declare_kept(conn, name, o, args)
  if not reply then return nil, e end
  conn.queues[name] = args["x-queue-type"] or "classic"
  for _, b in ipairs(o.bind or {}) do
    local ok, why = bind(conn, name, b[1], b[2], b[3])
    if not ok then return nil, why end
  end
  return name
end

-- What scripts call. A name that they did not choose tells the next generation nothing.
function M.script_queue(conn, name, options)
  local made, e = M.queue(conn, name, options)
  if not made then return nil, e end
  if name == "" then table.insert(conn.unnamed, { name = made, generation = generation.mine() }) end
  return made
end

-- Deletes those of a generation that is over which nobody consumes.
function M.drop_unnamed(conn, g)
  for _, q in ipairs(generation.of(conn.unnamed, g)) do
    if not (conn.users and conn.users[q.name]) then M.delete_queue(conn, q.name) end
  end
  generation.drop(conn.unnamed, g)
end

-- Declares the queue of dead letters again after it went missing; an exchange of somebody else's is left alone.
-- true | nil, err
function M.redeclare(conn, target)
  if not target.queue then
    return nil, err.new("config", ("no queue is bound to exchange %q with key %q, where dead letters go"):format(target.exchange,
      target.key))
  end
  local ok, e = declare_dead(conn, target.queue, target.options, target.type)
  return ok and true, e
end

-- Exchanges and bindings --------------------------------------------------------------------------------------------

local TYPES = { direct = true, fanout = true, topic = true, headers = true }
local EXCHANGE = { type = "string", durable = "boolean", auto_delete = "boolean", internal = "boolean", alternate = "string",
                   args = "table", passive = "boolean" }
M.EXCHANGE = EXCHANGE

local function exchange_options(options)
  if type(options) == "string" then options = { type = options } end
  local o = check.options("mx.exchange", options or {}, EXCHANGE)
  local kind = o.type or "direct"
  -- RabbitMQ ends the whole connection over a type that it does not know; plugins call theirs x-...
  if not TYPES[kind] and not kind:find "^x%-" and not o.passive then
    check.fail(("mx.exchange: unknown type '%s'%s"):format(kind, check.nearest(kind, TYPES)))
  end
  return o, kind
end

function M.exchange(conn, name, options)
  local o, kind = exchange_options(options)
  local flags = flags_of(o.passive, o.durable ~= false, false, o.auto_delete, o.internal)
  local args = { ["alternate-exchange"] = o.alternate }
  for k, v in pairs(o.args or {}) do args[k] = v end
  local ok, e = call(conn, "exchange", { name = name, source = kind, flags = flags, args = args },
                     ("exchange %q"):format(name))
  if not ok then return nil, e end
  return name
end

M.bind = bind
M.unbind = binding("unbind", "unbind")
M.bind_exchange = binding("bind_exchange", "bind")

local function simple(op, what, result)
  return function(conn, name)
    local reply, e = call(conn, op, { name = name }, ("%s %q"):format(what, name))
    if not reply then return nil, e end
    return result(reply, conn, name)
  end
end
local function yes() return true end
M.purge = simple("purge", "purge", function(reply) return reply.messages or 0 end)
M.delete_queue = simple("delete_queue", "delete queue", function(_, conn, name)
  forget(conn, name)
  return true
end)
M.delete_exchange = simple("delete_exchange", "delete exchange", yes)

-- { messages =, consumers = } | nil, err
function M.queue_info(conn, name)
  local reply, e = call(conn, "queue", { name = name, flags = C.MX_F_PASSIVE }, ("queue %q"):format(name))
  if not reply then return nil, e end
  return { messages = reply.messages, consumers = reply.consumers }
end

local TOPOLOGY = { exchanges = "table", queues = "table", bindings = "table" }

local function check_names(what, t, example, of_strings)
  for name, options in pairs(t or {}) do
    if type(name) ~= "string" then
      check.fail(("mx.topology: %s are given by name: %s = { %s }"):format(what, what, example:format(tostring(options))))
    end
    if type(options) ~= "table" and not (of_strings and type(options) == "string") then
      check.fail(("mx.topology: %s.%s: expected a table of options, got %s"):format(what, name, tostring(options)))
    end
  end
end

local function check_bindings(list)
  for i, b in ipairs(list or {}) do
    if type(b) ~= "table" or type(b[1]) ~= "string" or not is_binding(b[2], b[3], b[4]) then
      check.fail(("mx.topology: bindings: expected { queue, exchange, key, args } at [%d]"):format(i))
    end
  end
end

-- Raises what is wrong with a topology; no broker is asked.
function M.check(t)
  local o = check.options("mx.topology", t, TOPOLOGY)
  check_names("exchanges", o.exchanges, '%s = "topic"', true)
  check_names("queues", o.queues, "%s = {}")
  check_bindings(o.bindings)
  for _, options in pairs(o.exchanges or {}) do exchange_options(options) end
  for _, options in pairs(o.queues or {}) do queue_options(options) end
  return o
end

-- true | nil, err
function M.topology(conn, t)
  local o = M.check(t)
  for name, options in pairs(o.exchanges or {}) do
    local ok, e = M.exchange(conn, name, options)
    if not ok then return nil, e end
  end
  for name, options in pairs(o.queues or {}) do
    local ok, e = M.queue(conn, name, options)
    if not ok then return nil, e end
  end
  for _, b in ipairs(o.bindings or {}) do
    local ok, e = M.bind(conn, b[1], b[2], b[3], b[4])
    if not ok then return nil, e end
  end
  return true
end

return M
