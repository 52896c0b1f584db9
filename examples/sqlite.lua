-- Rows into SQLite (apt-get install lua-sql-sqlite3), many in one transaction, and acked once it is committed.
-- They are gathered by hand here: manual = true leaves a delivery open until msg:ack().
local sqlite = require "luasql.sqlite3".sqlite3()
local db = assert(sqlite:connect(mx.config.db or ":memory:"))
assert(db:execute "create table if not exists readings (id text primary key, celsius real)")
db:setautocommit(false)
assert(mx.topology { queues = { readings = { dlq = true } } })

local gathered = {}
local function flush()
  local batch = gathered
  gathered = {}
  for _, msg in ipairs(batch) do
    local r = msg.data
    assert(db:execute(("insert or ignore into readings values ('%s', %f)"):format(db:escape(r.id), r.celsius)))
  end
  assert(db:commit())
  for _, msg in ipairs(batch) do msg:ack() end
end
mx.every(0.1, function() if #gathered > 0 then flush() end end)

assert(mx.consume("readings", { manual = true, prefetch = 500 }, function(msg)
  local r = msg.data
  if type(r.id) ~= "string" or type(r.celsius) ~= "number" then return "reject", "no reading" end
  gathered[#gathered + 1] = msg:keep()
  if #gathered >= 100 then flush() end
end))

for i = 1, 250 do mx.publish_async("", "readings", { id = "sensor-" .. i, celsius = 20 + i % 10 }) end
mx.sleep(0.5)
print(assert(db:execute "select count(*), avg(celsius) from readings"):fetch())
mx.stop()
