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

-- Starts mxrun with the URL, waits for a word from it, and counts what its memory holds that looks like SASL PLAIN.
local SCAN = [[timeout 50 python3 -c '
import re, subprocess, sys
mxrun, url, word, said = sys.argv[1:]
p = subprocess.Popen([mxrun, "-u", url, "-e", "mx.connect() print(\"open\") io.stdout:flush() mx.sleep(60)"],
                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
for line in p.stdout:
    if word.encode() in line:
        break
hits = 0
with open(f"/proc/{p.pid}/maps") as maps, open(f"/proc/{p.pid}/mem", "rb", 0) as mem:
    for line in maps:
        low, high = (int(x, 16) for x in line.split()[0].split("-"))
        if line.split()[1].startswith("rw") and high - low < 1 << 30:
            mem.seek(low)
            try:
                hits += mem.read(high - low).count(said.replace("+", "\0").encode())
            except OSError:
                pass
p.kill()
print(hits)' "$MXRUN" %s %s %s]]

describe("what was said to log in", function()
  if not cli.amqp then return end

  it("is wiped once that is done", function()
    assert.equal("0\n", (cli.shell(SCAN:format(cli.amqp, "open", "+guest+guest"))))
  end)

  it("is wiped when it was refused", function()
    local url = cli.amqp:gsub("guest:guest", "guest:wrong-77")
    assert.equal("0\n", (cli.shell(SCAN:format(url, "cannot", "+guest+wrong-77"))))
  end)
end)
