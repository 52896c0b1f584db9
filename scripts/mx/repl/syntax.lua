-- What is typed, as a chunk: an expression first; where it is wrong, with a caret; whether more of it is to come.
local M = {}
local NAME = "=prompt"

local function is_unfinished(e) return e ~= nil and e:find "'<eof>'$" ~= nil end

-- What the first statement makes local would be gone with its line: it becomes a global of the prompt.
local function lasting(text)
  local rest = text:match "^%s*local%s+(function%s.*)$" or text:match "^%s*local%s+([%a_][%w_]*[%w_,%s]*=[^=].*)$"
  return rest or text
end

-- f | nil, the errors as an expression and as statements
local function load(text)
  local f, as_expression = loadstring("return " .. text, NAME)
  if f then return f end
  local g, as_statements = loadstring(text, NAME)
  return g, as_expression, as_statements
end

local function prepared(text) return lasting((text:gsub("%s+$", ""):gsub("^%s*=", ""))) end

-- Whether it could go on: a block or a bracket is open.
function M.is_unfinished(text)
  if text:find "^%s*%." then return false end
  local f, a, b = load(prepared(text))
  return not f and (is_unfinished(a) or is_unfinished(b))
end

local function line_of(text, number)
  local at, n = 1, 1
  while n < number do
    local stop = text:find("\n", at, true)
    if not stop then break end
    at, n = stop + 1, n + 1
  end
  return text:match("^[^\n]*", at), at
end

-- Where in the text the parser gave up: at the token's first place up to which it complains of the same. { at, line, column }
local function place(text, number, token)
  local line, from = line_of(text, number)
  if token == "<eof>" then return { at = from + #line, line = line, column = #line + 1 } end
  local at = 1
  while true do
    local first, last = line:find(token, at, true)
    if not first then return { at = from, line = line, column = 1 } end
    local _, e = loadstring(text:sub(1, from + last - 1), NAME)
    if e and e:find("near '" .. token .. "'", 1, true) then return { at = from + first - 1, line = line, column = first } end
    at = first + 1
  end
end

-- What is wrong with the text, behind so many bytes that nobody typed.
local function mistake(text, e, skip)
  local number, what = e:match "^[^\n]-:(%d+): (.*)$"
  local token = what and what:match "near '(.*)'$"
  if not token then return { at = 0, text = what or e } end
  local p = place(text, tonumber(number), token)
  local before = number == "1" and skip or 0
  p.text = ("%s\n  %s\n  %s^"):format(what, p.line:sub(before + 1):gsub("\t", " "), (" "):rep(p.column - before - 1))
  p.at = p.at - skip
  return p
end

-- f | nil, the error with the line and a caret below it: of the two ways to read it the one that came further
function M.compile(text)
  text = prepared(text)
  local f, a, b = load(text)
  if f then return f end
  local prefix = "return "
  local expression, statements = mistake(prefix .. text, a, #prefix), mistake(text, b, 0)
  return nil, (expression.at > statements.at and expression or statements).text
end

return M
