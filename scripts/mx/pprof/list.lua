-- The source of functions, with what each line took beside it.
local file, unit, top = require "mx.pprof.file", require "mx.pprof.unit", require "mx.pprof.top"

local M = {}
local AROUND = 5                -- lines beside one that has a number

-- The lines of the file, under dir or where it is named; nil: it is not there.
local function source(name, dir)
  local base = name:match "[^/]*$"
  for _, path in ipairs(dir and { dir .. "/" .. name, dir .. "/" .. base, name } or { name }) do
    local f = io.open(path)
    local text = f and f:read "*a"
    if f then f:close() end
    if text then
      local lines = {}
      for line in (text:gsub("\n?$", "\n", 1)):gmatch "(.-)\r?\n" do lines[#lines + 1] = line:gsub("[%z\1-\8\11-\31\127]", "?") end
      return lines
    end
  end
end

-- { f =, flat =, cum =, lines = { [line] = node } } of each function that the pattern fits, the dearest first.
local function gather(profile, number, pattern, o)
  local by, list = {}, {}
  for _, n in ipairs(top.gather(profile, number, setmetatable({ lines = true }, { __index = o }))) do
    local f = n.f.of
    if file.fits(pattern, f) then
      local r = by[f]
      if not r then
        r = { f = f, flat = 0, cum = 0, lines = {} }
        by[f], list[#list + 1] = r, r
      end
      r.flat = r.flat + n.flat
      r.lines[n.f.line] = { flat = n.flat, cum = n.cum }
    end
  end
  for _, n in ipairs(top.gather(profile, number, o)) do
    if by[n.f] then by[n.f].cum = n.cum end
  end
  table.sort(list, function(a, b)
    if a.flat ~= b.flat then return a.flat > b.flat end
    if a.cum ~= b.cum then return a.cum > b.cum end
    return top.place(a.f) < top.place(b.f)
  end)
  return list
end

-- The numbers of the lines to be shown, in order: those with a number, what is near them and where the function begins.
local function shown(r, text)
  local near, list = {}, {}
  local function add(first, last)
    for i = math.max(first, 1), text and math.min(last, #text) or last do near[i] = true end
  end
  for line in pairs(r.lines) do
    near[line] = true
    if text then add(line - AROUND, line + AROUND) end
  end
  if text and r.f.line > 0 then
    for i = 1, r.f.line - 1 do near[i] = r.lines[i] and true or nil end
    add(r.f.line, r.f.line)
  end
  for line in pairs(near) do list[#list + 1] = line end
  table.sort(list)
  return list
end

local function routine(r, total, write, dir)
  local text, before = source(r.f.file, dir), nil
  local out = { ("ROUTINE ======================== %s in %s\n"):format(r.f.name, top.place(r.f)),
    ("%10s %10s (flat, cum) %s of Total\n"):format(write(r.flat), write(r.cum), unit.percent(r.cum, total)) }
  for _, line in ipairs(shown(r, text)) do
    local n = r.lines[line] or { flat = 0, cum = 0 }
    if before and line > before + 1 then out[#out + 1] = "                      ...\n" end
    before = line
    out[#out + 1] = ("%10s %10s %6d:%s\n"):format(n.flat == 0 and "." or write(n.flat), n.cum == 0 and "." or write(n.cum), line,
      text and text[line] or "")
  end
  if not text then
    out[#out + 1] = ("no source: %s is not there; --source DIR says where it is\n"):format(dir and dir .. "/" .. r.f.file or r.f.file)
  end
  return table.concat(out)
end

-- Text, or nil when the pattern fits no function.
function M.report(profile, number, pattern, o)
  local list, total = gather(profile, number, pattern, o), profile:total(number)
  if #list == 0 then return nil end
  local all = {}
  for _, r in ipairs(list) do
    for _, n in pairs(r.lines) do all[#all + 1] = n end
  end
  local write = top.writer(profile, number, total, all)
  local out = { top.head(profile, number), ("Total: %s\n"):format(write(total)) }
  local left = o.count == 0 and #list or math.min(o.count, #list)
  for i = 1, left do out[#out + 1] = routine(list[i], total, write, o.source) end
  if left < #list then out[#out + 1] = ("... %d more functions; -n says how many\n"):format(#list - left) end
  return table.concat(out)
end

return M
