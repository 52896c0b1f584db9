-- mx.profile: what is in the files that it writes, by line of this one.
local file = require "mx.pprof.file"
local cli = dofile "spec/cli/run.lua"

local made = {}
local function path(name)
  local base = os.tmpname()
  made[#made + 1] = base
  return base .. (name or "")
end

after_each(function()
  for i, p in ipairs(made) do
    os.execute(("rm -rf '%s' '%s'.*"):format(p, p))
    made[i] = nil
  end
end)

local function read(...) return assert(file.read { ... }) end

local function types(p)
  local names = {}
  for i, t in ipairs(p.types) do names[i] = t.type end
  return table.concat(names, " ")
end

-- What all samples of a type have in which a function of this file is, or all; with the labels.
local function sum(p, type, name, labels)
  local number, total = assert(p:type_called(type)), 0
  p:each({ labels = labels }, function(stack, depth, values)
    local found = not name
    for i = 1, depth do found = found or stack[i].name == name end
    if found then total = total + tonumber(values[number - 1]) end
  end)
  return total
end

local function burn(seconds)
  local till, n = mx.now() + seconds, 0
  while mx.now() < till do n = n + 1 end
  return n
end

local kept = {}
local function allocate(count)
  for i = 1, count do kept[i] = ("x"):rep(100000) .. i end
end

local function nap(seconds)
  mx.sleep(seconds)
  return true
end

local function exists(name)
  local f = io.open(name)
  return f and f:close() or false
end

local function entries(dir)
  local list = {}
  for name in io.popen("ls -A " .. dir):lines() do list[#list + 1] = name end
  return list
end

describe("mx.profile.cpu", function()
  it("waits, and writes what took processor time in any task", function()
    local to = path()
    local busy = mx.spawn(function()
      for _ = 1, 20 do
        burn(0.02)
        mx.sleep(0)
      end
    end)
    assert.is_true(mx.profile.cpu(0.3, to))
    busy:wait()
    local p = read(to)
    assert.equal("samples cpu", types(p))
    assert.is_true(sum(p, "cpu", "burn") > 0)
    assert.is_true(tonumber(p.summary.duration_ns) >= 0.3e9)
    assert.equal(0, sum(p, "cpu", "nap"))
  end)

  it("says at once that its path cannot be written", function()
    local before = mx.now()
    local ok, e = mx.profile.cpu(60, "/nowhere/cpu.pb.gz")
    assert.same({ nil, "config", "cannot write the profile /nowhere/cpu.pb.gz: /nowhere/cpu.pb.gz.part: No such file or directory" },
      { ok, e.code, e.message })
    assert.is_true(mx.now() - before < 30)
  end)

  it("ends when its task is cancelled", function()
    local to = path ".pb.gz"
    local t = mx.spawn(function() mx.profile.cpu(60, to) end)
    mx.sleep(0)
    t:cancel()
    local ok, e = t:wait()
    assert.same({ nil, "interrupted" }, { ok, e.code })
    assert.is_false(exists(to) or exists(to .. ".part"))
  end)
end)

describe("mx.profile.heap", function()
  it("has what was allocated and what of it is held", function()
    local to, later = path(), path()
    assert(mx.profile.heap(to))
    allocate(200)
    assert(mx.profile.heap(to))
    for i in pairs(kept) do kept[i] = nil end
    collectgarbage()
    collectgarbage()
    assert(mx.profile.heap(later))
    local p, after = read(to), read(later)
    assert.equal("alloc_objects alloc_space inuse_objects inuse_space", types(p))
    assert.is_true(sum(p, "inuse_space", "allocate") > 5e6)
    assert.is_true(sum(p, "alloc_space", "allocate") > 5e6)
    assert.is_true(sum(after, "inuse_space", "allocate") < sum(p, "inuse_space", "allocate") / 2)
    assert.is_true(sum(after, "alloc_space", "allocate") >= sum(p, "alloc_space", "allocate"))
  end)
end)

describe("mx.profile.start and stop", function()
  it("write several kinds into one file", function()
    local to = path()
    mx.profile.start { "cpu", "alloc", "wait", hz = 500 }
    burn(0.2)
    allocate(100)
    nap(0.05)
    assert.is_true(mx.profile.stop(to))
    local p = read(to)
    assert.equal("samples cpu alloc_objects alloc_space inuse_objects inuse_space contentions delay", types(p))
    assert.is_true(sum(p, "cpu", "burn") > 0)
    assert.is_true(sum(p, "alloc_space", "allocate") > 2e6)
    assert.is_true(sum(p, "contentions", "nap") == 1 and sum(p, "delay", "nap") >= 0.05e9)
    assert.equal(sum(p, "delay", "nap"), sum(p, "delay", "sleep"))
  end)

  it("have what was between them", function()
    local to = path()
    mx.profile.start { "wait" }
    nap(0.01)
    nap(0.01)
    assert(mx.profile.stop(to))
    assert.equal(2, sum(read(to), "contentions", "nap"))
    nap(0.01)
    mx.profile.start { "wait" }
    assert(mx.profile.stop(to))
    assert.equal(0, sum(read(to), "contentions"))
  end)

  it("take processor time when nothing is named, and a kind once however it is called", function()
    local to = path()
    mx.profile.start()
    assert(mx.profile.stop(to))
    assert.equal("samples cpu", types(read(to)))
    mx.profile.start { "heap", "alloc" }
    assert(mx.profile.stop(to))
    assert.equal("alloc_objects alloc_space inuse_objects inuse_space", types(read(to)))
  end)

  it("are not in the way of a profile that is taken meanwhile, nor it in theirs", function()
    local to, other = path(), path()
    mx.profile.start { "cpu", "wait" }
    local busy = mx.spawn(function()
      for _ = 1, 15 do
        burn(0.02)
        mx.sleep(0)
      end
    end)
    assert(mx.profile.cpu(0.2, other))
    busy:wait()
    burn(0.1)
    assert(mx.profile.stop(to))
    assert.is_true(sum(read(other), "cpu", "burn") > 0)
    assert.is_true(sum(read(to), "cpu", "burn") > sum(read(other), "cpu", "burn"))
  end)

  it("go on when the file cannot be written, for another path", function()
    local to = path()
    mx.profile.start { "wait" }
    nap(0.01)
    local ok, e = mx.profile.stop "/nowhere/wait.pb.gz"
    assert.same({ nil, "config" }, { ok, e.code })
    nap(0.01)
    assert(mx.profile.stop(to))
    assert.equal(2, sum(read(to), "contentions", "nap"))
  end)

  it("leave what is there as it was when there is no room, and nothing beside it", function()
    local to = path()
    local f = assert(io.open(to, "w"))
    f:write "old"
    f:close()
    local script = cli.file(([[
      mx.profile.start { "heap" }
      print(mx.profile.stop "%s")
      print(mx.profile.heap "%s")
    ]]):format(to, to))
    local out = cli.shell(("(trap '' XFSZ; ulimit -f 0; exec $MXRUN -u mem:// %s) | cat"):format(script))
    os.remove(script)
    assert.equal(("nil\tcannot write the profile %s: File too large\n"):format(to):rep(2), out)
    assert.equal("old", cli.read(to))
    assert.is_false(exists(to .. ".part"))
  end)

  it("refuse what makes no sense, at the line of the script", function()
    local function says(text, f, ...)
      local ok, e = pcall(f, ...)
      assert.is_false(ok)
      assert.matches("profile_spec.lua:%d+: " .. text .. "$", tostring(e))
    end
    says("mx.profile.stop: nothing was started", function() mx.profile.stop "x" end)
    says("mx.profile.start: there is no profile 'cpus', did you mean 'cpu'%?", function() mx.profile.start { "cpus" } end)
    says("mx.profile.start: name at least one of cpu, alloc, wait", function() mx.profile.start { hz = 10 } end)
    says("mx.profile.start: unknown option 'hertz'.*", function() mx.profile.start { "cpu", hertz = 10 } end)
    says("mx.profile.start: option 'hz': expected a number above 0, got 0", function() mx.profile.start { "cpu", hz = 0 } end)
    says("bad argument #1 to mx.profile.start: expected a table, got \"cpu\"", function() mx.profile.start "cpu" end)
    says("bad argument #1 to mx.profile.heap: expected a string, got nil", function() mx.profile.heap() end)
    says("bad argument #2 to mx.profile.cpu: expected a string, got nil", function() mx.profile.cpu(1) end)
    says("expected seconds.*", function() mx.profile.cpu("soon", "x") end)
    says("bad argument #2 to mx.profile.label: expected a function, got nil", function() mx.profile.label {} end)
    says("mx.profile.label: each label needs a name", function() mx.profile.label({ "acme", tenant = "acme" }, print) end)
    says("mx.profile.continuous: the duration must be below every", function() mx.profile.continuous { every = 1, duration = 1 } end)
    says("mx.profile.continuous: there is no profile 'tasks'.*", function() mx.profile.continuous { profiles = { "tasks" } } end)
    says("mx.profile.continuous: cannot make the directory /nowhere/x: No such file or directory",
      function() mx.profile.continuous { dir = "/nowhere/x" } end)
    mx.profile.start()
    says("mx.profile.start: it has been started already, stop it first", function() mx.profile.start() end)
    assert(mx.profile.stop(path()))
  end)
end)

describe("mx.profile.label", function()
  local function waits(f)
    local to = path()
    mx.profile.start { "wait" }
    f()
    assert(mx.profile.stop(to))
    return read(to)
  end

  it("marks what is done in it, waits included, and nothing after", function()
    local p = waits(function()
      mx.profile.label({ tenant = "acme" }, function()
        nap(0.001)
        nap(0.001)
      end)
      nap(0.001)
    end)
    assert.equal(2, sum(p, "contentions", "nap", { tenant = "acme" }))
    assert.equal(3, sum(p, "contentions", "nap"))
  end)

  it("marks samples of processor time", function()
    local to = path()
    mx.profile.start { "cpu", hz = 500 }
    mx.profile.label({ tenant = "acme", shard = 7 }, burn, 0.2)
    burn(0.1)
    assert(mx.profile.stop(to))
    local p = read(to)
    local labeled = sum(p, "cpu", "burn", { tenant = "acme", shard = "7" })
    assert.is_true(labeled > 0 and labeled < sum(p, "cpu", "burn"))
    assert.equal(0, sum(p, "cpu", "burn", { tenant = "other" }))
  end)

  it("stands beside the labels around it, the inner of the same name first", function()
    local p = waits(function()
      mx.profile.label({ tenant = "acme" }, function()
        mx.profile.label({ step = "one" }, nap, 0.001)
        mx.profile.label({ step = "two" }, nap, 0.001)
        nap(0.001)
      end)
    end)
    assert.equal(1, sum(p, "contentions", "nap", { tenant = "acme", step = "one" }))
    assert.equal(1, sum(p, "contentions", "nap", { step = "two" }))
    assert.equal(3, sum(p, "contentions", "nap", { tenant = "acme" }))
  end)

  it("goes to the tasks that are begun in it", function()
    local p = waits(function()
      local t = mx.profile.label({ tenant = "acme" }, function() return mx.spawn(nap, 0.001) end)
      t:wait()
    end)
    assert.equal(1, sum(p, "contentions", "nap", { tenant = "acme" }))
  end)

  it("keeps to its own task", function()
    local p = waits(function()
      local other = mx.spawn(function()
        nap(0.001)
        nap(0.001)
      end)
      mx.profile.label({ tenant = "acme" }, function()
        nap(0.005)
        other:wait()
      end)
    end)
    assert.equal(1, sum(p, "contentions", "nap", { tenant = "acme" }))
    assert.equal(3, sum(p, "contentions", "nap"))
  end)

  it("returns and raises what the function does, and is over after an error", function()
    local function several(...) return select("#", ...), ... end
    assert.same({ 3, 1, nil, 3 }, { mx.profile.label({}, several, 1, nil, 3) })
    local mine, ok, e = {}, nil, nil
    local p = waits(function()
      ok, e = pcall(mx.profile.label, { tenant = "acme" }, function()
        nap(0.001)
        error(mine)
      end)
      nap(0.001)
    end)
    assert.is_false(ok)
    assert.equal(mine, e)
    assert.equal(1, sum(p, "contentions", "nap", { tenant = "acme" }))
    assert.equal(2, sum(p, "contentions", "nap"))
  end)

  it("is added to what handlers have", function()
    local c, to = assert(mx.connect { url = "mem://profiles" }), path()
    assert(c:queue "labeled")
    local done = mx.chan(1)
    mx.profile.start { "wait" }
    local consumer = assert(c:consume("labeled", function()
      mx.profile.label({ tenant = "acme" }, nap, 0.001)
      nap(0.001)
      done:put(true)
    end))
    assert(c:publish("", "labeled", "x"))
    done:get()
    assert(mx.profile.stop(to))
    consumer:stop()
    c:close()
    local p = read(to)
    assert.equal(2, sum(p, "contentions", "nap", { queue = "labeled" }))
    assert.equal(1, sum(p, "contentions", "nap", { queue = "labeled", tenant = "acme" }))
  end)
end)

describe("mx.profile.continuous", function()
  local function directory()
    local dir = path()
    os.remove(dir)
    return dir
  end

  it("makes its directory, writes one file of each kind a round, and keeps as many as it is told", function()
    local dir = directory()
    local timer = mx.profile.continuous { every = 0.05, duration = 0.01, dir = dir, keep = 2, profiles = { "cpu", "heap", "wait" } }
    local seen = {}
    assert(mx.test.eventually(function()
      local count = 0
      for _, name in ipairs(entries(dir)) do
        if not name:find "%.part$" and not seen[name] then seen[name] = true end
      end
      for _ in pairs(seen) do count = count + 1 end
      return count >= 12
    end, 30))
    timer:cancel()
    mx.sleep(0.1)
    local kinds = {}
    for _, name in ipairs(entries(dir)) do
      local kind = assert(name:match "^(%a+)%-%d%d%d%d%d%d%d%d%-%d%d%d%d%d%d%-%d+[%d-]*%.pb%.gz$", name)
      kinds[kind] = (kinds[kind] or 0) + 1
    end
    assert.same({ cpu = 2, heap = 2, wait = 2 }, kinds)
    for _, name in ipairs(entries(dir)) do read(dir .. "/" .. name) end
  end)

  it("says that it cannot write, and goes on when it can", function()
    local dir = directory()
    local script = cli.file(([[
      local timer = mx.profile.continuous { every = 0.02, duration = 0.005, dir = "%s", profiles = { "heap" } }
      os.execute "rm -r %s"
      mx.sleep(0.1)
      os.execute "mkdir %s"
      while not io.popen("ls %s"):read() do mx.sleep(0.01) end
      timer:cancel()
    ]]):gsub("%%s", dir))
    local out, code = cli.both("-u mem:// " .. script)
    os.remove(script)
    assert.equal(0, code)
    assert.matches("error a profile was not saved error=\"cannot write the profile " .. dir, out)
    read(dir .. "/" .. entries(dir)[1])
  end)

  it("runs beside others", function()
    local dir, to = directory(), path()
    local a = mx.profile.continuous { every = 0.05, duration = 0.02, dir = dir, profiles = { "cpu", "wait" } }
    local b = mx.profile.continuous { every = 0.04, duration = 0.02, dir = dir, profiles = { "cpu", "wait" } }
    mx.profile.start { "wait" }
    nap(0.2)
    assert(mx.profile.stop(to))
    a:cancel()
    b:cancel()
    mx.sleep(0.1)
    assert.is_true(sum(read(to), "contentions", "nap") == 1)
    assert.is_true(#entries(dir) >= 4)
    for _, name in ipairs(entries(dir)) do read(dir .. "/" .. name) end
  end)
end)
