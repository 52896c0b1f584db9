-- The commands that a page shows: runs them, in order and in one shell, and writes what they print into the page.
--   luajit docs/commands.lua MXRUN docs/PROFILING.md       blocks of ```console: lines that begin with "$ ", each with its output
local M = {}

local START, DONE = "\n```console\n", "\n```"

local function read(path)
  local f = assert(io.open(path))
  local text = f:read "*a"
  f:close()
  return text
end

-- A list of { { command =, output = } ... }, a block each; and a function that makes the page of such a list.
function M.blocks_of(text)
  local blocks, parts, at = {}, {}, 1
  while true do
    local from, first = text:find(START, at, true)
    if not from then break end
    local to = assert(text:find(DONE, first, true))
    local block = {}
    for line in text:sub(first + 1, to):gmatch "([^\n]*)\n" do
      local command = line:match "^%$ (.*)"
      if command then block[#block + 1] = { command = command, output = "" }
      else block[#block].output = block[#block].output .. line .. "\n" end
    end
    blocks[#blocks + 1] = block
    parts[#parts + 1] = text:sub(at, first)
    at = to + 1
  end
  return blocks, function()
    local out = {}
    for i, block in ipairs(blocks) do
      out[#out + 1] = parts[i]
      for _, c in ipairs(block) do out[#out + 1] = "$ " .. c.command .. "\n" .. c.output end
    end
    return table.concat(out) .. text:sub(at)
  end
end

-- One script of all commands: mxrun is the program; make builds nothing; what is left in the background is ended. change: of a command.
function M.script_of(blocks, mxrun, change)
  local lines = {
    "exec 2>&1 </dev/null", "bin=$(mktemp -d)", ('ln -s "$(realpath %s)" $bin/mxrun'):format(mxrun), "PATH=$bin:$PATH",
    ("make() { command make -s --no-print-directory -o all BUILD=%s \"$@\"; }"):format(mxrun:match "^(.*)/"),
    "trap 'kill $(jobs -p) 2>/dev/null; rm -r $bin' EXIT",
  }
  for _, block in ipairs(blocks) do
    for _, c in ipairs(block) do
      lines[#lines + 1] = "printf '\\1'"
      lines[#lines + 1] = change and change(c.command) or c.command
      lines[#lines + 1] = "code=$?; [ $code = 0 ] || echo \"exit $code\""
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

-- What the script printed, to its commands.
function M.outputs(blocks, printed)
  local next_one = printed:gmatch "\1([^\1]*)"
  for _, block in ipairs(blocks) do
    for _, c in ipairs(block) do
      c.output = assert(next_one(), "it ended before: " .. c.command)
    end
  end
end

local mxrun, page = ...
if not page then return M end

local blocks, whole = M.blocks_of(read(page))
local path = os.tmpname()
local f = assert(io.open(path, "w"))
f:write(M.script_of(blocks, mxrun))
f:close()
M.outputs(blocks, io.popen("bash " .. path):read "*a")
os.remove(path)
f = assert(io.open(page, "w"))
f:write(whole())
f:close()
