-- What a script sees of its links when things go wrong; MXRUN is the binary under test.
local cli = dofile "spec/cli/run.lua"

local function run(args, text) return cli.both(args .. " " .. cli.file(text)) end

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

describe("leaving at the second signal", function()
  it("acks what was settled behind a handler that never ended", function()
    local text = run("-u " .. AMQP, [[
      require('ffi').cdef 'int getpid(void); int kill(int, int);'
      local C = require('ffi').C
      local q = assert(mx.queue("spec-second-signal", { durable = false }))
      mx.purge(q)
      assert(mx.consume(q, { concurrency = 3, prefetch = 3 }, function(m)
        if m.body == "1" then mx.sleep(60) end
        mx.stop()
        mx.sleep(0.12)                    -- the consumer is cancelled by then; gaps are acked every 50 ms
        C.kill(C.getpid(), 15)
        C.kill(C.getpid(), 2)
      end))
      for i = 1, 2 do assert(mx.publish("", q, tostring(i))) end
      mx.sleep(60)
    ]])
    assert.matches("second signal: leaving now", text)
    local left = run("-u " .. AMQP, [[
      assert(mx.queue("spec-second-signal", { durable = false }))
      print(mx.queue_info("spec-second-signal").messages)
      mx.delete_queue "spec-second-signal"
    ]])
    assert.equal("1\n", left)
  end)

  it("runs nothing of the script any more", function()
    local text, code = run("-u mem://", [[
      require('ffi').cdef 'int getpid(void); int kill(int, int);'
      local C = require('ffi').C
      assert(mx.queue "q")
      assert(mx.consume("q", function()
        for _ = 1, 10 do mx.spawn(function() while pcall(mx.sleep, 0) do io.stderr:write "tick\n" end end) end
        mx.stop()
        mx.sleep(0.05)
        C.kill(C.getpid(), 15)
        C.kill(C.getpid(), 2)
        while true do
          mx.sleep(0)
          io.stderr:write "tick\n"
        end
      end))
      assert(mx.publish("", "q", "x"))
    ]])
    assert.equal(4, code)
    assert.matches("tick\n[^\n]*second signal: leaving now[^\n]*\n$", text:sub(-200))
  end)
end)
