local url = require "mx.url"

describe("a URL", function()
  local function parts(text)
    local u = assert(url.parse(text))
    return { u.scheme, u.host, u.port, u.user, u.password, u.vhost }
  end

  it("has defaults for everything", function()
    assert.same({ "amqp", "h", "5672", "guest", "guest", "/" }, parts "amqp://h")
    assert.same({ "amqp", "h", "5672", "guest", "guest", "/" }, parts "amqp://h/")
    assert.same({ "amqp", "h", "5672", "guest", "guest", "/" }, parts "amqp://h:/?")
    assert.same({ "amqp", "localhost", "5672", "guest", "guest", "/" }, parts "amqp://")
    assert.same({ "amqp", "localhost", "5673", "guest", "guest", "v" }, parts "AMQP://:5673/v")
  end)

  it("names the vhost / in four ways, and any other", function()
    for _, text in ipairs { "amqp://h", "amqp://h/", "amqp://h/%2f", "amqp://h/%2F", "amqp://h//" } do
      assert.equal("/", assert(url.parse(text)).vhost)
    end
    assert.equal("a/b", assert(url.parse "amqp://h/a/b").vhost)
    assert.equal("a/b", assert(url.parse "amqp://h/a%2fb").vhost)
    assert.equal("/a", assert(url.parse "amqp://h//a").vhost)
    assert.equal("grün #1@x", assert(url.parse "amqp://h/gr%c3%bcn%20#1@x").vhost)
    assert.equal(("v"):rep(255), assert(url.parse("amqp://h/" .. ("v"):rep(255))).vhost)
  end)

  it("is decoded: passwords in UTF-8, a slash in the vhost, IPv6", function()
    assert.same({ "amqp", "::1", "5673", "a b", "p@\195\164", "v/w" }, parts "amqp://a%20b:p%40%c3%a4@[::1]:5673/v%2fw")
    assert.same({ "amqp", "::ffff:10.0.0.1", "5672", "guest", "guest", "/" }, parts "amqp://[::ffff:10.0.0.1]")
    assert.same({ "amqp", "h", "5672", "u", "", "/" }, parts "amqp://u@h")
    assert.same({ "amqps", "h", "5671", "u", "p", "v" }, parts "AMQPS://u:p@h/v")
  end)

  it("names the files of TLS as RabbitMQ's own URIs do", function()
    local u = assert(url.parse "amqps://u:p@h/v?cacertfile=%2fca.pem&certfile=/c.pem&keyfile=/k.pem&auth_mechanism=EXTERNAL")
    assert.same({ ca = "/ca.pem", cert = "/c.pem", key = "/k.pem", external = true }, u.tls)
    assert.equal("amqps://u:***@h:5671/v", u.text)
    assert.same({ "amqp", "h", "5672", "", "", "/" }, parts "amqp://:@h")
    assert.same({ "amqp", "h", "5672", "u", "a@b:c+d#e", "/" }, parts "amqp://u:a@b:c+d#e@h/")
    assert.same({ "amqp", "h", "5672", "u", "%2f", "/" }, parts "amqp://u:%252f@h/")
  end)

  it("shows everything but the password", function()
    assert.equal("amqp://u:***@h:5672/", url.parse("amqp://u:secret@h").text)
    assert.equal("amqp://gr%c3%bcn:***@[::1]:5673/a%2fb", url.parse("amqp://gr%c3%bcn:secret@[::1]:5673/a%2fb").text)
    assert.equal("mem://x", url.parse("mem://x").text)
  end)

  it("is refused with a reason", function()
    for text, why in pairs {
      ["http://h"] = "expected amqp", ["h:5672"] = "expected amqp", [""] = "expected amqp", ["amqp:/h"] = "expected amqp",
      ["amqp//h"] = "expected amqp", ["amqp://h:0/"] = "the port must be 1 to 65535", ["amqp://h:65536"] = "the port must be",
      ["amqp://h:99999999999999999999"] = "the port must be", ["amqp://h:5672x"] = "host:port", ["amqp://h:-1"] = "host:port",
      ["amqp://h:0x10"] = "host:port", ["amqp://h:1:2"] = "host:port", ["amqp://::1"] = "%[IPv6%]", ["amqp://[::1"] = "%[IPv6%]",
      ["amqp://[::1]5672"] = "%[IPv6%]", ["amqp://[h]"] = "%[IPv6%]", ["amqp://[]"] = "%[IPv6%]", ["amqp://h%2f"] = "host:port",
      ["amqp://h,i"] = "host:port", ["amqp://h /"] = "control character", ["amqp://h/\n"] = "control character",
      ["amqp://h\0/"] = "control character", ["amqp://h/%00"] = "%%00", ["amqp://h/%2"] = "hex", ["amqp://h/%"] = "hex",
      ["amqp://h/v?frob=1"] = "unknown query key 'frob'", ["amqp://h?cacertfile=x"] = "is for amqps",
      ["amqps://h?certfile="] = "certfile is empty", ["amqps://h?auth_mechanism=plain"] = "can only be external",
      ["amqp://h/" .. ("v"):rep(256)] = "the vhost's name is 256 bytes, at most 255",
    } do
      local u, e = url.parse(text)
      assert.is_nil(u, text)
      assert.equal("config", e.code)
      assert.matches(why, tostring(e))
    end
    for _, v in ipairs { 5, {}, true } do assert.equal("config", select(2, url.parse(v)).code) end
  end)

  it("is refused without showing the password", function()
    for _, text in ipairs {
      "amqp://u:secret%00@h", "amqp://u:secret%g@h", "http://u:secret@h", "u:secret@h", "amqp:u:secret@h",
      "amqp:/u:secret@h", "amqp://u:secret@h:0", "amqp://u:se/secret@h", "amqp://u:se?secret@h", "amqp://u:se@secret@h:x",
      "amqp://u:secret", "amqp://u:secret/", "amqp://u:secret@h/%", "amqp://u:sec\nsecret@h", " amqp://u:secret@h", "amqp://u:5secret",
      "amqp://u:12?secret@h", "amqp://u:12/secret@h", "http://a@b:secret@h",
    } do
      local u, e = url.parse(text)
      assert.is_nil(u, text)
      assert.is_nil(tostring(e):find("secret", 1, true), tostring(e))
      assert.is_nil(tostring(e):find("%c"), tostring(e))
    end
  end)
end)
