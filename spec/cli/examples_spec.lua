-- The examples of consuming print what they say.
local cli = dofile "spec/cli/run.lua"

local function lines_of(example)
  local lines = {}
  for line in cli.both("-u mem:// examples/" .. example):gmatch "[^\n]+" do lines[#lines + 1] = line end
  return lines
end

describe("examples", function()
  it("call.lua asks five things at once", function()
    assert.same({ "1\t1", "2\t4", "3\t9", "4\t16", "5\t25" }, lines_of "call.lua")
  end)

  it("ordered.lua keeps each customer in order", function()
    local last, n = {}, 0
    for _, line in ipairs(lines_of "ordered.lua") do
      local customer, i = line:match "^(%a)\tevent (%d)$"
      assert.is_true((last[customer] or 0) < tonumber(i))
      last[customer], n = tonumber(i), n + 1
    end
    assert.equal(9, n)
  end)

  it("monitoring.lua reports figures and health", function()
    local out, code = cli.shell [[
      log=$(mktemp)
      $MXRUN -u mem:// --http 0 --set report=0.1 examples/monitoring.lua 2>$log & pid=$!
      until grep -q 'report.*handled=[1-9].*health=healthy' $log; do sleep 0.05; done
      address=$(grep -o 'http=.*' $log)
      kill $pid; wait $pid && echo $address; rm $log]]
    assert.equal(0, code)
    assert.matches("^http=127.0.0.1:%d+\n$", out)
    assert.equal(0, select(2, cli.mxrun "--check examples/monitoring.lua"))
  end)
end)
