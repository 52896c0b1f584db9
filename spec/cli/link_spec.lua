-- What a script sees of its links when things go wrong; MXRUN is the binary under test.
local MXRUN = os.getenv "MXRUN" or "build/mxrun"

local function run(args, text)
  local path = os.tmpname()
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
  local p = io.popen(("timeout 60 %s %s %s 2>&1; echo exit $?"):format(MXRUN, args, path))
  local out = p:read "*a"
  p:close()
  os.remove(path)
  return out:gsub("exit %d+\n$", ""), tonumber(out:match "exit (%d+)\n$")
end

local AMQP = os.getenv "MXRUN_SPEC_AMQP"
if not AMQP then return end

describe("a message above max_body", function()
  it("is rejected with a line in the log, and the connection lives", function()
    local text, code = run("-u " .. AMQP, ([[
      local small = assert(mx.connect { url = %q, max_body = 100 })
      local q = assert(mx.queue("spec-max-body", { durable = false, auto_delete = true, dlq = true }))
      mx.purge "spec-max-body.dlq"
      local seen = {}
      local function done() if #seen == 2 then mx.stop() end end
      assert(small:consume(q, function(m) seen[#seen + 1] = m.body done() end))
      assert(mx.consume(q .. ".dlq", function(m) seen[#seen + 1] = m.size done() end))
      assert(mx.publish("", q, ("x"):rep(200000)))
      assert(mx.publish("", q, "fine"))
      mx.sleep(10)
    ]]):format(AMQP))
    assert.matches('error a message was rejected unread', text)
    assert.matches('queue=spec%-max%-body', text)
    assert.matches('body of 200000 bytes, at most 100 are taken', text)
    assert.equal(0, code)
  end)
end)
