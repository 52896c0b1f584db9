-- mxrun test examples/refunds_spec.lua: what refunds.lua decides, with no broker.
describe("a refund", function()
  local refunds
  before_each(function() refunds = mx.test.load "examples/refunds.lua" end)
  after_each(function() refunds:close() end)

  it("is paid through the bank's queue", function()
    local result = refunds:deliver("refunds", { id = 7, customer = "ann", amount = 30 })
    assert.equal("ack", result.decision)
    assert.equal("bank.payments", result.published[1].key)
    assert.same({ to = "ann", amount = 30 }, result.published[1].data)
    assert.equal("refund-7", result.published[1].id)
  end)

  local function rejected(reason, amount)
    it("is rejected: " .. reason, function()
      local result = refunds:deliver("refunds", { id = 7, customer = "ann", amount = amount })
      assert.equal("reject", result.decision)
      assert.equal(reason, result.reason)
      assert.equal(0, #result.published)
    end)
  end
  rejected("no amount", nil)
  rejected("above the limit of 500", 501)

  it("is tried again in a minute while the bank's queue refuses", function()
    refunds.broker:nack(1)
    local result = refunds:deliver("refunds", { id = 7, customer = "ann", amount = 30 })
    assert.equal("retry", result.decision)
    assert.equal(60, result.delay)
  end)

  it("that is no JSON fails, and is dead at once", function()
    local result = refunds:deliver("refunds", "{ not json")
    assert.equal("failed", result.decision)
    assert.is_true(result.dead)
  end)

  it("has a limit that --set changes", function()
    local generous = mx.test.load("examples/refunds.lua", { config = { limit = 1000 } })
    assert.equal("ack", generous:deliver("refunds", { id = 7, customer = "ann", amount = 501 }).decision)
    generous:close()
  end)
end)
