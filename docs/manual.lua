-- Writes the manual pages:
--   luajit docs/manual.lua api docs/api.md VERSION > mxrun-api.7       the reference
--   luajit docs/manual.lua command build/mxrun VERSION > mxrun.1       what mxrun and its commands say to --help
local what, source, version = ...
local markdown = dofile(arg[0]:match "^(.*/)" .. "markdown.lua")

local out = {}
local function put(line) out[#out + 1] = line end

-- Characters ------------------------------------------------------------------------------------------------------

local SPECIAL = { ["→"] = "\\(->", ["…"] = "...", ["µ"] = "u" }

local function by_number(c)
  local n = c:byte() % (#c == 2 and 32 or #c == 3 and 16 or 8)
  for i = 2, #c do n = n * 64 + c:byte(i) % 64 end
  return ("\\[u%04X]"):format(n)
end

local function escape(text)
  return (text:gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("[\194-\244][\128-\191]+", function(c)
    return SPECIAL[c] or by_number(c)
  end))
end

-- A line of text: no request, however it begins.
local function line(text) put((text:gsub("^[.']", "\\&%0"))) end

-- Between words that are no code a hyphen is a hyphen.
local function prose(text) return (escape(text):gsub("(%a)\\%-(%a)", "%1-%2")) end

-- `code`, *emphasis* and [text](link) as fonts.
local function inline(text)
  return (text:gsub("%[([^%]]*)%]%b()", "%1"):gsub("([^`]*)(`?)([^`]*)(`?)", function(before, a, code)
    before = prose(before):gsub("%*(%w[^*]*)%*", "\\fI%1\\fR")
    return before .. (a ~= "" and "\\fB" .. escape(code) .. "\\fR" or "")
  end))
end

local function code(lines)
  put ".PP"
  put ".RS 4"
  put ".EX"
  for _, l in ipairs(lines) do line(escape(l)) end
  put ".EE"
  put ".RE"
end

local function item(name, text)
  put ".TP"
  line("\\fB" .. escape(name) .. "\\fR")
  line(text ~= "" and text or "\\&")
end

local function title(name, section, about)
  put(('.TH %s %d "" "mxrun %s" "%s"'):format(name:upper(), section, version, about))
end

-- The reference ---------------------------------------------------------------------------------------------------

local WRITE = {}
function WRITE.code(b) code(b.lines) end
function WRITE.text(b)
  put ".PP"
  for _, l in ipairs(b.lines) do line(inline(l)) end
end
function WRITE.list(b)
  for _, l in ipairs(b.lines) do
    local name, text = l:match "^`([^`]*)`: (.*)$"
    item(name or l, name and inline(text) or "")
  end
end
function WRITE.table(b)
  for _, row in ipairs(b.rows) do item(row[1]:gsub("`", ""), inline(markdown.row_text(row))) end
end
function WRITE.heading(b)
  local text = b.text:gsub("`", "")
  put((b.level == 2 and '.SH "%s"' or '.SS "%s"'):format(escape(b.level == 2 and text:upper() or text)))
end

local function read(path)
  local f = assert(io.open(path))
  local text = f:read "*a"
  f:close()
  return text
end

local function api()
  title("mxrun-api", 7, "The API of mxrun")
  put ".SH NAME"
  line "mxrun-api \\- the Lua API of mxrun scripts"
  put ".SH DESCRIPTION"
  line "One entry of it in the terminal:"
  put ".BR \"mxrun doc\" ;"
  line "for editors it is in the folder meta beside this reference."
  local begun = false
  for _, b in ipairs(markdown.blocks(read(source))) do
    begun = begun or b.kind == "heading" and b.level == 2
    if begun then WRITE[b.kind](b) end
  end
  put ".SH SEE ALSO"
  put ".BR mxrun (1)"
end

-- The command -----------------------------------------------------------------------------------------------------

local function help(command)
  local p = assert(io.popen(("'%s' %s --help 2>&1"):format(source, command)))
  local text = p:read "*a"
  p:close()
  return text
end

-- Options and what else stands in two columns as items, its continuation lines with it; the rest as it is.
local function columns(text)
  local name, about
  local function close()
    if name then item(name, prose(about)) end
    name = nil
  end
  for l in text:gmatch "([^\n]*)\n" do
    local n, rest = l:match "^ +(%S.-)  +(%S.*)$"
    local more = l:match "^ +(%S.*)$"
    if more and more:find "^%-" and not n and #l:match "^ *" < 8 then n, rest = more, "" end
    if n and (not name or #l:match "^ *" < 8) then
      close()
      name, about = n, rest
    elseif name and more then
      about = about .. " " .. more
    else
      close()
      if l == "" then put ".PP" else line(prose(l)) end
    end
  end
  close()
end

-- The lines of "usage:", and what follows them.
local function usage_of(text)
  local lines, at = {}, 1
  for l, stop in text:gmatch "([^\n]*)\n()" do
    if l == "" then break end
    lines[#lines + 1] = (l:gsub("^usage:", "      "):gsub("^ +", ""))
    at = stop
  end
  return lines, text:sub(at + 1)
end

local function commands(usage)
  local list, seen = {}, {}
  for _, l in ipairs(usage) do
    for word in (l:match "^mxrun ([%l|]+)" or ""):gmatch "%l+" do
      if not seen[word] then list[#list + 1], seen[word] = word, true end
    end
  end
  return list
end

local function section(name) put((".SH %s"):format(name)) end

local function environment(text)
  section "ENVIRONMENT"
  local before = ""
  for l in text:gmatch "[^\n]+" do
    before = l:match "^ +%-.-(%-%-[%l-]+)" or before
    for name in l:gmatch "MXRUN_[%u_]+" do item(name, ("as %s; the option beats it"):format(escape(before))) end
  end
  item("OTEL_*", prose "where traces go, as OpenTelemetry names it: see mx.trace in mxrun-api(7)")
  item("LUA_PATH, LUA_CPATH", prose "where require looks first, as in lua(1), then beside the script")
end

local function command()
  local usage, rest = usage_of(help "")
  title("mxrun", 1, "User Commands")
  section "NAME"
  line "mxrun \\- run Lua scripts against RabbitMQ"
  section "SYNOPSIS"
  put ".nf"
  for _, l in ipairs(usage) do
    local name = l:match "^(.-)  " or l
    line("\\fB" .. escape(name) .. "\\fR")
  end
  put ".fi"
  section "DESCRIPTION"
  line(prose "A handler is a Lua function; what surrounds it (connections, confirms, acknowledgements, retries, dead letters, time")
  line(prose "limits) is mxrun's. The same script runs without a broker on mem://, an embedded one.")
  line(prose "What scripts can call is in mxrun-api(7).")
  put ".PP"
  for _, l in ipairs(usage) do
    local name, about = l:match "^(.-)  +(.*)$"
    if name then item(name, prose(about)) end
  end
  section "OPTIONS"
  local codes = rest:match "\nexit codes: ([^\n]+)"
  columns((rest:gsub("\nexit codes: [^\n]+\n", "")))
  section "COMMANDS"
  for _, word in ipairs(commands(usage)) do
    local lines, more = usage_of(help(word))
    put((".SS mxrun %s"):format(word))
    put ".nf"
    for _, l in ipairs(lines) do line(escape(l)) end
    put ".fi"
    put ".PP"
    columns(more)
  end
  environment(rest)
  section "SIGNALS"
  item("SIGTERM, SIGINT", prose "drain: no new messages, running handlers finish, confirms arrive, exit 0; a second one leaves now")
  item("SIGHUP", prose "load the script anew, and the files of TLS; what is broken changes nothing")
  section "EXIT STATUS"
  for number, about in codes:gmatch "(%d+) ([^,]+)" do item(number, prose(about)) end
  section "FILES"
  item("/etc/mxrun/NAME.lua", prose "the script of the systemd unit mxrun@NAME")
  item("/etc/mxrun/NAME.env", prose "its environment: MXRUN_URLS and the like")
  item("/usr/share/doc/mxrun/examples", prose "scripts to read and to run")
  section "EXAMPLES"
  code {
    "mxrun -u mem:// /usr/share/doc/mxrun/examples/hello.lua",
    "mxrun -u amqp://user:password@host/vhost -w auto orders.lua",
    "mxrun init orders && cd orders && mxrun test",
  }
  section "SEE ALSO"
  put ".BR mxrun-api (7),"
  put ".BR rabbitmq-server (8)"
end

if what == "api" then api() else command() end
io.write(table.concat(out, "\n"), "\n")
