-- Writes the profiles that spec/interop/pprof and flame_page show to others: mxrun spec/interop/profiles.lua DIR
local dir = ...
local profiles = dofile "spec/cli/profiles.lua"
local function write(name, what) profiles.file(what, dir .. "/" .. name .. ".pb.gz") end

local function frame(name, line) return { name, dir .. "/source.lua", 2, line } end
local function deep(n)
  local stack = {}
  for i = 1, n do stack[i] = { "f" .. i % 7, "deep.lua", 1, i } end
  return stack
end

local f = assert(io.open(dir .. "/source.lua", "w"))
for i = 1, 20 do f:write("line ", i, " of the source\n") end
f:close()

local CPU = { { "samples", "count" }, { "cpu", "nanoseconds" } }
local main, turn = { "main", "orders.lua", 1, 30 }, { "turn", "mx/turn.lua", 5, 9 }
write("cpu", { types = CPU, time = 1.7e18, duration = 30e9,
  { stack = { frame("check", 4), main, turn }, labels = { queue = "orders", worker = "1" }, 31, 310e6 },
  { stack = { frame("check", 6), frame("check", 4), main, turn }, labels = { queue = "orders", worker = "2" }, 7, 70e6 },
  { stack = { frame("encode", 9), main, turn }, labels = { queue = "refunds" }, 12, 120e6 },
  { stack = { turn }, 1, 10e6 },
  { stack = { main }, 0, 0 } })
write("cpu2", { types = CPU,
  { stack = { frame("check", 4), main, turn }, labels = { queue = "orders", worker = "1" }, 51, 510e6 },
  { stack = { frame("encode", 9), main, turn }, labels = { queue = "refunds" }, 2, 20e6 } })

local HEAP = { { "alloc_objects", "count" }, { "alloc_space", "bytes" }, { "inuse_objects", "count" }, { "inuse_space", "bytes" } }
write("heap", { types = HEAP, default = "inuse_space",
  { stack = { frame("build", 3), main }, 1000, 5e6, 10, 5e4 },
  { stack = { frame("concat", 12), frame("build", 4), main }, 7, 1e9, 7, 1e9 } })
local evil = '<img src=x onerror="document.body.dataset.broken=1"></script><script>document.body.dataset.broken=2</script>'
write("evil", { types = { { evil, evil } }, { stack = { { evil, evil, 1, 1 } }, 1 } })
write("empty", { types = CPU })
write("deep", { types = CPU, { stack = deep(1), 1, 1 }, { stack = deep(500), 2, 2e9 } })
write("unicode", { types = CPU, { stack = { { "zażółć", "gęślą/jaźń.lua", 1, 2 }, { "日本", "x.lua", 1, 2 } }, 1, 1e9 } })
