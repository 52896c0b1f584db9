-- What the Lua side of a message costs: one kind of body or handler on the embedded broker, published and consumed here.
--   mxrun -u mem:// spec/bench/mem.lua ROW [messages]        prints one line of JSON; spec/bench/mem runs all rows
local row, total = arg[1], tonumber(arg[2] or 3e6)

local function nothing() end
local function read(msg) return #msg.body > 0 or nil end
local sum = 0

-- body: what is published; ready: made by body(i) beforehand; handler: what is done with each; share: of the messages.
local rows = {
  constant = { body = ("x"):rep(64), handler = nothing },
  unique = {
    body = function(i) return ("%s%016x%s"):format(("a"):rep(24), i, ("z"):rep(24)) end, handler = read, ready = true,
  },
  ["256"] = { body = ("x"):rep(256), handler = read },
  ["1024"] = { body = ("x"):rep(1024), handler = read },
  json = {
    body = '{"id":4711,"country":"PL","total":19.95,"lines":[{"sku":"a-1","n":2},{"sku":"b-2","n":1}]}', share = 0.2,
    handler = function(msg) sum = sum + msg.data.total end,
  },
  loop = { body = ("x"):rep(64), handler = function(msg) for i = 1, 20 do sum = sum + msg.size * i end end },
  closure = {
    body = ("x"):rep(64),
    handler = function(msg)
      local size = msg.size
      local function add() sum = sum + size end
      add()
    end,
  },
  raise = { body = ("x"):rep(64), share = 0.02, handler = function() error "no" end },
}

local this = rows[row] or error("mem.lua: no row " .. tostring(row), 0)
total = math.floor(total * (this.share or 1))
assert(mx.queue("mem", { durable = false }))

-- 65,536 bodies that differ in the middle, made before the clock starts: the row is about reading them.
local body, bodies = this.body, nil
if this.ready then
  bodies = {}
  for i = 1, 65536 do bodies[i] = body(i) end
end

local seen, done, handler = 0, mx.chan(1), this.handler
-- Without retries, or the row that raises would measure the delay queues.
mx.consume("mem", { prefetch = 1000, retry = { max = 0 } }, function(msg)
  seen = seen + 1
  if seen == total then done:put(mx.now()) end
  return handler(msg)
end)

local p = mx.publisher { max_in_flight = 1000, mandatory = false, persistent = false }
local from = mx.now()
for i = 1, total do
  assert(p:publish_async("mem", bodies and bodies[i % 65536 + 1] or body))
end
local to = assert(done:get(300), "not all messages came")

local rss
for line in io.lines "/proc/self/status" do rss = rss or line:match "^VmHWM:%s+(%d+)" end
print(('{"row":"%s","n":%d,"rate":%.0f,"rss_mb":%.1f}'):format(row, total, total / (to - from), rss / 1024))
mx.stop()
