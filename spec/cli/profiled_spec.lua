-- --profile: profiles of a whole run, however it ends.
local cli, file = dofile "spec/cli/run.lua", require "mx.pprof.file"

local made = {}
local function directory()
  local dir = os.tmpname()
  os.remove(dir)
  made[#made + 1] = dir
  return dir
end

after_each(function()
  for i, path in ipairs(made) do
    os.execute(("rm -rf '%s'"):format(path))
    made[i] = nil
  end
end)

local function script(code)
  local path = cli.file(code)
  made[#made + 1] = path
  return path
end

-- The files of the directory by kind, each a list.
local function files(dir)
  local by = {}
  for name in io.popen("ls -A " .. dir):lines() do
    local kind = assert(name:match "^(%a+)%-%d+%-%d+%-%d+[-w%d]*%.pb%.gz$", name)
    by[kind] = by[kind] or {}
    table.insert(by[kind], dir .. "/" .. name)
  end
  return by
end

local function sum(paths, type, name, labels)
  local p, total = assert(file.read(paths)), 0
  local number = assert(p:type_called(type))
  p:each({ focus = name, labels = labels }, function(_, _, values) total = total + tonumber(values[number - 1]) end)
  return total, p
end

local WORK = [[
local kept = {}
local function remember() for i = 1, 200 do kept[i] = ("x"):rep(100000) .. i end end
local function burn()
  local till, n = mx.now() + 0.3, 0
  while mx.now() < till do n = n + 1 end
end
local function nap() mx.sleep(0.02) return true end
remember()
burn()
nap()
]]

local function check(dir)
  local by = files(dir)
  assert.same({ 1, 1, 1 }, { #by.cpu, #by.heap, #by.wait })
  assert.is_true(sum(by.cpu, "cpu", "burn") > 0)
  assert.is_true(sum(by.heap, "alloc_space", "remember") > 5e6)
  local waited, p = sum(by.wait, "contentions", "nap")
  assert.equal(1, waited)
  assert.is_true(tonumber(p.summary.duration_ns) >= 0.3e9)
end

-- What it says of the files on stderr, and nothing else.
local function tells(errors, dir)
  local n = 0
  for line in errors:gmatch "[^\n]+" do
    if line:find("mxrun: profile: " .. dir .. "/", 1, true) == 1 then n = n + 1 end
  end
  return n
end

describe("--profile", function()
  it("writes a file of each kind when the script ends, into a directory that it makes", function()
    local dir = directory()
    local run = ("-u mem:// --profile cpu,heap,wait --profile-dir %s %s"):format(dir, script(WORK .. "print 'done'"))
    local out, code, errors = cli.mxrun(run)
    assert.same({ "done\n", 0, 3 }, { out, code, tells(errors, dir) })
    check(dir)
  end)

  it("writes them when the script fails, and the exit code stays", function()
    local dir = directory()
    local _, code, errors = cli.mxrun(("-u mem:// --profile cpu,heap,wait --profile-dir %s %s"):format(dir, script(WORK .. "error 'no'")))
    assert.same({ 1, 3 }, { code, tells(errors, dir) })
    assert.matches("no\nstack traceback", errors)
    check(dir)
  end)

  -- The script has printed "up" when the signals come; drain: in seconds.
  local function stopped(code, signals, drain)
    local dir = directory()
    made[#made + 1] = dir .. ".out"
    local _, exit, errors = cli.shell(([[
      : >%s.out
      $MXRUN -u mem:// --log-level error --drain %g --profile cpu,heap,wait --profile-dir %s %s >%s.out & pid=$!
      until grep -q up %s.out; do sleep 0.05; done
      for i in $(seq %d); do kill -TERM $pid; sleep 0.3; done
      wait $pid]]):format(dir, drain, dir, script(WORK .. "io.stdout:setvbuf 'no'\n" .. code), dir, dir, signals))
    assert.equal(3, tells(errors, dir), errors)
    check(dir)
    return exit
  end

  local STUCK = [[
    assert(mx.queue "q")
    mx.consume("q", function()
      print "up"
      mx.sleep(60)
    end)
    assert(mx.publish("", "q", "x"))
  ]]

  it("writes them after SIGTERM", function() assert.equal(0, stopped("print 'up' mx.sleep(60)", 1, 25)) end)
  it("writes them after a second SIGTERM", function() assert.equal(4, stopped(STUCK, 2, 25)) end)
  it("writes them when the drain ran out", function() assert.equal(4, stopped(STUCK, 1, 0.2)) end)

  it("counts what loading a large script takes, and does not mind", function()
    local dir = directory()
    local large = script(("local text = '%s'\nprint(#text)"):format(("x"):rep(8e6)))
    local out, code = cli.mxrun(("-u mem:// --profile heap --profile-dir %s %s"):format(dir, large))
    assert.same({ "8000000\n", 0 }, { out, code })
    assert.is_true(sum(files(dir).heap, "alloc_space") > 4e6)
  end)

  it("is asked for by the environment too", function()
    local dir = directory()
    local _, code = cli.both("-u mem:// " .. script(WORK), ("MXRUN_PROFILE=wait MXRUN_PROFILE_DIR=%s"):format(dir))
    assert.equal(0, code)
    assert.equal(1, sum(files(dir).wait, "contentions", "nap"))
  end)

  it("writes a file of each worker, with its label", function()
    local dir = directory()
    local _, code = cli.both(("-w 2 -u mem:// --profile wait --profile-dir %s %s"):format(dir, script(WORK)))
    assert.equal(0, code)
    local waits = files(dir).wait
    assert.equal(2, #waits)
    for worker = 1, 2 do assert.equal(1, (sum(waits, "contentions", "nap", { worker = tostring(worker) }))) end
  end)

  it("says before the run that it could not write, or does not know the kind", function()
    local blocked = script "x"
    for options, why in pairs {
      ["--profile cpu --profile-dir /nowhere/x"] = "--profile-dir: cannot make the directory /nowhere/x: No such file or directory",
      ["--profile cpu --profile-dir " .. blocked] = "--profile-dir: cannot write the profile " .. blocked .. "/profile-.*: Not a directory",
      ["--profile cpus"] = "--profile: there is no profile 'cpus', did you mean 'cpu'%?",
      ["--profile ,"] = "--profile: name at least one of cpu, alloc, wait",
    } do
      local text, code = cli.both(("-u mem:// %s -e 'print(1)'"):format(options))
      assert.equal(2, code, text)
      assert.matches("^mxrun: " .. why:gsub("%-", "%%-") .. "\n$", text)
    end
  end)

  it("says at the end what it could not write then", function()
    local dir = directory()
    local text, code = cli.both(("-u mem:// --profile wait,cpu --profile-dir %s %s"):format(dir,
      script(('os.execute "rm -r %s"'):format(dir))))
    assert.equal(0, code)
    local n = select(2, text:gsub("mxrun: cannot write the profile " .. dir:gsub("%p", "%%%0") .. "/", ""))
    assert.equal(2, n, text)
  end)

  it("ends all the same when the script left nothing to write with", function()
    local text, code = cli.both(("-u mem:// --profile wait --profile-dir %s %s"):format(directory(),
      script 'io.open = function() error "no files today" end'))
    assert.equal(1, code, text)
    assert.matches("mxrun: [^\n]*no files today", text)
  end)
end)

describe("a profile that nobody stops", function()
  it("is no death to a script that takes a while to free what it holds", function()
    local path = script [[
      mx.profile.start { "cpu", hz = 1000 }
      kept = {}
      for i = 1, 2e6 do kept[i] = { i } end
    ]]
    local out, code, errors = cli.mxrun("-u mem:// --log-level error " .. path)
    assert.same({ "", 0, "" }, { out, code, errors })
  end)
end)
