-- Three decisions: a refund is paid, refused for good, or tried again later.
assert(mx.topology { queues = { refunds = { dlq = true }, ["bank.payments"] = {} } })

local limit = mx.config.limit or 500                             -- mxrun --set limit=1000 examples/refunds.lua

assert(mx.consume("refunds", { concurrency = 8 }, function(msg)
  local refund = msg.data
  if type(refund.amount) ~= "number" or refund.amount <= 0 then return "reject", "no amount" end
  if refund.amount > limit then return "reject", "above the limit of " .. limit end
  local ok, err = mx.publish("", "bank.payments", { to = refund.customer, amount = refund.amount }, { id = "refund-" .. refund.id })
  if not ok then
    mx.log.warn("the bank's queue does not take it", { refund = refund.id, error = err })
    return "retry", 60
  end
end))
