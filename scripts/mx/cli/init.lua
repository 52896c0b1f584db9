-- mxrun init: a handler to begin with, its spec and a workload.
local ffi = require "ffi"
local args = require "mx.cli.args"

ffi.cdef "int mkdir(const char *path, unsigned mode);"

local M = { name = "init", usage = [[
usage: mxrun init [DIR]

Writes into DIR, by default the working directory:

  orders.lua             a script with a handler
  spec/orders_spec.lua   its spec, for mxrun test
  workload.lua           a load to measure with, for mxrun bench

What is there already is never overwritten: then nothing is written.

exit codes: 0 fine, 1 it failed, 2 misuse
]], options = {} }

local FILES = {
  { "orders.lua", [[
-- Orders become invoices; a bad order goes to orders.dlq with the reason.
assert(mx.topology { queues = { orders = { dlq = true }, invoices = {} } })

assert(mx.consume("orders", { concurrency = 16, retry = { max = 5 } }, function(msg)
  local order = msg.data                                  -- JSON, decoded; what is none is dead at once
  if type(order.total) ~= "number" or order.total <= 0 then return "reject", "no total" end
  assert(mx.publish("", "invoices", { id = order.id, total = order.total }))   -- if it fails, the order is tried again
end))
]] },
  { "spec/orders_spec.lua", [[
describe("an order", function()
  local orders
  before_each(function() orders = mx.test.load "orders.lua" end)
  after_each(function() orders:close() end)

  it("becomes an invoice", function()
    local result = orders:deliver("orders", { id = 7, total = 30 })
    assert.equal("ack", result.decision)
    assert.equal("invoices", result.published[1].key)
    assert.same({ id = 7, total = 30 }, result.published[1].data)
  end)

  it("without a total is rejected", function()
    local result = orders:deliver("orders", { id = 7 })
    assert.equal("reject", result.decision)
    assert.equal("no total", result.reason)
    assert.equal(0, #result.published)
  end)

  it("is tried again while invoices are not taken", function()
    orders.broker:nack(1)
    local result = orders:deliver("orders", { id = 7, total = 30 })
    assert.equal("failed", result.decision)
    assert.is_falsy(result.dead)
  end)
end)
]] },
  { "workload.lua", [[
-- mxrun bench workload.lua: 1,000 orders a second for 20 s, after a ramp of 5 s.
return mx.workload {
  topology = { queues = { ["orders.bench"] = {} } },
  producers = {
    count = 2, key = "orders.bench",
    body = function(i) return { id = i, total = i % 500 + 1 } end,
    stages = { { ramp = 1000, duration = 5 }, { rate = 1000, duration = 20 } },
  },
  consumers = { count = 2, queue = "orders.bench", handler = function(msg) return msg.data.total > 0 end },
  verify = true,
  thresholds = { ["e2e.p99"] = "< 50ms", ["verify.lost"] = "== 0" },
}
]] },
}

local function exists(path)
  local f = io.open(path)
  return f and f:close()
end

-- With what it lies in; what is there is fine.
local function make_folder(path)
  for at in path:gmatch "()/" do
    if at > 1 then ffi.C.mkdir(path:sub(1, at - 1), 0x1ff) end
  end
end

-- true | nil, err
local function write(path, text)
  make_folder(path)
  local f, e = io.open(path, "wx")
  if not f then return nil, e end
  local ok
  ok, e = f:write(text)
  local closed, why = f:close()
  return ok and closed, e or why
end

function M.run(list)
  local o, words = args.parse(M, list)
  if not o then return words end
  if #words > 1 then return args.refuse(M, ("expected one DIR, got %d"):format(#words)) end
  local base = words[1] and words[1]:gsub("/*$", "/") or ""
  for _, f in ipairs(FILES) do
    if exists(base .. f[1]) then return args.failed(M, base .. f[1] .. " is there already; nothing was written") end
  end
  for _, f in ipairs(FILES) do
    local ok, e = write(base .. f[1], f[2])
    if not ok then return args.failed(M, e) end
    print(base .. f[1])
  end
  local there = words[1] and ("cd %s && "):format(words[1]) or ""
  io.stderr:write(("now: %smxrun test && mxrun --check orders.lua && mxrun -u mem:// orders.lua\n"):format(there))
  return 0
end

return M
