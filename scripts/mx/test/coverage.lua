-- mxrun test --coverage: which lines ran, by luacov. It counts in a debug hook, which compiled code does not call: so nothing is
-- compiled, and handlers are slower.
local M = {}

-- Patterns of what is not the user's: mxrun, what was installed, the specs themselves.
local OTHERS = { "^mx$", "^mx/", "^/usr/share/lua/", "^/usr/local/share/lua/", "/%.luarocks/", "luacov", "_spec$" }

-- The runner | nil, why it cannot be had
function M.start(config)
  local there, runner = pcall(require, "luacov.runner")
  if not there then return nil, "luacov is not there: luarocks install --lua-version 5.1 luacov" end
  jit.off()
  jit.flush()
  local ok, e = pcall(runner.init, config)
  if not ok then return nil, tostring(e) end
  os.remove(runner.configuration.statsfile)             -- of another run, and of a file that was another then
  for _, pattern in ipairs(OTHERS) do table.insert(runner.configuration.exclude, pattern) end
  return runner
end

-- Writes what luacov writes, and the summary of that to stdout.
function M.finish(runner)
  runner.shutdown()
  if not runner.configuration.runreport then runner.run_report(runner.configuration) end
  local f = io.open(runner.configuration.reportfile)
  local report = f and f:read "*a" or ""
  if f then f:close() end
  local summary = report:match "\n(Summary\n.*)$"
  if summary then print("\n" .. summary:gsub("%s+$", "")) end
end

return M
