std = "luajit"
globals = { "mx", "arg" }
max_line_length = 140
files["spec"] = { std = "+busted" }
files["examples/*_spec.lua"] = { std = "+busted" }
files["scripts/mx/chunks.lua"] = { globals = { "require", "dofile", "load", "loadstring", "loadfile" } }
files["scripts/mx/guards.lua"] = { globals = { "xpcall", "newproxy", "ffi" } }
files["scripts/mx/loops.lua"] = { globals = { "next", "pairs" } }
files["scripts/mx/test/busted.lua"] = { globals = { "os.exit" } }
files["scripts/mx/coroutines.lua"] = { globals = { "coroutine.resume", "coroutine.wrap", "coroutine.yield", "coroutine.running" } }
