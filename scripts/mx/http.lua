-- What --http serves beside /live, which is C's: each path a function that may wait.
local ffi = require "ffi"
local C = ffi.C
local turn, log, json = require "mx.turn", require "mx.log", require "mx.json"
local health, stats, task = require "mx.health", require "mx.stats", require "mx.task"

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

local function not_found()
  local list = { "/live" }
  for path in pairs(M.paths) do list[#list + 1] = path end
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
    local request = { path = ffi.string(q.path), query = ffi.string(q.query), accept = ffi.string(q.accept) }
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

-- When there is a server, answers its requests from now on.
function M.setup()
  local address = C.mx_http_address(turn.runtime)
  if address == nil then return end
  log.info("serving /live /ready /health /metrics", { http = ffi.string(address) })
  wait()
end

return M
