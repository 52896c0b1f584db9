-- mxrun profile: reads what pprof writes, and asks a running mxrun for it.
local args, check = require "mx.cli.args", require "mx.check"
local file, top, tree, list = require "mx.pprof.file", require "mx.pprof.top", require "mx.pprof.tree", require "mx.pprof.list"

local M = { name = "profile", usage = [[
usage: mxrun profile top FILE...              where the time or the memory went
       mxrun profile list PATTERN FILE...     the source of functions, with what each line took
       mxrun profile tree FILE...             who called whom
       mxrun profile diff A B                 what grew from A to B
       mxrun profile flame FILE...            a page of HTML to look around in: FILE.html
       mxrun profile folded FILE...           "main;f;g 12", for other tools
       mxrun profile URL cpu [SECONDS]        asks the mxrun at http://host:port, writes FILE, prints the top 10; also
                     wait [SECONDS], heap, allocs, tasks (MXRUN_HTTP_TOKEN: its token)

Files of pprof, those of Go too; several are added up. PATTERN is a Lua pattern, or plain text, in a function's name or file.

      --sample NAME     cpu, alloc_space, inuse_objects ...; by default the one that the file says, or its last
      --lines           lines of source and not functions
      --cum             by what functions and those they called took together
  -n, --count N         at most N rows, 20; list: functions; 0: all
      --focus PATTERN   only samples with such a function on the stack
      --ignore PATTERN  only samples without
      --label K=V       only samples with this label (repeatable)
      --least P         tree: what has less than P percent is left out, 0.5
      --source DIR      list: where the source is, if not where it was
  -o, --output FILE     where to write; URL: cpu-20260131-235959.pb.gz and the like

exit codes: 0 fine, 1 it failed, 2 misuse
]], options = {
  ["--sample"] = { "sample", "string" }, ["--lines"] = { "lines" }, ["--cum"] = { "cum" }, ["-n"] = { "count", "integer" },
  ["--count"] = { "count", "integer" }, ["--focus"] = { "focus", "string" }, ["--ignore"] = { "ignore", "string" },
  ["--label"] = { "label", "list" }, ["--least"] = { "least", "number" }, ["--source"] = { "source", "string" },
  ["-o"] = { "output", "string" }, ["--output"] = { "output", "string" },
} }

local function save(path, text)
  local f, e = io.open(path, "wb")
  if not f then return args.failed(M, e) end
  local ok, wrong = f:write(text)
  if ok then ok, wrong = f:close() else f:close() end
  if not ok then return args.failed(M, path .. ": " .. wrong) end
  return 0
end

local function deliver(o, text)
  if o.output then return save(o.output, text) end
  io.write(text)
  return 0
end

local function hint(word, candidates)
  local text, best = check.nearest(word, candidates)
  return best and text or ""
end

-- profile, the number of the sample type | nil, exit code
local function open(paths, o)
  local p, e = file.read(paths)
  if not p then return nil, args.failed(M, e) end
  local number = p:type_called(o.sample)
  if number then return p, number end
  local names, known = {}, {}
  for i, t in ipairs(p.types) do
    names[i], known[t.type] = t.type, true
  end
  return args.misuse(M, ("--sample wants one of %s, got '%s'%s"):format(table.concat(names, ", "), o.sample,
    hint(o.sample, known)))
end

local ACTIONS = {}

function ACTIONS.top(o, paths)
  local p, number = open(paths, o)
  if not p then return number end
  return deliver(o, top.report(p, number, o))
end

function ACTIONS.tree(o, paths)
  local p, number = open(paths, o)
  if not p then return number end
  return deliver(o, tree.report(p, number, o))
end

function ACTIONS.folded(o, paths)
  local p, number = open(paths, o)
  if not p then return number end
  return deliver(o, tree.folded(p, number, o))
end

function ACTIONS.list(o, words)
  local pattern = table.remove(words, 1)
  local p, number = open(words, o)
  if not p then return number end
  local text = list.report(p, number, pattern, o)
  if not text then return args.failed(M, ("no function fits '%s'"):format(pattern)) end
  return deliver(o, text)
end

function ACTIONS.diff(o, words)
  local a, na = open({ words[1] }, o)
  if not a then return na end
  local b, nb = open({ words[2] }, o)
  if not b then return nb end
  if a.types[na].type ~= b.types[nb].type then
    return args.failed(M, ("%s is of %s, %s of %s; --sample says which both have"):format(words[1], a.types[na].type, words[2],
      b.types[nb].type))
  end
  return deliver(o, top.diff(a, na, b, nb, o))
end

local function base(path) return (path:match "[^/]*$":gsub("%.gz$", ""):gsub("%.pb$", ""):gsub("%.pprof$", "")) end

function ACTIONS.flame(o, paths)
  local p, number = open(paths, o)
  if not p then return number end
  local path = o.output or base(paths[1]) .. ".html"
  local code = save(path, require "mx.pprof.flame".page(p, number, base(paths[1]), o))
  if code == 0 then print(path) end
  return code
end

local WANTS = { list = { 2, math.huge, "PATTERN and FILE..." }, diff = { 2, 2, "two files, A and B" } }
local ANY = { 1, math.huge, "FILE..." }

-- A running process -----------------------------------------------------------------------------------------------

local function ask(o, words, address)
  local fetch = require "mx.pprof.fetch"
  local kind = fetch.KINDS[words[2] or ""]
  if not kind then
    return args.refuse(M, "expected URL and one of cpu, wait, heap, allocs, tasks" .. hint(words[2] or "", fetch.KINDS))
  end
  local seconds = kind.seconds and tonumber(words[3] or kind.seconds)
  if words[3] and not (seconds and seconds > 0 and seconds <= 3600) or words[4] then
    return args.refuse(M, kind.seconds and ("%s wants seconds, 1 to 3600"):format(words[2]) or words[2] .. " wants nothing more")
  end
  local bytes, e = fetch.get(address, words[2], seconds)
  if not bytes then return args.failed(M, e) end
  local path = o.output or os.date("!" .. words[2] .. "-%Y%m%d-%H%M%S.pb.gz")
  local code = save(path, bytes)
  if code ~= 0 then return code end
  io.stderr:write(path, "\n")
  local p, number = open({ path }, o)
  if not p then return number end
  o.count = o.given or 10
  io.write(top.report(p, number, o))
  return 0
end

-- Of a command's words: exit code.
local function act(o, words)
  local verb = table.remove(words, 1)
  local wants = WANTS[verb] or ANY
  if #words < wants[1] or #words > wants[2] then return args.refuse(M, ("%s: expected %s"):format(verb, wants[3])) end
  return ACTIONS[verb](o, words)
end

function M.run(arguments)
  local o, words = args.parse(M, arguments)
  if not o then return words end
  local labels = {}
  for _, pair in ipairs(o.label or {}) do
    local name, value = pair:match "^([^=]+)=(.*)$"
    if not name then return args.refuse(M, ("--label wants NAME=VALUE, got '%s'"):format(pair)) end
    labels[name] = value
  end
  o.labels, o.given, o.count, o.least = o.label and labels, o.count, o.count or 20, o.least or 0.5
  local verb = words[1] or ""
  if ACTIONS[verb] then return act(o, words) end
  local address, wrong = require "mx.pprof.fetch".address(verb)
  if address then return ask(o, words, address) end
  if wrong then return args.refuse(M, ("%s, got '%s'"):format(wrong, verb)) end
  return args.refuse(M, "expected top, list, tree, diff, flame, folded or a URL" .. hint(verb, ACTIONS))
end

return M
