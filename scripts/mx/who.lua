-- Who holds an object: the shortest path to it from what the script has names for, else from what mxrun holds.
--
-- Breadth first, near before far: far is what mxrun itself is made of, and its way to the script's own functions and stacks, which
-- are near again. Only the parent of each object is kept; what leads from one to the other is looked up once the path is known.
local ffi = require "ffi"
local C = ffi.C
local turn, task, err, check = require "mx.turn", require "mx.task", require "mx.err", require "mx.check"
local consume, generation = require "mx.consume", require "mx.generation"
local next, type, rawget, rawequal, pcall = next, type, rawget, rawequal, pcall
local getinfo, getlocal, getupvalue = debug.getinfo, debug.getlocal, debug.getupvalue
local getfenv, getmetatable = debug.getfenv, debug.getmetatable

local M = {}

local SLICE, EACH = 0.005, 256          -- seconds between two waits; objects between two looks at the clock
local FRAMES, SLOTS = 500, 250          -- of a stack that are looked at
local COLLECTED = { table = true, ["function"] = true, thread = true, userdata = true, cdata = true }
local ROOT = {}
local HERE = getinfo(1, "S").source

-- What walks themselves are made of holds all that they have seen.
local hidden = setmetatable({}, { __mode = "k" })

-- Edges ---------------------------------------------------------------------------------------------------------------
-- Each calls visit(child, kind, name, own: in a frame of mxrun's) until that answers true.

-- Between two entries the walk may rest, and the table be changed: then it is begun again, without a rest. rest() answers true when
-- enough has been seen.
local function of_table(t, visit, rest)
  local mt = getmetatable(t)
  local mode = type(mt) == "table" and rawget(mt, "__mode")
  mode = type(mode) == "string" and mode or ""
  if mt and visit(mt, "metatable") then return true end
  local weak_keys, weak_values = mode:find "k", mode:find "v"
  local n, k, v = 0, next(t)
  while k ~= nil do
    if not weak_values and visit(v, "key", k) or not weak_keys and visit(k, "as key") then return true end
    n = n + 1
    if n % EACH == 0 and rest() then return true end
    local ok
    ok, k, v = pcall(next, t, k)
    if not ok then return of_table(t, visit, function() end) end
  end
end

local function of_function(f, visit)
  for i = 1, SLOTS do
    local name, value = getupvalue(f, i)
    if not name then break end
    if visit(value, "upvalue", name ~= "" and name or tostring(i)) then return true end
  end
  return visit(getfenv(f), "environment")
end

-- Not in C's frames, which hold for a moment what somebody else holds too. All in one function, since that counts as a level where
-- the stack is this one. sign -1: what is behind the last named argument.
local function of_thread(co, visit)
  for level = 0, FRAMES do
    local info = getinfo(co, level, "Sf")
    if not info then break end
    if info.what ~= "C" and info.source ~= HERE then
      local own = check.is_own(info.source)
      if visit(info.func, "function") then return true end
      for sign = 1, -1, -2 do
        for i = 1, SLOTS do
          local name, value = getlocal(co, level, sign * i)
          if not name then break end
          if visit(value, "local", name, own) then return true end
        end
      end
    end
  end
  return visit(getfenv(co), "environment")
end

local function of_userdata(u, visit)
  local mt = getmetatable(u)
  return mt and visit(mt, "metatable") or visit(getfenv(u), "environment")
end

local EDGES = { table = of_table, ["function"] = of_function, thread = of_thread, userdata = of_userdata }

local function each_edge(x, visit, rest)
  local edges = EDGES[type(x)]
  return edges and edges(x, visit, rest)
end

-- Where it begins -------------------------------------------------------------------------------------------------------

-- What mxrun is made of, though the script has names for some of it.
local function own_tables()
  local own = {}
  for name, module in next, package.loaded do
    if (name == "mx" or name:find "^mx%.") and not generation.modules[name] and type(module) == "table" then own[module] = true end
  end
  return own
end

-- add(coroutine) of each task.
local function stacks(add, tasks)
  for t in next, turn.alive do tasks[t.co] = t end
  for _, c in ipairs(consume.open) do
    for t in next, c.sub and c.sub.tasks or {} do tasks[t.co] = t end
  end
  for co in next, tasks do add(co) end
end

-- add(object, text, far) of each; tasks: by coroutine.
local function roots(add, tasks)
  local g = turn.current and turn.current.generation
  add(g and g.env or _G, "_G")
  add(package.loaded, "package.loaded")
  add(require "mx".state, "mx.state")
  add(require "mx".config, "mx.config")
  stacks(add, tasks)
  for _, x in next, { "", 0, true, print, coroutine.create(print) } do
    if getmetatable(x) then add(getmetatable(x), ("getmetatable(a %s)"):format(type(x)), true) end
  end
  add(debug.getregistry(), "registry", true)
end

-- Names -----------------------------------------------------------------------------------------------------------------

local function key_text(k)
  if type(k) == "string" then
    if k:find "^[%a_][%w_]*$" then return "." .. k end
    k = #k > 40 and k:sub(1, 37) .. "..." or k
    return ('["%s"]'):format((k:gsub("%c", "?")))
  end
  return ("[%s]"):format((type(k) == "number" or type(k) == "boolean") and tostring(k) or "a " .. type(k))
end

local function place(info)
  if info.what == "C" then return "C" end
  return info.linedefined == 0 and info.short_src or ("%s:%d"):format(info.short_src, info.linedefined)
end

-- Where the script is in it: that line, and not one of mxrun's.
local function place_in(co)
  local first
  for level = 0, FRAMES do
    local info = getinfo(co, level, "Sl")
    if not info then break end
    local at = info.currentline and info.currentline > 0 and ("%s:%d"):format(info.short_src, info.currentline)
    if at and not check.is_own(info.source) then return at end
    first = first or at
  end
  return first or "its begin"
end

local function state_of(t)
  if t == turn.current then return "running" end
  if not t.parked then return "ready" end
  return t.why == "sleep" and "sleeping" or "waiting for " .. (t.why or "an event")
end

local function thread_text(co, tasks, at)
  local t = tasks[co]
  if not t then return ("coroutine %sat %s"):format(at and at.by_key and not at.by_far and at.name .. " " or "", place_in(co)) end
  local what = t.delivery and ("handler of " .. tostring(t.consumer.queue)) or "task"
  return ("%s %s at %s"):format(what, state_of(t), place_in(co))
end

local room = ffi.new "char[128]"
-- at: as in step, for the function itself. A table that the script knows tells most of it, then how it is written.
local function function_text(f, at)
  local info, name = getinfo(f, "S"), nil
  if info.linedefined == 0 then
    name = "main chunk"
  elseif at.by_key and not at.by_far then
    name = at.name
  elseif info.linedefined > 0 and C.mx_definition_name(info.source, info.linedefined, room, 128) > 0 then
    name = ffi.string(room)
  end
  return ("%s (%s)"):format(name or not at.by_far and at.last or "a function", place(info))
end

local SLOTS_TEXT = { ["(*temporary)"] = "a value", ["(*vararg)"] = "an argument" }

-- One edge further from x, which is at { what, name, last = its last name, by_key = it is in a table, within = the text of what that
-- is in, by_far = what has it is far }.
local function step(at, x, edge, tasks)
  local kind, name, of = edge.kind, edge.name, type(x)
  if kind == "key" then
    return { what = at.what, name = at.name .. key_text(name), last = type(name) == "string" and name, by_key = true, within = at.within }
  elseif kind == "as key" then
    return { what = at.what, name = at.name .. "<key>", within = at.within }
  elseif kind == "metatable" or of == "userdata" then
    return { what = at.what, name = ("%s<%s>"):format(at.name, kind), within = at.within }
  end
  local within = of == "thread" and " in " .. thread_text(x, tasks, at) or " of " .. function_text(x, at)
  if SLOTS_TEXT[name] then return { what = "", name = SLOTS_TEXT[name], within = within } end
  return { what = name and kind .. " " or kind, name = name or "", last = name, within = within }
end

-- Walking ---------------------------------------------------------------------------------------------------------------

local function new(target, o)
  local w = {
    target = target, own = own_tables(), tasks = {}, mine = {}, parent = {}, names = {}, far_roots = {},
    near = { first = 1, last = 0 }, far = { first = 1, last = 0 }, least = { first = 1, last = 0 },
    objects = 0, most = o.objects or 1e6, spent = 0, seconds = o.seconds or 1, from = C.mx_now(),
  }
  hidden[w] = true
  for _, x in next, w do
    if type(x) == "table" and x ~= target then hidden[x] = true end
  end
  -- Whoever asks has it at hand, in its task and in a coroutine inside of that: what these hold tells least.
  w.mine[coroutine.running() or w] = true
  w.mine[turn.current and turn.current.co or w] = true
  return w
end

local function queue_up(w, x, far)
  local queue = w.mine[x] and w.least or far and w.far or w.near
  queue.last = queue.last + 1
  queue[queue.last] = x
end

local function take(queue)
  local x = queue[queue.first]
  if x == nil then return nil end
  queue[queue.first] = nil
  queue.first = queue.first + 1
  return x
end

local function is_far(w, x, far)
  local kind = type(x)
  if kind == "function" then return check.is_own(getinfo(x, "S").source) or getinfo(x, "S").what == "C" end
  return kind ~= "thread" and (far or w.own[x]) or false
end

-- true: it is the one that is looked for.
local function see(w, x, from, far)
  if rawequal(x, w.target) then
    w.found = from
    return true
  end
  if not COLLECTED[type(x)] or w.parent[x] or hidden[x] then return false end
  w.parent[x], w.objects = from, w.objects + 1
  queue_up(w, x, is_far(w, x, far))
end

local function gone_too_far(w)
  local why = w.spent > w.seconds and "timeout" or w.objects > w.most and "memory"
  if not why then return nil end
  return err.new(why, ("mx.memory.who: not found among %d objects%s"):format(w.objects,
    why == "timeout" and (" in %.2g s"):format(w.spent) or ""), { op = "who" })
end

-- The loop goes on meanwhile, where that can be waited for. true: no further.
local function rest(w)
  local now = C.mx_now()
  if now - w.from >= SLICE then
    w.spent = w.spent + now - w.from
    if turn.current and not turn.inside and coroutine.isyieldable() then
      w.rested = true
      task.sleep(0)
    end
    w.from = C.mx_now()
  end
  w.error = gone_too_far(w)
  return w.error ~= nil
end

-- Others ran meanwhile: what they took from somewhere they may have on their stacks now.
local function look_again(w)
  w.rested = false
  stacks(function(co)
    w.parent[co] = w.parent[co] or ROOT
    queue_up(w, co)
  end, w.tasks)
end

local function search(w)
  local function pause() return rest(w) end
  local n = 0
  while not w.found and not w.error do
    local x, far = take(w.near), false
    if x == nil then x, far = take(w.far), true end
    if x == nil then x, far = take(w.least), false end
    if x == nil then
      if not w.rested then return end
      look_again(w)
      x, far = take(w.near) or take(w.least), false
    end
    if x == nil then return end
    local mine = w.mine[x]
    each_edge(x, function(child, _, _, own) return not (mine and rawequal(child, w.target)) and see(w, child, x, far or own) end, pause)
    n = n + 1
    if n % EACH == 0 then rest(w) end
  end
end

-- How x holds child, rather by a name than without.
local function edge_of(x, child)
  local found
  each_edge(x, function(y, kind, name)
    if not rawequal(y, child) then return false end
    local good = kind ~= "as key" and not SLOTS_TEXT[name]
    if good or not found then found = { kind = kind, name = name } end
    return good
  end, function() end)
  return found or { kind = "key", name = "?" }          -- it was there before
end

local function describe(w)
  local path, x = { w.target }, w.found
  while x ~= ROOT do
    table.insert(path, 1, x)
    x = w.parent[x]
  end
  local far = is_far(w, path[1], w.far_roots[path[1]])
  local at = { what = "", name = w.names[path[1]] or "" }
  for i = 2, #path do
    at = step(at, path[i - 1], edge_of(path[i - 1], path[i]), w.tasks)
    at.by_far = far
    far = is_far(w, path[i], far)
  end
  return at.what .. at.name .. (at.within or "")
end

local OPTIONS = { seconds = "seconds", objects = "integer>0" }

-- A path such as _G.cache["k"][3] | nil: nothing holds it | nil, err: the search was given up.
function M.who(x, options)
  if not COLLECTED[type(x)] and type(x) ~= "string" then check.fail("mx.memory.who: expected an object, got " .. tostring(x)) end
  local w = new(x, check.options("mx.memory.who", options or {}, OPTIONS))
  roots(function(root, name, far)
    if w.parent[root] then return end
    w.parent[root], w.names[root], w.far_roots[root] = ROOT, name, far
    queue_up(w, root, far)
  end, w.tasks)
  if w.parent[x] then return w.names[x] or thread_text(x, w.tasks) end
  search(w)
  if w.found then return describe(w) end
  return nil, w.error
end

return M
