-- Any bytes as a field table: Lua and C take the same ones, and what is decoded encodes to itself.
local ft, err = require "mx.fieldtable", require "mx.err"
local same = dofile(debug.getinfo(1, "S").source:match "^@(.*)headers.lua$" .. "same.lua")

return function(bytes)
  local t, e = ft.decode(bytes)
  assert((t ~= nil) == table_check(bytes), tostring(e)) -- luacheck: ignore 113
  if not t then
    assert(err.is(e) and e.code == "serialization")
    return
  end
  local again, why = ft.encode(t)
  if not again then
    assert(tostring(why):find "NaN" or tostring(why):find "at most 1048576", tostring(why))
    return
  end
  local t2 = assert(ft.decode(again))
  assert(same(t, t2))
  assert(#again <= #bytes and #ft.encode(t2) == #again)      -- a key given twice goes out once
end
