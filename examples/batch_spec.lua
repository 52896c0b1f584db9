-- mxrun test examples/batch_spec.lua: what batch.lua makes of a batch, with no broker.
describe("a batch of rows", function()
  local h
  before_each(function() h = mx.test.load "examples/batch.lua" end)
  after_each(function() h:close() end)

  it("is stored at once", function()
    local result = h:deliver_batch("rows", { { id = 1, amount = 5 }, { id = 2, amount = 7 } })
    assert.equal("ack", result.decision)
    assert.same({ { id = 1, amount = 5 }, { id = 2, amount = 7 } }, result.published[1].data)
  end)

  it("loses rows without an amount to the dead letters", function()
    local result = h:deliver_batch("rows", { { id = 1, amount = 5 }, { id = 2 }, "no JSON" })
    assert.same({ { id = 1, amount = 5 } }, result.published[1].data)
    assert.equal("ack", result.messages[1].decision)
    for i = 2, 3 do
      assert.same({ "reject", "no amount" }, { result.messages[i].decision, result.messages[i].reason })
    end
  end)

  it("fails while the database does, and is halved", function()
    h.broker:nack(1)
    local result = h:deliver_batch("rows", { { id = 1, amount = 5 }, { id = 2, amount = 7 } })
    assert.equal("failed", result.decision)
    assert.is_true(result.halved)
  end)

  it("is smaller when memory gets tight", function()
    local policy = h.consumers.rows.options.policy
    assert.is_false(policy { count = 50, memory = 0.5 })
    assert.is_true(policy { count = 50, memory = 0.9 })
  end)
end)
