-- mx.fieldtable: what is decoded encodes to the same bytes.
local ft = require "mx.fieldtable"
describe("fieldtable", function()
  it("encodes typed values again identically", function()
    for _, v in ipairs { ft.typed.timestamp(5), ft.typed.decimal(-150, 2), ft.typed.float32(1.5), ft.typed.bytes "a\0b",
                         ft.typed.void(), ft.typed.int64(7), { 1, { x = true } }, {}, 0.5, 9007199254740993LL } do
      local bytes = assert(ft.encode { k = v })
      assert.equal(bytes, ft.encode(assert(ft.decode(bytes))))
    end
  end)
  it("never reads past a table that is cut short", function()
    local bytes = ft.encode { key = { 1, "two" } }
    for n = 1, #bytes - 1 do assert.is_nil((ft.decode(bytes, n))) end
  end)
  it("names the key and the limit", function()
    local _, e = ft.encode { [("k"):rep(256)] = 1 }
    assert.equal("validation", e.code)
    assert.truthy(e.message:find("at most 255", 1, true))
  end)
end)
