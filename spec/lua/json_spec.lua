-- mx.json: exact numbers, empty arrays, strictness.
local json = require "mx.json"
describe("json", function()
  it("keeps integers exact", function()
    for _, s in ipairs { "9007199254740993", "-9223372036854775808", "18446744073709551615", "[]", "{}", "[0.1,1e-7]" } do
      local again = json.encode(json.decode(s)):gsub("1e%-07", "1e-7")
      assert.equal(s, again)
    end
  end)
  it("refuses what is not JSON", function()
    for _, s in ipairs { "", "[1.]", "[-.5]", "[0x10]", "[NaN]", "[1e400]", '["\\ud800"]', "[1,]", "[01]", ("["):rep(129) } do
      local v, e = json.decode(s)
      assert.is_nil(v)
      assert.equal("serialization", e.code)
    end
  end)
  it("refuses cycles, sparse arrays and NaN", function()
    local t = {}
    t.t = t
    for _, v in ipairs { t, { 1, [3] = 1 }, { 0 / 0 }, { [5] = 1 } } do assert.is_nil((json.encode(v))) end
  end)
end)
