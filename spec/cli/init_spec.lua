-- mxrun init: what it writes is right at once, and what is there stays.
local cli = dofile "spec/cli/run.lua"

describe("mxrun init", function()
  local dir
  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
  end)
  after_each(function() os.execute("rm -rf " .. dir) end)
  local function run(line) return cli.shell(("mxrun=$(realpath $MXRUN); %s"):format(line:gsub("%$DIR", dir))) end

  it("writes a handler, its spec and a workload that pass test and --check", function()
    local out, code, why = run "$mxrun init $DIR/a/b"
    local files = ("%s/a/b/orders.lua\n%s/a/b/spec/orders_spec.lua\n%s/a/b/workload.lua\n"):format(dir, dir, dir)
    assert.same({ files, 0 }, { out, code })
    assert.equal(("now: cd %s/a/b && mxrun test && mxrun --check orders.lua && mxrun -u mem:// orders.lua\n"):format(dir), why)
    out, code = run "cd $DIR/a/b && $mxrun test -o TAP"
    assert.same({ "1..3\n", 0 }, { out:match "1%.%..*", code })
    out, code, why = run "cd $DIR/a/b && $mxrun --check orders.lua"
    assert.same({ "orders.lua: fine, 0 exchanges, 3 queues, 0 bindings, 1 consumer\n", 0, "" }, { out, code, why })
    assert(loadfile(dir .. "/a/b/workload.lua"))
  end)

  it("writes into the working directory", function()
    assert.equal("orders.lua\nspec/orders_spec.lua\nworkload.lua\n", (run "mkdir $DIR && cd $DIR && $mxrun init"))
    assert.equal("orders.lua\nspec\nworkload.lua\n", (run "ls $DIR"))
  end)

  it("never overwrites: then it writes nothing", function()
    local _, code, why = run "mkdir $DIR && echo mine > $DIR/workload.lua && $mxrun init $DIR"
    assert.same({ 1, ("mxrun init: %s/workload.lua is there already; nothing was written\n"):format(dir) }, { code, why })
    assert.equal("mine\nworkload.lua\n", (run "cat $DIR/workload.lua; ls $DIR"))
  end)

  it("says what it cannot write", function()
    local out, code, why = run "touch $DIR && $mxrun init $DIR"
    assert.same({ "", 1 }, { out, code })
    assert.matches("^mxrun init: .*orders.lua: Not a directory\n$", why)
    assert.equal(2, select(2, run "$mxrun init a b"))
  end)
end)
