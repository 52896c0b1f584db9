-- What a handler holds: a delivery in a slot of its inbox, read on demand.
--
-- A msg is the slot, the delivery's position in the inbox (slots are reused) and the number of its subscription (an
-- inbox is freed). It is valid until the delivery is settled, unless the script keeps it. One that the script settled by
-- hand points at no slot any more: a second time is a mistake, which is not what it is when the runtime was first.
local ffi = require "ffi"
local C, band = ffi.C, require "bit".band
local turn, err, check = require "mx.turn", require "mx.err", require "mx.check"
local json, fieldtable = require "mx.json", require "mx.fieldtable"
local error, tostring, tonumber, setmetatable = error, tostring, tonumber, setmetatable

local subs = {}                                         -- by number: subscriptions whose inbox is there
local kept = setmetatable({}, { __mode = "k" })         -- by msg: { m = its own copy, queue, tag, conn }
local spent                                             -- the slot of every msg that was settled by hand
local numbers, UNSETTLED = 0, C.MX_UNSETTLED
local M = { subs = subs, getters = {}, methods = {} }
local getters, methods = M.getters, M.methods

function M.number()
  numbers = numbers + 1
  return numbers
end

-- How often a delivery was run again without a trip through a delay queue: in place, or given back.
function M.tries(sub, m)
  if not sub then return 0 end
  return sub.stream and sub.again[m.seq] or sub.tries and sub.tries[getters.id(m)] or 0
end

-- Properties ------------------------------------------------------------------------------------------------------

local scratch
local function props_of(m)
  scratch = scratch or ffi.new "mx_props"
  if C.mx_props_decode(m.props, m.props_size, scratch) ~= 0 then error("msg: broken properties", 0) end
  return scratch
end

local function text_field(name, bit)
  return function(m)
    local p = props_of(m)
    if band(p.flags, bit) == 0 then return nil end
    return ffi.string(p[name].p, p[name].n)
  end
end

local function number_field(name, bit)
  return function(m)
    local p = props_of(m)
    if band(p.flags, bit) == 0 then return nil end
    local v = p[name]
    return v <= 9007199254740992ULL and tonumber(v) or v
  end
end

-- Seconds; the text itself if some client sent no number.
local expiration_text = text_field("expiration", C.MX_P_EXPIRATION)
M.expiration_text = expiration_text
local function expiration_of(m)
  local text = expiration_text(m)
  return text and (text:find "^%d+$" and tonumber(text) / 1000 or text)
end

-- The headers | nil, err
local function read_headers(m)
  local p = props_of(m)
  if band(p.flags, C.MX_P_HEADERS) == 0 then return {} end
  return fieldtable.decode(p.headers.p, p.headers.n)
end
M.read_headers = read_headers

local function headers_of(m)
  local headers, e = read_headers(m)
  if not headers then error(e, 0) end
  return headers
end

-- A count that somebody else may have written: anything.
local function count_of(header)
  local n = tonumber(header)
  return n and n >= 0 and math.floor(n) or 0
end

-- How often the message was retried; nil when its headers cannot be read.
function M.retries_of(m)
  local headers = read_headers(m)
  return headers and count_of(headers["x-mx-retries"])
end

local content_type = text_field("content_type", C.MX_P_CONTENT_TYPE)

local function data_of(m)
  local kind = content_type(m)
  local body = ffi.string(m.body, m.size)
  if kind ~= "application/json" and not (kind and kind:find "^application/json%s*;") then
    if kind then return body end
    local first = body:match "^%s*(.)"
    if first ~= "{" and first ~= "[" then return body end
  end
  local value, e = json.decode(body)
  if e then error(e, 0) end
  return value
end

-- Fields ------------------------------------------------------------------------------------------------------------

-- What is decoded once a delivery: remembered by the task that serves it.
local function remembered(name, f)
  return function(m, self)
    local d = turn.current
    local memo = d and d.memo
    if not memo or memo.seq ~= self.seq or memo.sub ~= self.sub then
      memo = { seq = self.seq, sub = self.sub }
      if d and d.seq == self.seq and d.number == self.sub then d.memo = memo end
    end
    if memo[name] == nil then memo[name] = f(m) end
    return memo[name]
  end
end

local readable = remembered("headers", function(m) return read_headers(m) or false end)

local function of_subscription(field)
  return function(_, self) return (subs[self.sub] or kept[self])[field] end
end

