-- mxrun bench suite as people call it: its rows are played, on mem:// and on a broker; the files of its rows run by themselves.
local cli = dofile "spec/cli/run.lua"

local ROWS = {
  "small_1p", "small_4p", "medium_1p", "large_1p", "high_throughput", "low_latency", "memory_efficiency", "end_to_end", "scalability",
}

describe("mxrun bench suite", function()
  it("lists the rows of the seed's table", function()
    local out, code = cli.mxrun "bench suite --list"
    assert.equal(0, code)
    for _, name in ipairs(ROWS) do assert.matches("\n" .. name, "\n" .. out) end
  end)

  it("prints its help, and what is wrong with its arguments", function()
    assert.matches("^usage: mxrun bench suite", (cli.mxrun "bench suite --help"))
    local _, code, why = cli.mxrun "bench suite small_p"
    assert.equal(2, code)
    assert.equal("mxrun bench suite: no row 'small_p', did you mean 'small_1p'?; mxrun bench suite --help says more\n", why)
  end)

  it("plays rows on mem://, each in its own process, and writes the table and the page", function()
    local folder = os.tmpname() .. ".dir"
    local line = "mkdir $F; $MXRUN bench suite --time 0.3 small_1p end_to_end scalability_2 --markdown $F/a.md --html $F/a.html"
    local out, code, why = cli.shell("F=" .. folder .. "; " .. line)
    assert.equal(0, code, why)
    assert.equal(out, cli.read(folder .. "/a.md"))
    assert.matches("<!doctype html>", cli.read(folder .. "/a.html"))
    for _, row in ipairs { "Small Messages %(1P%), 64 B", "End%-to%-End %(8P8C%), 256 B", "Scalability %(2P2C%), 256 B" } do
      assert.matches("| " .. row .. " +| +%d+%.?%d* MB |[^|]*|? *[%d,]+ ", out)
    end
    for _, row in ipairs { "small_1p", "end_to_end", "scalability_2" } do
      assert.matches(row .. " on mem://: [%d,]+/s, [%d.]+ MB, p99 ", why)
    end
    os.execute("rm -r " .. folder)
  end)

  it("says which row failed and why, and not the password", function()
    local out, code, why = cli.mxrun "-u amqp://guest:secret@h:99999 bench suite --time 0.2 small_1p"
    assert.equal(1, code)
    assert.matches("small_1p on mem://: [%d,]+/s", why)
    assert.matches("the port must be 1 to 65535", why)
    assert.matches("small_1p on amqp://h:99999: exit 1\n$", why)
    assert.matches("| failed: exit 1 |", (out:gsub(" +", " ")), 1, true)
    assert.is_nil((out .. why):find "secret")
  end)
end)

describe("spec/bench/insert", function()
  it("puts a table between its marks, and refuses a page without them", function()
    local page, text = cli.file "a\n<!-- t -->\nold\n<!-- /t -->\nb\n", cli.file "# title\n\nnew\n"
    local _, code = cli.shell(("spec/bench/insert %s t %s && spec/bench/insert %s t %s"):format(page, text, page, text))
    assert.same({ 0, "a\n<!-- t -->\n\nnew\n\n<!-- /t -->\nb\n" }, { code, cli.read(page) })
    local why
    _, code, why = cli.shell(("spec/bench/insert %s t %s"):format(text, page))
    assert.equal(1, code)
    assert.matches("has no <!%-%- t %-%-> and <!%-%- /t %-%->", why)
  end)
end)

describe("a workload of the suite", function()
  for _, name in ipairs(ROWS) do
    it(name .. " plays by itself", function()
      local out, code, why = cli.mxrun(("-u mem:// bench --set time=0.2 --set n=2 examples/workloads/%s.lua"):format(name))
      assert.is_true(code == 0 or code == 3, why)
      assert.matches("^" .. name .. ": ", out)
    end)
  end
end)

if not cli.amqp then return end

describe("mxrun bench suite on RabbitMQ", function()
  it("has a column for the broker, beside mem://, and leaves no queue behind", function()
    local out, code, why = cli.mxrun(("-u %s bench suite --time 0.5 small_1p low_latency"):format(cli.amqp))
    assert.is_true(code == 0 or code == 3, why)
    assert.matches("peak memory, mem://", out, 1, true)
    assert.matches("peak memory, amqp://", out, 1, true)
    assert.is_nil(out:find "guest:")
    local conn = assert(mx.connect { url = cli.amqp })
    for _, queue in ipairs { "bench.small_1p", "bench.low_latency" } do assert.is_nil((conn:queue_info(queue))) end
    conn:close()
  end)
end)
