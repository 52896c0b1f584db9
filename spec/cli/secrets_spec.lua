-- A broker's password stays where it has to be: not on the command line, in no message, not as it went over the wire.
local cli = dofile "spec/cli/run.lua"

local URL = "amqp://joe:S3cr3t-77@127.0.0.1:1/v"

describe("a password", function()
  it("is not to be read on the command line, and is used all the same", function()
    local out, code = cli.mxrun([[-u mem:// --url=amqp://a:S3cr3t-1@h,amqp://b:S3cr3t@2@h -u amqp://h/S3cr3t-3:x@y -e '
      local f = io.open("/proc/self/cmdline", "rb")
      print((f:read("*a"):gsub("%z", " ")))']])
    assert.equal(0, code)
    assert.matches(" %-u mem:// %-%-url=amqp://a:%*+@h,amqp://b:%*+@h ", out)
    if not cli.amqp then return end
    assert.equal("42\n", (cli.mxrun("-u " .. cli.amqp .. " -e 'assert(mx.queue(\"\", {})) print(42)'")))
  end)

  for what, arguments in pairs {
    ["a URL in the place of the script"] = URL, ["a URL to check"] = "--check " .. URL, ["a URL as a topology"] = "topology " .. URL,
    ["a mistyped option"] = "--ulr=" .. URL .. " -e x", ["an option without its space"] = "-u" .. URL .. " -e x",
    ["a URL that is wrong"] = "-u " .. URL .. "%zz -e x", ["an error of the script"] = "-u mem:// -e 'error \"" .. URL .. "\"'",
    ["a broker that is not there"] = "-u " .. URL .. " pub '' q x",
  } do
    it("is not shown with " .. what, function()
      local text, code = cli.both(arguments, "timeout 2")
      assert.not_equal(0, code)
      assert.matches("mxrun", text)
      assert.is_nil(text:find("S3cr3t", 1, true), text)
    end)
  end
end)

-- How often the memory of mxrun holds a secret once it has said a word; options and URL: before the script.
local function hits(word, secret, how, options)
  local script = 'mx.connect() print "open" io.stdout:flush() mx.sleep(60)'
  local out, code, errors = cli.shell(("timeout 50 spec/cli/remembers %s %s %s %s -e '%s'"):format(word, secret, how, options, script))
  assert.equal(0, code, errors)
  return tonumber(out)
end

describe("a password that is no string of Lua's", function()
  it("goes to processes that are to have it, as it was given", function()
    local script = [[local url = require "mx.url"
      local list = require "mx.conn".default_urls()
      assert(not tostring(list[1]):find "S3cr3t" and not tostring(list[1]):find "x,y")
      local text = url.environment(list)
      local first, second = text:match "^([^,]+),([^,]+)$"
      print(url.parse(first).password, url.parse(first).vhost, second)]]
    local out = cli.shell(([["$MXRUN" -u 'amqp://joe:x%%2Cy:%%40S3cr3t@h:1/v' -u amqp://joe@h2 -e '%s']]):format(script))
    assert.equal("x,y:@S3cr3t\tv\tamqp://joe@h2\n", out)
  end)
end)

describe("what was said to log in", function()
  if not cli.amqp then return end

  it("is wiped once that is done", function()
    assert.equal(0, hits("open", "+guest+guest", '"$MXRUN"', "-u " .. cli.amqp))
  end)

  it("is wiped when it was refused", function()
    local url = cli.amqp:gsub("guest:guest", "guest:wrong-77")
    assert.equal(0, hits("cannot", "+guest+wrong-77", '"$MXRUN"', "-u " .. url))
  end)
end)

-- AddressSanitizer keeps a copy of the environment and arguments that it was started with.
local keeps_copies = cli.shell('ldd "$MXRUN"'):find "libasan"

describe("a core dump", function()
  local GIVEN = {
    ["in a URL"] = { '"$MXRUN"', "-u " .. URL }, ["in a URL of workers"] = { '"$MXRUN"', "-w 2 -u " .. URL },
    ["in the environment"] = { ('env MXRUN_URLS=%s,amqp://h "$MXRUN"'):format((URL:gsub("%-", "%%2d"))), "" },
    ["as the environment's token"] = { 'env MXRUN_HTTP_TOKEN=S3cr3t-77 "$MXRUN"', "--http 0 -u amqp://127.0.0.1:1" },
  }
  if keeps_copies then GIVEN = { ["in a URL"] = GIVEN["in a URL"] } end
  for where, given in pairs(GIVEN) do
    it("has no password that was given " .. where, function()
      assert.equal(0, hits("cannot", "S3cr3t", "--core " .. given[1], given[2]))
    end)
  end

  it("has none that mx.connect took out of the environment", function()
    if keeps_copies then return end
    local script = [[-u mem:// -e 'print((mx.connect { url = "amqp://joe@127.0.0.1:1", password_env = "PW" }):queue("q", {}))']]
    assert.equal("0\n", (cli.shell('PW=S3cr3t-77 timeout 50 spec/cli/remembers cannot S3cr3t --core "$MXRUN" ' .. script)))
  end)

  local rabbit = os.getenv "MXRUN_SPEC_RABBIT"
  if not cli.amqp or not rabbit then return end

  it("has none of those who are logged in, over TCP or TLS", function()
    local ctl = "spec/rabbit ctl " .. rabbit .. " -q "
    cli.shell(ctl .. "add_user core-joe S3cr3t-77; " .. ctl .. "set_permissions core-joe '.*' '.*' '.*'")
    local plain = cli.amqp:gsub("guest:guest", "core-joe:S3cr3t-77")
    local tls = ("amqps://core-joe:S3cr3t-77@localhost:%s/?cacertfile=%s/ca.pem"):format(
      os.getenv "MXRUN_SPEC_TLS", os.getenv "MXRUN_SPEC_PKI")
    for _, url in ipairs { plain, tls } do
      assert.equal(0, hits("open", "S3cr3t", '--core "$MXRUN"', "-u '" .. url .. "'"))
    end
    cli.shell(ctl .. "delete_user core-joe")
  end)
end)
