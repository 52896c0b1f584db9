-- Broker URLs: amqp://user:password@host:port/vhost, mem://NAME. Read here, since librabbitmq's reader takes %00,
-- refuses UTF-8 passwords and every query (spec/lua/url_spec.lua).
local ffi = require "ffi"
local err = require "mx.err"

local M = {}
local PORTS = { amqp = "5672", amqps = "5671" }

-- The URL without its password, for people to read. What may be one is hidden too: of a URL that is cut short or mistyped.
function M.hide(url)
  local scheme, rest = tostring(url):gsub("[%z\1-\32\127]", "?"):match "^(%a[%w+.-]*:/+)(.*)$"
  if not scheme then scheme, rest = "", tostring(url):gsub("[%z\1-\32\127]", "?") end
  local hidden, n = rest:gsub("^([^:]*):.*@", "%1:***@")
  if n == 0 and not rest:find "^%[" and not rest:find "^[^:]*:%d*$" and not rest:find "^[^:]*:%d*[/?]" then
    hidden = rest:gsub("^([^:/?]*):.*$", "%1:***")
  end
  return scheme .. hidden
end

local function bad(url, why)
  return nil, err.new("config", ("URL %s: %s"):format(M.hide(url), why), { op = "connect" })
end

-- text | nil, why
local function decode(text)
  if text:find("%%00") then return nil, "%00 is not allowed" end
  if text:gsub("%%%x%x", ""):find("%", 1, true) then return nil, "a % must be followed by two hex digits" end
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

-- host, port | nil, why
local function host_port(text, scheme)
  local host, port = text:match "^%[([%x:.]*:[%x:.]*)%](.*)$"
  if not host then host, port = text:match "^([%w._\128-\255-]*)(.*)$" end
  if port ~= "" and not port:find "^:%d*$" then return nil, "expected host, host:port or [IPv6]:port" end
  port = tonumber(#port > 1 and port:sub(2) or PORTS[scheme])
  if port < 1 or port > 65535 then return nil, "the port must be 1 to 65535" end
  return host ~= "" and host or "localhost", ("%d"):format(port)
end

-- Query keys as in RabbitMQ's own URIs, and the fields of mx.connect's tls that they are.
local QUERY = { cacertfile = "ca", certfile = "cert", keyfile = "key", server_name_indication = "server_name",
                auth_mechanism = "external" }

-- The fields of tls, nil when there is no query | nil, why
local function tls_of(query, scheme)
  if not query or query == "" then return nil end
  local tls = {}
  for pair in query:gmatch "[^&]+" do
    local key, text = pair:match "^([^=]*)=?(.*)$"
    local value, why = decode(text)
    if not QUERY[key] then return nil, "unknown query key '" .. key .. "'" .. require "mx.check".nearest(key, QUERY) end
    if scheme ~= "amqps" then return nil, key .. " is for amqps://" end
    if not value or value == "" then return nil, why or key .. " is empty" end
    if key == "auth_mechanism" then
      if value:lower() ~= "external" then return nil, "auth_mechanism can only be external" end
      value = true
    end
    tls[QUERY[key]] = value
  end
  return tls
end

-- The text between :// and the path, the vhost, the query, as they stand | nil, why
local function split(rest)
  local path, query = rest:match "^([^?]*)%?(.*)$"
  local authority, vhost = (path or rest):match "^([^/]*)/?(.*)$"
  if not authority:find("@", 1, true) and authority:find(":", 1, true) and rest:find("@", 1, true) then
    return nil, "a / in a user's name or password is written %2f, a ? is %3f"
  end
  return authority, vhost, query
end

local Given = { __tostring = function(self) return self.text end }
-- A URL whose password is no string of Lua's: an mx_span; the text has *** for it.
function M.given(text, password) return setmetatable({ text = text, password = password }, Given) end
-- The URL with its password, as a string: for a process that is to be started with it.
function M.whole(url)
  if not M.is_given(url) then return url end
  local password = ffi.string(url.password.p, url.password.n):gsub("[^%w]", function(c) return ("%%%02x"):format(c:byte()) end)
  return (url.text:gsub(":%*%*%*@", function() return ":" .. password .. "@" end, 1))
end
-- A list of them as MXRUN_URLS has it.
function M.environment(urls)
  local list = {}
  for i, url in ipairs(urls) do list[i] = M.whole(url) end
  return table.concat(list, ",")
end

function M.is_given(url) return getmetatable(url) == Given end

-- { scheme, host, port, user, password, vhost, tls = of the query, text = without password and query } | nil, err
function M.parse(url)
  local kept
  if M.is_given(url) then url, kept = url.text, url.password end
  if type(url) ~= "string" then return nil, err.new("config", "URL: expected a string, got " .. type(url)) end
  if url:find "[%z\1-\32\127]" then return bad(url, "it has a space or a control character; %20 is a space") end
  local scheme, rest = url:match "^(%w+)://(.*)$"
  scheme = scheme and scheme:lower()
  if scheme == "mem" then return { scheme = scheme, host = rest, text = url } end
  if scheme ~= "amqp" and scheme ~= "amqps" then return bad(url, "expected amqp://user:password@host:port/vhost or mem://NAME") end
  local authority, vhost, query = split(rest)
  if not authority then return bad(url, vhost) end
  local tls, wrong = tls_of(query, scheme)
  if wrong then return bad(url, wrong) end
  local login, address = authority:match "^(.*)@([^@]*)$"
  local user, password = (login or "guest:guest"):match "^([^:]*):?(.*)$"
  local out = { scheme = scheme, tls = tls }
  for name, text in pairs { user = user, password = password, vhost = vhost } do
    local value, why = decode(text)
    if not value then return bad(url, why) end
    out[name] = value
  end
  out.password = kept or out.password
  if out.vhost == "" then out.vhost = "/" end
  if #out.vhost > 255 then return bad(url, ("the vhost's name is %d bytes, at most 255"):format(#out.vhost)) end
  local host, port = host_port(address or authority, scheme)
  if not host then return bad(url, port) end
  out.host, out.port = host, port
  out.text = ("%s://%s:***@%s:%s/%s"):format(scheme, user, host:find(":", 1, true) and "[" .. host .. "]" or host, port, vhost)
  return out
end

return M
