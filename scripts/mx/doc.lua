-- The reference of the API, as built in: what a name means.
local check = require "mx.check"

local M = {}

local function reference() return require "mx.reference" end    -- loaded when somebody asks

local function heading(e) return e.text == "" and e.title or e.title .. "\n\n" .. e.text end

-- Calls f for each entry that has a name, in the order of the reference.
local function each(f)
  for _, e in ipairs(reference()) do
    if e.name then f(e, e.name:lower()) end
  end
end

-- The lines about an option or a field of that name, under the names of what has it.
local function fields(name)
  local found = {}
  each(function(e)
    local about
    for line in (e.text .. "\n"):gmatch "([^\n]*)\n" do
      local field = line:match "^  ([%w_]+)%??%f[%s%z]"
      if field then about = field:lower() == name or nil end
      if not line:find "^  " then about = nil end
      if about == true then found[#found + 1], about = e.name, 1 end
      if about then found[#found + 1] = line end
    end
  end)
  return found[1] and table.concat(found, "\n")
end

-- The names of a section.
local function section(name)
  local inside, found
  for _, e in ipairs(reference()) do
    if not e.name then
      inside = e.title:lower() == name
      if inside then found = { heading(e), "" } end
    elseif inside then
      found[#found + 1] = "  " .. e.title
    end
  end
  return found and table.concat(found, "\n")
end

-- As they stand in the reference.
function M.names()
  local names = {}
  each(function(e) names[#names + 1] = e.name end)
  return names
end

-- What the reference says of a function, a class, an option or a section; or nil, and a name that may have been meant. Names may
-- stand without "mx." and without the object: publish, wait, ConsumeOptions.
function M.find(name)
  name = name:lower():gsub("%s*%(.*$", "")
  local whole, ending = {}, {}
  each(function(e, own)
    if e.text == "" and section(name) then return end
    if own == name or own == "mx." .. name then whole[#whole + 1] = heading(e)
    elseif own:sub(-#name) == name and own:sub(-#name - 1, -#name - 1):find "[.:]" then ending[#ending + 1] = heading(e) end
  end)
  local list = whole[1] and whole or ending
  if list[1] then return table.concat(list, "\n\n") end
  local text = section(name) or name ~= "" and fields(name)
  if text then return text end
  local names = M.names()
  for i = 1, #names do names[#names + 1] = names[i]:match "[.:]([%w_]+)$" end
  return nil, select(2, check.nearest(name, names))
end

-- All names, by section.
function M.list()
  local lines = {}
  for _, e in ipairs(reference()) do
    if not e.name then
      if lines[1] then lines[#lines + 1] = "" end
      lines[#lines + 1] = e.title
    else
      lines[#lines + 1] = "  " .. e.title
    end
  end
  return table.concat(lines, "\n")
end

return M
