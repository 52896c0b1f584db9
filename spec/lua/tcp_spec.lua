-- mx.tcp, against spec/tcp/server: over TCP, a local socket, and TLS with the suite's certificates (MXRUN_SPEC_PKI).
local cli = dofile "spec/cli/run.lua"
local pki = os.getenv "MXRUN_SPEC_PKI"
local eventually = mx.test.eventually

local file = os.tmpname()
local path = file .. ".socket"
local server, plain, secret, mute, greet

local function start()
  os.remove(file)
  server = assert(io.popen(("spec/tcp/server --file %s --path %s %s"):format(file, path, pki and "--pki " .. pki or ""), "w"))
  eventually(function()
    local f = io.open(file)
    if not f then return false end
    plain, secret, mute, greet = f:read("*n", "*n", "*n", "*n")
    f:close()
    return true
  end, 20)
end

local function stop()
  server:close()
  os.remove(file)
  os.remove(path)
end

local function abc(n) return (("abcdefghijklmnopqrstuvwxyz"):rep(n / 26 + 1):sub(1, n)) end

local function code(e) return type(e) == "table" and e.code or e end

-- What the server says of the connection with that name.
local function ask(name)
  local s = assert(mx.tcp("127.0.0.1", plain))
  assert(s:send("ask " .. name .. "\n"))
  local state, sent = assert(s:receive()):match "(%a+) (%d+)"
  s:close()
  return state, tonumber(sent)
end

local WAYS = {
  { "TCP", function(o) return mx.tcp("127.0.0.1", plain, o) end },
  { "a local socket", function(o) return mx.tcp("unix:" .. path, o) end },
}
if pki then
  table.insert(WAYS, { "TLS", function(o)
    o = o or {}
    o.tls = { ca = pki .. "/ca.pem" }
    return mx.tcp("localhost", secret, o)
  end })
end

