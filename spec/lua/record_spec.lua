-- What is said again on a new connection: all that was confirmed, and nothing that is gone.
local record = require "mx.record"

local function noted(...)
  local list, texts = {}, {}
  for _, step in ipairs { ... } do record.note(list, step[1], step[2], "") end
  for i, x in ipairs(list) do texts[i] = table.concat({ x.op, x.request.name, x.request.source, x.request.key }, " ") end
  return texts, list
end

local C = require "ffi".C

describe("the record of a connection", function()
  local q, x = { "queue", { name = "q" } }, { "exchange", { name = "x", source = "topic" } }
  local b = { "bind", { name = "q", source = "x", key = "k" } }

  it("keeps the order in which things were made", function()
    assert.same({ "exchange x topic", "queue q", "bind q x k" }, (noted(x, q, b)))
  end)

  it("holds each once, as it was declared last", function()
    local texts, list = noted(q, x, { "queue", { name = "q", flags = 2 } }, x, b, b)
    assert.same({ "queue q", "exchange x topic", "bind q x k" }, texts)
    assert.equal(2, list[1].request.flags)
  end)

  it("tells bindings apart by their arguments", function()
    local function bound(args) return { "bind", { name = "q", source = "x", key = "", args = args } } end
    local unbind = { "unbind", { name = "q", source = "x", key = "", args = { a = 2 } } }
    local texts = noted(bound { a = 1 }, bound { a = 2 }, bound { a = 1 }, unbind)
    assert.equal(1, #texts)
  end)

  it("does not hold what was only looked at", function()
    local looked = { name = "q", source = "", flags = C.MX_F_PASSIVE }
    assert.same({}, (noted({ "queue", looked }, { "exchange", looked }, { "purge", { name = "q" } })))
  end)

  it("forgets an auto-delete queue when its last consumer has gone", function()
    local _, list = noted(q, { "queue", { name = "a", flags = C.MX_F_AUTO_DELETE } }, { "bind", { name = "a", source = "x", key = "" } })
    record.unused(list, "q")
    record.unused(list, "a")
    assert.equal(1, #list)
    assert.equal("q", list[1].request.name)
  end)

  it("forgets a queue with its bindings, and an exchange with its own", function()
    local e = { "bind_exchange", { name = "y", source = "x", key = "" } }
    assert.same({ "exchange x topic" }, (noted(x, q, b, { "delete_queue", { name = "q" } })))
    assert.same({ "queue q" }, (noted(x, q, b, e, { "delete_exchange", { name = "x" } })))
    assert.same({ "exchange x topic", "queue q", "bind q x k" }, (noted(x, q, b, e, { "delete_exchange", { name = "y" } })))
    assert.same({ "queue q" }, (noted(q, b, { "unbind", b[2] })))
  end)
end)
