-- mxrun sub: prints what a queue holds, and acks what was printed.
local args, stdio = require "mx.cli.args", require "mx.cli.stdio"
local mx = require "mx"
local turn = require "mx.turn"

local M = { name = "sub", usage = [[
usage: mxrun sub [options] QUEUE

Prints the bodies, one a line, and acks each after it was printed (to a pipe: after it was read). Ends with SIGINT, after
N messages, or when nobody reads its output any more; what was not printed goes back to the queue.

  -u, --url URL      the broker: amqp://user:password@host:port/vhost (repeatable; MXRUN_URLS)
  -n, --count N      ends after N messages
  -e, --eval CODE    runs CODE with msg instead: an expression is printed ('msg.key, msg.data.id'), statements may
                     return what a handler returns ('if msg.data.total < 0 then return "reject", "negative" end')

exit codes: 0 fine, 1 the queue is missing or CODE failed, 2 misuse
]], options = {
  ["-n"] = { "count", "integer" }, ["--count"] = { "count", "integer" }, ["-e"] = { "eval", "string" },
  ["--eval"] = { "eval", "string" },
} }

local function print_line(...)
  if select("#", ...) == 0 then return io.stdout:flush() end         -- print(msg.body), say
  local texts = {}
  for i = 1, select("#", ...) do texts[i] = tostring((select(i, ...))) end
  return stdio.write(table.concat(texts, "\t") .. "\n")
end

-- f(msg) → false when nobody reads, else true and the decision; or nil, what does not compile
local function action(code)
  if not code then return function(msg) return stdio.write(msg.body .. "\n") end end
  local expression = loadstring("local msg = ... return " .. code, "=(command line)")
  if expression then return function(msg) return print_line(expression(msg)) end end
  local chunk, e = loadstring("local msg = ... " .. code, "=(command line)")
  if not chunk then return nil, e end
  return function(msg)
    local verdict, why = chunk(msg)
    if not io.stdout:flush() then return false end
    return true, verdict, why
  end
end

function M.run(list)
  local o, words = args.parse(M, list)
  if not o then return words end
  if #words ~= 1 then
    return args.refuse(M, "expected one QUEUE, got " .. #words)
  end
  local act, e = action(o.eval)
  if not act then
    return args.refuse(M, e)
  end
  local left, done = o.count or math.huge, mx.chan(1)
  if left == 0 then return 0 end
  local function finish(code)
    left = 0
    done:put(code, 0)
    return "requeue"
  end
  local consumer
  consumer, e = mx.consume(words[1], { prefetch = math.min(left, 256), timeout = 1e9, retry = { max = 0 } }, function(msg)
    if left == 0 then return "requeue" end
    local r = { xpcall(act, turn.on_error, msg) }
    if not r[1] then return finish(args.failed(M, require "mx.task".text_of(r[2]))) end
    if not r[2] or not stdio.taken() then return finish(0) end
    left = left - 1
    if left == 0 then finish(0) end
    return r[3], r[4]
  end)
  if not consumer then return args.failed(M, e) end
  local code = done:get()
  consumer:stop(5)
  return code
end

return M
