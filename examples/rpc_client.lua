-- Asks rpc_server.lua for prices: mxrun -u amqp://… rpc_client.lua tea milk
local items = #arg > 0 and arg or { "tea", "milk" }

for _, item in ipairs(items) do
  local answer, err = mx.call("", "rpc.prices", { item = item }, { timeout = 2 })
  if not answer then
    print(item, "nobody answers: " .. err)
  elseif answer.data.error then
    print(item, answer.data.error)
  else
    print(item, ("%.2f"):format(answer.data.price))
  end
end
