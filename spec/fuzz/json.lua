-- Any text: cjson's way and the slow one agree, and what is decoded encodes to itself.
local json, err = require "mx.json", require "mx.err"
local same = dofile(debug.getinfo(1, "S").source:match "^@(.*)json.lua$" .. "same.lua")

return function(text)
  local v, e = json.decode(text)
  local slow, why = json.decode_slow(text)
  if e then
    assert(v == nil and err.is(e) and e.code == "serialization" and e.position >= 1 and e.position <= #text + 1)
    assert(slow == nil and tostring(why) == tostring(e))
    return
  end
  assert(same(v, slow), "cjson and the slow reader differ")
  local again = assert(json.encode(v))
  assert(same(v, (json.decode(again))), again)
end
