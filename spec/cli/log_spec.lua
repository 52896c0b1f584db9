-- The log: what a line is about, and that nobody who reads it slows the process down (R57).
local run = dofile "spec/cli/run.lua"

local function script(text)
  local file = run.file(text)
  return file, function() os.remove(file) end
end

describe("a line of the log", function()
  it("says which delivery a handler was at", function()
    local file, gone = script [[
      mx.queue "work"
      mx.consume("work", { retry = { max = 1, base = 0.01 } }, function(m)
        mx.log.info("looked", { key = "mine" })
        mx.sleep(0.001)
        mx.log.info "waited"
        if m.attempt == 1 then return "retry" end
        mx.stop()
      end)
      mx.publish("", "work", "x")
      mx.log.info "no handler"
    ]]
    local text, code = run.both("-u mem:// " .. file)
    gone()
    assert.equal(0, code)
    assert.match("looked key=mine queue=work tag=1\n", text)
    assert.match("waited key=work queue=work tag=1\n", text)
    assert.match("waited attempt=2 key=work queue=work tag=2\n", text)
    assert.match("no handler\n", text)
  end)

  it("is written at most 1,000 times a second", function()
    local text = run.both [[-u mem:// -e 'for i = 1, 3000 do mx.log.info("same", { i = i }) end mx.sleep(1) mx.log.info "later"']]
    local n = select(2, text:gsub("info  same", ""))
    assert.is_true(n >= 1000 and n <= 2000, n)
    assert.match(("more lines of the same text were left out count=%d text=same"):format(3000 - n), text)
    assert.match("info  later\n$", text)
  end)
end)

describe("a log that nobody reads", function()
  local MANY = [[for i = 1, 20000 do mx.log.info("line " .. i % 40, { i = i, pad = ("y"):rep(200) }) end io.stdout:write("done\n")]]

  it("holds nothing up, and says later what is missing", function()
    local out = run.shell(([[
      f=$(mktemp -u); mkfifo $f; l=$(mktemp)
      ( exec 3<$f; sleep 1.5; cat <&3 >$l ) &
      "$MXRUN" -u mem:// -e '%s mx.sleep(2) mx.log.info "the end"' 2>$f
      wait; grep -c 'info  line' $l
      sed -n 's/^mxrun: \([0-9]*\) lines of the log were dropped.*/\1/p' $l | awk '{ n += $1 } END { print n }'
      tail -1 $l; rm -f $f $l
    ]]):format(MANY))
    local lines, dropped, last = out:match "^done\n(%d+)\n(%d+)\n.-(the end)\n$"
    assert.equal("the end", last, out)
    assert.equal(20000, tonumber(lines) + tonumber(dropped))
    assert.is_true(tonumber(dropped) > 0)
  end)

  it("ends nothing when its disk is full, or it is closed", function()
    for _, where in ipairs { "2>/dev/full", "2>&-", "2> >(true)" } do
      local out, code = run.shell(('"$MXRUN" -u mem:// -e \'%s\' %s'):format(MANY, where))
      assert.equal("done\n", out, where)
      assert.equal(0, code, where)
    end
  end)
end)
