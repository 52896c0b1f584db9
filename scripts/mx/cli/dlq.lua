-- mxrun dlq: what became of the messages that failed.
local args = require "mx.cli.args"
local mx, err = require "mx", require "mx.err"

local M = { name = "dlq", usage = [[
usage: mxrun dlq [options] QUEUE ls        the dead letters of QUEUE: reason, retries, first seen, body
       mxrun dlq [options] QUEUE replay    back to where they came from
       mxrun dlq [options] QUEUE purge     away with them

  -u, --url URL       the broker: amqp://user:password@host:port/vhost (repeatable; MXRUN_URLS)
  -n, --count N       ls: at most N (20); replay: at most N (all)
      --rate R        replay: R a second
      --where CODE    replay: only where the Lua expression CODE with msg is true: 'msg.headers["x-mx-error"]:find "timeout"'

exit codes: 0 fine, 1 it failed, 2 misuse
]], options = {
  ["-n"] = { "count", "integer" }, ["--count"] = { "count", "integer" }, ["--rate"] = { "rate", "number" },
  ["--where"] = { "where", "string" },
} }

local function one_line(text)
  text = text:gsub("%c", " ")
  return #text > 200 and text:sub(1, 197) .. "..." or text
end

local ACTIONS = {}

function ACTIONS.ls(d, o)
  local each, e = d:peek(o.count or 20)
  if not each then return nil, e end
  for m in each do
    local h = m.headers
    print(("%s\tretries %s\t%s\t%s"):format(one_line(tostring(h["x-mx-error"] or "no reason")), tostring(h["x-mx-retries"] or 0),
      tostring(h["x-mx-first-seen"] or "-"), one_line(m.body)))
  end
  local n, why = d:count()
  if not n then return nil, why end
  io.stdout:flush()
  io.stderr:write(("%d in all\n"):format(n))
  return true
end

-- One that CODE cannot judge, an undecodable body say, stays where it is.
local function choosing(where)
  return where and function(m)
    local ok, chosen = pcall(where, m)
    if not ok then io.stderr:write(("mxrun dlq: %s stays: %s\n"):format(m.id or "a message", one_line(err.tostring(chosen)))) end
    return ok and chosen
  end
end

function ACTIONS.replay(d, o)
  local n, e = d:replay { limit = o.count, rate = o.rate, where = choosing(o.where) }
  if not n then return nil, e end
  print(("%s replayed"):format(tostring(n)))
  return true
end

function ACTIONS.purge(d)
  local n, e = d:purge()
  if not n then return nil, e end
  print(("%s purged"):format(tostring(n)))
  return true
end

function M.run(list)
  local o, words = args.parse(M, list)
  if not o then return words end
  local act = ACTIONS[words[2] or ""]
  local wrong = (#words ~= 2 or not act) and "expected QUEUE and one of ls, replay, purge"
  if o.rate == 0 then wrong = wrong or "--rate wants a number above 0" end
  if o.where and not wrong then
    o.where, wrong = loadstring("local msg = ... return " .. o.where, "=(--where)")
  end
  if wrong then
    return args.refuse(M, wrong)
  end
  local d, e = mx.dlq(words[1])
  if not d then return args.failed(M, e) end
  local ok
  ok, e = act(d, o)
  return ok and 0 or args.failed(M, e)
end

return M
