-- The examples of consuming print what they say.
local MXRUN = os.getenv "MXRUN" or "build/mxrun"

local function lines_of(example)
  local p = io.popen(("timeout 30 %s -u mem:// examples/%s 2>&1"):format(MXRUN, example))
  local lines = {}
  for line in p:lines() do lines[#lines + 1] = line end
  p:close()
  return lines
end

describe("examples", function()
  it("call.lua asks five things at once", function()
    assert.same({ "1\t1", "2\t4", "3\t9", "4\t16", "5\t25" }, lines_of "call.lua")
  end)

  it("ordered.lua keeps each customer in order", function()
    local last, n = {}, 0
    for _, line in ipairs(lines_of "ordered.lua") do
      local customer, i = line:match "^(%a)\tevent (%d)$"
      assert.is_true((last[customer] or 0) < tonumber(i))
      last[customer], n = tonumber(i), n + 1
    end
    assert.equal(9, n)
  end)
end)
