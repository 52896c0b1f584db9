-- same(a, b): are two decoded values equal, with their kinds?
local function same(a, b)
  if type(a) == "cdata" or type(b) == "cdata" then return a == b end   -- 1e17 is written as an integer, and read as one
  if type(a) ~= type(b) then return false end
  if type(a) ~= "table" then return a == b or a ~= a and b ~= b end
  if getmetatable(a) ~= getmetatable(b) then return false end
  for k, v in next, a do if not same(v, rawget(b, k)) then return false end end
  for k in next, b do if rawget(a, k) == nil then return false end end
  return true
end
return same
