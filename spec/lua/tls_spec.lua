-- TLS to the suite's RabbitMQ; what a refusal says in detail is tls_spec.c's.
local port, pki = os.getenv "MXRUN_SPEC_TLS", os.getenv "MXRUN_SPEC_PKI"
if not port then return end
local MXRUN = os.getenv "MXRUN" or "build/mxrun"

local function url(user) return ("amqps://%s@localhost:%s"):format(user or "guest:guest", port) end
local function pem(name) return ("%s/%s.pem"):format(pki, name) end
local function key(name) return ("%s/%s.key"):format(pki, name) end

-- A connection that cannot be made is tried for ever: in a process of its own, for its log.
local function log_of(tls, user)
  local p = io.popen(("timeout 1 %s -e 'assert(mx.connect { url = %q, tls = { %s } })' 2>&1"):format(MXRUN, url(user), tls))
  local text = p:read "*a"
  p:close()
  return text
end

describe("TLS", function()
  local conn
  after_each(function()
    if conn then conn:close() end
    conn = nil
  end)

  for size in pairs { [0] = true, [100] = true, [20000] = true, [3000000] = true } do
    it("carries bodies of " .. size .. " bytes both ways", function()
      conn = assert(mx.connect { url = url(), tls = { ca = pem "ca" } })
      local queue = assert(conn:queue("", {}))
      local body, n, bad = ("abcdefghij"):rep(size / 10), 0, 0
      assert(conn:consume(queue, function(msg)
        n = n + 1
        if msg.body ~= body then bad = bad + 1 end
      end))
      local receipts = {}
      for i = 1, 20 do receipts[i] = assert(conn:publish_async("", queue, body)) end
      assert(mx.wait_all(receipts))
      local due = mx.now() + 20
      while n < 20 and mx.now() < due do mx.sleep(0.01) end
      assert.same({ 20, 0 }, { n, bad })
    end)
  end

  it("takes a client certificate", function()
    conn = assert(mx.connect { url = url(), tls = { ca = pem "ca", cert = pem "client", key = key "client", min_version = "1.3" } })
    assert(conn:queue("", {}))
  end)

  it("logs in with the certificate alone", function()
    conn = assert(mx.connect { url = url(), tls = { ca = pem "ca", cert = pem "client", key = key "client", external = true } })
    local queue = assert(conn:queue("", {}))
    assert(conn:publish("", queue, "from whom", { user_id = "localhost" }))
    local ok, e = conn:publish("", queue, "from whom", { user_id = "guest" })
    assert.same({ nil, 406 }, { ok, e.reply_code })
  end)

  it("takes its files from the URL", function()
    conn = assert(mx.connect { url = url() .. "?cacertfile=" .. pem "ca" .. "&certfile=" .. pem "client" .. "&keyfile=" .. key "client"
      .. "&auth_mechanism=external" })
    assert(conn:queue("", {}))
  end)

  it("verifies by default, and says what is wrong", function()
    assert.matches("TLS: the broker's CA is not trusted; set tls.ca to its certificate", log_of "")
    assert.matches("for another name", log_of(("ca = %q, server_name = %q"):format(pem "ca", "rmq.example")))
  end)

  it("may be told twice to trust anybody, and says so each time", function()
    local ok, e = mx.connect { url = url(), tls = { verify = false } }
    assert.is_nil(ok)
    assert.equal("config", e.code)
    assert.matches("tls.insecure", tostring(e))
    assert.matches("certificate is not verified", log_of "verify = false, insecure = true")
  end)

  it("names a file that it cannot use", function()
    local ok, e = mx.connect { url = url(), tls = { ca = "/nowhere/ca.pem" } }
    assert.is_nil(ok)
    assert.equal("config", e.code)
    assert.matches("tls.ca /nowhere/ca.pem cannot be used: No such file", tostring(e))
  end)

  it("is for amqps alone, and wants certificate and key together", function()
    assert.error_matches(function() mx.connect { url = "amqp://localhost", tls = {} } end, "tls is for amqps:// URLs")
    local _, e = mx.connect { url = url(), tls = { cert = "x" } }
    assert.matches("tls.cert and tls.key go together", tostring(e))
  end)

  it("never shows the password", function()
    local text = log_of("", "guest:S3cr3t-77")
    assert.matches("guest:%*%*%*@localhost", text)
    assert.is_nil(text:find("S3cr3t", 1, true))
  end)
end)
