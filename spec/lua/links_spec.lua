-- Links in README and docs/ lead to files and headings that are there.
local function read(path)
  local f = io.open(path)
  local text = f and f:read "*a"
  if f then f:close() end
  return text
end

-- docs/../contrib/x → contrib/x
local function joined(folder, path)
  local all = (folder .. path):gsub("[^/]+/%.%./", ""):gsub("%./", "")
  return all
end

local function anchors_of(text)
  local set = {}
  for title in ("\n" .. text):gmatch "\n#+ ([^\n]*)" do set[title:lower():gsub("[^%w_ -]", ""):gsub(" ", "-")] = true end
  return set
end

local function is_there(path)                   -- a folder, too
  local f = io.open(path)
  return f and f:close()
end

for path in io.popen "ls README.md docs/*.md":lines() do
  it(path .. " has no dead link", function()
    local text = assert(read(path))
    for target, anchor in text:gmatch "%]%(([^)#%s]*)#?([^)%s]*)%)" do
      if not target:find "^https?:" then
        local file = target == "" and path or joined(path:match "^.*/" or "", target)
        assert.is_truthy(is_there(file), file)
        assert.is_truthy(anchor == "" or anchors_of(read(file))[anchor], file .. "#" .. anchor)
      end
    end
  end)
end
