-- mxrun topology: what a script declares, as a drawing or beside what the broker has.
local C, band = require "ffi".C, require "bit".band
local args, harness = require "mx.cli.args", require "mx.test.harness"
local mx, topology = require "mx", require "mx.topology"

local M = { name = "topology", usage = [[
usage: mxrun topology FILE --dot                what FILE declares and consumes, for Graphviz
       mxrun topology -u URL FILE --diff        what FILE declares, beside what the broker has

The script's main chunk runs with no network. --diff changes nothing on the broker; bindings cannot be asked for over AMQP
and are not compared.

exit codes: 0 fine, --diff: all is as declared; 1 something is missing or differs, or the script failed; 2 misuse
]], options = { ["--dot"] = { "dot" }, ["--diff"] = { "diff" } } }

local function sorted(t)
  local names = {}
  for name in pairs(t) do names[#names + 1] = name end
  table.sort(names)
  local i = 0
  return function()
    i = i + 1
    return names[i], t[names[i]]
  end
end

-- Graphviz --------------------------------------------------------------------------------------------------------

local function quoted(text) return '"' .. text:gsub('[\\"]', "\\%0") .. '"' end
local function node(kind, name) return quoted(kind .. " " .. name) end

local function edge(out, from, to, label, style)
  local how = {}
  if label ~= "" then how[1] = "label=" .. quoted(label) end
  if style then how[#how + 1] = "style=" .. style end
  out[#out + 1] = ("  %s -> %s%s"):format(from, to, how[1] and " [" .. table.concat(how, ", ") .. "]" or "")
end

local function dead_letters(out, q)
  local exchange = q.args["x-dead-letter-exchange"]
  if not exchange then return end
  local key = q.args["x-dead-letter-routing-key"] or ""
  local to = exchange == "" and node("queue", key) or node("exchange", exchange)
  edge(out, node("queue", q.name), to, exchange == "" and "dead letters" or "dead letters " .. key, "dashed")
end

local function dot(h, file)
  local t, out = h.topology, { "digraph topology {", "  rankdir=LR" }
  for name, x in sorted(t.exchanges) do
    out[#out + 1] = ("  %s [shape=box, label=%s]"):format(node("exchange", name), quoted(name .. "\\n" .. x.type):gsub("\\\\n", "\\n"))
  end
  for name, q in sorted(t.queues) do
    local label = q.type == "classic" and name or name .. "\\n" .. q.type
    out[#out + 1] = ("  %s [shape=cylinder, label=%s]"):format(node("queue", name), quoted(label):gsub("\\\\n", "\\n"))
  end
  for _, b in ipairs(t.bindings) do
    edge(out, node("exchange", b.from), b.queue and node("queue", b.queue) or node("exchange", b.exchange), b.key)
  end
  for _, q in sorted(t.queues) do dead_letters(out, q) end
  for _, c in ipairs(h.consumers) do edge(out, node("queue", c.queue), quoted(file), "") end
  out[#out + 1] = "}\n"
  io.write(table.concat(out, "\n"))
  return 0
end

-- Beside the broker -----------------------------------------------------------------------------------------------

local function explained(e)
  if not e.differs then return tostring(e) end
  return ("%s is %s, the script says %s"):format(e.differs.argument, e.differs.there, e.differs.asked)
end

-- "same", "missing" or "differs", and how. Declaring again what exists changes nothing.
local function compare(conn, kind, what, request)
  local passive = { name = request.name, source = request.source, flags = C.MX_F_PASSIVE }
  local ok, e = topology.call(conn, kind, passive, what)
  if not ok and e.reply_code == 404 then return "missing" end
  if not ok then return "differs", explained(e) end
  ok, e = topology.call(conn, kind, request, what)
  if ok then return "same" end
  return "differs", explained(e)
end

local function is_compared(r)
  local declares = r.op == "queue" or r.op == "exchange"
  local exclusive = r.op == "queue" and band(r.flags or 0, C.MX_F_EXCLUSIVE) ~= 0         -- nobody else can see it
  return declares and r.name ~= "" and not exclusive and band(r.flags or 0, C.MX_F_PASSIVE) == 0
end

local function diff(h, urls)
  local conn, e = mx.connect { urls = urls }
  if not conn then return args.failed(M, e) end
  local code, seen = 0, {}
  for _, r in ipairs(h.topology.operations) do
    local what = ("%s %s"):format(r.op, r.name)
    if is_compared(r) and not seen[what] then
      seen[what] = true
      local state, how = compare(conn, r.op, what, r)
      print(("%-8s %s%s"):format(state, what, how and ": " .. how or ""))
      if state ~= "same" then code = 1 end
    end
  end
  if #h.topology.bindings > 0 then io.stderr:write(("%d bindings were not compared\n"):format(#h.topology.bindings)) end
  return code
end

function M.run(list, host)
  local o, words = args.parse(M, list)
  if not o then return words end
  if #words ~= 1 or not o.dot == not o.diff then
    return args.refuse(M, "expected FILE and one of --dot, --diff")
  end
  if not io.open(words[1]) then
    return args.refuse(M, ("cannot open '%s'"):format(words[1]))
  end
  if o.diff and #host.urls == 0 then return args.refuse(M, "give -u amqp://…, the broker to compare with") end
  local h, e = harness.load(words[1], { tasks = false })
  if not h then return args.failed(M, e) end
  local code = o.dot and dot(h, words[1]) or diff(h, host.urls)
  h:close()
  return code
end

return M
