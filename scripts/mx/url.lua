-- Broker URLs: amqp://user:password@host:port/vhost, mem://NAME. Read here, since librabbitmq's reader takes %00,
-- refuses UTF-8 passwords and every query (spec/lua/url_spec.lua).
local err = require "mx.err"

local M = {}
local PORTS = { amqp = "5672", amqps = "5671" }

local function bad(url, why)
  return nil, err.new("config", ("URL %s: %s"):format(M.hide(url), why), { op = "connect" })
end

-- The URL without its password, for people to read.
function M.hide(url)
  return (tostring(url):gsub("^(%w+://[^:/@]*):.*@", "%1:***@"))
end

local function decode(text)
  if text:find("%%00") then return nil, "%00 is not allowed" end
  if text:gsub("%%%x%x", ""):find("%", 1, true) then return nil, "a % must be followed by two hex digits" end
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function host_port(text, scheme)
  local host, port = text:match("^%[([%x:.]+)%]:?(%d*)$")
  if not host then host, port = text:match("^([^:%[%]]*):?(%d*)$") end
  if not host then return nil, "expected host, host:port or [IPv6]:port" end
  if port == "" then port = PORTS[scheme] end
  if tonumber(port) < 1 or tonumber(port) > 65535 then return nil, "the port must be 1 to 65535" end
  return host ~= "" and host or "localhost", port
end

-- { scheme, host, port, user, password, vhost, text = without the password } | nil, err
function M.parse(url)
  local scheme, rest = tostring(url):match("^(%w+)://(.*)$")
  if scheme == "mem" then return { scheme = "mem", host = rest, text = url } end
  if scheme == "amqps" then return bad(url, "TLS is not available in this version; use amqp://") end
  if scheme ~= "amqp" then return bad(url, "expected amqp://user:password@host:port/vhost or mem://NAME") end
  local path, query = rest:match("^([^?]*)%?(.*)$")
  if query and query ~= "" then return bad(url, "unknown query key '" .. query:match("^[^=&]*") .. "'") end
  local authority, vhost = (path or rest):match("^([^/]*)/?(.*)$")
  local login, address = authority:match("^(.*)@([^@]*)$")
  local user, password = (login or "guest:guest"):match("^([^:]*):?(.*)$")
  local out = { scheme = scheme }
  for name, text in pairs { user = user, password = password, vhost = vhost } do
    local value, why = decode(text)
    if not value then return bad(url, why) end
    out[name] = value
  end
  local host, port = host_port(address or authority, scheme)
  if not host then return bad(url, port) end
  out.host, out.port = host, port
  if out.vhost == "" then out.vhost = "/" end
  out.text = ("amqp://%s:***@%s:%s/%s"):format(out.user, host, port, vhost)
  return out
end

return M
