-- mxrun test --watch: the process waits until a file of Lua that it has read, or a folder of one, is changed, and begins anew.
local ffi = require "ffi"
local C = ffi.C
local task, generation, log = require "mx.task", require "mx.generation", require "mx.log"

ffi.cdef [[
int execvp(const char *file, const char *const argv[]);
int setenv(const char *name, const char *value, int replace);
]]

local M = {}
local LOOK, SETTLED = 0.3, 0.1          -- seconds between looks at the files, and for which they are to be left alone

-- path → its stamp; a new spec shows in its folder.
local function stamps(words)
  local list = {}
  for path, stamp in pairs(generation.files) do
    list[path] = stamp
    list[path:match "^(.*)/[^/]*$" or "."] = false
  end
  for _, word in ipairs(words) do list[word] = list[word] or false end
  for path, stamp in pairs(list) do list[path] = stamp or C.mx_file_stamp(path) end
  return list
end

-- Which of them is not as it was, one that is missing (it is being replaced) left aside; from now on it counts as known.
local function changed(list)
  local found
  for path, stamp in pairs(list) do
    local now = C.mx_file_stamp(path)
    if now ~= 0 and now ~= stamp then list[path], found = now, path end
  end
  return found
end

-- The words that this process was started with, without URLs: those are in the environment, since a password is not on the
-- command line any more.
local function words_before(args)
  local f = assert(io.open "/proc/self/cmdline")
  local words = {}
  for word in f:read "*a":gmatch "([^%z]*)%z" do words[#words + 1] = word end
  f:close()
  local head, skip = {}, false
  for i = 1, #words - #args do
    local word = words[i]
    if skip then skip = false
    elseif word == "-u" or word == "--url" then skip = true
    elseif not word:find "^%-%-url=" and not word:find "^%-u=" then head[#head + 1] = word end
  end
  return head
end

local function begin_anew(args, urls)
  local words = words_before(args)
  for _, word in ipairs(args) do words[#words + 1] = word end
  if #urls > 0 then C.setenv("MXRUN_URLS", require "mx.url".environment(urls), 1) end
  local argv = ffi.new("const char *[?]", #words + 1)
  for i, word in ipairs(words) do argv[i - 1] = word end
  io.stdout:flush()
  C.execvp(words[1], argv)
  C.execvp("/proc/self/exe", argv)      -- what it was started by is not there any more
  error("cannot begin anew: error " .. ffi.errno(), 0)
end

-- args: all that follows the command's word; words: those of them that may be files or folders.
function M.watch(args, words, urls)
  local list = stamps(words)
  local n = 0
  for _ in pairs(generation.files) do n = n + 1 end
  log.complain(("mxrun test: watching %d files; SIGINT ends it"):format(n))
  local path
  repeat
    task.sleep(LOOK)
    path = changed(list)
  until path
  repeat task.sleep(SETTLED) until not changed(list)
  log.complain("mxrun test: " .. path .. " was changed")
  begin_anew(args, urls)
end

return M
