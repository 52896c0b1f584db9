-- pairs and next that LuaJIT compiles right.
--
-- LuaJIT 2.1 as of Debian 12 (2022-03-20) compiles `for k, v in pairs(t)` by a bytecode of its own, and in some traces such a
-- loop ends before it begins: a message goes out without its headers, once the code is hot. With a `next` that is not the
-- built-in one the loop is compiled as any other.
local plain, type, error = next, type, error

function next(t, k) return plain(t, k) end

function pairs(t)
  if type(t) ~= "table" then error(("bad argument #1 to 'pairs' (table expected, got %s)"):format(type(t)), 2) end
  return next, t, nil
end
