-- require "mx.ngx": what lua-resty clients written in Lua find there, against spec/tcp/server.
local cli = dofile "spec/cli/run.lua"
local pki = os.getenv "MXRUN_SPEC_PKI"
local eventually = mx.test.eventually
local ngx = require "mx.ngx"

local file = os.tmpname()
local path = file .. ".socket"
local server, plain

local function connect(words, options)
  local s = ngx.socket.tcp()
  s:settimeout(5000)
  assert(s:connect("127.0.0.1", plain, options))
  if words then assert(s:send(words .. "\n")) end
  return s
end

describe("ngx", function()
  it("is a global from then on, also for modules and under --check, and only for who asks for it", function()
    local code = "require 'mx.ngx' function f() return ngx.null == mx.null end print(f(), ngx.get_phase())"
    local path_of = cli.file(code)
    assert.equal("true\ttimer\n", (cli.mxrun("-u mem:// " .. path_of)))
    assert.equal(0, select(2, cli.mxrun("--check " .. path_of)))
    assert.matches("undeclared global 'ngx'", select(3, cli.mxrun "-u mem:// -e 'print(ngx)'"))
    os.remove(path_of)
  end)

  it("has texts as nginx makes them", function()
    assert.same({ "5d41402abc4b2a76b9719d911017c592", "aGVsbG8=", "aGVsbG8", "hello" },
                { ngx.md5 "hello", ngx.encode_base64 "hello", ngx.encode_base64("hello", true), ngx.decode_base64 "aGVsbG8=" })
    local bytes = ""
    for i = 0, 255 do bytes = bytes .. string.char(i) end
    assert.equal(bytes, ngx.decode_base64(ngx.encode_base64(bytes)))
    assert.is_nil(ngx.decode_base64 "a*b=")
    local to_hex = require "resty.string".to_hex
    assert.equal("de7c9b85b8b78aa6bc8a7a36f70a90701c9db4d9",
                 to_hex(ngx.hmac_sha1("key", "The quick brown fox jumps over the lazy dog")))
    assert.equal("7c4a8d09ca3762af61e59520943dc26494f8941b", to_hex(ngx.sha1_bin "123456"))
    assert.same({ "a%20b%2Fc", "a b/c" }, { ngx.escape_uri "a b/c", ngx.unescape_uri "a+b%2Fc" })
    assert.equal("a=1&b=x%20y&c&d=1&d=2", ngx.encode_args { a = 1, b = "x y", c = true, d = { 1, 2 }, e = false })
    assert.same({ a = "1", c = true, d = { "1", "2" } }, (ngx.decode_args "a=1&c&d=1&d=2"))
    assert.equal([['it\'s \\ \n']], ngx.quote_sql_str "it's \\ \n")
  end)

  it("matches with PCRE", function()
    local m = ngx.re.match("https://h:81/p", [[^(?:(http[s]?):)?//([^:/]+)(?::(\d+))?(?<path>/.*)?]], "jo")
    assert.same({ [0] = "https://h:81/p", "https", "h", "81", "/p", path = "/p" }, m)
    assert.same({ [0] = "b", false, "b" }, ngx.re.match("b", "(a)|(b)"))
    assert.is_nil((ngx.re.match("x", "y")))
    local at = { pos = 2 }
    assert.same({ { [0] = "b" }, { [0] = "b" }, 4 }, { ngx.re.match("abb", "b", "", at), ngx.re.match("abb", "b", "", at), at.pos })
    assert.same({ 2, 3 }, { ngx.re.find("aBBa", "b+", "i") })
    assert.same({ 3, 3 }, { ngx.re.find("ab1", "b(\\d)", "", nil, 1) })
    assert.same({ nil, nil }, { ngx.re.find("a", "b") })
    local words = {}
    for w in ngx.re.gmatch("one, two;three", [[(\w+)]]) do words[#words + 1] = w[1] end
    assert.same({ "one", "two", "three" }, words)
    local n = 0
    for _ in ngx.re.gmatch("abc", "x*") do n = n + 1 end
    assert.equal(4, n)
    assert.same({ "[a]-[a]$b", 1 }, { ngx.re.sub("a-b", "(a)-", "[$1]-[${1}]$$") })
    assert.same({ "-A--B-c", 2 }, { ngx.re.gsub("abc", "[ab]", function(c) return "-" .. c[0]:upper() .. "-" end) })
    assert.same({ "xaxbx", 3 }, { ngx.re.gsub("ab", "", "x") })
    local ok, e = ngx.re.match("x", "(")
    assert.is_nil(ok)
    assert.matches("parenthes", e)
    assert.has_error(function() ngx.re.match("x", "x", "q") end)
  end)

  it("has timers, threads and a log", function()
    local got = mx.chan(2)
    ngx.timer.at(0, function(premature, x) got:put { premature, x } end, "hello")
    assert.same({ false, "hello" }, got:get(5))
    local slow = ngx.thread.spawn(function() ngx.sleep(10) end)
    local quick = ngx.thread.spawn(function(a) return a + 1, "two" end, 1)
    assert.same({ true, 2, "two" }, { ngx.thread.wait(slow, quick) })
    assert.same({ true, 2, "two" }, { ngx.thread.wait(quick) })
    assert.same({ false }, { (ngx.thread.wait(ngx.thread.spawn(error, "no"))) })
    assert.equal(1, ngx.thread.kill(slow))
    assert.is_true(math.abs(ngx.now() - os.time()) < 5)
    local log = require "mx.log"
    local write, said = log.write, ""
    log.write = function(line) said = said .. line return true end
    ngx.log(ngx.ERR, "a ", nil, " b ", 1)
    log.write = write
    assert.matches("error a nil b 1", said)
    assert.has_error(function() return ngx.var.uri end)
  end)
end)

describe("a socket of ngx", function()
  setup(function()
    os.remove(file)
    server = assert(io.popen(("spec/tcp/server --file %s --path %s %s"):format(file, path, pki and "--pki " .. pki or ""), "w"))
    eventually(function()
      plain = tonumber(cli.read(file):match "^%d+")
      return plain
    end, 20)
  end)
  teardown(function()
    server:close()
    os.remove(file)
    os.remove(path)
  end)

  it("sends nested tables, receives lines and bytes", function()
    local s = connect "echo"
    assert.equal(10, s:send { "*", 1, { "\r\n", { "$3\r\n" } }, 7, "\n" })
    assert.same({ "*1", "$3", "7" }, { s:receive(), s:receive "*l", s:receive "1" })
    assert.equal(1, s:close())
    assert.same({ nil, "closed" }, { s:receive() })
    assert.same({ nil, "closed" }, { s:send "x" })
  end)

  it("says timeout and closed as texts, with what came", function()
    local s = connect "echo"
    s:send "ab"
    s:settimeout(30)
    assert.same({ nil, "timeout", "ab" }, { s:receive(3) })
    s:send "c\n"
    assert.equal("c", s:receive())
    s:close()
    s = connect "say ab"
    assert.same({ nil, "closed", "ab" }, { s:receive(3) })
    local ok, e = ngx.socket.tcp():connect("127.0.0.1", 1)
    assert.same({ nil, "connection refused" }, { ok, e })
  end)

  it("reads up to a text, with it when asked for", function()
    local s = connect "say one--two--"
    assert.equal("one", s:receiveuntil "--"())
    assert.equal("two--", s:receiveuntil("--", { inclusive = true })())
  end)

  it("connects to a local socket", function()
    local s = ngx.socket.connect("unix:" .. path)
    s:send "say hi\n"
    assert.equal("hi", s:receive "*a")
  end)

  it("is kept for the next one", function()
    local s = connect "echo"
    assert.equal(0, s:getreusedtimes())
    assert.equal(1, s:setkeepalive(10000, 10))
    assert.same({ nil, "closed" }, { s:send "x" })
    local again = connect()
    assert.equal(1, again:getreusedtimes())
    again:send "hello\n"
    assert.equal("hello", again:receive())
    assert.equal(1, again:setkeepalive())
    local other = connect("echo", { pool = "another" })
    assert.equal(0, other:getreusedtimes())
    other:close()
    again = connect()
    assert.equal(2, again:getreusedtimes())
    again:close()
  end)

  it("is not kept when something came, it has ended, or its time is over", function()
    local s = connect("echo", { pool = "odd" })
    s:send "left over"
    assert.equal("l", s:receive(1))
    assert.same({ nil, "connection in dubious state" }, { s:setkeepalive() })
    s = connect("half ", { pool = "odd" })
    eventually(function() return s.sock.sock.state ~= require "ffi".C.MX_OPEN end)
    assert.same({ nil, "connection in dubious state" }, { s:setkeepalive() })
    s = connect("echo", { pool = "odd" })
    assert.equal(1, s:setkeepalive(10))
    mx.sleep(0.03)
    s = connect("echo", { pool = "odd" })
    assert.equal(0, s:getreusedtimes())
    s:close()
  end)

  if not pki then return end

  it("is encrypted by sslhandshake, which verifies when asked to", function()
    local s = connect "starttls"
    assert.equal("go", s:receive())
    local ok, e = s:sslhandshake(nil, "localhost", true)
    assert.is_nil(ok)
    assert.matches("unknown CA", e)
    s = connect "starttls"
    assert.equal("go", s:receive())
    assert.is_true(s:sslhandshake(nil, "localhost", false))
    assert.is_true(s:sslhandshake(nil, "localhost", false))
    s:send "echo\nhello\n"
    assert.equal("hello", s:receive())
    s:setkeepalive()
    s = connect()
    assert.is_true(s:sslhandshake(nil, "localhost", false))
    s:send "again\n"
    assert.equal("again", s:receive())
    s:close()
  end)
end)
