-- mxrun doc: the reference of the API in the terminal.
local args, doc, stdio = require "mx.cli.args", require "mx.doc", require "mx.cli.stdio"

local M = { name = "doc", usage = [[
usage: mxrun doc [NAME]

What the reference of the API says of NAME: a function (publish, mx.consume, receipt:wait), a class or its options (ConsumeOptions),
an option (prefetch) or a section (publishing). Without NAME: all names.

exit codes: 0 fine, 1 there is no such name, 2 misuse
]], options = {} }

function M.run(list)
  local o, words = args.parse(M, list)
  if not o then return words end
  if #words > 1 then return args.refuse(M, ("expected one NAME, got %d"):format(#words)) end
  local text, nearest = doc.list(), nil
  if words[1] then text, nearest = doc.find(words[1]) end
  if not text then
    return args.failed(M, ("there is no '%s'%s"):format(words[1], nearest and (", did you mean '%s'?"):format(nearest) or ""))
  end
  stdio.write(text .. "\n")
  return 0
end

return M
