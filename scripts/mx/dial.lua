-- One round over the addresses of a connection: each is tried once.
local ffi = require "ffi"
local C = ffi.C
local turn, err, check = require "mx.turn", require "mx.err", require "mx.check"
local tls, topology = require "mx.tls", require "mx.topology"

local M = {}

local TLS = { external = "boolean" }
for name, kind in pairs(tls.OPTIONS) do TLS[name] = kind end

function M.failed(code, text, fields)
  local e = err.new(code, text, fields)
  e.op = "connect"
  return e
end

local failed = M.failed

-- The URL's query beats the script.
local function with_query(a, t) return setmetatable(a.tls or {}, { __index = t }) end

local function options_of(conn, a)
  local anchor = {}
  local function span(text)
    anchor[#anchor + 1] = text
    return topology.span(text or "")
  end
  local password = a.password
  if type(password) ~= "cdata" then password = span(password or "") end
  local o = ffi.new("mx_link_options", {
    scheme = span(a.scheme), host = span(a.host), port = span(a.port or ""), user = span(a.user or ""),
    password = password, vhost = span(a.vhost or ""), name = span(conn.name or "mxrun"),
    heartbeat = conn.heartbeat, connect_timeout = conn.connect_timeout, rpc_timeout = conn.rpc_timeout, max_body = conn.max_body,
  })
  if a.scheme == "amqps" then
    o.tls, anchor.tls = tls.struct(with_query(a, conn.tls), a.text)
  end
  return o, anchor
end

-- tls | nil, err
function M.tls(o, addresses)
  local t, encrypted = check.options("mx.connect: tls", o.tls or {}, TLS), 0
  for _, a in ipairs(addresses) do encrypted = encrypted + (a.scheme == "amqps" and 1 or 0) end
  if o.tls and encrypted == 0 then check.fail "mx.connect: tls is for amqps:// URLs, and there is none" end
  for _, a in ipairs(addresses) do
    local wrong = tls.wrong(with_query(a, t))
    if wrong then return nil, failed(wrong.code, wrong.message) end
  end
  return t
end

-- Why the link closed.
function M.reason(address, link)
  local text = link.error ~= nil and ffi.string(link.error) or "the connection failed"
  local name = C.mx_error_name(link.error_code)
  return failed(name ~= nil and ffi.string(name) or "connection", address.text .. ": " .. text,
                { reply_code = link.reply_code ~= 0 and link.reply_code or nil })
end

-- What no amount of waiting mends; and what the broker may come to see differently, but not soon.
local HOPELESS, REFUSED = { config = true, validation = true }, { access = true, config = true, validation = true }

-- link | nil, err
local function dial(conn, address)
  local o, anchor = options_of(conn, address)
  local ticket = C.mx_wait_new(turn.waits, -1)
  local link = C.mx_link_open(turn.runtime, o, ticket)
  if address.scheme == "amqps" then tls.tell() end
  local ok, raised, reply = pcall(turn.await, ticket, "connect")
  if ok and (not reply or reply.code >= 0) then return link, nil, anchor end
  local e = ok and M.reason(address, link)
  if ok and link.error == nil and #reply.text > 0 then e = err.of_reply("connect", reply, address.text) end
  C.mx_link_close(link, 0)
  if not ok then error(raised, 0) end
  return nil, e
end

-- The addresses in the order of one round.
local function shuffled(conn)
  local list = { unpack(conn.addresses) }
  for i = conn.order == "random" and #list or 1, 2, -1 do
    local j = math.random(i)
    list[i], list[j] = list[j], list[i]
  end
  return list
end

-- link, address | nil, err; then whether that goes for every address: hopeless, refused
function M.round(conn)
  local texts, first, hopeless, refused = {}, nil, true, true
  for _, address in ipairs(shuffled(conn)) do
    local link, e = dial(conn, address)
    if link then return link, address end
    hopeless, refused = hopeless and HOPELESS[e.code], refused and REFUSED[e.code]
    if not first or REFUSED[first.code] and not REFUSED[e.code] then first = e end
    texts[#texts + 1] = tostring(e)
  end
  if #texts > 1 then first = failed(first.code, table.concat(texts, "; "), { reply_code = first.reply_code, cause = first }) end
  return nil, first, hopeless, refused
end

return M
