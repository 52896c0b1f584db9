-- The classic rule for an environment: reading an undeclared global, or assigning one outside a main chunk, raises.

-- What reads or assigns: "main", "Lua" or "C".
local function what()
  local d = debug.getinfo(3, "S")
  return d and d.what or "C"
end

-- behind: a table of more globals to read, or nil.
return function(env, behind)
  local declared = {}
  return setmetatable(env, {
    __newindex = function(t, name, value)
      if not declared[name] then
        local w = what()
        if w ~= "main" and w ~= "C" then error("assignment to undeclared global '" .. tostring(name) .. "'", 2) end
        declared[name] = true
      end
      rawset(t, name, value)
    end,
    __index = function(_, name)
      local value = behind and rawget(behind, name)
      if value ~= nil then return value end
      if not declared[name] and what() ~= "C" then error("undeclared global '" .. tostring(name) .. "'", 2) end
    end,
  })
end
