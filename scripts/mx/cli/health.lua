-- mxrun health: whether a running process is well, for those who restart what is not.
local args, peers, json = require "mx.cli.args", require "mx.cli.peer", require "mx.json"
local tcp, print_ = require "mx.tcp", require "mx.repl.print"

local M = { name = "health", usage = [[
usage: mxrun health [options] URL|SOCKET|PID

Prints the health of a process, asked at http://host:port[/health] of its --http or at its --socket, and exits 1 when it is
unhealthy or does not answer. MXRUN_HTTP_TOKEN is the token for --http-token-file.

      --timeout S    how long to wait for the answer, 5 s
  -q, --quiet        prints nothing

exit codes: 0 healthy or degraded, 1 unhealthy or no answer, 2 misuse
]], options = { ["--timeout"] = { "timeout", "number" }, ["-q"] = { "quiet" }, ["--quiet"] = { "quiet" } } }

-- "[::1]:80" or "host:port": host, port
local function split(authority)
  local host, port = authority:match "^%[(.-)%]:?(%d*)$"
  if not host then host, port = authority:match "^([^:]*):?(%d*)$" end
  return host, tonumber(port) or 80
end

-- The report of /health | nil, text
local function over_http(url, timeout)
  local authority, path = url:match "^http://([^/]+)(.*)$"
  if not authority then return nil, "expected http://host:port" end
  local host, port = split(authority)
  if not host or host == "" then return nil, "expected http://host:port" end
  local sock, e = tcp.tcp(host, port, { timeout = timeout })
  if not sock then return nil, tostring(e) end
  local token = os.getenv "MXRUN_HTTP_TOKEN"
  sock:send { "GET ", path ~= "" and path ~= "/" and path or "/health", " HTTP/1.0\r\nHost: ", authority, "\r\n",
              token and "Authorization: Bearer " .. token .. "\r\n" or "", "\r\n" }
  local text
  text, e = sock:receive "*a"
  sock:close()
  if not text then return nil, tostring(e) end
  local status, body = text:match "^HTTP/1%.%d (%d+).-\r\n\r\n(.*)$"
  local report = body and json.decode(body)
  if type(report) == "table" and report.status then return { report } end
  if status == "200" then return { { status = "healthy", checks = {} } } end
  return nil, status and ("it answers %s: %s"):format(status, body:gsub("%s+$", "")) or "what answers there speaks no HTTP"
end

local function over_socket(word, timeout)
  local list, why = peers.connect(word)
  if not list then return nil, why end
  local reports = {}
  for i, peer in ipairs(list) do
    local answer, e = peer:call({ call = "health" }, timeout)
    reports[i] = answer and answer.value or { status = "unhealthy", checks = {}, why = e }
    reports[i].worker = #list > 1 and peer.hello.worker or nil
    peer:close()
  end
  return reports
end

local function lines_of(report)
  local names, lines = {}, { (report.worker and ("worker %d: "):format(report.worker) or "") .. report.status
    .. (report.why and ": " .. report.why or "") }
  for name in pairs(report.checks or {}) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local c = report.checks[name]
    lines[#lines + 1] = ("  %-10s %s%s"):format(c.status, name, c.message and ": " .. c.message or "")
  end
  return print_.visible(table.concat(lines, "\n")) .. "\n"
end

function M.run(words)
  local o, rest = args.parse(M, words)
  if not o then return rest end
  if #rest ~= 1 then return args.refuse(M, "expected one URL, SOCKET or PID, got " .. #rest .. " words") end
  local word, timeout = rest[1], o.timeout or 5
  local ask = word:find "^%a[%w+.-]*://" and over_http or over_socket
  local reports, why = ask(word, timeout)
  if not reports then
    if not o.quiet then io.stderr:write("mxrun health: ", why, "\n") end
    return 1
  end
  local code = 0
  for _, report in ipairs(reports) do
    if not o.quiet then io.write(lines_of(report)) end
    if report.status == "unhealthy" then code = 1 end
  end
  return code
end

return M
