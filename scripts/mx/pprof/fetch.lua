-- A profile that a running process takes of itself: where it is asked for, and how.
local tcp = require "mx.tcp"

local M = {}
local LATE = 30                 -- seconds that it may take longer than it was asked for

-- What can be asked for; seconds: how long it takes.
M.KINDS = {
  cpu = { path = "profile", seconds = 30 }, heap = { path = "heap" }, allocs = { path = "allocs" }, wait = { path = "wait", seconds = 30 },
  tasks = { path = "tasks" },
}

-- Over HTTP --------------------------------------------------------------------------------------------------------

local function url_of(text)
  local scheme, rest = text:match "^(https?)://(.+)$"
  if not scheme then return nil end
  local authority, path = rest:match "^([^/?#]+)([^?#]*)"
  if not authority or authority:find "@" then return nil, "expected http://host:port" end
  local host, port = authority:match "^%[([%x:.]+)%]:?(%d*)$"
  if not host then host, port = authority:match "^([^:]+):?(%d*)$" end
  port = port ~= "" and tonumber(port) or scheme == "https" and 443 or 80
  if not host or not port or port < 1 or port > 65535 then return nil, "expected http://host:port" end
  return { host = host, port = port, authority = authority, path = path:gsub("/+$", ""), tls = scheme == "https" or nil }
end

-- The status and the headers, by their names in small letters | nil, text
local function head(sock)
  local line, e = sock:receive "*l"
  local status = line and tonumber(line:match "^HTTP/1%.[01] (%d%d%d)")
  if not status then return nil, line and "the answer is not HTTP" or tostring(e) end
  local headers = {}
  repeat
    line, e = sock:receive "*l"
    if not line then return nil, tostring(e) end
    local name, value = line:match "^([^:]+):%s*(.-)%s*$"
    if name then headers[name:lower()] = value end
  until line == ""
  return status, headers
end

local function body(sock, headers)
  local size = tonumber(headers["content-length"])
  if headers["transfer-encoding"] then return nil, "the answer comes in chunks, to a request of HTTP/1.0" end
  local text, e = sock:receive(size or "*a")
  if not text then return nil, tostring(e) end
  return text
end

local function exchange(sock, url, request)
  local token = os.getenv "MXRUN_HTTP_TOKEN"
  local lines = { "GET " .. url.path .. request .. " HTTP/1.0", "Host: " .. url.authority }
  if token and token ~= "" then lines[#lines + 1] = "Authorization: Bearer " .. token end
  local ok, e = sock:send(table.concat(lines, "\r\n") .. "\r\n\r\n")
  if not ok then return nil, tostring(e) end
  local status, headers = head(sock)
  if not status then return nil, headers end
  local text
  text, e = body(sock, headers)
  if not text then return nil, e end
  if status == 200 then return text end
  local hint = status == 401 and " (MXRUN_HTTP_TOKEN holds the token)" or ""
  return nil, ("the server says %d: %s%s"):format(status, text:sub(1, 200):gsub("%s+$", ""):gsub("%c", " "), hint)
end

local function over_http(url, kind, seconds)
  local sock, e = tcp.tcp(url.host, url.port, { tls = url.tls, timeout = (seconds or 0) + LATE })
  if not sock then return nil, tostring(e) end
  local request = "/debug/pprof/" .. kind.path .. (seconds and ("?seconds=%.14g"):format(seconds) or "")
  local text
  text, e = exchange(sock, url, request)
  sock:close()
  return text, e
end

-- Where from -------------------------------------------------------------------------------------------------------

-- Each looks whether the text is an address of its own: the address and what asks it | nil, what is wrong with it.
local SOURCES = {
  function(text)
    local url, e = url_of(text)
    return url, url and over_http or e
  end,
}

-- address | nil [, text]: it is none, or one that is wrong.
function M.address(text)
  local wrong
  for _, source in ipairs(SOURCES) do
    local where, ask = source(text)
    if where then return { where = where, ask = ask } end
    wrong = wrong or ask
  end
  return nil, wrong
end

-- The bytes of a profile | nil, text
function M.get(address, kind, seconds) return address.ask(address.where, M.KINDS[kind], seconds) end

return M
