-- What a handler's `nil, err` means: failed, never acked.
local on_each_broker = dofile "spec/lua/on_each_broker.lua"(describe, after_each)

on_each_broker("a handler that returns nil, err", function(connect, name)
  it("has failed: its message goes to the dead letters", function()
    local c, q = connect(), name "verdict"
    assert(c:queue(q, { dlq = true }))
    assert(c:consume(q, { retry = { max = 0 } }, function() return nil, "the database is down" end))
    assert(c:publish("", q, "x"))
    local found
    for _ = 1, 200 do
      found = assert(c:queue_info(q .. ".dlq")).messages
      if found == 1 then break end
      mx.sleep(0.02)
    end
    assert.equal(1, found)
  end)
end)
