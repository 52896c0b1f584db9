-- Each text that docs/TROUBLESHOOTING.md quotes as mxrun's stands in the sources.
local function read(path)
  local f = assert(io.open(path))
  local text = f:read "*a"
  f:close()
  return text
end

-- The literals of the sources, with what C and Lua join of them joined.
local function sources()
  local texts = {}
  for path in io.popen "find runtime bindings scripts -name '*.[chl]*' -type f":lines() do
    local text = read(path):gsub('"%s*\n?%s*%.%.%s*\n?%s*"', ""):gsub('"%s*\n%s*"', ""):gsub('\\"', '"')
    texts[#texts + 1] = text
  end
  return texts
end

-- Whether all parts stand in one line of the text, in their order.
local function has(text, parts)
  local quoted = {}
  for i, part in ipairs(parts) do quoted[i] = part:gsub("%p", "%%%0") end
  return text:find(table.concat(quoted, "[^\n]-")) ~= nil
end

-- What stands between the parts that differ, and without the spaces beside them.
local function parts_of(quoted)
  local parts = {}
  for part in (quoted .. "…"):gmatch "(.-)…" do
    if part:find "%a" then parts[#parts + 1] = part end
  end
  return parts
end

-- Code spans that are something to type, and what says that it is somebody else's text.
local TYPED = { ["nil,"] = true, ["mxrun"] = true, ["ss"] = true, ["rabbitmqctl"] = true, ["Authorization:"] = true }
local function is_said(span, item)
  if not span:find " " or TYPED[span:match "^%S+"] or span:find '^[%w_.]+ = "?[%w-]+"?$' then return false end
  return not item:find("is the system's text", 1, true) and not item:find("is Lua's own", 1, true)
end

describe("docs/TROUBLESHOOTING.md", function()
  local all, n = sources(), 0
  local ours = read "docs/TROUBLESHOOTING.md":match "^(.-)\n## Exit codes":gsub("\n  +", " ")
  for item in ours:gmatch "\n%- ([^\n]*)" do
    for span in item:gmatch "`([^`]+)`" do
      if is_said(span, item) then
        n = n + 1
        it("quotes what mxrun says: " .. span, function()
          local found = false
          for _, source in ipairs(all) do found = found or has(source, parts_of(span)) end
          assert.is_true(found, "no source says so")
        end)
      end
    end
  end

  it("quotes much", function() assert.is_true(n > 80, "only " .. n) end)
end)
