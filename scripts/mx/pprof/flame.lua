-- A profile as one page of HTML: the tree of stacks as JSON, and a program that draws it.
local tree, page = require "mx.pprof.tree", require "mx.pprof.page"

local M = {}

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\" }
local function escape(c) return ESCAPES[c] or ("\\u%04x"):format(c:byte()) end

-- What is no UTF-8 becomes "?".
local function utf8(text)
  if not text:find "[\128-\255]" then return text end
  local out, at = {}, 1
  while at <= #text do
    local piece = text:match("^[%z\1-\127]+", at) or text:match("^[\194-\223][\128-\191]", at)
      or text:match("^\224[\160-\191][\128-\191]", at) or text:match("^\237[\128-\159][\128-\191]", at)
      or text:match("^[\225-\236\238\239][\128-\191][\128-\191]", at) or text:match("^\240[\144-\191][\128-\191][\128-\191]", at)
      or text:match("^[\241-\243][\128-\191][\128-\191][\128-\191]", at) or text:match("^\244[\128-\143][\128-\191][\128-\191]", at)
    out[#out + 1], at = piece or "?", at + #(piece or "?")
  end
  return table.concat(out)
end

-- As JSON that may stand inside a script element, whatever the text is.
local function quoted(text) return '"' .. utf8(text):gsub('[%c"\\<>&]', escape) .. '"' end

local function list(items, write)
  local out = {}
  for i, item in ipairs(items) do out[i] = write(item) end
  return "[" .. table.concat(out, ",") .. "]"
end

local function number(v) return ("%.0f"):format(math.max(v, 0)) end

-- "depth, frame, a number for each type" of each node, who was called behind who called.
local function walk(root, by)
  local frames, known, out = {}, {}, {}
  local function add(n, depth)
    for _, child in ipairs(tree.sorted(n, by)) do
      local f = child.f
      if not known[f] then
        frames[#frames + 1] = f
        known[f] = #frames - 1
      end
      out[#out + 1] = ("%d,%d,%s"):format(depth, known[f], list(child.flat, number):sub(2, -2))
      add(child, depth + 1)
    end
  end
  add(root, 0)
  return frames, "[" .. table.concat(out, ",") .. "]"
end

local ENTITIES = { ["<"] = "&lt;", [">"] = "&gt;", ["&"] = "&amp;", ['"'] = "&quot;" }

-- The page; shown: the number of the sample type that is seen first.
function M.page(profile, shown, title, o)
  local numbers = {}
  for i = 1, #profile.types do numbers[i] = i end
  local frames, nodes = walk(tree.grow(profile, numbers, o), shown)
  local data = ('{"title":%s,"shown":%d,"lines":%s,"types":%s,"frames":%s,"nodes":%s}'):format(quoted(title), shown - 1,
    tostring(o.lines or false), list(profile.types, function(t) return "[" .. quoted(t.type) .. "," .. quoted(t.unit) .. "]" end),
    list(frames, function(f) return ("[%s,%s,%.0f]"):format(quoted(f.name), quoted(f.file), f.line) end), nodes)
  local parts = { TITLE = utf8(title):gsub('[<>&"]', ENTITIES), DATA = data }
  return (page:gsub("@(%u+)@", parts))
end

return M
