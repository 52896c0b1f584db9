-- mxrun as a client to be measured: the flags and the line of JSON of peer.c, and nothing but the public API.
--   mxrun spec/bench/peer.lua pub|con|lat -p port -s body bytes -t seconds -n messages -w window -P (persistent)
--                             -q queue -f prefetch -a 0|1 (0: no ack) -r messages a second -b (reads msg.body)
local ffi = require "ffi"

ffi.cdef [[
  struct bench_usage { long user[2], system[2], rest[14]; };
  int getrusage(int who, struct bench_usage *into);
]]

local mode = arg[1]
local opt = { p = 5672, s = 64, t = 4, n = 0, w = 256, q = "bench", f = 256, a = 1, r = 1000, P = false, b = false }
local i = 2
while arg[i] do
  local flag = arg[i]:match "^%-(%a)$"
  if not flag or opt[flag] == nil then error("unknown flag " .. arg[i], 0) end
  if type(opt[flag]) == "boolean" then
    opt[flag] = true
  else
    i = i + 1
    opt[flag] = flag == "q" and arg[i] or tonumber(arg[i]) or error("-" .. flag .. " needs a number", 0)
  end
  i = i + 1
end

local now = mx.now
local usage = ffi.new "struct bench_usage"

-- Seconds since some start, and microseconds of processor time spent: user, system.
local function moment()
  ffi.C.getrusage(0, usage)
  return { at = now(), user = tonumber(usage.user[0]) * 1e6 + tonumber(usage.user[1]),
           system = tonumber(usage.system[0]) * 1e6 + tonumber(usage.system[1]) }
end

local function peak_rss()
  for line in io.lines "/proc/self/status" do
    local kb = line:match "^VmHWM:%s+(%d+)"
    if kb then return kb / 1024 end
  end
end

local function report(n, from, to, more)
  local secs, each = to.at - from.at, math.max(n, 1)
  local user, system = (to.user - from.user) / each, (to.system - from.system) / each
  io.write(('{"client":"mxrun","mode":"%s","size":%d,"n":%d,"secs":%.3f,"rate":%.0f,"user_us":%.3f,"sys_us":%.3f,'
    .. '"cpu_us":%.3f,"rss_mb":%.1f%s}\n'):format(mode, opt.s, n, secs, n / secs, user, system, user + system,
                                                   peak_rss(), more or ""))
  io.flush()
end

local conn = assert(mx.connect { urls = { "amqp://guest:guest@127.0.0.1:" .. opt.p } })
assert(conn:queue(opt.q, { durable = opt.P }))

local function publisher()
  return mx.publisher { conn = conn, max_in_flight = opt.w, mandatory = false, persistent = opt.P }
end

local run = {}

-- Keeps the last `window` receipts; each is looked at when its place is needed again, the rest at the end.
function run.pub()
  local p, body, window = publisher(), ("x"):rep(opt.s), opt.w
  local queue, seconds, count = opt.q, opt.t, opt.n > 0 and opt.n or math.huge
  local receipts, sent, confirmed = {}, 0, 0
  assert(p:publish_async(queue, body)):wait()            -- connects
  local from = moment()
  local due = opt.n > 0 and math.huge or from.at + seconds
  while sent < count and (sent % 64 ~= 0 or now() < due) do
    local place = sent % window + 1
    local receipt = assert(p:publish_async(queue, body))
    local old = receipts[place]
    if old and (old.state == "confirmed" or old:wait()) then confirmed = confirmed + 1 end
    receipts[place] = receipt
    sent = sent + 1
  end
  mx.wait_all(receipts)
  local to = moment()
  for _, receipt in ipairs(receipts) do
    if receipt.state == "confirmed" then confirmed = confirmed + 1 end
  end
  if confirmed < sent then io.stderr:write(("%d of %d were confirmed\n"):format(confirmed, sent)) end
  report(confirmed, from, to)
  mx.stop()
end

function run.con()
  local n, bytes, over = 0, 0, false
  local count, read_body, size = opt.n > 0 and opt.n or math.huge, opt.b, opt.s
  local done = mx.chan(1)
  local function finish()
    if over then return end
    over = true
    done:put(moment())
  end
  local from = moment()
  local due = opt.n > 0 and math.huge or from.at + opt.t
  local function count_one()
    n = n + 1
    if n >= count or n % 64 == 0 and now() >= due then finish() end
  end
  local handler = function(msg)
    if over then return end
    bytes = bytes + msg.size
    count_one()
  end
  if read_body then
    handler = function(msg)
      if over then return end
      bytes = bytes + #msg.body
      count_one()
    end
  end
  assert(conn:consume(opt.q, { prefetch = opt.f, auto_ack = opt.a == 0 }, handler))
  local to = done:get(opt.n > 0 and 60 or opt.t + 5)
  over = true
  if not to then io.stderr:write(("only %d messages came\n"):format(n)) end
  if bytes ~= n * size then io.stderr:write(("bodies were not of %d bytes\n"):format(size)) end
  report(n, from, to or moment())
  mx.stop()
end

local function quantiles(name, took, n)
  local list = {}
  for k = 1, n do list[k] = took[k - 1] end
  table.sort(list)
  local function at(q) return (list[math.floor((n - 1) * q) + 1] or 0) * 1e6 end
  return (',"%s_p50":%.1f,"%s_p99":%.1f,"%s_p999":%.1f'):format(name, at(0.5), name, at(0.99), name, at(0.999))
end

-- The stamp in a body's first 8 bytes is mx.now(): monotonic seconds, as a double.
function run.lat()
  local want = math.floor(opt.t * opt.r)
  local confirms, arrivals = ffi.new("double[?]", want), ffi.new("double[?]", want)
  local sent, arrived, filler = 0, 0, ("x"):rep(math.max(opt.s - 8, 0))
  local stamp, all = ffi.new "double[1]", mx.chan(1)
  local p = publisher()
  assert(conn:consume(opt.q, { prefetch = opt.f }, function(msg)
    local at = now()
    ffi.copy(stamp, msg.body, 8)
    arrivals[arrived] = at - stamp[0]
    arrived = arrived + 1
    if arrived == want then all:put(true) end
  end))
  mx.sleep(0.3)
  local from = moment()
  while sent < want do
    local wait = from.at + sent / opt.r - now()
    if wait > 0 then mx.sleep(wait) end
    stamp[0] = now()
    local at = stamp[0]
    assert(p:publish(opt.q, ffi.string(stamp, 8) .. filler))
    confirms[sent] = now() - at
    sent = sent + 1
  end
  all:get(10)
  local to = moment()
  report(arrived, from, to, quantiles("conf", confirms, sent) .. quantiles("cons", arrivals, arrived))
  mx.stop()
end

if not run[mode] then error("peer.lua pub|con|lat, got " .. tostring(mode), 0) end
run[mode]()
