-- What the command line takes and refuses; MXRUN is the binary under test.
local run = dofile("spec/cli/run.lua").both

describe("an option", function()
  it("of seconds refuses what is no time, or too much of it, and says what to write", function()
    for _, value in ipairs { "inf", "1e300", "10000001", "1e6h" } do
      for _, name in ipairs { "--turn-limit", "--drain" } do
        local text, code = run(("%s %s -e 'print(1)'"):format(name, value))
        assert.equal(2, code)
        local hint = name == "--turn-limit" and "; 0 means no limit" or ""
        assert.equal(("mxrun: %s: at most 10000000 seconds, got '%s'%s\n"):format(name, value, hint), text)
      end
    end
    for _, value in ipairs { "nan", "-1", "5x", "''" } do
      local text, code = run(("--drain %s -e 'print(1)'"):format(value))
      assert.equal(2, code)
      assert.matches("expected seconds such as 5, 100ms or 2m", text)
    end
    assert.equal("1\n", (run "-u mem:// --turn-limit 10000000 --drain 0 -e 'print(1)'"))
  end)

  it("of a URL that names none is refused, and so is the environment's", function()
    for _, how in ipairs { { "%-%-url", "-u ''" }, { "%-%-url", "--url=," }, { "MXRUN_URLS", "", "MXRUN_URLS=,,," } } do
      local text, code = run(how[2] .. " -e 'print(1)'", how[3])
      assert.equal(2, code)
      assert.matches("^mxrun: " .. how[1] .. ": '[,]*' names no broker; give amqp://… or mem://\n$", text)
    end
    assert.equal("1\n", (run("-u mem:// -e 'print(1)'", "MXRUN_URLS=")))
  end)

  it("is not looked for behind --", function()
    local path = os.tmpname()
    local f = assert(io.open(path, "w"))
    f:write "print(...)"
    f:close()
    assert.equal("--help\t-x\n", (run("-u mem:// -- " .. path .. " --help -x")))
    assert.equal("--help\n", (run "-u mem:// -e 'print(...)' -- --help"))
    assert.equal(2, select(2, run "--"))
    os.remove(path)
  end)
end)
