-- mxrun bench: plays a workload, of a file or made from flags as RabbitMQ's PerfTest has them.
local C = require "ffi".C
local args = require "mx.cli.args"
local conns, log, turn, task, err = require "mx.conn", require "mx.log", require "mx.turn", require "mx.task", require "mx.err"
local workload, run, verdict = require "mx.bench.workload", require "mx.bench.run", require "mx.bench.verdict"
local report = require "mx.bench.report.observer"

local M = { name = "bench" }

M.usage = [[
usage: mxrun bench [options] FILE                  plays the workload that FILE returns (mx.workload)
       mxrun bench [options] -x 4 -y 4 -r 10000    plays one made of flags
       mxrun bench suite [options]                 the table of the suite

  -u, --url URL            the broker: amqp://user:password@host:port/vhost, mem:// (repeatable; MXRUN_URLS)
  -w, --workers N          producers and consumers are shared out over N processes; auto: as many as there are processors

Without FILE, as PerfTest has them:
  -x, --producers N        how many producers (1)
  -y, --consumers N        how many consumers (1)
  -s, --size N             bytes of a body (64)
  -r, --rate N             messages a second of each producer, by a schedule; without it as fast as it goes
  -z, --time S             seconds (10)
  -c, --confirm N          how many may be unconfirmed, of each producer (10000); --no-confirm: publishes without confirms
  -q, --qos N              prefetch of each consumer (256)
  -a, --autoack            consumes without acks
  -f, --flag FLAG          persistent or mandatory (repeatable)
  -e, --exchange NAME      where to publish ("": the key is the queue's name)
  -t, --type TYPE          of the exchange (direct)
  -k, --routing-key KEY    (the queue's name)
      --queue NAME         (bench)
  -qp, --queue-pattern P   queues of many names: 'bench-%d', with -qpf and -qpt the first and the last number;
                           producers and consumers are shared out over them
  -p, --predeclared        declares nothing
  -ad, --auto-delete B     whether queues go with their last consumer (true)
      --quorum-queue       durable, of the type quorum
  -C, --pmessages N        each producer sends N messages
  -D, --cmessages N        each consumer takes N messages
  -R, --consumer-rate N    deliveries a second that each consumer takes
  -L, --consumer-latency N microseconds that each delivery takes
      --warmup S           seconds before it is measured (0)
      --poisson            arrivals as by chance, not evenly
      --no-verify          does not count what was lost, duplicated or out of order
  -d, --id NAME            its name in the report

]] .. report.usage .. [[

exit codes: 0 fine, 1 it failed, 2 misuse, 3 the generator was the limit, 98 slower than --compare, 99 a threshold was crossed
]]

M.options = {
  ["-w"] = { "workers", "string" }, ["-x"] = { "producers", "integer" }, ["-y"] = { "consumers", "integer" },
  ["-s"] = { "size", "integer" }, ["-r"] = { "rate", "number" }, ["-z"] = { "time", "number" }, ["-c"] = { "confirm", "integer" },
  ["--no-confirm"] = { "no_confirm" }, ["-q"] = { "qos", "integer" }, ["-a"] = { "autoack" }, ["-f"] = { "flag", "list" },
  ["-e"] = { "exchange", "string" }, ["-t"] = { "type", "string" }, ["-k"] = { "key", "string" }, ["--queue"] = { "queue", "string" },
  ["-qp"] = { "pattern", "string" }, ["-qpf"] = { "pattern_from", "integer" }, ["-qpt"] = { "pattern_to", "integer" },
  ["-p"] = { "predeclared" }, ["-ad"] = { "auto_delete", "string" }, ["--quorum-queue"] = { "quorum" },
  ["-C"] = { "pmessages", "integer" }, ["-D"] = { "cmessages", "integer" }, ["-R"] = { "consumer_rate", "number" },
  ["-L"] = { "consumer_latency", "number" }, ["--warmup"] = { "warmup", "number" }, ["--poisson"] = { "poisson" },
  ["--no-verify"] = { "no_verify" }, ["-d"] = { "id", "string" }, ["--row"] = { "row", "string" },
}
local LONG = {
  workers = "-w", producers = "-x", consumers = "-y", size = "-s", rate = "-r", time = "-z", confirm = "-c", qos = "-q", autoack = "-a",
  flag = "-f", exchange = "-e", type = "-t", ["routing-key"] = "-k", ["queue-pattern"] = "-qp", ["queue-pattern-from"] = "-qpf",
  ["queue-pattern-to"] = "-qpt", predeclared = "-p", ["auto-delete"] = "-ad", pmessages = "-C", cmessages = "-D",
  ["consumer-rate"] = "-R", ["consumer-latency"] = "-L", id = "-d",
}
for long, letter in pairs(LONG) do M.options["--" .. long] = M.options[letter] end
for name, option in pairs(report.options) do M.options[name] = option end

-- Flags ---------------------------------------------------------------------------------------------------------------

local function queues_of(o)
  if not o.pattern then return { o.queue or "bench" } end
  local ok, first = pcall(string.format, o.pattern, 1)
  if not ok or first == o.pattern then return nil, "--queue-pattern wants a %d in it, got '" .. o.pattern .. "'" end
  local list = {}
  for i = o.pattern_from or 1, o.pattern_to or 1 do list[#list + 1] = o.pattern:format(i) end
  if #list == 0 then return nil, "--queue-pattern-to is below --queue-pattern-from" end
  return list
end

local function topology_of(o, queues, flags)
  if o.predeclared then return nil end
  local t = { queues = {}, exchanges = {} }
  local exchange = o.exchange ~= "" and o.exchange or nil
  if exchange and not exchange:find "^amq%." then t.exchanges[exchange] = { type = o.type } end
  for _, name in ipairs(queues) do
    t.queues[name] = {
      type = o.quorum and "quorum" or nil, durable = o.quorum or flags.persistent or false,
      auto_delete = not o.quorum and o.auto_delete ~= "false" and (o.consumers or 1) > 0,
      bind = exchange and { { exchange, o.key or name } } or nil,
    }
  end
  return t
end

local function handler_of(o)
  local mx = require "mx"
  local pause = o.consumer_latency and o.consumer_latency / 1e6
  if o.consumer_rate then
    local step = 1 / o.consumer_rate
    return function()                                   -- each consumer handles one at a time
      mx.sleep(step)
    end
  end
  return pause and function() mx.sleep(pause) end or nil
end

-- A workload | nil, what is wrong
local function from_flags(o)
  local queues, why = queues_of(o)
  if not queues then return nil, why end
  local flags = {}
  for _, flag in ipairs(o.flag or {}) do
    if flag ~= "persistent" and flag ~= "mandatory" then return nil, "--flag is persistent or mandatory, got '" .. flag .. "'" end
    flags[flag] = true
  end
  local x, y = o.producers or 1, o.consumers or 1
  if x + y == 0 then return nil, "no producers and no consumers" end
  if o.consumer_rate == 0 then return nil, "--consumer-rate wants a number above 0" end
  local description = {
    name = o.id, warmup = o.warmup, duration = o.time or 10, topology = topology_of(o, queues, flags),
    verify = not o.no_verify and x > 0 and y > 0 and not o.cmessages,
    producers = x > 0 and {
      count = x, exchange = o.exchange, key = o.key or queues, size = o.size, rate = o.rate and o.rate * x,
      arrival = o.poisson and "poisson" or nil, confirm = not o.no_confirm, max_in_flight = o.confirm,
      persistent = flags.persistent or false, mandatory = flags.mandatory or false, messages = o.pmessages,
    } or nil,
    consumers = y > 0 and {
      count = y, queue = queues, prefetch = o.qos, auto_ack = o.autoack, messages = o.cmessages, handler = handler_of(o),
    } or nil,
  }
  local ok, w = pcall(workload.new, description)
  if not ok then return nil, (tostring(w):gsub("^%S+:%d+: ", ""):gsub("^mx%.%w+: ", "")) end
  return w
end

-- Files ---------------------------------------------------------------------------------------------------------------

-- "return mx.workload { ... }" is a tail call, so nobody knows its line any more when it raises.
local function line_of_workload(file)
  local n, found = 0, 1
  for line in io.lines(file) do
    n = n + 1
    if line:find("mx.workload", 1, true) then found = n end
  end
  return found
end

-- What mx.workload said of the file, nil: it was something else.
local function complaint(file, e)
  local text = type(e) == "table" and e.raised
  text = type(text) == "string" and text:match "^mx/%S+:%d+: (mx%.%w+: .*)$"
  return text and ("%s:%d: %s"):format(file, line_of_workload(file), text)
end

-- A workload | nil, exit code
local function from_file(file)
  local f, e = loadfile(file)
  if not f then
    if not io.open(file) then return nil, args.refuse(M, "cannot open '" .. file .. "'") end
    log.complain("mxrun: ", e)
    return nil, 1
  end
  require "mx.strict"(_G)
  local ok, w = turn.guard(f)
  if not ok then
    local text = complaint(file, w)
    if not text then turn.again(w) end
    log.complain("mxrun: ", text)
    return nil, 1
  end
  if workload.is(w) then return w end
  return nil, args.refuse(M, file .. " returns no workload; it has to end with: return mx.workload { ... }")
end

local function from_row(name)
  local ok, w = pcall(require, "workloads." .. name)
  if ok and workload.is(w) then return w end
  return nil, args.refuse(M, ok and "no workload: " .. name or tostring(w))
end

local function workload_of(o, words)
  if o.row then return from_row(o.row) end
  if words[1] then
    local w, code = from_file(words[1])
    if w and not w.name then w.name = words[1]:match "([^/]+)%.lua$" or words[1] end
    return w, code
  end
  local w, why = from_flags(o)
  if not w then return nil, args.refuse(M, why) end
  return w
end

-- What starts another worker of the same run; URLs go by the environment.
local function command_line(list, host)
  local words = { "mxrun", "bench" }
  for k, v in pairs(host.set) do
    words[#words + 1], words[#words + 2] = "--set", k .. "=" .. v
  end
  for option, value in pairs { ["--log"] = host.log, ["--log-level"] = host.log_level } do
    words[#words + 1], words[#words + 2] = option, value
  end
  for _, word in ipairs(list) do words[#words + 1] = word end
  return words
end

function M.run(list, host)
  if list[1] == "suite" then return require "mx.bench.suite".run({ unpack(list, 2) }, host) end
  local o, words = args.parse(M, list)
  if not o then return words end
  if #words > 1 then return args.refuse(M, "expected one FILE, got " .. #words .. " words") end
  local workers = o.workers == "auto" and C.mx_processors() or tonumber(o.workers or 1)
  if not workers or workers % 1 ~= 0 or workers < 1 or workers > 1024 then
    return args.refuse(M, "-w wants auto or a number from 1 to 1024, got '" .. o.workers .. "'")
  end
  for i, word in ipairs(words) do arg[i - 1] = word end
  local urls = conns.default_urls()
  if workers > 1 and tostring(urls[1]):find "^mem:" then
    return args.refuse(M, "-w needs a broker that its processes can share; mem:// is of one")
  end
  local w, code = workload_of(o, words)
  if not w then return code end
  if os.getenv "MXRUN_BENCH" then return run.follow(w) end
  local observer, why = report.new(o, host)
  if not observer then return args.refuse(M, why) end
  local result, e = run.run(w, observer, { workers = workers, argv = command_line(list, host) })
  if not result then
    return args.failed(M, err.is(e) and e or task.text_of(e))
  end
  local compared
  compared, why = observer.done(result)
  if not compared then return args.failed(M, why) end
  code = verdict.EXIT[result.verdict]
  return code ~= 0 and code or compared
end

return M
