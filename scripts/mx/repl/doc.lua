-- The reference at the prompt: docs/meta/mx.lua, which is built in.
local M = {}
local entries

-- By name: what stands above the function in the annotations, and its signature.
local function read()
  local list, above = {}, {}
  for line in (require "mx.meta" .. "\n"):gmatch "([^\n]*)\n" do
    local signature = line:match "^function (.-) end$" or line:match "^(mx%.[%w_]+) ="
    if signature then
      list[signature:match "^[%w_.:]+"] = { signature = signature, text = above }
      above = {}
    elseif line:find "^%-%-%-" then
      above[#above + 1] = line
    else
      above = {}
    end
  end
  return list
end

local KINDS = { param = "", ["return"] = "-> ", field = "." }

local function line_of(line)
  local tag, rest = line:match "^%-%-%-@(%w+)%s*(.*)$"
  if not tag then return (line:gsub("^%-%-%- ?", "")) end
  return KINDS[tag] and "  " .. KINDS[tag] .. rest or nil
end

function M.names()
  entries = entries or read()
  local names = {}
  for name in pairs(entries) do names[#names + 1] = name end
  return names
end

local function render(e)
  local lines = { e.signature }
  for _, line in ipairs(e.text) do lines[#lines + 1] = line_of(line) end
  return table.concat(lines, "\n")
end

-- The text, or nil. name: as it is written in the reference, or only its last part: all that end so.
function M.of(name)
  entries = entries or read()
  if entries[name] then return render(entries[name]) end
  local found = {}
  for full, e in pairs(entries) do
    if full:match "[%w_]+$" == name then found[#found + 1] = render(e) end
  end
  table.sort(found)
  return #found > 0 and table.concat(found, "\n\n") or nil
end

return M
