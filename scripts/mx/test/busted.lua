-- mxrun test: busted inside a task of the runtime, so that specs may wait.
local M = {}

-- The exit code of a busted run over the arguments.
function M.run(args)
  arg = { [0] = "mxrun test", unpack(args) }
  local code
  local exit = os.exit
  os.exit = function(c)
    code = c == true and 0 or c == false and 1 or c or 0
    error(M, 0)
  end
  local ok, e = pcall(function() require "busted.runner" { standalone = false } end)
  os.exit = exit
  if not ok and e == nil then return 1 end            -- how busted leaves when something failed
  if not ok and e ~= M then error(e, 0) end
  return code or 0
end

return M
