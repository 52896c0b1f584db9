-- Error objects: what every call returns as its second value when the world fails.
local ffi = require "ffi"
local C = ffi.C
local setmetatable, getmetatable, type, tostring, rawget = setmetatable, getmetatable, type, tostring, rawget

local M = { number = {}, codes = {} }   -- number: by code, what C calls it; codes: those that a script meets

-- The codes, and whether trying again may help: C's.
local RETRYABLE = {}
local last = -1
while C.mx_error_name(last) ~= nil do
  local code = ffi.string(C.mx_error_name(last))
  M.number[code], RETRYABLE[code] = last, C.mx_error_retryable(last) ~= 0
  M.codes[#M.codes + 1] = code ~= "again" and code or nil
  last = last - 1
end

local Error = { __name = "mx.error" }

-- Only what a C-made object left out is looked up here.
function Error.__index(e, name)
  if name == "retryable" then return RETRYABLE[rawget(e, "code")] end
end

function Error.__tostring(e)
  local text = rawget(e, "message")
  return text and text ~= "" and text or tostring(rawget(e, "code"))
end

function Error.__concat(a, b)
  return tostring(a) .. tostring(b)
end

-- An error object. The message says all there is to read. Fields: op, what was tried ("publish"); retryable (else by the
-- code), cause, reply_code, traceback.
function M.new(code, message, fields)
  local retryable = RETRYABLE[code]
  if retryable == nil then
    local hint = require "mx.check".nearest(tostring(code), M.codes)
    error(("mx.error: unknown code '%s'%s"):format(tostring(code), hint), 2)
  end
  local e = {}
  if fields then
    for k, v in pairs(fields) do e[k] = v end
  end
  e.code, e.message = code, message == nil and code or tostring(message)
  if e.retryable == nil then e.retryable = retryable end
  return setmetatable(e, Error)
end

-- The error of a number that C answered; text: why.
function M.of_code(number, op, text)
  local code = C.mx_error_name(number)
  return M.new(code ~= nil and ffi.string(code) or "internal", text, { op = op })
end

-- The error of a reply that says no; what: how its text begins, the operation unless given.
function M.of_reply(op, reply, what)
  local text = #reply.text > 0 and reply.text or ffi.string(C.mx_error_text(reply.code))
  local e = M.of_code(reply.code, op, (what or op) .. ": " .. text)
  if reply.reply_code ~= 0 then e.reply_code = reply.reply_code end
  return e
end

function M.is(x)
  return type(x) == "table" and getmetatable(x) == Error
end

-- error() with the level counted from the function that calls raise.
function M.raise(level, text)
  error(text, level == 0 and 0 or level + 1)
end

-- The text of any raised value; never raises itself.
function M.tostring(x)
  if type(x) == "string" then return x end
  local ok, text = pcall(tostring, x)
  if not ok or type(text) ~= "string" then return "(an error object whose __tostring fails)" end
  local mt = type(x) == "table" and getmetatable(x)
  if type(x) == "table" and not (type(mt) == "table" and rawget(mt, "__tostring")) then
    return "(error object is a table value)"
  end
  return text
end

-- The text of what came of a protected call (turn.on_error made it), and its traceback or nil; never raises itself.
function M.explain(e)
  if M.is(e) then return M.tostring(e), rawget(e, "traceback") end
  local trace = type(e) == "table" and rawget(e, "traceback")
  if trace then return M.tostring(rawget(e, "raised")), trace end
  return M.tostring(e)
end

-- The same as an error object, for whoever is told of it. op: what was being done.
function M.wrap(e, op)
  if M.is(e) then return e end
  local text, trace = M.explain(e)
  local raised = trace and rawget(e, "raised")
  if not trace then raised = e end
  return M.new("internal", text, { op = op, cause = raised, traceback = trace })
end

return M
