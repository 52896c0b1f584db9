-- Profiles of programs whose shares are known. What is sampled has its error: three points of a hundred with the samples there are.
local cli = dofile "spec/cli/run.lua"
local FULL = os.getenv "MXRUN_FULL"

local function run(script, ...)
  local text, status, errors = cli.mxrun("-u mem:// spec/profile/" .. script .. " " .. table.concat({ ... }, " "))
  assert.same({ 0, "" }, { status, errors })
  return assert(mx.json.decode(text))
end

local function shares_fit(result, points)
  for name, share in pairs(result.shares) do
    local off = math.abs(share.found - share.expected) * 100
    assert(off <= points, ("%s: %.1f %% found, %.1f %% expected"):format(name, share.found * 100, share.expected * 100))
  end
end

describe("a profile", function()
  for _, jit in ipairs { "on", "off" } do
    it("of the heap gives to each function and line what it allocated, with the JIT " .. jit, function()
      local result = run("allocator.lua", 4000, "32KB", jit)
      shares_fit(result, 3)
      assert(math.abs(result.sum / result.total - 1) < 0.1, result.sum / result.total)
      for name, share in pairs(result.shares) do
        for _, line in ipairs(share.lines) do
          assert(line > share.defined and line <= share.defined + 5, name .. ": line " .. line)
        end
      end
    end)

    it("of the heap knows what is still held after a collection, with the JIT " .. jit, function()
      local result = run("allocator.lua", 10, "8KB", jit)
      assert(math.abs(result.inuse / result.held - 1) < 0.1, ("%d held, %d found"):format(result.held, result.inuse))
    end)

    it("of the processor gives to Lua, C and the collector what they took, with the JIT " .. jit, function()
      local result = run("processor.lua", FULL and 20 or 4, jit)
      shares_fit(result, FULL and 3 or 6)
      assert(math.abs(result.sum / result.total - 1) < 0.2, result.sum / result.total)
    end)
  end
end)
