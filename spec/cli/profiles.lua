-- Profiles for specs, built as mxrun builds its own.
local ffi = require "ffi"
local C = ffi.C

local M = {}

local function location(p, frame)
  local name, file, start, line = unpack(frame)
  return C.mx_pprof_location(p, C.mx_pprof_function(p, name, file, start), line)
end

local function labels(p, t)
  local names, words = {}, {}
  for name in pairs(t or {}) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    words[#words + 1] = name
    words[#words + 1] = t[name]
  end
  return C.mx_pprof_labels(p, ffi.new("const char *[?]", #words + 1, words), #names)
end

-- what = { types = { { "cpu", "nanoseconds" } }, default =, time =, duration = (ns), { stack = { { name, file, start, line } ... leaf
-- first }, labels = { queue = "a" }, 1000 }, ... }
function M.bytes(what)
  local p = ffi.gc(C.mx_pprof_new(), C.mx_pprof_free)
  for _, t in ipairs(what.types) do C.mx_pprof_type(p, t[1], t[2]) end
  if what.default then C.mx_pprof_default(p, what.default) end
  C.mx_pprof_time(p, what.time or 0, what.duration or 0)
  for _, sample in ipairs(what) do
    local stack = ffi.new("uint32_t[?]", #sample.stack + 1)
    for i, frame in ipairs(sample.stack) do stack[i - 1] = location(p, frame) end
    local row = C.mx_pprof_row(p, stack, #sample.stack, labels(p, sample.labels))
    for i, v in ipairs(sample) do
      local values = C.mx_pprof_values(p, row)
      values[i - 1] = values[i - 1] + v
    end
  end
  local n = ffi.new "size_t[1]"
  local written = ffi.gc(C.mx_pprof_write(p, n), C.mx_bytes_free)
  return ffi.string(written, n[0])
end

-- The path of such a file.
function M.file(what, path)
  path = path or os.tmpname()
  local f = assert(io.open(path, "wb"))
  f:write(type(what) == "string" and what or M.bytes(what))
  f:close()
  return path
end

return M
