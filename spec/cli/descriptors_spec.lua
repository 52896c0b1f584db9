-- A process that has no file descriptor left.
local cli = dofile "spec/cli/run.lua"

local SCRIPT = [[
  local url = arg[1]
  local q, got = assert(mx.queue("", {})), 0
  assert(mx.consume(q, function() got = got + 1 end))
  assert(mx.publish("", q, "x"))                        -- both of its connections are there
  local held = {}
  for f in function() return (io.open "/dev/null") end do held[#held + 1] = f end
  local more = 0
  for _, u in ipairs { url, (url:gsub("127%.0%.0%.1", "localhost")) } do
    mx.spawn(function()
      assert(mx.connect { url = u, reconnect = { base = 0.01, max = 0.2 } })
      more = more + 1
    end)
  end
  for _, host in ipairs { "localhost", "127.0.0.1", "unix:/nowhere" } do
    local s, e = mx.tcp(host, host:find "unix" and { timeout = 5 } or 1)
    print(s, e.code, (e.message:gsub("^.*: ", "")))
  end
  local before = os.clock()
  for i = 1, 20 do
    assert(mx.publish("", q, "x"))
    mx.sleep(0.1)
  end
  print(got, more, os.clock() - before < 1 and "idle" or "busy")
  for _, f in ipairs(held) do f:close() end
  while more < 2 do mx.sleep(0.01) end
  assert(mx.publish("", q, "x"))
  print "all connected"
  mx.stop()
]]

describe("a process without descriptors", function()
  if not cli.amqp then return end

  it("says so, keeps its connections, waits without being busy, and connects once there are some", function()
    local out, code, log = cli.shell(('prlimit --nofile=64 "$MXRUN" -u %s %s %s'):format(cli.amqp, cli.file(SCRIPT), cli.amqp))
    assert.equal(("nil\tconnection\ttoo many open files\n"):rep(3) .. "21\t0\tidle\nall connected\n", out)
    assert.equal(0, code)
    assert.equal(2, select(2, log:gsub("trying again until it works[^\n]*too many open files", "")))
  end)

  it("cannot begin, and says why", function()
    local text, code = cli.shell 'prlimit --nofile=9 "$MXRUN" -u mem:// -e "print(1)" 2>&1'
    assert.equal(1, code)
    assert.matches("^mxrun: cannot start the event loop: Too many open files\n", text)
  end)
end)
