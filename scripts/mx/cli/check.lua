-- mxrun --check: what is wrong with a script, found without a broker.
local harness, globals, check = require "mx.test.harness", require "mx.cli.globals", require "mx.check"
local log, generation = require "mx.log", require "mx.generation"

local M = { name = "check" }

local usage = "usage: mxrun --check FILE [args]\n"

-- Names that the script assigns in its main chunk, or that exist after it ran, are declared.
local function declared(found, env)
  local names = {}
  for _, w in ipairs(found.writes) do
    if w.main then names[w.name] = true end
  end
  for _, t in ipairs { generation.pristine, env or {} } do
    for name in next, t do
      if type(name) == "string" then names[name] = true end
    end
  end
  return names
end

local function undeclared(found, env, say)
  local names = declared(found, env)
  for _, kind in ipairs { "reads", "writes" } do
    for _, g in ipairs(found[kind]) do
      if not names[g.name] then
        local text, best = check.nearest(g.name, names)
        local what = kind == "reads" and "undeclared" or "assignment to undeclared"
        say(g.line, ("%s global '%s'%s"):format(what, g.name, best and text or ""))
      end
    end
  end
end

local function unknown_fields(found, mx, say)
  for _, f in ipairs(found.fields) do
    if mx[f.name] == nil and f.name ~= "test" then
      local text, best = check.nearest(f.name, mx)
      say(f.line, ("mx has no '%s'%s"):format(f.name, best and text or ""))
    end
  end
end

-- Names of queues that are where another's dead letters go.
local function dead_letter_queues(queues)
  local names = {}
  for _, q in pairs(queues) do
    local key = q.args["x-dead-letter-routing-key"]
    if q.args["x-dead-letter-exchange"] == "" and key then names[key] = true end
  end
  return names
end

-- What a message to exchange and key needs that the topology t has not, as text; a script that declares nothing leaves
-- that to others.
local function missing(t, exchange, key)
  local kind, name, list = "exchange", exchange, t.exchanges
  if exchange == "" then kind, name, list = "queue", key, t.queues end
  if not name or name:find "^amq%." or list[name] or not next(t.exchanges) and not next(t.queues) then return nil end
  return ('%s "%s", which this script does not declare'):format(kind, name)
end

local function unknown_targets(h, found, warn)
  local t = h.topology
  for _, list in ipairs { h.targets, found.targets } do
    for _, p in ipairs(list) do
      local what = missing(t, p.exchange, p.key)
      if what then warn(p.where or p.line, "publishes to " .. what) end
    end
  end
  local function dead_letters(q, exchange, key)
    local what = exchange and missing(t, exchange, key)
    if what then warn(q.line, ('queue "%s" sends its dead letters to %s'):format(q.name, what)) end
  end
  for _, q in pairs(t.queues) do dead_letters(q, q.args["x-dead-letter-exchange"], q.args["x-dead-letter-routing-key"]) end
  for _, conn in ipairs(h.connections) do
    for name, target in pairs(conn.dead_letters) do
      if t.queues[name] then dead_letters(t.queues[name], target.exchange, target.key) end
    end
  end
end

-- What works and yet is probably not meant.
local function warnings(h, found, warn)
  unknown_targets(h, found, warn)
  local ends = dead_letter_queues(h.topology.queues)
  for _, q in pairs(h.topology.queues) do
    if q.type == "quorum" and not q.args["x-delivery-limit"] and not q.passive and not ends[q.name] then
      warn(q.line, ('queue "%s" is a quorum queue without delivery_limit; RabbitMQ 4 gives up after 20 deliveries'):format(q.name))
    end
  end
  for _, c in ipairs(h.consumers) do
    if not h.topology.queues[c.queue] then
      warn(c.line, ("consumes \"%s\", which this script does not declare"):format(c.queue))
    end
  end
  if h.waiting then warn(nil, "the main chunk still waited when the check ended; what comes after that was not checked") end
end

local function count(t)
  local n = 0
  for _ in pairs(t) do n = n + 1 end
  return n
end

local function plural(n, what) return ("%d %s%s"):format(n, what, n == 1 and "" or "s") end

-- The findings as texts, in the order of their lines.
local function texts_of(file, findings)
  table.sort(findings, function(a, b)
    if a.line ~= b.line then return a.line < b.line end
    return a.text < b.text
  end)
  local list = {}
  for _, f in ipairs(findings) do
    local text = f.line > 0 and ("%s:%d: %s"):format(file, f.line, f.text) or ("%s: %s"):format(file, f.text)
    if text ~= list[#list] then list[#list + 1] = text end
  end
  return list
end

-- The error's own line when it lies in the file.
local function place(file, text)
  local first = text:match "^[^\n]*"
  local at, rest = first:match("^" .. file:gsub("%p", "%%%0") .. ":(%d+): (.*)$")
  return tonumber(at or 0), rest or first
end

-- All findings, which of them are errors, and the harness as far as it got.
local function examine(file, f, options)
  local findings, errors = {}, {}
  local function say(line, text)
    errors[#errors + 1] = { line = line or 0, text = text }
    findings[#findings + 1] = errors[#errors]
  end
  local function warn(where, text)              -- file:line, or a line of this file
    local line = tonumber(where) or where and where:match "^(.*):%d+$" == file and where:match ":(%d+)$" or 0
    findings[#findings + 1] = { line = tonumber(line), text = "warning: " .. text }
  end
  local h, why, _, part = harness.load(file, options)
  if not h then say(place(file, why)) end
  h = h or part
  local found = globals.of(f)
  undeclared(found, h and h.env, say)
  unknown_fields(found, h and rawget(h.env, "mx") or {}, say)
  if h then warnings(h, found, warn) end
  return texts_of(file, findings), texts_of(file, errors), h
end

-- Of a script that f is compiled from: what is wrong with it, as a list of texts.
function M.errors_of(file, f, args)
  local _, errors, h = examine(file, f, { tasks = false, args = args, name = "reload" })
  if h then h:close() end
  return errors
end

function M.run(args)
  local file = args[1]
  if not file then
    io.stderr:write("mxrun --check: no FILE given\n", usage)
    return 2
  end
  local f, e = loadfile(file)
  if not f then
    if not io.open(file) then
      log.complain(("mxrun: cannot open '%s'; give the path of a Lua script"):format(file))
      return 2
    end
    print(e)
    return 1
  end
  local findings, errors, h = examine(file, f, { tasks = false, args = { unpack(args, 2) } })
  for _, text in ipairs(findings) do print(text) end
  if #errors > 0 then return 1 end
  local t = h.topology
  print(("%s: fine, %s, %s, %s, %s"):format(file, plural(count(t.exchanges), "exchange"), plural(count(t.queues), "queue"),
    plural(#t.bindings, "binding"), plural(#h.consumers, "consumer")))
  h:close()
  return 0
end

return M
