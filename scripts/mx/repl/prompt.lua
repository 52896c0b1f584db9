-- The prompt itself: lines from a terminal or a pipe, what they evaluate to, and what comes meanwhile.
local ffi = require "ffi"
local C = ffi.C
local turn, wait, err, syntax = require "mx.turn", require "mx.wait", require "mx.err", require "mx.repl.syntax"
local stdio = require "mx.cli.stdio"

local M = {}

-- Terminals -------------------------------------------------------------------------------------------------------------

local text, size = ffi.new "const char *[1]", ffi.new "size_t[1]"

-- The next thing that somebody did at the terminal: what, with which text.
local function next_key()
  while true do
    local key = C.mx_editor_take(turn.runtime, text, size)
    if key ~= C.MX_KEY_NONE then return key, text[0] ~= nil and ffi.string(text[0], size[0]) or "" end
    local ticket = C.mx_wait_new(turn.waits, -1)
    C.mx_editor_wait(turn.runtime, ticket)
    turn.await(ticket)
  end
end

local function common(words)
  local first = words[1]
  for _, word in ipairs(words) do
    while word:sub(1, #first) ~= first do first = first:sub(1, -2) end
  end
  return first
end

local function in_columns(words)
  local width = 1
  for _, word in ipairs(words) do width = math.max(width, #word + 2) end
  local lines, line = {}, ""
  for _, word in ipairs(words) do
    if #line + width > 80 and line ~= "" then lines, line = { table.concat(lines, "\n") .. (#lines > 0 and "\n" or "") .. line }, "" end
    line = line .. word .. (" "):rep(width - #word)
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n") .. "\n"
end

local Terminal = {}
Terminal.__index = Terminal

function Terminal.print(_, s) C.mx_editor_print(turn.runtime, s, #s) end
function Terminal.prompt(_, s) C.mx_editor_prompt(turn.runtime, s) end

local function complete(self, before)
  self.ask_words(before, function(replaced, words)
    if #words == 0 then return end
    local sure = common(words):sub(replaced + 1)
    if sure ~= "" then return C.mx_editor_insert(turn.runtime, sure) end
    if #words > 1 then self:print(in_columns(words)) end
  end)
end

-- A line, "interrupt", or nil at the end.
function Terminal:read()
  while true do
    local key, line = next_key()
    if key == C.MX_KEY_LINE then return line end
    if key == C.MX_KEY_INTERRUPT then return nil, "interrupt" end
    if key == C.MX_KEY_END then return nil end
    complete(self, line)
  end
end

local Plain = {}
Plain.__index = Plain
function Plain.print(_, s) stdio.write(s) end
function Plain.prompt() end
function Plain:read() return self.lines() end

-- A terminal if there is one; ask_words(text, f) answers completions with f(replaced, words).
local function open(ask_words)
  local home = os.getenv "HOME"
  if C.mx_editor_open(turn.runtime, home and home .. "/.mxrun_history" or "") == 0 then
    return setmetatable({ ask_words = ask_words }, Terminal), true
  end
  return setmetatable({ lines = stdio.lines() }, Plain), false
end

-- The loop --------------------------------------------------------------------------------------------------------------

-- peer: ask(request, f), say(request), chosen(line) → whether the line was for the client itself, and text; banner, name.
-- Returns when there is no more to read, or the peer has gone.
function M.run(peer)
  local io_, is_terminal
  io_, is_terminal = open(function(before, f)
    peer.ask({ complete = before }, function(answer)
      if answer.done and answer.words then f(answer.words.replaced, answer.words.list) end
    end)
  end)
  local running, waiter, typed = {}, wait.line(), nil
  local function show() io_:prompt(peer.gone() and "" or next(running) and "" or typed and "     > " or peer.name() .. "> ") end
  peer.on_output = function(s) io_:print(s) end
  local reader = turn.current
  peer.on_gone = function()
    waiter:wake(true)
    if is_terminal then turn.raise(reader, err.new("closed", "the process has gone")) end
  end
  local function evaluate(chunk)
    local id
    id = peer.ask({ eval = chunk, width = is_terminal and 100 or 80 }, function(answer, mark)
      if answer.output then io_:print(answer.output) end
      if answer.value then io_:print(mark .. answer.value .. "\n") end
      if answer.error then io_:print(mark .. answer.error .. "\n") end
      if answer.done then
        running[answer.all or answer.id] = nil
        if not next(running) then
          show()
          waiter:wake(true)
        end
      end
    end)
    running[id] = true
    if peer.finished(id) then running[id] = nil end
    if not is_terminal then
      while next(running) do waiter:wait(nil, "prompt") end
    end
  end
  local function take(line)
    typed = typed and typed .. "\n" .. line or line
    if line ~= "" and syntax.is_unfinished(typed) or typed:find "^%s*$" and not line:find "%S" then
      if typed:find "^%s*$" then typed = nil end
      return show()
    end
    local chunk = typed
    typed = nil
    local mine, answer = peer.chosen(chunk)
    if mine then io_:print(answer .. "\n") else evaluate(chunk) end
    show()
  end
  if is_terminal then io_:print(peer.banner .. "\n") end
  show()
  while not peer.gone() do
    local ok, line, what = pcall(io_.read, io_)
    if not ok then
      if peer.gone() then break end
      error(line, 0)
    elseif line then
      take(line)
    elseif what then
      typed = nil
      for id in pairs(running) do peer.cancel(id) end
      io_:print "^C\n"
      show()
    else
      if is_terminal then io_:print "\n" end
      break
    end
  end
  if typed then evaluate(typed) end
  C.mx_editor_close(turn.runtime)
end

-- The prompt of -i: in this process, on its own terminal; stop() when one leaves it.
function M.start(stop)
  local eval, commands = require "mx.repl.eval", require "mx.repl.commands"
  local asked, latest = {}, 0
  local session
  local peer
  session = eval.session(function(answer)
    local f = asked[answer.id]
    if answer.done and answer.id then asked[answer.id] = nil end
    if f then f(answer, "") elseif answer.output then peer.on_output(answer.output) end
  end)
  peer = {
    banner = "mxrun " .. commands.calls.hello(eval).pid .. ": .help lists the commands, Ctrl-D leaves",
    name = function() return "mx" end,
    gone = function() return false end,
    chosen = function() return false end,
    finished = function(id) return asked[id] == nil end,
    cancel = function(id) session:handle { cancel = id } end,
    ask = function(request, f)
      latest = latest + 1
      request.id = latest
      asked[latest] = f
      session:handle(request)
      return request.id
    end,
  }
  turn.start(M.run, function(ok, e)
    C.mx_editor_close(turn.runtime)
    local task = require "mx.task"
    if not ok and not task.stopping then require("mx.log").error("the prompt failed", { error = task.text_of(e) }) end
    session:close()
    stop()
  end, peer)
end

return M
