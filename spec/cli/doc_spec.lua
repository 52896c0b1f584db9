-- mxrun doc: the reference in the terminal, as it is in docs/api.md.
local cli = dofile "spec/cli/run.lua"
local doc = require "mx.doc"

describe("mxrun doc", function()
  it("prints what the reference says of a function", function()
    local out, code, why = cli.mxrun "doc mx.delete_exchange"
    assert.same({ 0, "" }, { code, why })
    assert.matches("^mx.delete_exchange%(name%) → true | nil, err\n\nWaits", out)
    for _, name in ipairs { "delete_exchange", "mx.delete_exchange()", "MX.Delete_Exchange" } do
      assert.equal(out:sub(1, -2), doc.find(name))
    end
  end)

  it("finds methods, classes, options and sections", function()
    assert.matches("receipt:wait%(timeout%).*task:wait%(timeout%)", doc.find "wait")
    assert.matches("^mx.ConsumeOptions\n\n  prefetch%? +integer: how many", doc.find "ConsumeOptions")
    assert.matches("^mx.ConsumeOptions\n  prefetch%? +integer: how many[^\n]*\n", doc.find "prefetch")
    assert.matches("^Publishing\n\n  mx.PublishOptions\n  mx.publish%(", doc.find "publishing")
    assert.matches("\nPublishing\n  mx.PublishOptions\n  mx.publish%(", doc.list())
  end)

  it("knows every heading of docs/api.md", function()
    for line in io.lines "docs/api.md" do
      local name = line:match "^### `?([%w_.:]+)"
      if name then assert.is_truthy(doc.find(name), name) end
    end
  end)

  it("says what may have been meant", function()
    assert.same({ "", 1, "mxrun doc: there is no 'publsh', did you mean 'publish'?\n" }, { cli.mxrun "doc publsh" })
    assert.same({ "n", nil }, { doc.find "qqqqqqqqqqqq" or "n", (select(2, doc.find "qqqqqqqqqqqq")) })
  end)

  it("writes no line that is wider than a terminal, but code", function()
    for line in (doc.find "publish" .. "\n" .. doc.find "consume"):gmatch "[^\n]+" do
      assert.is_true(#line <= 84 or line:find "^    " ~= nil, line)
    end
  end)
end)
