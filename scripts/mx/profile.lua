-- Profiles: what is between two moments of what C samples, as pprof files.
local ffi = require "ffi"
local C = ffi.C
local turn, task, err, check = require "mx.turn", require "mx.task", require "mx.err", require "mx.check"
local log = require "mx.log"

local M = {}

local WHICH = { cpu = C.MX_CPU, alloc = C.MX_HEAP, heap = C.MX_HEAP, wait = C.MX_WAIT }
local stacks, worker                    -- bindings/stacks.c; the number under mxrun -w

-- Taking ----------------------------------------------------------------------------------------------------------

local function owned(p) return ffi.gc(p, C.mx_pprof_free) end
local function copy(which) return owned(C.mx_profile_copy(which)) end

local waiters = 0
local function want(which, rate)
  C.mx_profile_want(which, rate or 0)
  if which ~= C.MX_WAIT then return end
  waiters = waiters + 1
  turn.waited = stacks.waited
end

local function leave(which)
  C.mx_profile_leave(which)
  if which ~= C.MX_WAIT then return end
  waiters = waiters - 1
  if waiters == 0 then turn.waited = nil end
end

local function add(to, from, factor)
  local why = ffi.new "const char *[1]"
  assert(C.mx_pprof_add(to, from, factor, why) == 0)
end

-- The profile's bytes; of a duration in seconds, if it has one.
local function written(p, duration, from)
  local size = ffi.new "size_t[1]"
  C.mx_pprof_time(p, 1000000000LL * (from or os.time()), math.floor((duration or 0) * 1e9))
  C.mx_pprof_comment(p, "mxrun " .. ffi.string(C.mx_version()))
  if worker then C.mx_pprof_comment(p, "worker " .. worker) end
  local bytes = C.mx_pprof_write(p, size)
  local text = ffi.string(bytes, size[0])
  C.mx_bytes_free(bytes)
  return text
end

local function comment(p, which, cost, seconds)
  local rate, slowed = C.mx_profile_rate(which), C.mx_profile_slowed()
  if rate > 0 then C.mx_pprof_comment(p, (which == C.MX_CPU and "hz %g" or "bytes between samples %g"):format(rate)) end
  if seconds > 0 then C.mx_pprof_comment(p, ("overhead of all profiles %.2f %%"):format(100 * cost / seconds)) end
  if slowed > 0 then C.mx_pprof_comment(p, ("rates were halved %d times, for their cost"):format(slowed)) end
end

local Session = {}
Session.__index = Session

-- which: a list of C's numbers, each once.
function M.begin(which, hz, every_bytes)
  local self = setmetatable({ which = which, before = {}, from = C.mx_now(), date = os.time(), cost = C.mx_profile_cost() }, Session)
  for _, n in ipairs(which) do
    want(n, n == C.MX_CPU and hz or n == C.MX_HEAP and every_bytes)
    self.before[n] = copy(n)
  end
  return self
end

-- What one of them was since the beginning.
function Session:profile(n)
  local p = copy(n)
  add(p, self.before[n], -1)
  comment(p, n, C.mx_profile_cost() - self.cost, C.mx_now() - self.from)
  return p
end

-- All of it as one file, by now.
function Session:bytes()
  local all = self:profile(self.which[1])
  for i = 2, #self.which do
    if C.mx_pprof_join(all, self:profile(self.which[i])) ~= 0 then error "cannot join profiles" end
  end
  return written(all, C.mx_now() - self.from, self.date)
end

function Session:drop()
  for _, n in ipairs(self.which) do leave(n) end
end

-- The bytes of a profile of so many seconds from now.
function M.during(which, seconds, hz)
  local s = M.begin({ which }, hz)
  local ok, e = pcall(task.sleep, seconds)
  local bytes = ok and s:bytes()
  s:drop()
  if not ok then error(e, 0) end
  return bytes
end

local sampled
-- From now on the heap is always sampled: who asks for it later sees what was allocated since.
function M.watch_heap(every_bytes)
  if sampled then return end
  sampled = true
  want(C.MX_HEAP, every_bytes)
end

-- What was allocated since sampling began and what of it is held. allocs: it is first shown by what was allocated.
function M.heap(allocs)
  M.watch_heap()
  local p = copy(C.MX_HEAP)
  comment(p, C.MX_HEAP, 0, 0)
  if allocs then C.mx_pprof_default(p, "alloc_space") end
  return written(p)
end

-- What has been waited for since somebody asked for it; nil: nobody did.
function M.waits()
  if waiters == 0 then return nil end
  return written(copy(C.MX_WAIT))
