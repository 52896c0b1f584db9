-- mxrun bench suite: which rows are played where, and the table that comes of it.
local result = dofile "spec/bench/result.lua"
local suite, table_of = require "mx.bench.suite", require "mx.bench.report.table"

local function read(path)
  local f = assert(io.open(path))
  local text = f:read "*a"
  f:close()
  return text
end

describe("the table of the suite", function()
  local rows = { suite.rows[1], suite.rows[6] }
  local low = result()
  low.verdict = "generator-limited"
  local publishing = result { rate = 123456, latency = 0.00025 }
  publishing.consume, publishing.e2e = nil, nil
  publishing.memory.mb_per_1k_rate = 0.0729
  local t = table_of.new(rows, { "mem://", "amqp://a|b<" }, { { publishing, { failed = "exit 1" } }, { result(), low } }, 2)

  it("has each figure by broker and beside the seed's", function()
    local lines = {}
    for line in table_of.markdown(t):gmatch "[^\n]+" do lines[#lines + 1] = line:gsub("%s+", " "):gsub("%-%-+", "-") end
    assert.same({
      "# mxrun bench suite",
      "2.00 s a row. broker mem:// amqp://a\\|b&lt;, cpu a processor, cpus 2, luajit 2.1, memory 4.00 GB, os Linux 6.1.0",
      "| workload | peak memory, mem:// | peak memory, amqp:// | peak memory, seed | messages/s, mem:// "
        .. "| messages/s, amqp:// | messages/s, seed | MB per 1,000 msg/s, mem:// | MB per 1,000 msg/s, amqp:// "
        .. "| MB per 1,000 msg/s, seed | GC average, mem:// | GC average, amqp:// | GC average, seed "
        .. "| p99, mem:// | p99, amqp:// |",
      "| -" .. (" | -:"):rep(14) .. " |",
      "| Small Messages (1P), 64 B | 9.00 MB | | 804 MB | 123,456 | failed: exit 1 | 239,767 | 0.0729 | | 3.35 | 200 us, 3 cycles "
        .. "| | 30.0 us | 500 us | |",
      "| Low Latency (1P1C), 64 B, 1,000/s | 9.00 MB | 9.00 MB | | 1,000 | 1,000 (generator-limited) | | 9.00 | 9.00 | | 200 us, 3 cycles "
        .. "| 200 us, 3 cycles | "
        .. "| 8.00 ms | 8.00 ms |",
    }, { unpack(lines, 1, 6) })
  end)

  it("is a page, too, and JSON", function()
    local data = assert(mx.json.decode(table_of.page(t):match 'id="data">([^<]*)</script>'))
    assert.same({ "mem://", "amqp://", "seed" }, data.suite.brokers)
    assert.equal("123,456", data.suite.rows[1].by[1].rate)
    local all = assert(mx.json.decode(table_of.json(t)))
    assert.same({ "small_1p", 123456, "amqp://a|b<" },
                { all.rows[1].name, all.rows[1].results[1].result.publish.rate, all.rows[1].results[2].broker })
  end)
end)

describe("mxrun bench suite", function()
  local played, printed, written, play, tell = nil, nil, nil, suite.play, suite.tell
  before_each(function()
    played, printed = {}, {}
    suite.play = function(row, broker, o)
      played[#played + 1] = ("%s %s %s"):format(row.name, broker, o.time or "-")
      if row.name == "large_1p" then return nil, "exit 7" end
      return result()
    end
    suite.tell = function() end
    written = stub(io, "write", function(text) printed[#printed + 1] = text end)
  end)
  after_each(function()
    suite.play, suite.tell = play, tell
    written:revert()
  end)

  it("plays the rows that were asked for on mem:// and on the broker", function()
    local path = os.tmpname()
    local list = { "--time", "3", "end_to_end", "small_4p", "--markdown", path }
    local code = suite.run(list, { urls = { "amqp://guest:secret@rmq:5673/v" } })
    assert.equal(0, code)
    assert.same({ "end_to_end mem:// 3", "end_to_end amqp://guest:secret@rmq:5673/v 3", "small_4p mem:// 3",
                  "small_4p amqp://guest:secret@rmq:5673/v 3" }, played)
    assert.equal(read(path), table.concat(printed))
    assert.matches("broker mem:// amqp://rmq:5673,", read(path), 1, true)
    assert.is_nil(read(path):find "secret")
    os.remove(path)
  end)

  it("has the seed's rows by its own names", function()
    assert.equal(1, suite.run({}, { urls = {} }))        -- large_1p fails here
    assert.equal(13, #played)
    assert.equal("scalability_16 mem:// -", played[13])
  end)

  it("exits 1 when a row failed, and tells of the others all the same", function()
    assert.equal(1, suite.run({ "large_1p", "small_1p" }, { urls = {} }))
    assert.matches("failed: exit 7", printed[1])
    assert.matches("| Small Messages", printed[1], 1, true)
  end)

  it("says which row was meant", function()
    assert.equal(2, suite.run({ "smal_1p" }, { urls = {} }))
    assert.equal(2, suite.run({ "--time", "0" }, { urls = {} }))
    assert.equal(0, #played)
  end)
end)
