-- What the specs of broker semantics share: taking messages, waiting, and asserting what the broker said.
local assert = require "luassert"
local M = {}

-- Waits until f() is true; what() says how far it came otherwise.
function M.eventually(f, what)
  return mx.test.eventually(function()
    local value = f()
    if not value and what then error(what(), 0) end
    return value
  end, 10)
end

-- Options of a queue that goes with its connection.
function M.own(more)
  local o = { durable = false, exclusive = true }
  for k, v in pairs(more or {}) do o[k] = v end
  return o
end

-- What a handler saw, to be looked at after it has returned.
local function copy(m)
  return { body = m.body, key = m.key, exchange = m.exchange, headers = m.headers, redelivered = m.redelivered,
           priority = m.priority, id = m.id, tag = m.delivery_tag }
end

-- Consumes and acks until n messages came; all that came.
function M.take(c, queue, n, options)
  local got = {}
  local consumer = assert(c:consume(queue, options or {}, function(m) got[#got + 1] = copy(m) end))
  M.eventually(function() return #got >= n end, function() return #got .. " of " .. n .. " came" end)
  assert(consumer:stop())
  return got
end

-- The same, as one text: "a b c".
function M.bodies(c, queue, n, options)
  local list = {}
  for i, m in ipairs(M.take(c, queue, n, options)) do list[i] = m.body end
  return table.concat(list, " ")
end

-- Publishes each, confirmed.
function M.fill(c, queue, ...)
  for _, body in ipairs { ... } do assert(c:publish("", queue, body)) end
end

-- A consumer that keeps what it gets until finish(verdict): got lists what came so far.
function M.hold(c, queue, options)
  local h = { got = {}, verdict = nil }
  options = options or {}
  options.concurrency = options.concurrency or 100
  h.consumer = assert(c:consume(queue, options, function(m)
    h.got[#h.got + 1] = copy(m)
    while not h.done do mx.sleep(0.002) end
    return h.verdict
  end))
  function h.wait(n)
    M.eventually(function() return #h.got >= n end, function() return #h.got .. " of " .. n .. " came" end)
    return h.got
  end
  function h.finish(verdict) h.done, h.verdict = true, verdict end
  return h
end

function M.ready(c, queue) return assert(c:queue_info(queue)).messages end

-- Waits until so many are ready.
function M.count(c, queue, n)
  M.eventually(function() return M.ready(c, queue) == n end, function() return M.ready(c, queue) .. " are ready, not " .. n end)
end

-- Asserts the broker's code and words: refused(404, "NOT_FOUND - ...", c:queue_info "q")
function M.refused(reply_code, text, ok, e)
  assert.is_nil(ok)
  assert.equal(reply_code, e.reply_code)
  if not tostring(e):find(text, 1, true) then assert.equal(text, tostring(e)) end
end

return M
