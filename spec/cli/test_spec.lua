-- mxrun test --watch and --coverage.
local cli = dofile "spec/cli/run.lua"

describe("mxrun test", function()
  local dir
  local function write(name, text)
    local f = assert(io.open(dir .. name, "w"))
    f:write(text)
    f:close()
  end
  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    os.execute("mkdir -p " .. dir .. "/spec")
    dir = dir .. "/"
    write("handler.lua", [[
      local rules = require "rules"
      assert(mx.queue "q")
      mx.consume("q", function(msg)
        if rules.is_good(msg.body) then return true end
        return "reject", "bad"
      end)
    ]])
    write("rules.lua", "return { is_good = function(body) return body == 'good' end }")
    write("spec/handler_spec.lua", [[
      it("takes what is good", function()
        local h = mx.test.load "handler.lua"
        assert.equal("ack", h:deliver("q", "good").decision)
        h:close()
      end)
    ]])
  end)
  after_each(function() os.execute("rm -rf " .. dir) end)

  -- In the folder, with $mxrun; wait_for TEXT N waits until it is in the file out so many times.
  local function shell(line)
    return cli.shell(([[
      mxrun=$(realpath $MXRUN)
      cd %s
      : >out
      wait_for() { for i in $(seq 1000); do [ "$(grep -c "$1" out)" -ge "$2" ] && return; sleep 0.02; done; cat out >&2; exit 9; }
      %s]]):format(dir, line))
  end

  it("--watch runs again when a module, a script or a spec was changed, and when there is a new one", function()
    local _, code, why = shell [[
      "$mxrun" -u amqp://u:secret@nowhere --log json test --watch -o TAP >out 2>&1 & pid=$!
      wait_for 'watching' 1
      echo "return { is_good = function() return false end }" >rules.lua
      wait_for '^not ok 1' 1
      wait_for 'watching' 2
      echo "return { is_good = function() return true end }" >new && mv new rules.lua
      wait_for '^ok 1' 2
      wait_for 'watching' 3
      echo "syntax error" >spec/more_spec.lua
      wait_for 'watching' 4
      echo "it('is new', function() assert.equal('amqp://u:secret@nowhere', os.getenv 'MXRUN_URLS') end)" >spec/more_spec.lua
      wait_for '^ok . - is new' 1
      wait_for 'watching' 5
      tr '\0' ' ' </proc/$pid/cmdline | grep -q 'log json test --watch -o TAP' || exit 8
      grep -q secret /proc/$pid/cmdline && exit 7
      kill -INT $pid
      wait $pid]]
    assert.same({ 0, "" }, { code, why })
  end)

  it("--coverage says what to install when luacov is missing", function()
    local _, code, why = shell [[! "$mxrun" -u mem:// -e 'require "luacov.runner"' 2>/dev/null || exit 5; "$mxrun" test --coverage]]
    if code == 5 then return end                -- it is installed
    assert.equal(2, code)
    assert.matches("^mxrun test: luacov is not there: luarocks install", why)
  end)

  it("--coverage runs with luacov and no compiler, and prints the summary", function()
    os.execute("mkdir -p " .. dir .. "/rocks/luacov")
    write("rocks/luacov/runner.lua", [[
      local M = { configuration = { exclude = {}, statsfile = "stats", reportfile = "report" } }
      function M.init(config) M.configuration.asked = config end
      function M.shutdown() M.ended = true end
      function M.run_report(c)
        local f = io.open(c.reportfile, "w")
        f:write("====\nSummary\n====\n", tostring(c.asked), " ", tostring(M.ended), " ", tostring(jit.status()), "\n")
        f:close()
      end
      return M
    ]])
    local out, code, why = shell [[LUA_PATH="rocks/?.lua;;" "$mxrun" test -o TAP --coverage --coverage-config-file=my.luacov]]
    assert.same({ 0, "" }, { code, why })
    assert.matches("^ok 1 .*\n1%.%.1\n\nSummary\n====\nmy.luacov true false\n$", out)
  end)
end)
