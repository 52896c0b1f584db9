-- How a script's source becomes code: text only, and require and dofile run what may wait.
local turn, wait, generation = require "mx.turn", require "mx.wait", require "mx.generation"

-- Bytecode from a file or a string could do anything; source text is what people mean.
local function text_only()
  local from_string, from_file = load, loadfile
  function load(chunk, name, _, env)
    if env == nil then return from_string(chunk, name, "t") end
    return from_string(chunk, name, "t", env)
  end
  function loadstring(chunk, name) return from_string(chunk, name or chunk, "t") end
  function loadfile(name, _, env)
    if name then generation.read(name) end
    if env == nil then return from_file(name, "t") end
    return from_file(name, "t", env)
  end
end

-- require and dofile in Lua, so that the chunks they run may wait.
local function loaders()
  local loaded, loading = package.loaded, {}

  package.loaders[#package.loaders - 2] = function(name)          -- the one for Lua files
    local path, tried = package.searchpath(name, package.path)
    if not path then return tried end
    local f, e = loadfile(path)
    if not f then error(("error loading module '%s' from file '%s':\n\t%s"):format(name, path, e), 0) end
    generation.modules[name] = true
    return f
  end

  local function run(name)
    local tried = {}
    for _, loader in ipairs(package.loaders) do
      local f = loader(name)
      if type(f) == "function" then
        local value = f(name)
        if value ~= nil then loaded[name] = value end
        if loaded[name] == nil then loaded[name] = true end
        return true
      elseif type(f) == "string" then
        tried[#tried + 1] = f
      end
    end
    return false, table.concat(tried)
  end

  -- A module that another task is loading is waited for. One that failed is as if it had never been asked for.
  function require(name)
    if type(name) ~= "string" then error("bad argument #1 to 'require' (string expected, got " .. type(name) .. ")", 2) end
    local kept = generation.kept(name)
    if kept ~= nil then return kept end
    while loading[name] do
      if loading[name].task == turn.current then error("loop or previous error loading module '" .. name .. "'", 2) end
      loading[name]:wait()
    end
    if loaded[name] ~= nil then return loaded[name] end
    local line = wait.line()
    line.task, loading[name] = turn.current, line
    local ok, found, tried = xpcall(run, turn.on_error, name)
    loading[name] = nil
    line:wake_all(true)
    if not ok then
      loaded[name] = nil
      turn.again(found)
    end
    if not found then error(("module '%s' not found:%s"):format(name, tried), 2) end
    return loaded[name]
  end

  function dofile(name)
    local f, e = loadfile(name)
    if not f then error(e, 2) end
    return f()
  end
end

return function(file)
  text_only()
  require "mx.paths".setup(file)
  loaders()
end
