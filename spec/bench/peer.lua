-- The mxrun client of the benchmarks, by the public API only:
--   mxrun spec/bench/peer.lua pub|con|lat -p port -s size -t secs -n count -w window -P -q queue -f prefetch -a ackn -r rate
-- -a 0: no acks; -b: the handler reads #msg.body instead of msg.size. Prints one JSON line.
local ffi = require "ffi"
ffi.cdef [[
  typedef struct { long sec, usec; } peer_time;
  typedef struct { peer_time user, sys; long rest[14]; } peer_usage;
  int getrusage(int who, peer_usage *u);
]]

local mode = arg[1]
local o = { p = 5672, s = 64, t = 4, w = 256, q = "bench", f = 256, a = 1, r = 1000 }
do
  local i = 2
  while arg[i] do
    local name = arg[i]:sub(2)
    if name == "P" or name == "b" then
      o[name] = true
      i = i + 1
    else
      o[name] = tonumber(arg[i + 1]) or arg[i + 1]
      i = i + 2
    end
  end
end

local conn = assert(mx.connect { url = ("amqp://guest:guest@127.0.0.1:%d"):format(o.p) })
assert(conn:queue(o.q, { durable = o.P or false }))

local function cpu()
  local u = ffi.new "peer_usage"
  ffi.C.getrusage(0, u)
  return tonumber(u.user.sec * 1e6 + u.user.usec), tonumber(u.sys.sec * 1e6 + u.sys.usec)
end

local function rss()
  for line in io.lines "/proc/self/status" do
    local kb = line:match "^VmHWM:%s+(%d+)"
    if kb then return kb / 1024 end
  end
end

local user0, sys0, start
local function begin()
  user0, sys0 = cpu()
  start = mx.now()
end

local function report(n, extra)
  local took = mx.now() - start
  local user, sys = cpu()
  local function us(x) return x / math.max(n, 1) end
  print(('{"client":"mxrun","mode":"%s","size":%d,"n":%d,"secs":%.3f,"rate":%.0f,"user_us":%.3f,"sys_us":%.3f,"cpu_us":%.3f,"rss_mb":%.1f%s}')
    :format(mode, o.s, n, took, n / took, us(user - user0), us(sys - sys0), us(user + sys - user0 - sys0), rss(), extra or ""))
  mx.stop()
end

local function publisher() return mx.publisher { conn = conn, max_in_flight = o.w, mandatory = false, persistent = o.P or false } end

local function pub()
  local p, body, queue = publisher(), ("x"):rep(o.s), o.q
  local ring, sent, confirmed = {}, 0, 0
  for i = 1, o.w do ring[i] = false end
  begin()
  local due = start + o.t
  repeat
    for i = 1, math.min(o.w, (o.n or math.huge) - sent) do
      local old = ring[i]
      if old and old.state == "confirmed" then confirmed = confirmed + 1 end
      ring[i] = p:publish_async(queue, body)
      sent = sent + 1
    end
  until o.n and sent >= o.n or not o.n and mx.now() >= due
  for i = 1, o.w do
    if ring[i] and ring[i]:wait() then confirmed = confirmed + 1 end
  end
  report(confirmed)
end

local function con()
  local n, bytes, most, ended = 0, 0, o.n or math.huge, mx.semaphore(0)
  local function count(size)
    n, bytes = n + 1, bytes + size
    if n == most then ended:release() end
  end
  local handler = o.b and function(msg) count(#msg.body) end or function(msg) count(msg.size) end
  begin()
  assert(conn:consume(o.q, { prefetch = o.f, auto_ack = o.a == 0 }, handler))
  ended:acquire(o.n and 60 or o.t)
  local got = n
  if bytes ~= n * o.s then io.stderr:write("size mismatch\n") end
  report(got)
end

local function percentiles(name, list)
  table.sort(list)
  local out = {}
  for label, q in pairs { p50 = 0.5, p99 = 0.99, p999 = 0.999 } do
    out[#out + 1] = (',"%s_%s":%.1f'):format(name, label, list[math.floor((#list - 1) * q) + 1] / 1e3)
  end
  return table.concat(out)
end

local function lat()
  local want = math.floor(o.t * o.r)
  local confirms, consumes, ended = {}, {}, mx.semaphore(0)
  local stamp, pad = ffi.new "double[1]", ("x"):rep(o.s - 8)
  assert(conn:consume(o.q, { prefetch = o.f }, function(msg)
    local body = msg.body
    ffi.copy(stamp, body, 8)
    consumes[#consumes + 1] = (mx.now() - stamp[0]) * 1e9
    if #consumes == want then ended:release() end
  end))
  local p = publisher()
  p:publish(o.q, ("\0"):rep(o.s))             -- opens the channel; not counted
  while #consumes == 0 do mx.sleep(0.001) end
  consumes[1] = nil
  begin()
  for i = 1, want do
    local due = start + (i - 1) / o.r
    local wait = due - mx.now()
    if wait > 0 then mx.sleep(wait) end
    stamp[0] = mx.now()
    local sent = stamp[0]
    assert(p:publish(o.q, ffi.string(stamp, 8) .. pad))
    confirms[i] = (mx.now() - sent) * 1e9
  end
  ended:acquire(10)
  report(want, percentiles("conf", confirms) .. percentiles("cons", consumes))
end

local modes = { pub = pub, con = con, lat = lat }
if not modes[mode] then error("usage: peer.lua pub|con|lat -p port -s size ...", 0) end
modes[mode]()
