-- mxrun attach: a prompt in a running process.
local args, peers = require "mx.cli.args", require "mx.cli.peer"
local prompt = require "mx.repl.prompt"

local M = { name = "attach", usage = [[
usage: mxrun attach [options] SOCKET|PID

A prompt in a process that runs with --socket: expressions print, .help lists the commands, Tab completes, Ctrl-C ends what is
evaluated, Ctrl-D leaves. Lines from a pipe are evaluated one after the other. Of several workers it speaks to the first; .worker
N or .worker all changes that.

      --worker N     begins with worker N, 0: with all

exit codes: 0 fine, 1 the process has gone or nobody listens, 2 misuse
]], options = { ["--worker"] = { "worker", "integer" } } }

-- The peers as one: those that are spoken to.
local function together(list)
  local self = { banner = "", list = list, to = { list[1] } }
  local latest, running = 0, {}
  local function choose(word)
    if word == "all" or word == "0" then
      self.to = list
      return true
    end
    for _, peer in ipairs(list) do
      if tostring(peer.hello.worker) == word then
        self.to = { peer }
        return true
      end
    end
  end
  self.choose = choose
  function self.name()
    if #list == 1 then return "mx" end
    return #self.to == 1 and "mx " .. self.to[1].hello.worker or "mx all"
  end
  function self.gone()
    for _, peer in ipairs(list) do
      if not peer.gone then return false end
    end
    return true
  end
  function self.chosen(line)
    local word = line:match "^%s*%.worker%s*(%S*)%s*$"
    if not word then return false end
    if word ~= "" and not choose(word) then return true, ("there is no worker %s; there are %d"):format(word, #list) end
    return true, #self.to == 1 and "speaks to worker " .. self.to[1].hello.worker or "speaks to all workers"
  end
  function self.ask(request, f)
    latest = latest + 1
    local id, left, ids = latest, #self.to, {}
    running[id] = ids
    for i, peer in ipairs(self.to) do
      local copy = {}
      for k, v in pairs(request) do copy[k] = v end
      local mark = #self.to > 1 and ("[%d] "):format(peer.hello.worker) or ""
      ids[i] = { peer, peer:ask(copy, function(answer)
        if answer.output and mark ~= "" then answer.output = mark .. answer.output end
        if answer.done then
          left = left - 1
          answer.done = left == 0
          if answer.done then running[id] = nil end
        end
        answer.all = id
        f(answer, mark)
      end) }
    end
    return id
  end
  function self.finished(id) return running[id] == nil end
  function self.cancel(id)
    for _, x in ipairs(running[id] or {}) do x[1]:say { cancel = x[2] } end
  end
  for _, peer in ipairs(list) do
    peer.on_output = function(text) self.on_output(text) end
    peer.on_gone = function()
      self.on_output((#list > 1 and ("[%d] "):format(peer.hello.worker) or "") .. "the process has gone\n")
      if self.gone() then self.on_gone() end
    end
  end
  return self
end

function M.run(words)
  local o, rest = args.parse(M, words)
  if not o then return rest end
  if #rest ~= 1 then return args.refuse(M, "expected one SOCKET or PID, got " .. #rest .. " words") end
  local list, why = peers.connect(rest[1])
  if not list then return args.failed(M, why) end
  local all, hello = together(list), list[1].hello
  if o.worker and not all.choose(tostring(o.worker)) then return args.failed(M, "there is no worker " .. o.worker) end
  local who = #list > 1 and ("%d workers"):format(#list) or "process " .. hello.pid
  all.banner = ("mxrun, %s%s: .help lists the commands, Ctrl-D leaves"):format(who, hello.read_only and ", read-only" or "")
  prompt.run(all)
  local gone = all.gone()
  for _, peer in ipairs(list) do
    peer.on_gone = nil
    peer:close()
  end
  return gone and 1 or 0
end

return M
