-- What a connection has declared and bound, as the broker confirmed it, to be said again after it was lost.
local ffi = require "ffi"
local C, band = ffi.C, require "bit".band

local M = {}

local function has(r, flag) return band(r.flags or 0, flag) ~= 0 end

local function key_of(op, r) return table.concat({ op, r.name, r.source or "", r.key or "" }, "\0") end

-- Of the records, those that f says yes to go.
local function drop(list, f)
  for i = #list, 1, -1 do
    if f(list[i].op, list[i].request) then table.remove(list, i) end
  end
end

local function same_args(a, b)
  for k, v in pairs(a or {}) do
    if (b or {})[k] ~= v then return false end
  end
  for k in pairs(b or {}) do
    if (a or {})[k] == nil then return false end
  end
  return true
end

-- A queue that is gone takes its bindings along.
function M.forget_queue(list, name)
  drop(list, function(op, r) return r.name == name and (op == "queue" or op == "bind") end)
end

-- An auto-delete queue goes with its last consumer.
function M.unused(list, name)
  for _, x in ipairs(list) do
    if x.op == "queue" and x.request.name == name and has(x.request, C.MX_F_AUTO_DELETE) then return M.forget_queue(list, name) end
  end
end

local function forget_exchange(list, name)
  drop(list, function(op, r)
    if op == "exchange" or op == "bind_exchange" then return r.name == name or op == "bind_exchange" and r.source == name end
    return op == "bind" and r.source == name
  end)
end

local function put(list, op, request, what)
  local key = key_of(op, request)
  local bound = op ~= "queue" and op ~= "exchange"
  for _, x in ipairs(list) do
    if x.key == key and (not bound or same_args(x.request.args, request.args)) then
      x.request = request
      return
    end
  end
  list[#list + 1] = { key = key, op = op, request = request, what = what }
end

-- After the broker said yes.
function M.note(list, op, request, what)
  if op == "queue" or op == "exchange" then
    if not has(request, C.MX_F_PASSIVE) then put(list, op, request, what) end
  elseif op == "bind" or op == "bind_exchange" then put(list, op, request, what)
  elseif op == "unbind" then
    drop(list, function(o, r)
      return o == "bind" and key_of(o, r) == key_of(o, request) and same_args(r.args, request.args)
    end)
  elseif op == "delete_queue" then M.forget_queue(list, request.name)
  elseif op == "delete_exchange" then forget_exchange(list, request.name) end
end

return M
