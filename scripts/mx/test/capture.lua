-- The topology that a script declares, as operations and as tables to look at.
local C, band = require "ffi".C, require "bit".band
local check = require "mx.check"

local M = {}

-- file:line of the script that is calling.
function M.where()
  local info = debug.getinfo(check.level(), "Sl")
  return info and ("%s:%d"):format(info.short_src, info.currentline) or "?"
end

function M.topology() return { exchanges = {}, queues = {}, bindings = {}, operations = {}, generated = 0 } end

local function has(flags, bit) return band(flags, bit) ~= 0 end

local function declared(name, request)
  local flags, args = request.flags or 0, request.args or {}
  return {
    name = name, durable = has(flags, C.MX_F_DURABLE), exclusive = has(flags, C.MX_F_EXCLUSIVE),
    auto_delete = has(flags, C.MX_F_AUTO_DELETE), internal = has(flags, C.MX_F_INTERNAL), passive = has(flags, C.MX_F_PASSIVE),
    args = args, line = M.where(),
  }
end

local RECORD = {}

function RECORD.queue(t, r)
  local q = declared(r.name, r)
  if r.name == "" then
    t.generated = t.generated + 1
    q.name, q.generated = "mx.gen-" .. t.generated, true
  end
  q.type = q.args["x-queue-type"] or "classic"
  if not (q.passive and t.queues[q.name]) then t.queues[q.name] = q end
  return { text = q.name, messages = 0, consumers = 0 }
end

function RECORD.exchange(t, r)
  local x = declared(r.name, r)
  x.type = r.source
  if not (x.passive and t.exchanges[r.name]) then t.exchanges[r.name] = x end
end

local function binding(kind)
  return function(t, r)
    t.bindings[#t.bindings + 1] = { [kind] = r.name, from = r.source, key = r.key or "", args = r.args or {}, line = M.where() }
  end
end
RECORD.bind, RECORD.bind_exchange = binding "queue", binding "exchange"

function RECORD.unbind(t, r)
  for i = #t.bindings, 1, -1 do
    local b = t.bindings[i]
    if b.queue == r.name and b.from == r.source and b.key == (r.key or "") then table.remove(t.bindings, i) end
  end
end
function RECORD.delete_queue(t, r) t.queues[r.name] = nil end
function RECORD.delete_exchange(t, r) t.exchanges[r.name] = nil end

-- The reply to an operation of mx/topology.lua.
function M.operation(t, op, request)
  local copy = { op = op }
  for k, v in pairs(request) do copy[k] = v end
  t.operations[#t.operations + 1] = copy
  local record = RECORD[op]
  local reply = record and record(t, request) or { messages = 0, consumers = 0, text = "" }
  return reply
end

return M
