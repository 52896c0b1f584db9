-- The arguments of a command: options by a table, the rest by place; what is wrong with them is exit 2.
local check, log = require "mx.check", require "mx.log"

local M = {}

-- Says what is wrong and answers exit code 2.
function M.refuse(command, text)
  log.complain(("mxrun %s: %s; mxrun %s --help says more"):format(command.name, text, command.name))
  return 2
end

function M.misuse(command, text) return nil, M.refuse(command, text) end

local function convert(command, word, kind, value)
  if kind == "string" then return value end
  if kind == "list" then return value end
  local n = tonumber(value)
  if not n or not (n >= 0 and n < math.huge) or kind == "integer" and n % 1 ~= 0 then
    return M.misuse(command, ("%s wants %s, got '%s'"):format(word, kind == "integer" and "a whole number" or "a number", value))
  end
  return n
end

-- "--name=value" or "--name", "value" at args[i]: value, next i.
local function value_of(command, args, i)
  local attached = args[i]:match "^%-%-[%w_-]+=(.*)$"
  if attached then return attached, i + 1 end
  if args[i + 1] == nil then return M.misuse(command, args[i] .. " wants a value") end
  return args[i + 1], i + 2
end

-- command = { name =, usage =, options = { ["-n"] = { "n", "integer" }, ["--dot"] = { "dot" } } }; kinds: none (a flag),
-- string, integer, number, list. The options and the words | nil, exit code
function M.parse(command, args)
  local o, words, i = {}, {}, 1
  while args[i] ~= nil do
    local word = args[i]
    local option = word ~= "-" and word:match "^%-" and word ~= "--" and word:match "^[^=]+"
    if word == "--" then
      for j = i + 1, #args do words[#words + 1] = args[j] end
      break
    elseif option == "--help" or option == "-h" then
      io.write(command.usage)
      return nil, 0
    elseif not option then
      words[#words + 1], i = word, i + 1
    else
      local known = command.options[option]
      if not known then
        return M.misuse(command, ("unknown option '%s'%s"):format(option, check.nearest(option, command.options)))
      end
      local name, kind = known[1], known[2]
      if not kind then
        o[name], i = true, i + 1
      else
        local value, after = value_of(command, args, i)
        if value == nil then return nil, after end
        local converted, code = convert(command, option, kind, value)
        if converted == nil then return nil, code end
        i = after
        if kind == "list" then
          o[name] = o[name] or {}
          table.insert(o[name], converted)
        else
          o[name] = converted
        end
      end
    end
  end
  return o, words
end

-- { NAME = value } of "NAME=VALUE" words; numbers become numbers. table | nil, exit code
function M.pairs(command, option, list)
  local t = {}
  for _, pair in ipairs(list or {}) do
    local name, value = pair:match "^([^=]+)=(.*)$"
    if not name then return M.misuse(command, ("%s wants NAME=VALUE, got '%s'"):format(option, pair)) end
    t[name] = tonumber(value) or value
  end
  return t
end

-- Says what went wrong and answers exit code 1.
function M.failed(command, e)
  io.stderr:write("mxrun ", command.name, ": ", tostring(e), "\n")
  return 1
end

return M
