-- Where require looks: beside the script, in the working directory, where Debian's packages and LuaRocks put things, then in the user's
-- own tree of LuaRocks. What LUA_PATH or LUA_CPATH says comes first, instead of all but what lies beside the script.
local M = {}

local function folder(file) return file:match "^(.*/)[^/]*$" or "./" end

-- The paths of Lua and of C modules that lie beside the file, each with a semicolon behind it.
function M.beside(file)
  local at = folder(file):gsub("[;?]", "")          -- what a path cannot say
  return at .. "?.lua;" .. at .. "?/init.lua;", at .. "?.so;"
end

local function of_rocks()
  local home = os.getenv "HOME"
  if not home or home == "" or home:find "[;?]" then return "", "" end
  local at = home .. "/.luarocks/"
  return (";%sshare/lua/5.1/?.lua;%sshare/lua/5.1/?/init.lua"):format(at, at), (";%slib/lua/5.1/?.so"):format(at)
end

local function order(said, path, beside, rocks)
  if said then return path .. ";" .. beside end
  return beside .. path .. rocks
end

-- file: the script's, or nil.
function M.setup(file)
  local beside, beside_c = "", ""
  if file then beside, beside_c = M.beside(file) end
  local rocks, rocks_c = of_rocks()
  package.path = order(os.getenv "LUA_PATH", package.path, beside, rocks)
  package.cpath = order(os.getenv "LUA_CPATH", package.cpath, beside_c, rocks_c)
end

-- A C module of the system that mxrun itself needs, whatever LUA_CPATH says and whatever lies in the working directory.
function M.system(name)
  local triplet = (jit.arch == "x64" and "x86_64" or jit.arch == "arm64" and "aarch64" or jit.arch) .. "-linux-gnu"
  local path = package.searchpath(name, ("/usr/local/lib/lua/5.1/?.so;/usr/lib/%s/lua/5.1/?.so"):format(triplet))
  local open = path and package.loadlib(path, "luaopen_" .. name)
  return open and open(name) or require(name)
end

return M
