-- Profiles from files: what several hold is added up, and each sample is a list of functions or lines, the leaf first.
local ffi = require "ffi"
local C = ffi.C
local task = require "mx.task"

local M = {}
local Profile = {}
Profile.__index = Profile

local function sum_up(self)
  C.mx_pprof_sum_up(self.c, self.summary)
  self.types, self.functions, self.frames = {}, {}, {}
  for i = 0, self.summary.types - 1 do
    self.types[i + 1] = { type = ffi.string(self.summary.type[i]), unit = ffi.string(self.summary.unit[i]) }
  end
  return self
end

-- One of C's, which is freed with it.
function M.of(c) return sum_up(setmetatable({ c = ffi.gc(c, C.mx_pprof_free), summary = ffi.new "mx_pprof_summary" }, Profile)) end

function M.new() return M.of(C.mx_pprof_new()) end

local why = ffi.new "const char *[1]"
-- Adds what pprof wrote. true | nil, text
function Profile:add(bytes)
  if C.mx_pprof_read(self.c, bytes, #bytes, 1, why) ~= 0 then return nil, ffi.string(why[0]) end
  sum_up(self)
  return true
end

-- Of one or several files. profile | nil, text
function M.read(paths)
  local p = M.new()
  for _, path in ipairs(paths) do
    local f, bytes, e
    f, e = io.open(path, "rb")
    if not f then return nil, e end
    bytes, e = f:read "*a"
    f:close()
    if not bytes then return nil, path .. ": " .. e end
    local ok, wrong = p:add(bytes)
    if not ok then return nil, path .. ": " .. wrong end
  end
  return p
end

-- The sample type of this name, by default the one that tools show first: its number. nil: there is none.
function Profile:type_called(name)
  if not name then return tonumber(self.summary.shown) + 1 end
  for i, t in ipairs(self.types) do
    if t.type == name then return i end
  end
end

-- Who an operator looks at sends no commands to the terminal.
local function printable(text) return (ffi.string(text):gsub("%c", "?"):gsub("\194[\128-\159]", "?")) end

local frame = ffi.new "mx_pprof_frame"
local function frame_of(self, number)
  C.mx_pprof_frame_of(self.c, number, frame)
  local f = self.functions[frame["function"]]
  if not f then
    f = { name = printable(frame.name), file = printable(frame.file), line = tonumber(frame.start) }
    self.functions[frame["function"]] = f
  end
  local l = { name = f.name, file = f.file, line = tonumber(frame.line), of = f }
  self.frames[number] = l
  return l
end

-- Whether the text, or what it says as a pattern, is in the name or the file.
function M.fits(pattern, f)
  if f.name:find(pattern, 1, true) or f.file:find(pattern, 1, true) then return true end
  local ok, found = pcall(function() return f.name:find(pattern) or f.file:find(pattern) end)         -- "f(" is no pattern
  return ok and found ~= nil
end

-- answer(key), asked once for each key.
local function once(answer)
  local known = {}
  return function(key)
    local a = known[key]
    if a == nil then
      a = answer(key)
      known[key] = a
    end
    return a
  end
end

local name, value = ffi.new "const char *[1]", ffi.new "const char *[1]"
local function has_labels(self, asked)
  return once(function(number)
    local has, i = {}, 0
    while C.mx_pprof_label_of(self.c, number, i, name, value) ~= 0 do
      has[ffi.string(name[0])], i = ffi.string(value[0]), i + 1
    end
    for k, v in pairs(asked) do
      if has[k] ~= v then return false end
    end
    return true
  end)
end

local function chooser(o)
  local focused = o.focus and once(function(f) return M.fits(o.focus, f) end)
  local ignored = o.ignore and once(function(f) return M.fits(o.ignore, f) end)
  return (focused or ignored) and function(stack, n)
    local found = not focused
    for i = 1, n do
      local f = stack[i].of or stack[i]
      if ignored and ignored(f) then return false end
      found = found or focused(f)
    end
    return found
  end
end

-- visit(stack, depth, values) of each sample that o wants: { focus, ignore: patterns, labels: { name = value }, lines: lines and
-- not functions, at_once: without a wait }. The stack is a list of { name, file, line [, of = function] }, the same table each time;
-- values count from 0.
function Profile:each(o, visit)
  local sample, stack = ffi.new "mx_pprof_sample", {}
  local labeled, chosen = o.labels and has_labels(self, o.labels), chooser(o)
  for row = 1, self.summary.rows do
    C.mx_pprof_sample_of(self.c, row, sample)
    local n = tonumber(sample.depth)
    if not labeled or labeled(sample.labels) then
      for i = 1, n do
        local number = sample.locations[i - 1]
        local f = self.frames[number] or frame_of(self, number)
        stack[i] = o.lines and f or f.of
      end
      if not chosen or chosen(stack, n) then visit(stack, n, sample.values) end
    end
    if row % 4096 == 0 and not o.at_once then task.sleep(0) end           -- a large profile takes longer than a turn may
  end
end

-- What all samples of this type have together, whatever is chosen from them.
function Profile:total(number)
  local sample, total = ffi.new "mx_pprof_sample", 0
  for row = 1, self.summary.rows do
    C.mx_pprof_sample_of(self.c, row, sample)
    total = total + math.abs(tonumber(sample.values[number - 1]))
  end
  return total
end

return M