for _, way in ipairs(WAYS) do
  describe("a socket over " .. way[1], function()
    local sockets
    setup(start)
    teardown(stop)
    before_each(function() sockets = {} end)
    after_each(function() for _, s in ipairs(sockets) do s:close() end end)

    -- A connection on which the server does what the words say.
    local function connect(words, options)
      local s = assert(way[2](options))
      sockets[#sockets + 1] = s
      assert.equal(#words + 1, s:send(words .. "\n"))
      return s
    end

    it("receives lines without their ends, however they come", function()
      local s = connect "say one\\r\\ntwo\\n\\r\\n\\na\\rb\\r\\r\\nlast"
      for _, line in ipairs { "one", "two", "", "", "a\rb\r" } do assert.equal(line, s:receive()) end
      local line, e, rest = s:receive "*l"
      assert.same({ nil, "closed", "last" }, { line, code(e), rest })
      assert.matches("the server closed the connection", tostring(e))
      line, e, rest = s:receive "*l"
      assert.same({ nil, "closed", "" }, { line, code(e), rest })
    end)

    it("receives exactly so many bytes", function()
      local s = connect "say 0123456789"
      assert.equal("", s:receive(0))
      assert.equal("012", s:receive(3))
      assert.equal("3456", s:receive(4))
      local text, e, rest = s:receive(4)
      assert.same({ nil, "closed", "789" }, { text, code(e), rest })
    end)

    for _, n in ipairs { 0, 1, 4096, 65535, 65536, 65537, 1000000 } do
      it("receives all of " .. n .. " bytes until the other side closes", function()
        local s = connect("bytes " .. n)
        assert.is_true(s:receive "*a" == abc(n))
        local text, e = s:receive "*a"
        assert.same({ nil, "closed" }, { text, code(e) })
      end)
    end

    it("receives more at once than it reads ahead", function()
      local s, text = connect "bytes 3000000", abc(3000000)
      mx.sleep(0.05)
      assert.is_true(s:receive(300000) == text:sub(1, 300000))
      assert.equal(text:sub(300001, 300010), s:receive(10))
      assert.is_true(s:receive(2000000) == text:sub(300011, 2300010))
      assert.is_true(s:receive "*a" == text:sub(2300011))
    end)

    it("loses nothing when it is read in pieces of every size", function()
      local s, text, at = connect "bytes 400000", abc(400000), 0
      local n = 1
      while at < #text do
        local want = math.min(n, #text - at)
        local piece = assert(s:receive(want))
        if piece ~= text:sub(at + 1, at + want) then error("wrong at " .. at) end
        at, n = at + want, n * 3 % 70001 + 1
      end
      assert.same({ nil, "" }, { (s:receive(1)), (select(3, s:receive(1))) })
    end)

    it("receives up to a text, which is dropped", function()
      local s = connect "say a--b--=x--=--=rest"
      local read = s:receiveuntil "--="
      assert.same({ "a--b", "x", "" }, { read(), read(), read() })
      local text, e, rest = read()
      assert.same({ nil, "closed", "rest" }, { text, code(e), rest })
    end)

    it("times out with what came so far, and goes on", function()
      local s = connect "echo"
      s:settimeout(0.02)
      assert.equal(4, s:send "half")
      local text, e, rest
      eventually(function()
        text, e, rest = s:receive(10)
        return rest == "half"
      end)
      assert.same({ nil, "timeout", true }, { text, code(e), e.retryable })
      s:settimeout "30s"
      s:send "more\n"
      assert.equal("more", s:receive())
    end)

    it("sends all of it to one who reads late", function()
      local s, sum = connect "slurp 5000000", 0
      local text = abc(5000000)
      for i = 1, #text do sum = sum + text:byte(i) end
      assert.equal(5000000, s:send(text))
      assert.equal("5000000 " .. ("%d"):format(sum), s:receive())
    end)

    it("sends a list as one, and nothing at once", function()
      local s = connect "echo"
      assert.equal(4, s:send { "a", 1, "b", "\n" })
      assert.equal("a1b", s:receive())
      assert.equal(0, s:send "")
    end)

    for _, n in ipairs { 1, 100000, 9000000 } do
      it("has sent all of " .. n .. " bytes when it is closed behind them", function()
        local s = connect("count " .. way[1] .. n)
        assert.equal(n, s:send(abc(n)))
        assert.is_true(s:close())
        eventually(function()
          local state, count = ask(way[1] .. n)
          return state == "closed" and count == n
        end, 20)
      end)
    end

    it("closes after a send that was not done in time; all before it arrive", function()
      local name = "late" .. way[1]
      local s, sent = connect("hold " .. name), 0
      assert.equal("ok", s:receive())
      s:settimeout(0.05)
      local n, e
      repeat
        n, e = s:send(abc(100000))
        sent = sent + (n or 0)
      until not n
      assert.same({ nil, "timeout" }, { n, code(e) })
      assert.equal("closed", code(select(2, s:send "x")))
      local state, got
      eventually(function()
        state, got = ask(name)
        return state == "closed"
      end)
      assert.is_true(got >= sent, got .. " of " .. sent)
    end)

    it("tells of both directions apart", function()
      local s = connect "echo"
      local reader = mx.spawn(function()
        local got = 0
        while got < 8000000 do got = got + #assert(s:receive(80000)) end
        return got
      end)
      for _ = 1, 8 do assert.equal(1000000, s:send(abc(1000000))) end
      assert.same({ true, 8000000 }, { reader:wait(30) })
    end)

    it("stops reading when nobody takes it", function()
      local s = connect "flood F"
      local before, same = -1, 0
      eventually(function()
        local _, sent = ask "F"
        same = sent == before and sent > 0 and same + 1 or 0
        before = sent
        mx.sleep(0.02)
        return same == 10
      end)
      assert.is_true(before < 64 * 1024 * 1024, before)
      assert.equal(abc(26), s:receive(26))
      s:close()
      eventually(function() return ask "F" == "closed" end)
    end)

    it("raises at the caller's line when two receive at once", function()
      local s = connect "echo"
      local reader = mx.spawn(function() return s:receive() end)
      mx.sleep(0)
      local ok, e = pcall(function() s:receive() end)
      assert.is_false(ok)
      assert.matches("tcp_spec.lua:%d+: sock:receive: busy, another task is receiving", e)
      s:send "x\n"
      assert.same({ true, "x" }, { reader:wait(5) })
      assert.equal(2, s:send "y\n")
      assert.equal("y", s:receive())
    end)

    it("tells a waiting task when another closes it", function()
      local s = connect "hold"
      assert.equal("ok", s:receive())
      local reader = mx.spawn(function() return s:receive "*a" end)
      mx.sleep(0.01)
      assert.is_true(s:close())
      local ok, text, e, rest = reader:wait(5)
      assert.same({ true, nil, "closed", "" }, { ok, text, code(e), rest })
      for _, f in ipairs { function() return s:send "x" end, function() return s:receive(1) end, function() return s:close() end } do
        local result, why = f()
        assert.same({ nil, "closed" }, { result, code(why) })
      end
    end)

    it("is as it was after a receive that was cancelled", function()
      local s = connect "echo"
      local reader = mx.spawn(function() return s:receive(100) end)
      s:send "some"
      mx.sleep(0.01)
      reader:cancel()
      assert.equal("interrupted", code(select(2, reader:wait(5))))
      s:send "\n"
      assert.equal("some", s:receive())
    end)

    it("is closed by the collector", function()
      local s = assert(way[2]())
      s:send "hold collected\n"
      assert.equal("ok", s:receive())
      assert.equal("open", (ask "collected"))
      s = nil -- luacheck: ignore
      eventually(function()
        collectgarbage()
        return ask "collected" == "closed"
      end)
    end)

    it("speaks HTTP", function()
      local s = assert(way[2]())
      sockets[#sockets + 1] = s
      for i = 1, 3 do
        s:send(("POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"):format(i))
        assert.equal("HTTP/1.1 200 OK", s:receive())
        local length
        for line in function() return assert(s:receive()) end do
          if line == "" then break end
          length = tonumber(line:match "^Content%-Length: (%d+)") or length
        end
        assert.equal(("/%d body"):format(i), s:receive(length))
      end
      assert.equal(0, s:getreusedtimes())
      assert.is_true(s:setkeepalive())
    end)

    it("carries many at once", function()
      local tasks = {}
      for i = 1, 30 do
        tasks[i] = mx.spawn(function()
          local s = assert(way[2]())
          assert(s:send "echo\n")
          for k = 1, 10 do
            assert(s:send(i .. " " .. k .. "\n"))
            assert.equal(i .. " " .. k, s:receive())
          end
          s:close()
        end)
      end
      for _, t in ipairs(tasks) do assert(t:wait(30)) end
    end)
  end)
end

describe("a socket", function()
  setup(start)
  teardown(stop)

  it("tells a reset from an end", function()
    for _, what in ipairs { 10, "*l", "*a" } do
      local s = assert(mx.tcp("127.0.0.1", plain))
      s:send "rst four\n"
      local text, e, rest = s:receive(what)
      assert.same({ nil, "connection", "four" }, { text, code(e), rest })
      assert.matches("^127.0.0.1:%d+: connection reset by peer", tostring(e))
      assert.equal("connection", code(select(2, s:send "x")))
      s:close()
    end
  end)

  it("has what came before the other side closed its way out", function()
    local s = assert(mx.tcp("127.0.0.1", plain))
    s:send "half bye\n"
    mx.sleep(0.05)
    assert.equal("bye", s:receive "*a")
    assert.equal("closed", code(select(2, s:send "x")))
    s:close()
  end)

  it("says why it cannot connect", function()
    local s, e = mx.tcp("127.0.0.1", 1)
    assert.same({ nil, "connection", "connect", "127.0.0.1:1: connection refused" }, { s, code(e), e.op, tostring(e) })
    for where, why in pairs { ["unix:/nowhere/at.all"] = "no such file or directory", ["unix:/" .. ("x"):rep(200)] = "name too long" } do
      s, e = mx.tcp(where)
      assert.same({ nil, "connection" }, { s, code(e) })
      assert.matches(why, tostring(e))
    end
    s, e = mx.tcp("no.such.host.invalid", 80)
    assert.same({ nil, "connection" }, { s, code(e) })
  end)

  it("gives up connecting after its timeout", function()
    local s, e = mx.tcp("127.0.0.1", mute, { timeout = 0.05, tls = true })
    assert.same({ nil, "timeout", "connect" }, { s, code(e), e.op })
  end)

  it("is not opened for a task that was cancelled", function()
    local t = mx.spawn(function() return mx.tcp("127.0.0.1", mute, { tls = true }) end)
    mx.sleep(0)
    t:cancel()
    assert.equal("interrupted", code(select(2, t:wait(5))))
  end)

  it("refuses a line without an end, and leaves it to be read", function()
    local s = assert(mx.tcp("127.0.0.1", plain))
    s:send "bytes 67108900\n"
    local line, e, rest = s:receive()
    assert.same({ nil, "validation", 0 }, { line, code(e), #rest })
    assert.matches("64 MiB", tostring(e))
    assert.equal(67108864, #s:receive(67108864))
    assert.equal(36, #s:receive "*a")
    s:close()
  end)

  it("raises what is called wrongly at the caller's line", function()
    local s = assert(mx.tcp("127.0.0.1", plain))
    for text, f in pairs {
      ["argument #1 to mx.tcp"] = function() mx.tcp(nil, 1) end,
      ["argument #2 to mx.tcp"] = function() mx.tcp("h") end,
      ["argument #2 to mx.tcp: .*65536"] = function() mx.tcp("h", 65536) end,
      ["zero byte"] = function() mx.tcp("h\0", 1) end,
      ["unknown option 'timeot', did you mean 'timeout'"] = function() mx.tcp("h", 1, { timeot = 1 }) end,
      ["mx.tcp: tls: unknown option 'external'"] = function() mx.tcp("h", 1, { tls = { external = true } }) end,
      ["needs tls.server_name"] = function() mx.tcp("unix:/x", { tls = true }) end,
      ["argument #1 to sock:receive"] = function() s:receive(67108865) end,
      ["argument #1 to sock:receive:"] = function() s:receive(-1) end,
      ['"%*l" or "%*a"'] = function() s:receive "*n" end,
      ["argument #1 to sock:send"] = function() s:send() end,
      ["a list of strings"] = function() s:send { {} } end,
      ["argument #1 to sock:receiveuntil"] = function() s:receiveuntil "" end,
      ["expected seconds"] = function() s:settimeout(-1) end,
    } do
      local ok, e = pcall(f)
      assert.is_false(ok)
      assert.matches("tcp_spec.lua:%d+: .*" .. text, tostring(e))
    end
    s:close()
  end)

  it("wants its certificate and key together, and says twice to trust anybody", function()
    for text, tls in pairs { ["go together"] = { cert = "x" }, ["tls.insecure = true as well"] = { verify = false },
                             ["tls.ca /nowhere cannot be used"] = { ca = "/nowhere" } } do
      local s, e = mx.tcp("127.0.0.1", plain, { tls = tls })
      assert.same({ nil, "config" }, { s, code(e) })
      assert.matches(text, tostring(e))
    end
  end)

  it("cannot wait where Lua cannot", function()
    local s = assert(mx.tcp("127.0.0.1", plain))
    s:send "hold\n"
    assert.equal("ok", s:receive())
    assert.error_matches(function() table.sort({ 1, 2 }, function() return s:receive() end) end, "cannot wait inside table.sort")
    assert.error_matches(function() table.sort({ 1, 2 }, function() return s:send "x" end) end, "cannot wait inside table.sort")
    assert.equal(1, s:send "x")
    s:close()
  end)

  it("does not keep the process, and is closed with it", function()
    local out, exit, why = cli.shell(([[$MXRUN -e '
      s = assert(mx.tcp("127.0.0.1", %d))
      s:send "hold left\n"
      print(s:receive())']]):format(plain))
    assert.same({ "ok\n", 0, "" }, { out, exit, why })
    eventually(function() return ask "left" == "closed" end)
  end)

  it("is closed when SIGTERM ends the process, whoever waits for it", function()
    local out, exit = cli.shell(([[$MXRUN -e '
      mx.spawn(function() local s = assert(mx.tcp("127.0.0.1", %d)) s:send "hold term\n" print(s:receive()) print(s:receive()) end)
      mx.after(0.2, mx.stop) mx.sleep(60)']]):format(plain))
    assert.same({ "ok\n", 0 }, { out, exit })
    eventually(function() return ask "term" == "closed" end)
  end)
end)

if not pki then return end

describe("a socket over TLS", function()
  setup(start)
  teardown(stop)

  it("verifies by default, and says what is wrong", function()
    local s, e = mx.tcp("localhost", secret, { tls = true })
    assert.same({ nil, "connection" }, { s, code(e) })
    assert.matches("TLS: the server's certificate is from an unknown CA; set tls.ca", tostring(e))
    s, e = mx.tcp("localhost", secret, { tls = { ca = pki .. "/ca.pem", server_name = "db.example" } })
    assert.is_nil(s)
    assert.matches("the server's certificate is for another name", tostring(e))
  end)

  it("takes whoever answers when told so twice", function()
    local log = require "mx.log"
    local write, said = log.write, ""
    log.write = function(line) said = said .. line return true end
    local s, e = mx.tcp("localhost", secret, { tls = { verify = false, insecure = true } })
    log.write = write
    assert(s, e)
    assert.matches("certificate is not verified", said)
    s:send "say hi\n"
    assert.equal("hi", s:receive "*a")
    s:close()
  end)

  it("tells an end from a connection that was cut", function()
    local s = assert(mx.tcp("localhost", secret, { tls = { ca = pki .. "/ca.pem" } }))
    s:send "cut 10\n"
    local text, e, rest = s:receive "*a"
    assert.same({ nil, "connection", "abcdefghij" }, { text, code(e), rest })
  end)

  it("says of a server without TLS that it has none", function()
    local s, e = mx.tcp("127.0.0.1", greet, { tls = true })
    assert.same({ nil, "connection", ("127.0.0.1:%d: TLS: what answers does not speak TLS"):format(greet) }, { s, code(e), tostring(e) })
  end)

  describe("begun later", function()
    local function greeted(text, options)
      local s = assert(mx.tcp("127.0.0.1", plain, options))
      s:send(text)
      return s
    end

    it("encrypts what goes on, both ways", function()
      local s = greeted "starttls\n"
      assert.equal("go", s:receive())
      assert(s:starttls { ca = pki .. "/ca.pem", server_name = "localhost" })
      assert(s:send "echo\n")
      assert(s:send(abc(300000)))
      assert.equal(abc(300000), (s:receive(300000)))
      assert.same({ nil, "validation" }, { (s:starttls { ca = pki .. "/ca.pem" }), code(select(2, s:starttls { ca = pki .. "/ca.pem" })) })
      s:close()
    end)

    it("works over a local socket", function()
      local s = assert(mx.tcp("unix:" .. path))
      s:send "starttls\n"
      assert.equal("go", s:receive())
      assert.has_error(function() s:starttls(true) end)
      assert(s:starttls { ca = pki .. "/ca.pem", server_name = "localhost" })
      s:send "say hi\n"
      assert.equal("hi", s:receive "*a")
      s:close()
    end)

    it("verifies, and closes when that fails", function()
      local s = greeted "starttls\n"
      s:receive()
      local ok, e = s:starttls { ca = pki .. "/ca.pem", server_name = "db.example" }
      assert.same({ nil, "connection" }, { ok, code(e) })
      assert.matches("certificate is for another name", tostring(e))
      assert.same({ nil, "closed" }, { (s:send "x"), code(select(2, s:send "x")) })
    end)

    it("has the socket's time limit", function()
      local s = greeted("slurp 10000000\n", { timeout = 0.05 })
      local ok, e = s:starttls { ca = pki .. "/ca.pem", server_name = "localhost" }
      assert.same({ nil, "timeout" }, { ok, code(e) })
    end)

    it("is refused, and changes nothing, while something is to be received or a file cannot be used", function()
      local s = greeted "echo\n"
      s:send "abc"
      assert.equal("a", s:receive(1))
      local ok, e = s:starttls { ca = pki .. "/ca.pem", server_name = "localhost" }
      assert.same({ nil, "validation" }, { ok, code(e) })
      assert.equal("bc", s:receive(2))
      ok, e = s:starttls { ca = "/nowhere", server_name = "localhost" }
      assert.same({ nil, "config" }, { ok, code(e) })
      s:send "d"
      assert.equal("d", s:receive(1))
      s:close()
      assert.same({ nil, "closed" }, { (s:starttls()), code(select(2, s:starttls())) })
    end)
  end)
end)
