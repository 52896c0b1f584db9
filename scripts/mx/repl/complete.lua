-- What could follow what is typed: names in tables, methods, options of a call, queues and metrics, commands.
local consume, metrics, topology = require "mx.consume", require "mx.metrics", require "mx.topology"
local conns, publish, tcp = require "mx.conn", require "mx.publish", require "mx.tcp"
local reload = require "mx.reload"

local M = {}
local MOST = 200

-- Whose options stand in a table of a call of that name.
local OPTIONS = {
  consume = consume.OPTIONS, consume_batch = consume.OPTIONS, publisher = publish.OPTIONS, publish = publish.PUBLISH,
  publish_async = publish.PUBLISH, connect = conns.OPTIONS, tcp = tcp.OPTIONS, queue = topology.QUEUE, exchange = topology.EXCHANGE,
}

local function add(to, names, prefix, before, after)
  for name in pairs(names or {}) do
    if type(name) == "string" and name:sub(1, #prefix) == prefix and name:find "^[%a_][%w_]*$" and not name:find "^__" then
      to[#to + 1] = before .. name .. (after or "")
    end
  end
end

-- The fields of a value, and of what it looks further in; methods: only functions
local function fields(to, value, prefix, before, methods)
  for _ = 1, 5 do
    if type(value) ~= "table" then return end
    local names = {}
    for k, v in next, value do
      if not methods or type(v) == "function" then names[k] = true end
    end
    add(to, names, prefix, before)
    local mt = debug.getmetatable(value)
    value = type(mt) == "table" and rawget(mt, "__index")
  end
end

local function field_of(value, name)
  for _ = 1, 5 do
    if type(value) ~= "table" then return nil end
    local v = rawget(value, name)
    if v ~= nil then return v end
    local mt = debug.getmetatable(value)
    value = type(mt) == "table" and rawget(mt, "__index")
  end
end

local function global(env, name)
  local v = rawget(env, name)
  if v == nil then v = rawget(reload.globals(), name) end
  return v
end

-- The value of the names before the last one. Nothing is called for it.
local function value_of(env, path)
  local value
  for name in path:gmatch "[%a_][%w_]*" do
    if value == nil then value = global(env, name) else value = field_of(value, name) end
    if value == nil then return nil end
  end
  if type(value) == "string" then return string end
  return value
end

local function names(text, env)
  local to = {}
  local path, separator, prefix = text:match "([%a_][%w_.:]*)([.:])([%w_]*)$"
  if path then
    fields(to, value_of(env, path), prefix, path .. separator, separator == ":")
    return to, #path + 1 + #prefix
  end
  prefix = text:match "[%a_][%w_]*$" or ""
  fields(to, env, prefix, "")
  fields(to, reload.globals(), prefix, "")
  for _, word in ipairs { "function", "return", "local", "nil", "true", "false", "not", "for", "while", "then", "end" } do
    add(to, { [word] = true }, prefix, "")
  end
  return to, #prefix
end

local function queues()
  local set = {}
  for _, c in ipairs(consume.open) do set[c.queue] = true end
  for _, conn in ipairs(conns.open) do
    for name in pairs(conn.queues) do set[name] = true end
  end
  return set
end

local function starting_with(set, prefix)
  local to = {}
  for name in pairs(set) do
    if name:sub(1, #prefix) == prefix then to[#to + 1] = name end
  end
  return to, #prefix
end

-- Inside a string: a queue, or a metric where one is asked for.
local function strings(text)
  local before, prefix = text:match "^(.*)[\"']([^\"']*)$"
  if not before then return nil end
  local _, quotes = before:gsub("[\"']", "")
  if quotes % 2 ~= 0 then return nil end
  if before:find "mx%.counter%s*%(?%s*$" or before:find "mx%.gauge%s*%(?%s*$" or before:find "mx%.histogram%s*%(?%s*$" then
    return starting_with(metrics.all, prefix)
  end
  return starting_with(queues(), prefix)
end

-- Inside the table of a call whose options are known.
local function options(text)
  local from = text:match ".*()[{]"
  if not from then return nil end
  local inside = text:sub(from + 1)
  local prefix = inside:match "^%s*([%a_]*)$" or inside:match "[,;]%s*([%a_]*)$"
  local call = text:sub(1, from - 1):match "[.:]([%a_]+)%s*%(?[^{}()]*$"
  if not prefix or inside:find "}" or not OPTIONS[call or ""] then return nil end
  local to = {}
  add(to, OPTIONS[call], prefix, "", " = ")
  return to, #prefix
end

local function commands(text)
  local queue = text:match "^%s*%.tap%s+(%S*)$" or text:match "^%s*%.pause%s+(%S*)$" or text:match "^%s*%.resume%s+(%S*)$"
  if queue then return starting_with(queues(), queue) end
  local documented = text:match "^%s*%.doc%s+(%S*)$"
  if documented then
    local set = {}
    for _, name in ipairs(require "mx.doc".names()) do set[name] = true end
    return starting_with(set, documented)
  end
  local prefix = text:match "^%s*%.([%a]*)$"
  if not prefix then return nil end
  local to = {}
  add(to, require "mx.repl.commands".list, prefix, ".")
  return to, #prefix + 1
end

-- { replaced = how many bytes before the cursor they stand for, the words in order }
function M.words(text, env)
  text = text:match "[^\n]*$"
  local to, n = commands(text)
  if not to then to, n = strings(text) end
  if not to then to, n = options(text) end
  if not to then to, n = names(text:gsub("^%s*%.watch%s+", ""), env) end
  table.sort(to)
  local list = {}
  for _, word in ipairs(to) do
    if word ~= list[#list] and #list < MOST then list[#list + 1] = word end
  end
  return { replaced = n, list = list }
end

return M
