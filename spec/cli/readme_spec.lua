-- Every Lua snippet of the README and of docs/ runs as written, on mem://; what it shows of commands is what they print.
local cli = dofile "spec/cli/run.lua"

local function read(path)
  local f = assert(io.open(path))
  local text = f:read "*a"
  f:close()
  return text
end
local function readme() return read "README.md" end

-- A snippet that consumes would wait for ever: a timer from outside stops it.
local STOP = "mx.after(0.3, mx.stop)\n"

-- checked: it also passes --check, as a script of one's own would.
local function snippets(text, checked)
  local n = 0
  for code in text:gmatch "\n```lua\n(.-)\n```" do
    n = n + 1
    it("snippet " .. n .. " runs: " .. code:match "^[^\n]*", function()
      local is_spec = code:find("describe(", 1, true)
      local path = cli.file(is_spec and code or STOP .. code)
      local out, exit, why = cli.mxrun((is_spec and "test " or "--log-level warn -u mem:// ") .. path)
      assert.same({ 0, "" }, { exit, why }, out)
      if checked and not is_spec then
        out, exit = cli.mxrun("--check " .. path)
        assert.equal(0, exit, out)
      end
      os.remove(path)
    end)
  end
  it("has snippets", function() assert.is_true(n > 0) end)
end

-- The tutorial's belong together: tutorial_spec.lua.
for path in io.popen("ls docs/*.md"):lines() do
  if path ~= "docs/TUTORIAL.md" and read(path):find "\n```lua\n" then
    describe(path, function() snippets(read(path), false) end)
  end
end

describe("README.md", function()
  snippets(readme(), true)

  it("shows what the test of the example prints", function()
    local shown = assert(readme():match "mxrun test %-o TAP examples/refunds_spec.lua\n\n```\n(.-)```")
    local out, code = cli.mxrun "test -o TAP examples/refunds_spec.lua"
    assert.same({ shown, 0 }, { out, code })
  end)

  it("shows what --check says of the example", function()
    local shown = assert(readme():match "mxrun %-%-check examples/refunds.lua\n\n```\n(.-)```")
    assert.same({ shown, 0 }, { (cli.mxrun "--check examples/refunds.lua"), 0 })
  end)
end)

if not cli.amqp then return end

describe("the example on RabbitMQ", function()
  it("decides what its spec says", function()
    local c = assert(mx.connect { url = cli.amqp })
    for _, q in ipairs { "refunds", "refunds.dlq", "bank.payments" } do c:delete_queue(q) end
    local out, code = cli.shell(([[
      $MXRUN -u %s examples/refunds.lua & pid=$!
      until $MXRUN pub -u %s "" refunds '{"id":7,"customer":"ann","amount":30}' 2>/dev/null; do sleep 0.1; done
      $MXRUN pub -u %s "" refunds '{"id":8,"customer":"ann","amount":501}'
      $MXRUN sub -u %s bank.payments -n 1 -e 'msg.id, msg.data.to, msg.data.amount'
      $MXRUN sub -u %s refunds.dlq -n 1 -e 'msg.data.id, msg.headers["x-mx-error"]'
      kill $pid; wait $pid]]):gsub("%%s", cli.amqp))
    assert.same({ "refund-7\tann\t30\n8\tabove the limit of 500\n", 0 }, { out, code })
    for _, q in ipairs { "refunds", "refunds.dlq", "bank.payments" } do c:delete_queue(q) end
    c:close()
  end)
end)
