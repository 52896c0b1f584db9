local url = require "mx.url"

describe("a URL", function()
  local function parts(text)
    local u = assert(url.parse(text))
    return { u.scheme, u.host, u.port, u.user, u.password, u.vhost }
  end

  it("has defaults for everything", function()
    assert.same({ "amqp", "h", "5672", "guest", "guest", "/" }, parts "amqp://h")
    assert.same({ "amqp", "h", "5672", "guest", "guest", "/" }, parts "amqp://h/")
  end)

  it("is decoded: passwords in UTF-8, a slash in the vhost, IPv6", function()
    assert.same({ "amqp", "::1", "5673", "a b", "p@\195\164", "v/w" }, parts "amqp://a%20b:p%40%c3%a4@[::1]:5673/v%2fw")
    assert.same({ "amqp", "h", "5672", "u", "", "/" }, parts "amqp://u@h")
  end)

  it("is refused with a reason, without the password", function()
    for text, why in pairs {
      ["http://h"] = "expected amqp", ["amqp://h:0/"] = "port", ["amqp://h:70000"] = "port", ["amqp://u:secret%00@h"] = "%%00",
      ["amqp://u:secret%g@h"] = "hex", ["amqp://h/v?frob=1"] = "unknown query key 'frob'", ["amqps://u:secret@h"] = "TLS",
    } do
      local u, e = url.parse(text)
      assert.is_nil(u)
      assert.equal("config", e.code)
      assert.matches(why, tostring(e))
      assert.is_nil(tostring(e):find("secret", 1, true))
    end
  end)
end)
