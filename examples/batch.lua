-- Rows go to a database many at once: up to 500 of them, or what came within 0.1 s; with a memory limit fewer as that gets tight.
assert(mx.topology { queues = { rows = { dlq = true }, stored = {} } })

-- Stands for an INSERT of many rows, all or nothing.
local function insert(rows)
  return mx.publish("", "stored", rows)
end

assert(mx.consume_batch("rows", {
  size = 500, bytes = "1MB", timeout = 0.1,
  policy = function(b) return b.memory > 0.8 and b.count >= 50 end,
}, function(batch)
  local rows = {}
  for i, msg in ipairs(batch) do
    local row = msg:json()
    if type(row) == "table" and row.amount then
      rows[#rows + 1] = row
    else
      batch:reject(i, "no amount")              -- the others do not suffer
    end
  end
  return #rows == 0 or insert(rows)             -- a batch that fails is halved, down to the row that is bad
end))
