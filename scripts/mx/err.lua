-- Error objects: what every call returns as its second value when the world fails.
local setmetatable, getmetatable, type, tostring = setmetatable, getmetatable, type, tostring

local M = {}

-- The codes, and whether trying again may help.
local RETRYABLE = {
  timeout = true, backpressure = true, nacked = true, connection = true, memory = true, interrupted = true,
  unroutable = false, channel = false, access = false, config = false, validation = false, serialization = false,
  closed = false, internal = false,
}

local Error = { __name = "mx.error" }

-- Only what a C-made object left out is looked up here.
function Error.__index(e, name)
  if name == "retryable" then return RETRYABLE[rawget(e, "code")] end
end

function Error.__tostring(e)
  local text, op = rawget(e, "message"), rawget(e, "op")
  if not text or text == "" then text = tostring(rawget(e, "code")) end
  if not op or text:sub(1, #op + 1) == op .. ":" then return text end
  return op .. ": " .. text
end

function Error.__concat(a, b)
  return tostring(a) .. tostring(b)
end

-- An error object. Fields: op, retryable (else by the code), cause, reply_code, traceback.
function M.new(code, message, fields)
  local retryable = RETRYABLE[code]
  if retryable == nil then error("mx.err: unknown code '" .. tostring(code) .. "'", 2) end
  local e = {}
  if fields then
    for k, v in pairs(fields) do e[k] = v end
  end
  e.code, e.message = code, message == nil and code or tostring(message)
  if e.retryable == nil then e.retryable = retryable end
  return setmetatable(e, Error)
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

return M
