-- mxrun pub: publishes from the command line, confirmed.
local args, stdio = require "mx.cli.args", require "mx.cli.stdio"
local mx = require "mx"

local M = { name = "pub", usage = [[
usage: mxrun pub [options] EXCHANGE KEY BODY|-     "-" reads the body from stdin
       mxrun pub [options] EXCHANGE KEY -l         one message for each line of stdin

Returns when the broker has confirmed; with "" as EXCHANGE the KEY is a queue's name.

  -u, --url URL              the broker: amqp://user:password@host:port/vhost (repeatable; MXRUN_URLS)
  -H, --header NAME=VALUE    a header; a number is sent as a number (repeatable)
  -p, --prop NAME=VALUE      id, correlation_id, reply_to, content_type, type, app_id, priority, expiration (5s),
                             persistent=false, mandatory=false ... as in mx.publish (repeatable)
  -n, --count N              publishes the body N times
  -l, --lines                one message a line

exit codes: 0 all confirmed, 1 something was not, 2 misuse
]], options = {
  ["-H"] = { "headers", "list" }, ["--header"] = { "headers", "list" }, ["-p"] = { "props", "list" },
  ["--prop"] = { "props", "list" }, ["-n"] = { "count", "integer" }, ["--count"] = { "count", "integer" },
  ["-l"] = { "lines" }, ["--lines"] = { "lines" },
} }

local TEXT = { id = true, correlation_id = true, reply_to = true, content_type = true, content_encoding = true, type = true,
               app_id = true, user_id = true, expiration = true }
local WORDS = { ["true"] = true, ["false"] = false }

local function options_of(o)
  local opts, code = args.pairs(M, "--prop", o.props)
  if not opts then return nil, code end
  local headers
  headers, code = args.pairs(M, "--header", o.headers)
  if not headers then return nil, code end
  for k, v in pairs(opts) do
    if TEXT[k] then opts[k] = tostring(v) elseif WORDS[v] ~= nil then opts[k] = WORDS[v] end
  end
  if next(headers) then opts.headers = headers end
  return opts
end

-- Each body once: an iterator.
local function bodies(o, words)
  if o.lines then return stdio.lines() end
  local body, left = words[3], o.count or 1
  if body == "-" then body = stdio.read_all() end
  return function()
    left = left - 1
    if left >= 0 then return body end
  end
end

local BATCH = 5000

-- Waits for the receipts; says which failed. How many did.
local function settle(receipts, first)
  local failed = 0
  for i, r in ipairs(receipts) do
    local ok, e = r:wait()
    if not ok then
      failed = failed + 1
      if failed <= 10 then args.failed(M, ("message %d: %s"):format(first + i - 1, e)) end
    end
  end
  if failed > 10 then args.failed(M, ("and %d more of them"):format(failed - 10)) end
  return failed
end

local function publish_all(words, o, opts)
  local receipts, first, failed = {}, 1, 0
  local function flush()
    failed, first = failed + settle(receipts, first), first + #receipts
    receipts = {}
  end
  for body in bodies(o, words) do
    local r, e = mx.publish_async(words[1], words[2], body, opts)
    if not r then
      flush()
      return args.failed(M, ("message %d: %s"):format(first, e))
    end
    receipts[#receipts + 1] = r
    if #receipts == BATCH then flush() end
  end
  flush()
  return failed == 0 and 0 or 1
end

function M.run(list)
  local o, words = args.parse(M, list)
  if not o then return words end
  local wanted = o.lines and 2 or 3
  if #words ~= wanted then
    return args.refuse(M, ("expected %s, got %d words"):format(
      o.lines and "EXCHANGE KEY with -l" or "EXCHANGE KEY BODY", #words))
  end
  local opts, code = options_of(o)
  if not opts then return code end
  local ok, result = pcall(publish_all, words, o, opts)
  if ok then return result end
  if type(result) ~= "string" then error(result, 0) end
  return args.refuse(M, (result:gsub("^%S+:%d+: ", ""):gsub("^publish: ", "")))
end

return M