for name, f in pairs {
  size = function(m) return tonumber(m.size) end,
  body = function(m) return ffi.string(m.body, m.size) end,
  key = function(m) return ffi.string(m.key, m.key_size) end,
  exchange = function(m) return ffi.string(m.exchange, m.exchange_size) end,
  redelivered = function(m) return m.redelivered ~= 0 end,
  delivery_tag = function(m) return tonumber(m.tag) end,
  data = remembered("data", data_of),
  headers = function(m, self) return readable(m, self) or headers_of(m) end,
  id = text_field("message_id", C.MX_P_MESSAGE_ID),
  correlation_id = text_field("correlation_id", C.MX_P_CORRELATION_ID),
  reply_to = text_field("reply_to", C.MX_P_REPLY_TO),
  content_type = content_type,
  content_encoding = text_field("content_encoding", C.MX_P_CONTENT_ENCODING),
  type = text_field("type", C.MX_P_TYPE),
  app_id = text_field("app_id", C.MX_P_APP_ID),
  user_id = text_field("user_id", C.MX_P_USER_ID),
  priority = number_field("priority", C.MX_P_PRIORITY),
  timestamp = number_field("timestamp", C.MX_P_TIMESTAMP),
  expiration = expiration_of,
  persistent = function(m)
    local p = props_of(m)
    return band(p.flags, C.MX_P_DELIVERY_MODE) ~= 0 and p.delivery_mode == 2
  end,
  attempt = function(m, self)
    local headers = readable(m, self)
    return (headers and count_of(headers["x-mx-retries"]) or 0) + M.tries(subs[self.sub], m) + 1
  end,
  queue = of_subscription "queue",
  consumer_tag = of_subscription "tag",
} do
  getters[name] = f
end

function getters.age(m)
  local at = getters.timestamp(m)
  return at and math.max(0, os.time() - tonumber(at))
end

-- A retried delivery comes back over a delay queue: the handler sees where it was published first.
local function original(name)
  local plain = getters[name]
  getters[name] = function(m, self)
    if m.exchange_size == 0 and m.props_size > 2 then
      local headers = readable(m, self)
      local was = headers and headers["x-mx-origin-" .. name]
      if type(was) == "string" then return was end
    end
    return plain(m)
  end
end
original "exchange"
original "key"

-- Methods -----------------------------------------------------------------------------------------------------------

function methods.json(self)
  local value, e = json.decode(self.body)
  if e then return nil, e end
  return value
end

-- The msg outlives its delivery: it can be read after it was settled, and after its handler. Returns it.
function methods.keep(self)
  if kept[self] then return self end
  local copy, sub = ffi.new "mx_msg", subs[self.sub]
  C.mx_msg_keep(self.m, copy)
  kept[self] = { m = ffi.gc(copy, C.mx_msg_drop), queue = sub.queue, tag = sub.tag, conn = sub.conn }
  return self
end

-- The connection that a msg came over.
function M.conn_of(self) return (subs[self.sub] or kept[self]).conn end

local function is_open(sub, self) return sub and self.m.seq == self.seq and self.m.verdict == UNSETTLED and not sub.asides[self.seq] end

-- A method that settles: f(sub, seq, ...). true | nil, err when the runtime did: its time limit, a stop, a lost connection
function M.settling(name, f)
  methods[name] = function(self, ...)
    local sub = subs[self.sub]
    if self.m == spent then check.fail("msg:" .. name .. ": already settled by this script") end
    if sub and not sub.manual then check.fail("msg:" .. name .. ": the consumer was not made with manual = true") end
    if not is_open(sub, self) then return nil, err.new("closed", "msg:" .. name .. ": already settled") end
    f(sub, self.seq, ...)
    self.m = spent
    return true
  end
  M.always[name] = methods[name]
end
M.always = {}                                           -- methods that answer on a settled msg too

function M.setup()
  spent = ffi.new "mx_msg[1]"
  spent[0].verdict = C.MX_ACK
  M.Ref = ffi.metatype(ffi.typeof "struct { mx_msg *m; uint32_t seq, sub; }", {
    __index = function(self, name)
      local m = self.m
      if not subs[self.sub] or m.seq ~= self.seq or m.verdict ~= UNSETTLED then
        local own = kept[self]
        if not own then
          if M.always[name] then return M.always[name] end
          error("msg." .. tostring(name) .. ": already settled", 2)
        end
        m = own.m
      end
      local get = getters[name]
      if get then return get(m, self) end
      local method = methods[name]
      if method then return method end
      error("msg has no field '" .. tostring(name) .. "'", 2)
    end,
    __newindex = function(_, name)
      error(("msg.%s cannot be set: messages are read-only"):format(tostring(name)), 2)
    end,
    __tostring = function(self)
      local of = subs[self.sub] or kept[self]
      return "msg " .. self.seq .. (of and " of " .. of.queue or ", already settled")
    end,
  })
end

return M
