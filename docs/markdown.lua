-- Markdown as a list of blocks, as far as docs/api.md needs it; and those as plain text for a terminal.
--   luajit docs/markdown.lua docs/api.md > reference.lua     the entries of the reference as a Lua module, for mxrun doc
local M = {}

-- The cells of a row of a table.
local function cells(line)
  local row = {}
  for cell in (line:gsub("\\|", "\1")):gmatch "|%s*([^|]*)" do row[#row + 1] = (cell:gsub("\1", "|"):gsub("%s+$", "")) end
  row[#row] = nil                       -- what stands behind the last bar
  return row
end

-- Each block: { kind = "heading", level, text }, { kind = "code", lines }, { kind = "table", rows }, { kind = "list", lines },
-- { kind = "text", lines }.
function M.blocks(text)
  local list, b, fence = {}, nil, false
  local function open(kind, fields)
    if b and b.kind == kind and kind ~= "heading" then return b end
    b = fields or {}
    b.kind, list[#list + 1] = kind, b
    return b
  end
  for line in text:gmatch "([^\n]*)\n" do
    local level, title = line:match "^(#+) (.*)$"
    if line:find "^```" then
      fence = not fence
      b = nil
      if fence then open("code", { lines = {} }) end
    elseif fence then table.insert(b.lines, line)
    elseif line == "" then b = nil
    elseif level then open("heading", { level = #level, text = title })
    elseif line:find "^|%-" then b.head, b.rows = b.rows[#b.rows], {}
    elseif line:find "^|" then table.insert(open("table", { rows = {} }).rows, cells(line))
    elseif line:find "^%- " then table.insert(open("list", { lines = {} }).lines, line:sub(3))
    else table.insert(open("text", { lines = {} }).lines, line) end
  end
  return list
end

-- What stands behind the name in a row: a text, or a type and a text.
function M.row_text(row)
  if not row[3] then return row[2] or "" end
  return row[3] == "" and row[2] or row[2] .. ": " .. row[3]
end

-- Plain text ----------------------------------------------------------------------------------------------------------

local WIDTH = 80

local function plain(text) return (text:gsub("`", ""):gsub("%*(%w[^*]*)%*", "%1"):gsub("%[([^%]]*)%]%b()", "%1")) end

local function length(text) return select(2, text:gsub("[^\128-\191]", "")) end

-- Puts the words onto lines that begin with the indent, the first one with what stands there already.
local function wrap(out, first, indent, text)
  local line = first
  local empty = true
  for word in text:gmatch "%S+" do
    if not empty and length(line) + 1 + length(word) > WIDTH then
      out[#out + 1] = line
      line, empty = indent, true
    end
    line, empty = line .. (empty and "" or " ") .. word, false
  end
  out[#out + 1] = (line:gsub("%s+$", ""))
end

local WRITE = {}
function WRITE.code(out, b) for _, line in ipairs(b.lines) do out[#out + 1] = "    " .. line end end
function WRITE.text(out, b) wrap(out, "", "", plain(table.concat(b.lines, " "))) end
function WRITE.list(out, b) for _, line in ipairs(b.lines) do wrap(out, "  - ", "    ", plain(line)) end end
function WRITE.table(out, b)
  local widest, most = 0, 18
  for _, row in ipairs(b.rows) do widest = math.max(widest, math.min(most, length(plain(row[1])))) end
  local indent = (" "):rep(widest + 4)
  for _, row in ipairs(b.rows) do
    local name, text = "  " .. plain(row[1]), plain(M.row_text(row))
    if text == "" or length(name) > #indent - 2 then
      out[#out + 1], name = name, ""
    end
    if text ~= "" then wrap(out, name .. (" "):rep(#indent - length(name)), indent, text) end
  end
end


-- The reference as a list of { name =, title =, text = } in its order; a section is one without a name.
function M.entries(text)
  local entries, out = {}, nil
  for _, b in ipairs(M.blocks(text)) do
    if b.kind == "heading" and b.level > 1 then
      local title = plain(b.text)
      out = {}
      entries[#entries + 1] = { name = b.level == 3 and title:match "^[%w_.:]+" or nil, title = title, out = out }
    elseif out then
      if #out > 0 then out[#out + 1] = "" end
      WRITE[b.kind](out, b)
    end
  end
  for _, e in ipairs(entries) do e.text, e.out = table.concat(e.out, "\n"), nil end
  return entries
end

local function read(path)
  local f = assert(io.open(path))
  local text = f:read "*a"
  f:close()
  return text
end

local path = ...
if not path then return M end
io.write "return {\n"
for _, e in ipairs(M.entries(read(path))) do
  io.write(("  { name = %s, title = %q, text = %q },\n"):format(e.name and ("%q"):format(e.name) or "nil", e.title, e.text))
end
io.write "}\n"
