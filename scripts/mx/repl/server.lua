-- The control socket: each client a session, each line a request.
local ffi = require "ffi"
local C = ffi.C
local turn, log, json, eval = require "mx.turn", require "mx.log", require "mx.json", require "mx.repl.eval"

local M = {}
local SLICE = 64                                -- lines that are taken before others have their turn
local BEHIND = 1024 * 1024                      -- bytes unread by a client from which on output is left out
local sessions = {}                             -- by client

local function send_to(client)
  local lost = 0
  return function(answer)
    if answer.output and C.mx_control_pending(turn.runtime, client) > BEHIND then
      lost = lost + 1
      return
    end
    if lost > 0 and not answer.done then
      answer.output = ("(%d pieces of output were left out: they came faster than they were read)\n"):format(lost) .. (answer.output or "")
      lost = 0
    end
    answer.json = nil
    local line, e = json.encode(answer)
    line = line or assert(json.encode { id = answer.id, error = "the value cannot be told: " .. tostring(e), done = answer.done })
    line = line .. "\n"
    C.mx_control_send(turn.runtime, client, line, #line)
  end
end

local function session_of(line)
  local client = line.client
  local session = sessions[client]
  if not session then
    session = eval.session(send_to(client), ("pid %d uid %d"):format(line.pid, tonumber(line.uid)))
    sessions[client] = session
  end
  return session
end

local line = ffi.new "mx_control_line"

local function take()
  for _ = 1, SLICE do
    if C.mx_control_take(turn.runtime, line) == 0 then return end
    if line.text == nil then
      if sessions[line.client] then sessions[line.client]:close() end
      sessions[line.client] = nil
    else
      session_of(line):handle((json.decode(ffi.string(line.text, line.size))))
    end
  end
end

local function wait()
  local ticket = C.mx_wait_new(turn.waits, -1)
  turn.notify(ticket, function()
    local ok, e = turn.guard(take)
    if not ok then log.error("the control socket failed", { error = require "mx.task".text_of(e) }) end
    wait()
  end)
  C.mx_control_wait(turn.runtime, ticket)
end

-- When there is a socket, answers it from now on.
function M.setup(host)
  eval.seconds, eval.read_only = host.eval_limit, host.socket_read_only
  local path = C.mx_control_path(turn.runtime)
  if path == nil then return end
  log.info("listening for attach, eval and top", { socket = ffi.string(path), read_only = eval.read_only or nil })
  wait()
end

return M
