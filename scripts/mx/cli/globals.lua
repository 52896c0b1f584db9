-- The globals that a compiled chunk reads and writes, found in its bytecode; what it asks of mx, and where it publishes to.
local util = require "jit.util"
local band, shr = bit.band, bit.rshift

local M = {}

-- The number of the last but one instruction, "return", is not ours: which opcode a text compiles to.
local function opcode(text, pc) return band(util.funcbc(loadstring(text), pc), 0xff) end
local GGET, GSET, TGETS = opcode("return x", 1), opcode("x = 1", 2), opcode("return x.y", 2)

-- From a function's register to that of its first argument.
local KSTR, FIRST = opcode("return 'x'", 1), band(shr(util.funcbc(loadstring "f('x')", 2), 8), 0xff)
local PUBLISHES = { publish = true, publish_async = true, call = true }

local function line(f, pc) return util.funcinfo(f, pc).currentline end

-- The string that the instruction loads into the register, if that is what it does.
local function constant(f, pc, register)
  local ins = util.funcbc(f, pc)
  if band(ins, 0xff) == KSTR and band(shr(ins, 8), 0xff) == register then return util.funck(f, -shr(ins, 16) - 1) end
end

local function field(f, pc, a, name, found)
  found.fields[#found.fields + 1] = { name = name, line = line(f, pc) }
  if not PUBLISHES[name] then return end
  local exchange, key = constant(f, pc + 1, a + FIRST), constant(f, pc + 2, a + FIRST + 1)
  if exchange and key then found.targets[#found.targets + 1] = { exchange = exchange, key = key, line = line(f, pc) } end
end

local function instructions(f, is_main, found)
  local before = {}                             -- the last instruction: a read of mx, into which register
  local pc = 1
  while true do
    local ins = util.funcbc(f, pc)
    if not ins then return end
    local op, a, d = band(ins, 0xff), band(shr(ins, 8), 0xff), shr(ins, 16)
    if op == GGET or op == GSET then
      local list = op == GGET and found.reads or found.writes
      list[#list + 1] = { name = util.funck(f, -d - 1), line = line(f, pc), main = is_main }
      before = { mx = op == GGET and util.funck(f, -d - 1) == "mx", register = a }
    else
      if op == TGETS and before.mx and shr(ins, 24) == before.register then
        field(f, pc, a, util.funck(f, -band(shr(ins, 16), 0xff) - 1), found)
      end
      before = {}
    end
    pc = pc + 1
  end
end

local function walk(f, is_main, found)
  instructions(f, is_main, found)
  for n = -1, -65536, -1 do
    local k = util.funck(f, n)
    if k == nil then return end
    if type(k) == "proto" then walk(k, false, found) end
  end
end

-- { reads, writes, fields }: lists of { name, line }; fields are those of mx. targets: { exchange, key, line } of each
-- publish that names both.
function M.of(f)
  local found = { reads = {}, writes = {}, fields = {}, targets = {} }
  walk(f, true, found)
  return found
end

return M
