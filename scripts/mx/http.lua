-- What --http serves beside /live, which is C's: each path a function that may wait. Under mxrun -w it is the supervisor that serves:
-- there a worker says once a second what is to be known of it.
local ffi = require "ffi"
local C = ffi.C
local turn, log, json = require "mx.turn", require "mx.log", require "mx.json"
local health, stats, task = require "mx.health", require "mx.stats", require "mx.task"
local profile = require "mx.profile"

local TEXT, JSON = "text/plain; charset=utf-8", "application/json"

-- paths: request { path, query, accept } → status, content type, body
local M = { paths = {} }

M.paths["/ready"] = function()
  local ready, why = health.ready()
  return ready and 200 or 503, TEXT, (ready and "ready" or why) .. "\n"
end

M.paths["/health"] = function()
  local report = health.report()
  return report.status == "unhealthy" and 503 or 200, JSON, assert(json.encode(report)) .. "\n"
end

M.paths["/metrics"] = function(request)
  local text, kind = stats.text(request.accept:find("application/openmetrics-text", 1, true) ~= nil)
  return 200, kind, text
end

for path, f in pairs(require("mx.debug").paths) do M.paths[path] = f end

local function not_found()
  local list = { "/live" }
  for path in pairs(M.paths) do
    if not path:find "^/debug/pprof/." then list[#list + 1] = path end
  end
  table.sort(list)
  return 404, TEXT, "there is " .. table.concat(list, ", ") .. "\n"
end

local function answer(id, ok, status, kind, body)
  if not ok then
    log.error("answering over HTTP failed", { error = task.text_of(status) })
    status, kind, body = 500, TEXT, "failed, the log says why\n"
  end
  C.mx_http_answer(turn.runtime, id, status, kind, body, #body)
end

local next_request = ffi.new "mx_http_request"

local function serve()
  while C.mx_http_take(turn.runtime, next_request) ~= 0 do
    local id, q = next_request.id, next_request
    local request = { id = id, path = ffi.string(q.path), query = ffi.string(q.query), accept = ffi.string(q.accept) }
    turn.start(M.paths[request.path] or not_found, function(...) answer(id, ...) end, request)
  end
end

local function wait()
  local ticket = C.mx_wait_new(turn.waits, -1)
  turn.notify(ticket, function()
    serve()
    wait()
  end)
  C.mx_http_wait(turn.runtime, ticket)
end

-- Telling the supervisor ----------------------------------------------------------------------------------------------

local HEALTH = { healthy = C.MX_HEALTHY, degraded = C.MX_DEGRADED, unhealthy = C.MX_UNHEALTHY }

-- The report as JSON, or as much of it as there is room for.
local function report_text(report)
  local text, e = json.encode { checks = report.checks, summary = report.summary }
  if text and #text <= C.MX_REPORT_BYTES then return text end
  return json.encode { summary = report.summary, missing = text and "the checks are too long" or tostring(e) }
end

local function say()
  stats.collect()
  local ready, why = health.ready()
  local report = health.report()
  local text = report_text(report)
  C.mx_worker_report(not ready and why or nil, HEALTH[report.status], text, #text)
end

local failed
-- Brings up to date what the supervisor reads: the series, whether this worker is ready, its health.
function M.tell()
  if C.mx_worker_watched() == 0 then return end
  local ok, e = turn.guard(say)
  if not ok and not failed then log.error("telling the supervisor failed", { error = task.text_of(e) }) end
  failed = not ok
end

-- By tickets, which keep nothing alive.
local function tell_again()
  M.tell()
  turn.notify(C.mx_wait_new(turn.waits, 1), tell_again)
end

-- When there is a server, answers its requests from now on.
function M.setup()
  if C.mx_worker_watched() ~= 0 then tell_again() end
  local address = C.mx_http_address(turn.runtime)
  if address == nil then return end
  profile.watch_heap()
  if #ffi.string(address) > 0 then log.info("serving /live /ready /health /metrics /debug/pprof/", { http = ffi.string(address) }) end
  wait()
end

return M
