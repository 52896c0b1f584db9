-- A stream keeps what was read: two readers, one from the start, one from the offset where it had stopped.
assert(mx.queue("clicks", { type = "stream" }))
for n = 1, 5 do assert(mx.publish("", "clicks", "click " .. n)) end

local done = mx.semaphore(0)
local function read(name, offset)
  return assert(mx.consume("clicks", { args = { ["x-stream-offset"] = offset } }, function(msg)
    local at = msg.headers["x-stream-offset"]
    print(("%-8s %d %s"):format(name, at, msg.body))
    if at == 4 then done:release() end
  end))
end

read("all", "first")                    -- also "last", "next", an offset, mx.amqp.timestamp(t)
done:acquire()
read("resumed", 3)
done:acquire()
mx.stop()
