-- mxrun eval: one expression in a running process.
local args, peers, json = require "mx.cli.args", require "mx.cli.peer", require "mx.json"
local stdio, turn = require "mx.cli.stdio", require "mx.turn"
local ffi = require "ffi"

local M = { name = "eval", usage = [[
usage: mxrun eval [options] SOCKET|PID EXPR

Evaluates EXPR, an expression or statements of Lua or a command of the prompt (.help), in a process that runs with --socket, and
prints its value: as text on a terminal, as JSON to a pipe. Of several workers: an object, by worker.

      --worker N     only in worker N
      --json         JSON also on a terminal
      --text         text also to a pipe
      --timeout S    how long to wait for it, 30 s

exit codes: 0 fine, 1 it failed, 2 misuse
]], options = {
  ["--worker"] = { "worker", "integer" }, ["--json"] = { "json" }, ["--text"] = { "text" }, ["--timeout"] = { "timeout", "number" },
} }

local function write_error(text) io.stderr:write("mxrun eval: ", text, "\n") end

-- What one process answers: value | nil, text. What it prints is shown at once, beside JSON on stderr: stdout has the value only.
local function ask(peer, text, as_json, timeout)
  local to = as_json and io.stderr or io.stdout
  local line, result = require("mx.wait").line(), nil
  peer:ask({ eval = text, json = as_json, width = 100 }, function(answer)
    if answer.output then
      to:write(answer.output)
      to:flush()
    end
    if answer.done then
      result = answer
      line:wake(true)
    end
  end)
  if not result then line:wait(timeout, "eval") end
  if not result then return nil, ("no answer within %g s"):format(timeout) end
  return result.value, result.error
end

local function chosen(list, number)
  if not number then return list end
  for _, peer in ipairs(list) do
    if peer.hello.worker == number then return { peer } end
  end
end

local function encode(v) return v == nil and "null" or assert(json.encode(v)) end

function M.run(words)
  local o, rest = args.parse(M, words)
  if not o then return rest end
  if #rest ~= 2 then return args.refuse(M, "expected SOCKET or PID and EXPR, got " .. #rest .. " words") end
  local list, why = peers.connect(rest[1])
  if not list then return args.failed(M, why) end
  list = chosen(list, o.worker)
  if not list then return args.failed(M, "there is no worker " .. o.worker) end
  local as_json = o.json or not o.text and ffi.C.isatty(1) == 0
  local code, parts, waiting, done = 0, {}, #list, require("mx.wait").line()
  for i, peer in ipairs(list) do
    turn.start(ask, function(ok, value, e)
      if not ok then value, e = nil, require "mx.task".text_of(value) end
      parts[i] = { value = value, error = e }
      waiting = waiting - 1
      done:wake(true)
    end, peer, rest[2], as_json, o.timeout or 30)
  end
  while waiting > 0 do done:wait(nil, "eval") end
  local values = {}
  for i, peer in ipairs(list) do
    local p, mark = parts[i], #list > 1 and ("[%d] "):format(peer.hello.worker) or ""
    if p.error then
      write_error(mark .. p.error)
      code = 1
    elseif as_json then
      values[#values + 1] = (#list > 1 and ('"%d":'):format(peer.hello.worker) or "") .. encode(p.value)
    elseif p.value ~= nil then
      values[#values + 1] = mark .. p.value
    end
    peer:close()
  end
  local text = as_json and (#list > 1 and "{" .. table.concat(values, ",") .. "}" or values[1]) or table.concat(values, "\n")
  if text and text ~= "" and (#list > 1 or code == 0) then stdio.write(text .. "\n") end
  return code
end

return M
