-- Writes the API reference from the annotations: luajit docs/reference.lua docs/meta/mx.lua > docs/api.md
local META = ...

-- The annotations as blocks: { text, class =, alias =, params, returns, fields, async =, signature = }
local function blocks_of(path)
  local blocks, b = {}, nil
  local function fresh() b = { text = {}, params = {}, returns = {}, fields = {}, choices = {} } end
  local function close(line)
    b.signature = line and (line:match "^function (.-) end$" or line:match "^(mx%.[%w_]+) =")
    if #b.text > 0 or b.class or b.alias or b.signature then blocks[#blocks + 1] = b end
    fresh()
  end
  fresh()
  for line in io.lines(path) do
    local tag, rest = line:match "^%-%-%-@(%w+)%s*(.*)$"
    if tag == "class" then b.class = rest:match "^[%w.]+"
    elseif tag == "alias" then b.alias, b.alias_of = rest:match "^(%S+)%s*(.*)$"
    elseif tag == "field" then b.fields[#b.fields + 1] = rest
    elseif tag == "param" then b.params[#b.params + 1] = rest
    elseif tag == "return" then b.returns[#b.returns + 1] = rest
    elseif tag == "async" then b.async = true
    elseif line:find "^%-%-%-|" then b.choices[#b.choices + 1] = line:match '^%-%-%-|%s*(.*)$'
    elseif line:find "^%-%-%-" and not tag then b.text[#b.text + 1] = line:match "^%-%-%- ?(.*)$"
    elseif not tag then close(line) end
  end
  close()
  return blocks
end

-- "name? type text" with a type that may hold spaces inside brackets: name, type, text
local function split(rest)
  local name, left = rest:match "^(%S+)%s*(.*)$"
  local depth, at = 0, 1
  while at <= #left do
    local c = left:sub(at, at)
    if c:find "[({<%[]" then depth = depth + 1 elseif c:find "[)}>%]]" then depth = depth - 1 end
    local before, after = left:sub(at - 1, at - 1), left:sub(at + 1, at + 1)
    if depth == 0 and c == " " and before ~= ":" and before ~= "," and before ~= "|" and after ~= "|" then break end
    at = at + 1
  end
  return name, left:sub(1, at - 1), left:sub(at + 1)
end

local function code(text) return "`" .. text:gsub("|", "\\|") .. "`" end

local function row(out, rest)
  local name, kind, text = split(rest)
  out[#out + 1] = ("| `%s` | %s | %s |"):format(name, code(kind), (text:gsub("|", "\\|")))
end

local function returns_of(b)
  local values, errors
  values = {}
  for _, r in ipairs(b.returns) do
    local _, kind, left = split(". " .. r)
    if kind == "mx.Error?" then errors = true else values[#values + 1] = { kind = kind, text = left } end
  end
  return values, errors
end

local function heading(b)
  local values, errors = returns_of(b)
  local names = {}
  for _, v in ipairs(values) do
    local name = v.text:match "^[%w_.]+" or v.kind == "..." and "..."
    names[#names + 1] = v.kind == "true?" and "true" or name or v.kind
  end
  if b.signature == "mx.wait_all(receipts, timeout)" then names, errors = { "true" }, "failed" end
  local result = table.concat(names, ", ")
  if errors then result = result .. " | nil, " .. (errors == true and "err" or errors) end
  return "### `" .. b.signature:gsub("^%u%w*:", function(o) return o:lower() end) .. "`" .. (result ~= "" and " → `" .. result .. "`" or "")
end

local function render(blocks)
  local out = { "# The API of mxrun", "",
    "Generated from [meta/mx.lua](meta/mx.lua) by `make docs`; point the Lua language server's `workspace.library` at that folder.", "" }
  for _, b in ipairs(blocks) do
    local title = b.text[1] and b.text[1]:match "^# (.*)"
    if title then
      out[#out + 1] = "## " .. title
      table.remove(b.text, 1)
      if #b.text == 0 then out[#out + 1] = "" end
    elseif b.signature and b.signature:find "%(" then
      out[#out + 1] = heading(b)
      out[#out + 1] = ""
      if b.async then b.text[1] = "*Waits.*" .. (b.text[1] and " " .. b.text[1] or "") end
    elseif b.class and (#b.fields > 0 or #b.text > 0) then
      out[#out + 1] = "### " .. b.class
      out[#out + 1] = ""
    elseif b.alias and #b.choices > 0 then
      out[#out + 1] = "### " .. b.alias
      out[#out + 1] = ""
    else
      if b.signature then
        out[#out + 1] = "### `" .. b.signature .. "`"
        out[#out + 1] = ""
      elseif #b.text == 0 then
        goto next
      end
    end
    for _, line in ipairs(b.text) do out[#out + 1] = line end
    if #b.text > 0 then out[#out + 1] = "" end
    local rows = #b.fields > 0 and b.fields or b.params
    if #rows > 0 then
      out[#out + 1] = "| | type | |"
      out[#out + 1] = "|---|---|---|"
      for _, f in ipairs(rows) do row(out, f) end
      out[#out + 1] = ""
    end
    for _, c in ipairs(b.choices) do
      local value, text = c:match '^"(.-)"%s*(.*)$'
      out[#out + 1] = ("- `%s`: %s"):format(value, text)
    end
    if #b.choices > 0 then out[#out + 1] = "" end
    ::next::
  end
  while out[#out] == "" do out[#out] = nil end
  return table.concat(out, "\n") .. "\n"
end

if META then
  io.write(render(blocks_of(META)))
  return
end
return { blocks_of = blocks_of, render = render }
