-- A generation: what one run of the script's file made. Whatever the script makes carries, as `generation`, that of the task
-- which made it, and tasks have that of whoever began them; what runs for the runtime has none.
local turn = require "mx.turn"

local M = {}

function M.mine()
  local t = turn.current
  return t and t.generation
end

-- Those of a list that are of the generation.
function M.of(list, generation)
  local found = {}
  for _, x in ipairs(list) do
    if x.generation == generation then found[#found + 1] = x end
  end
  return found
end

-- Takes them off the list.
function M.drop(list, generation)
  for i = #list, 1, -1 do
    if list[i].generation == generation then table.remove(list, i) end
  end
end

-- Globals: a copy of those that were there before the first script ran, so that one generation's are not the next one's.
M.pristine = _G

function M.remember_globals()
  M.pristine = {}
  for name, value in next, _G do M.pristine[name] = value end
end

function M.globals()
  local env = {}
  for name, value in next, M.pristine do env[name] = value end
  env._G, env.arg = env, {}
  for i, a in next, arg do env.arg[i] = a end
  return require "mx.strict"(env)
end

-- Files and modules: what was loaded from files of Lua. files: path -> its stamp before it was read.
M.files, M.modules = {}, {}

function M.read(path) M.files[path] = require "ffi".C.mx_file_stamp(path) end

-- Puts the modules aside, so that the next generation loads them anew; the older goes on with its own.
function M.put_aside(older)
  older.kept = {}
  for name in pairs(M.modules) do older.kept[name], package.loaded[name] = package.loaded[name], nil end
  M.modules = {}
end

function M.put_back(older)
  for name in pairs(M.modules) do package.loaded[name] = nil end
  M.modules = {}
  for name, value in pairs(older.kept) do package.loaded[name], M.modules[name] = value, true end
  older.kept = nil
end

-- What an older generation has under the name of a module.
function M.kept(name)
  local mine = M.mine()
  return mine and mine.kept and mine.kept[name]
end

return M
