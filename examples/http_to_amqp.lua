-- Asks an HTTP server every few seconds and publishes what has changed: mxrun --set host=example.org --set path=/orders …
local host, port, path = mx.config.host or "localhost", mx.config.port or 8080, mx.config.path or "/orders.json"
assert(mx.queue "orders")

-- status, body | nil, err
local function get()
  local s, err = mx.tcp(host, port, { timeout = 5 })
  if not s then return nil, err end
  assert(s:send(("GET %s HTTP/1.0\r\nHost: %s\r\n\r\n"):format(path, host)))
  local answer
  answer, err = s:receive "*a"
  s:close()
  if not answer then return nil, err end
  return tonumber(answer:match "^HTTP/%S+ (%d+)"), answer:match "\r?\n\r?\n(.*)$"
end

local last
while true do
  local status, body = get()
  if status ~= 200 then
    mx.log.warn("the server gives nothing", { answer = status or tostring(body) })
  elseif body ~= last then
    last = body
    for _, order in ipairs(assert(mx.json.decode(body))) do
      assert(mx.publish("", "orders", order, { id = "order-" .. order.id }))
      print("published order " .. order.id)
    end
  end
  mx.sleep(mx.config.every or 5)
end