end

local function why_of(t) return t.parked and (t.why or "event") or "ready" end

-- The tasks that live, by stack and by what they wait for.
function M.tasks()
  for t in pairs(turn.alive) do
    if t ~= turn.current then stacks.task(t.co, why_of(t)) end
  end
  local p = C.mx_profile_tasks()
  return written(p ~= nil and owned(p) or owned(C.mx_pprof_new()))
end

-- The same as text: a stack each, with how many tasks have it.
function M.tasks_text()
  local seen, list = {}, {}
  for t in pairs(turn.alive) do
    local text = ("%s: %s"):format(why_of(t), t == turn.current and "this request" or debug.traceback(t.co))
    if not seen[text] then list[#list + 1] = text end
    seen[text] = (seen[text] or 0) + 1
  end
  table.sort(list, function(a, b) return seen[a] > seen[b] or seen[a] == seen[b] and a < b end)
  for i, text in ipairs(list) do list[i] = ("%d × %s\n"):format(seen[text], text) end
  return ("%d tasks\n\n"):format(turn.tasks) .. table.concat(list, "\n")
end

-- Files -------------------------------------------------------------------------------------------------------------

local function unwritten(path, e)
  os.remove(path .. ".part")
  return nil, err.new("config", ("cannot write the profile %s: %s"):format(path, e), { op = "profile" })
end

-- Whole or not at all. true | nil, err
function M.save(path, bytes)
  local part = path .. ".part"
  local f, e = io.open(part, "wb")
  if not f then return unwritten(path, e) end
  local ok, closed, why
  ok, e = f:write(bytes)
  closed, why = f:close()
  if not ok or not closed then return unwritten(path, e or why) end
  ok, e = os.rename(part, path)
  if not ok then return unwritten(path, e) end
  return true
end

-- Whether it could be, before it takes long to find out. true | nil, err
local function try(path)
  local f, e = io.open(path .. ".part", "wb")
  if not f then return unwritten(path, e) end
  f:close()
  os.remove(path .. ".part")
  return true
end

local OPTIONS = { hz = "number>0", every_bytes = "bytes" }

-- The numbers of what the list names.
local function numbers(who, list)
  local which, seen = {}, {}
  for _, name in ipairs(list) do
    local n = WHICH[name]
    if not n then check.fail(("%s: there is no profile '%s'%s"):format(who, tostring(name), check.nearest(tostring(name), WHICH))) end
    if not seen[n] then which[#which + 1] = n end
    seen[n] = true
  end
  if #which == 0 then check.fail(who .. ": name at least one of cpu, alloc, wait") end
  return which
end

local running
local api = {}

function api.cpu(seconds, path)
  check.args("mx.profile.cpu", { "any", "string" }, seconds, path)
  seconds = check.seconds(seconds)
  local ok, e = try(path)
  if not ok then return nil, e end
  return M.save(path, M.during(C.MX_CPU, seconds))
end

function api.heap(path)
  check.args("mx.profile.heap", { "string" }, path)
  return M.save(path, M.heap())
end

function api.start(options)
  check.args("mx.profile.start", { "table?" }, options)
  options = options or { "cpu" }
  local rest = {}
  for k, v in pairs(options) do
    if type(k) ~= "number" then rest[k] = v end
  end
  rest = check.options("mx.profile.start", rest, OPTIONS)
  local which = numbers("mx.profile.start", options)
  if running then check.fail "mx.profile.start: it has been started already, stop it first" end
  running = M.begin(which, rest.hz, rest.every_bytes)
end

-- What could not be written goes on, for another path.
function api.stop(path)
  check.args("mx.profile.stop", { "string" }, path)
  if not running then check.fail "mx.profile.stop: nothing was started" end
  local ok, e = M.save(path, running:bytes())
  if not ok then return nil, e end
  running:drop()
  running = nil
  return true
end

-- Labels --------------------------------------------------------------------------------------------------------------

-- The labels as a number, beside others.
function M.labels(labels, others)
  local names = {}
  for name in pairs(labels) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do others = C.mx_profile_label(others, name, tostring(labels[name])) end
  return others
end

local function set(t, labels)
  t.labels = labels
  turn.t.labels = labels
end

local function restore(t, labels, ok, ...)
  set(t, labels)
  if not ok then turn.again((...)) end
  return ...
end

function api.label(labels, f, ...)
  check.args("mx.profile.label", { "table", "function" }, labels, f)
  for name in pairs(labels) do
    if type(name) ~= "string" then check.fail "mx.profile.label: each label needs a name" end
  end
  local t = turn.here()
  local before = t.labels or turn.labels
  set(t, M.labels(labels, before))
  return restore(t, before, xpcall(f, turn.on_error, ...))
end

-- Again and again -----------------------------------------------------------------------------------------------------

local continuous = { every = "seconds", duration = "seconds", dir = "string", keep = "integer>0", profiles = "table", hz = "number>0" }

local function exists(path)
  local f = io.open(path)
  return f and f:close()
end

-- One that is not there yet.
local function file_name(dir, kind)
  local place = ("%d%s"):format(C.mx_process_id(), worker and "-w" .. worker or "")
  local base, n = ("%s/%s-%s-%s"):format(dir, kind, os.date "%Y%m%d-%H%M%S", place), 1
  local path = base .. ".pb.gz"
  while exists(path) do
    n = n + 1
    path = ("%s-%d.pb.gz"):format(base, n)
  end
  return path
end

-- Saves, and takes away the oldest of those saved here when they are too many.
local function keep(o, kept, kind, bytes)
  local path = file_name(o.dir, kind)
  local ok, e = M.save(path, bytes)
  if not ok then return log.error("a profile was not saved", { error = tostring(e) }) end
  kept[#kept + 1] = path
  while #kept > o.keep do os.remove(table.remove(kept, 1)) end
end

local function round(o, which, kept)
  for _, n in ipairs(which) do
    if n == C.MX_HEAP then keep(o, kept[n], "heap", M.heap()) end
  end
  local rest = {}
  for _, n in ipairs(which) do
    if n ~= C.MX_HEAP then rest[#rest + 1] = n end
  end
  if #rest == 0 then return end
  local s = M.begin(rest, o.hz)
  local ok, e = pcall(task.sleep, o.duration)
  for _, n in ipairs(rest) do
    if ok then keep(o, kept[n], n == C.MX_CPU and "cpu" or "wait", written(s:profile(n), C.mx_now() - s.from, s.date)) end
  end
  s:drop()
  if not ok then error(e, 0) end
end

-- nil, or why it is not there.
local function make_directory(dir)
  local why = C.mx_make_directory(dir)
  if why ~= nil then return ("cannot make the directory %s: %s"):format(dir, ffi.string(why)) end
end

function api.continuous(options)
  local o = check.options("mx.profile.continuous", options or {}, continuous)
  o.every, o.duration, o.dir, o.keep = o.every or 300, o.duration or 10, o.dir or "profiles", o.keep or 288
  if o.duration >= o.every then check.fail "mx.profile.continuous: the duration must be below every" end
  local which = numbers("mx.profile.continuous", o.profiles or { "cpu", "heap" })
  local why = make_directory(o.dir)
  if why then check.fail("mx.profile.continuous: " .. why) end
  local kept = {}
  for _, n in ipairs(which) do
    kept[n] = {}
    if n == C.MX_HEAP then M.watch_heap() end
  end
  return task.every(o.every, function() round(o, which, kept) end)
end

M.api = api

-- Around the whole run ------------------------------------------------------------------------------------------------

-- kinds: as --profile has it, "cpu,heap". finish(): writes the files into dir; what could not be written is a line on stderr.
function M.around(kinds, dir)
  local list = {}
  for name in kinds:gmatch "[^,]+" do list[#list + 1] = name end
  local ok, which = pcall(numbers, "--profile", list)
  if not ok then return nil, (tostring(which):gsub("^.-: %-%-", "--")) end
  local why = make_directory(dir)
  if why then return nil, "--profile-dir: " .. why end
  local can, unwritable = try(file_name(dir, "profile"))
  if not can then return nil, "--profile-dir: " .. tostring(unwritable) end
  for _, n in ipairs(which) do
    if n == C.MX_HEAP then M.watch_heap() end
  end
  local s = M.begin(which)
  return function()
    for i, n in ipairs(which) do
      local name = n == C.MX_HEAP and "heap" or list[i]
      local bytes = n == C.MX_HEAP and M.heap() or written(s:profile(n), C.mx_now() - s.from, s.date)
      local path = file_name(dir, name)
      local saved, e = M.save(path, bytes)
      io.stderr:write("mxrun: ", saved and "profile: " .. path or tostring(e), "\n")
    end
    s:drop()
  end
end

function M.setup(host)
  stacks, worker = host.stacks, host.worker
  if worker then turn.labels = C.mx_profile_label(0, "worker", tostring(worker)) end
end

return M
