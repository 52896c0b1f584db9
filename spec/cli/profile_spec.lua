-- mxrun profile: what it prints of profiles that are known, what it refuses, and what it asks a server.
local cli, profiles = dofile "spec/cli/run.lua", dofile "spec/cli/profiles.lua"

local MAIN, TURN = { "main", "orders.lua", 0, 20 }, { "turn", "mx/turn.lua", 5, 9 }
local CHECK3, CHECK4 = { "check", "orders.lua", 2, 3 }, { "check", "orders.lua", 2, 4 }
local CPU = {
  types = { { "samples", "count" }, { "cpu", "nanoseconds" } }, time = 1.7e18, duration = 30e9,
  { stack = { CHECK3, MAIN, TURN }, labels = { queue = "orders" }, 3, 30e6 },
  { stack = { CHECK4, CHECK3, MAIN, TURN }, labels = { queue = "orders" }, 1, 10e6 },
  { stack = { MAIN, TURN }, labels = { queue = "refunds" }, 1, 10e6 },
  { stack = { TURN }, 5, 50e6 },
}
local HEAD = "Type: cpu   Time: 2023-11-14 22:13:20 UTC   Duration: 30s\n"

local made = {}
local function file(what)
  local path = profiles.file(what)
  made[#made + 1] = path
  return path
end

after_each(function()
  for i, path in ipairs(made) do
    os.remove(path)
    made[i] = nil
  end
end)

-- What it prints; it must succeed.
local function profile(line, ...)
  local out, code, why = cli.mxrun("profile " .. line:format(...))
  assert.same({ 0, "" }, { code, why })
  return out
end

describe("mxrun profile top", function()
  it("counts flat and cumulative, a function that calls itself once", function()
    assert.equal(HEAD .. [[
Showing 3 of 3 functions, 100ms, 100% of 100ms
      flat  flat%   sum%        cum   cum%
      50ms 50.00% 50.00%      100ms   100%  turn mx/turn.lua:5
      40ms 40.00% 90.00%       40ms 40.00%  check orders.lua:2
      10ms 10.00%   100%       50ms 50.00%  main orders.lua
]], profile("top %s", file(CPU)))
  end)

  it("sorts by what functions and those they called took, and shows as many as were asked for", function()
    assert.equal(HEAD .. [[
Showing 2 of 3 functions, 60ms, 60.00% of 100ms
      flat  flat%   sum%        cum   cum%
      50ms 50.00% 50.00%      100ms   100%  turn mx/turn.lua:5
      10ms 10.00% 60.00%       50ms 50.00%  main orders.lua
]], profile("top --cum -n 2 %s", file(CPU)))
  end)

  it("tells lines apart", function()
    assert.equal(HEAD .. [[
Showing 4 of 4 lines, 100ms, 100% of 100ms
      flat  flat%   sum%        cum   cum%
      50ms 50.00% 50.00%      100ms   100%  turn mx/turn.lua:9
      30ms 30.00% 80.00%       40ms 40.00%  check orders.lua:3
      10ms 10.00% 90.00%       10ms 10.00%  check orders.lua:4
      10ms 10.00%   100%       50ms 50.00%  main orders.lua:20
]], profile("top --lines %s", file(CPU)))
  end)

  it("adds up several files, and shows another sample type when it is told to", function()
    local path = file(CPU)
    assert.equal([[
Type: samples   Time: 2023-11-14 22:13:20 UTC   Duration: 60s
Showing 1 of 3 functions, 10, 50.00% of 20
      flat  flat%   sum%        cum   cum%
        10 50.00% 50.00%         20   100%  turn mx/turn.lua:5
]], profile("top --sample samples -n 1 %s %s", path, path))
  end)

  it("takes only the samples that are asked for, as shares of all", function()
    local path = file(CPU)
    local function rows(options)
      local list = {}
      for line in profile("top %s %s", options, path):gmatch "[^\n]+" do
        list[#list + 1] = line:match "^ +(%w+ +[%d.]+%%) .*%%  (.*)$" and line:gsub("^ +(%w+) .*%%  (.*)$", "%1 %2")
      end
      return table.concat(list, ", ")
    end
    assert.equal("40ms check orders.lua:2, 0 main orders.lua, 0 turn mx/turn.lua:5", rows "--focus check")
    assert.equal("50ms turn mx/turn.lua:5, 10ms main orders.lua", rows "--ignore '^che'")
    assert.equal("40ms check orders.lua:2, 10ms main orders.lua, 0 turn mx/turn.lua:5", rows "--focus orders.lua")
    assert.equal("10ms main orders.lua, 0 turn mx/turn.lua:5", rows "--label queue=refunds")
    assert.equal("", rows "--label queue=refunds --focus check")
    assert.equal("", rows "--focus 'ch['")
  end)

  it("writes bytes and shares as small as they are", function()
    local path = file { types = { { "inuse_space", "bytes" } }, { stack = { MAIN }, 64 }, { stack = { TURN }, 3 * 1024 ^ 3 } }
    assert.equal([[
Type: inuse_space
Showing 2 of 2 functions, 3145728.06kB, 100% of 3145728.06kB
      flat  flat%   sum%        cum   cum%
 3145728kB   100%   100%  3145728kB   100%  turn mx/turn.lua:5
    0.06kB 2e-06%   100%     0.06kB 2e-06%  main orders.lua
]], profile("top %s", path))
  end)

  it("shows what the file says first", function()
    local path = file { types = { { "a", "count" }, { "b", "count" } }, default = "a", { stack = { MAIN }, 1, 2 } }
    assert.matches("^Type: a\n", profile("top %s", path))
  end)

  it("sends no commands to the terminal", function()
    local path = file { types = { { "a", "count" } }, { stack = { { "\27[2Jżółć\194\155", "b\nc.lua", 1, 1 } }, 1 } }
    assert.matches("%?%[2Jżółć%? b%?c.lua:1\n$", profile("top %s", path))
  end)

  it("says once where a function without a name is", function()
    local path = file { types = { { "a", "count" } }, { stack = { { "x.lua:7", "x.lua", 7, 8 } }, 1 } }
    assert.matches("%%  x.lua:7\n$", profile("top %s", path))
    assert.matches("%%  x.lua:7 x.lua:8\n$", profile("top --lines %s", path))
  end)

  it("prints an empty profile", function()
    assert.equal([[
Type: cpu
Showing 0 of 0 functions, 0, 0% of 0
      flat  flat%   sum%        cum   cum%
]], profile("top %s", file { types = { { "cpu", "nanoseconds" } } }))
  end)
end)

describe("mxrun profile list", function()
  local SOURCE = "local M = {}\nlocal function check(o)\n  if o.total < 0 then\n    return 'negative'\n  end\n  return true\nend\n"

  it("shows what each line took beside the source", function()
    local dir = os.tmpname()
    os.remove(dir)
    os.execute("mkdir " .. dir)
    local f = io.open(dir .. "/orders.lua", "w")
    f:write(SOURCE)
    f:close()
    local out = profile("list check --source %s %s", dir, file(CPU))
    os.execute("rm -r " .. dir)
    assert.equal(HEAD .. [[
Total: 100ms
ROUTINE ======================== check in orders.lua:2
      40ms       40ms (flat, cum) 40.00% of Total
         .          .      2:local function check(o)
      30ms       40ms      3:  if o.total < 0 then
      10ms       10ms      4:    return 'negative'
         .          .      5:  end
         .          .      6:  return true
         .          .      7:end
]], out)
  end)

  it("says where it looked for a source that is not there", function()
    assert.equal(HEAD .. [[
Total: 100ms
ROUTINE ======================== turn in mx/turn.lua:5
      50ms      100ms (flat, cum)   100% of Total
      50ms      100ms      9:
no source: mx/turn.lua is not there; --source DIR says where it is
]], profile("list turn %s", file(CPU)))
  end)

  it("fails when no function fits", function()
    local path = file(CPU)
    local out, code, why = cli.mxrun("profile list nothing " .. path)
    assert.same({ "", 1, "mxrun profile: no function fits 'nothing'\n" }, { out, code, why })
  end)
end)

describe("mxrun profile tree", function()
  it("shows who called whom, the dearest first", function()
    assert.equal(HEAD .. [[
Total: 100ms
       cum   cum%       flat  flat%
     100ms   100%       50ms 50.00%  turn mx/turn.lua:5
      50ms 50.00%       10ms 10.00%    main orders.lua
      40ms 40.00%       30ms 30.00%      check orders.lua:2
      10ms 10.00%       10ms 10.00%        check orders.lua:2
]], profile("tree %s", file(CPU)))
  end)

  it("counts what is too small to be shown", function()
    assert.equal(HEAD .. [[
Total: 100ms
       cum   cum%       flat  flat%
     100ms   100%       50ms 50.00%  turn mx/turn.lua:5
      50ms 50.00%                      ... 1 more
]], profile("tree --least 60 %s", file(CPU)))
  end)

  it("takes stacks 500 deep, and says how deep it is", function()
    local stack = {}
    for i = 1, 500 do stack[i] = { "f" .. i, "deep.lua", i, i } end
    local out = profile("tree %s", file { types = { { "a", "count" } }, { stack = stack, 7 } })
    assert.equal(503, select(2, out:gsub("\n", "")))
    assert.matches("\n         7   100%%          7   100%%  " .. (" "):rep(60) .. "%(499%) f1 deep.lua:1\n$", out)
  end)
end)

describe("mxrun profile folded", function()
  it("writes a line for each stack, the root first", function()
    local path = file(CPU)
    assert.equal("turn 5\nturn;main 1\nturn;main;check 3\nturn;main;check;check 1\n", profile("folded --sample samples %s", path))
    assert.equal("turn mx/turn.lua:9;main orders.lua:20 10000000\n", profile("folded --lines --label queue=refunds %s", path))
  end)

  it("keeps names apart from what the format is made of", function()
    local path = file { types = { { "a", "count" } }, { stack = { { "a;b\nc d", "x.lua", 1, 1 }, MAIN }, 2 } }
    assert.equal("main;a:b?c d 2\n", profile("folded %s", path))
  end)
end)

describe("mxrun profile diff", function()
  it("shows what grew from A to B, most first", function()
    local a = { types = { { "inuse_space", "bytes" } }, { stack = { MAIN }, 4096 }, { stack = { CHECK3, MAIN }, 1024 },
                { stack = { TURN }, 2048 } }
    local b = { types = { { "inuse_space", "bytes" } }, { stack = { { "main", "orders.lua", 0, 25 } }, 1024 },
                { stack = { { "check", "orders.lua", 7, 8 }, MAIN }, 5120 }, { stack = { TURN }, 2048 } }
    assert.equal([[
A: Type: inuse_space
B: Type: inuse_space
Showing 2 of 2 functions that differ; 7kB, then 8kB, +1kB
    growth      %     before      after growth cum      %
      +4kB 57.14%        1kB        5kB       +4kB 57.14%  check orders.lua:7
      -3kB -42.86%        4kB        1kB       +1kB 14.29%  main orders.lua
]], profile("diff %s %s", file(a), file(b)))
  end)

  it("tells functions of one name in one file apart by where they are", function()
    local first, other = { { "function", "a.lua", 1, 1 } }, { { "function", "a.lua", 9, 9 } }
    local a = { types = { { "n", "count" } }, { stack = first, 1 }, { stack = other, 5 } }
    local b = { types = { { "n", "count" } }, { stack = first, 4 }, { stack = other, 5 } }
    local out = profile("diff %s %s", file(a), file(b))
    assert.matches("\n        %+3 50.00%%          1          4         %+3 50.00%%  function a.lua:1\n$", out)
  end)

  it("refuses profiles that have nothing in common", function()
    local a, b = file(CPU), file { types = { { "inuse_space", "bytes" } } }
    local _, code, why = cli.mxrun(("profile diff %s %s"):format(a, b))
    assert.same({ 1, ("mxrun profile: %s is of cpu, %s of inuse_space; --sample says which both have\n"):format(a, b) }, { code, why })
  end)
end)

describe("mxrun profile flame", function()
  local function page(what, options)
    local path, html = file(what), os.tmpname()
    assert.equal(html .. "\n", profile("flame %s -o %s %s", options or "", html, path))
    local text = cli.read(html)
    os.remove(html)
    return text, path
  end

  it("writes one page that loads nothing", function()
    local text = page(CPU)
    assert.matches("^<!doctype html>", text)
    assert.is_nil(text:find "https?:")
    assert.is_nil(text:find "%ssrc=")
    assert.is_nil(text:find "@%u+@")
    assert.matches("default%-src 'none'", text)
  end)

  it("holds the tree of all sample types", function()
    local text = page(CPU)
    local data = mx.json.decode(text:match '<script type="application/json" id="data">(.-)</script>')
    assert.same({ { "samples", "count" }, { "cpu", "nanoseconds" } }, data.types)
    assert.equal(1, data.shown)
    assert.same({ { "turn", "mx/turn.lua", 5 }, { "main", "orders.lua", 0 }, { "check", "orders.lua", 2 } }, data.frames)
    assert.same({ 0, 0, 5, 50000000, 1, 1, 1, 10000000, 2, 2, 3, 30000000, 3, 2, 1, 10000000 }, data.nodes)
  end)

  it("takes names as data, whatever they are", function()
    local evil = "</script><script>alert(1)</script><!--\"\\\1&\255"
    local text = page { types = { { evil, evil } }, { stack = { { evil, evil, 1, 1 } }, 1 } }
    assert.is_nil(text:find("alert(1)</script>", 1, true))
    assert.is_nil(text:find("<!--", 1, true))
    local json = text:match '<script type="application/json" id="data">(.-)</script>'
    assert.equal("</script><script>alert(1)</script><!--\"\\?&?", mx.json.decode(json).frames[1][1])
  end)

  it("is called as the profile is", function()
    local out, code = cli.shell(([[
      mxrun=$(realpath "$MXRUN") dir=$(mktemp -d) && cd $dir && cp %s 'a <b>.pb.gz' &&
      $mxrun profile flame 'a <b>.pb.gz' && grep '<title>' 'a <b>.html' && rm -r $dir]]):format(file(CPU)))
    assert.same({ "a <b>.html\n<title>a &lt;b&gt;</title>\n", 0 }, { out, code })
  end)

  it("writes an empty profile, and one 500 deep", function()
    local stack = {}
    for i = 1, 500 do stack[i] = { "f", "deep.lua", 1, 1 } end
    assert.matches('"nodes":%[%]', page { types = { { "a", "count" } } })
    assert.matches(',499,0,7%]', page { types = { { "a", "count" } }, { stack = stack, 7 } })
  end)
end)

describe("mxrun profile", function()
  it("fails on files that are no profiles, and says why", function()
    local cut, other, text = profiles.bytes(CPU), file { types = { { "a", "count" } } }, file "hello, world\n"
    local path = file(cut:sub(1, 60))
    for line, expected in pairs {
      ["top " .. path] = path .. ": it is cut short or was damaged: gzip cannot read it",
      ["tree " .. text] = text .. ": it is no profile: it is cut short or was damaged",
      ["top /nowhere/a.pb.gz"] = "/nowhere/a.pb.gz: No such file or directory",
      ["top /"] = "/: Is a directory",
      ["top " .. file(CPU) .. " " .. other] = other .. ": it has other sample types",
      ["flame -o /nowhere/x " .. other] = "/nowhere/x: No such file or directory",
    } do
      local out, code, why = cli.mxrun("profile " .. line)
      assert.same({ "", 1, "mxrun profile: " .. expected .. "\n" }, { out, code, why })
    end
  end)

  it("says what is wrong with its arguments", function()
    local path = file(CPU)
    for line, expected in pairs {
      [""] = "expected top, list, tree, diff, flame, folded or a URL",
      ["tpo x"] = "expected top, list, tree, diff, flame, folded or a URL, did you mean 'top'?",
      ["top"] = "top: expected FILE...",
      ["list x"] = "list: expected PATTERN and FILE...",
      ["diff x"] = "diff: expected two files, A and B",
      ["top --sample cpv " .. path] = "--sample wants one of samples, cpu, got 'cpv', did you mean 'cpu'?",
      ["top --label queue " .. path] = "--label wants NAME=VALUE, got 'queue'",
      ["top -n x " .. path] = "-n wants a whole number, got 'x'",
      ["http://localhost:1"] = "expected URL and one of cpu, wait, heap, allocs, tasks",
      ["http://localhost:1 heep"] = "expected URL and one of cpu, wait, heap, allocs, tasks, did you mean 'heap'?",
      ["http://localhost:1 cpu x"] = "cpu wants seconds, 1 to 3600",
      ["http://localhost:1 heap 5"] = "heap wants nothing more",
      ["http://localhost:x heap"] = "expected http://host:port, got 'http://localhost:x'",
    } do
      local out, code, why = cli.mxrun("profile " .. line)
      assert.same({ "", 2, "mxrun profile: " .. expected .. "; mxrun profile --help says more\n" }, { out, code, why })
    end
  end)

  it("writes to a file what it would have printed", function()
    local path, to = file(CPU), os.tmpname()
    assert.equal("", profile("top -o %s %s", to, path))
    assert.equal(profile("top %s", path), cli.read(to))
    os.remove(to)
  end)
end)

describe("mxrun profile URL", function()
  local SERVER = [[
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.path in ("/debug/pprof/heap", "/debug/pprof/profile?seconds=2")
        status = 401 if self.headers["Authorization"] != "Bearer secret" else 200 if known else 404
        body = open(sys.argv[1], "rb").read() if status == 200 else b"no: " + self.path.encode()
        self.send_response(status)
        if self.path.endswith("heap"): self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
]]

  -- Asks a server that has the profile, in a folder; the command's line has its port for %d.
  local function ask(line, token, dir)
    local script = os.tmpname()
    profiles.file(SERVER, script)
    local p = io.popen(("python3 %s %s & echo $!; wait"):format(script, file(CPU)))
    local pid, port = p:read("*n", "*n")
    local out, code, why = cli.shell(('mxrun=$(realpath "$MXRUN"); cd %s; MXRUN_HTTP_TOKEN=%s $mxrun profile %s')
      :format(dir or ".", token, line:format(port)))
    os.execute("kill " .. pid)
    p:close()
    os.remove(script)
    return out, code, why
  end

  it("writes what a running mxrun answers, and prints the top", function()
    local to = os.tmpname()
    local out, code, why = ask("http://127.0.0.1:%d heap -o " .. to, "secret")
    assert.same({ to .. "\n", 0 }, { why, code })
    assert.equal(profile("top %s", to), out)
    assert.equal(profiles.bytes(CPU), cli.read(to))
    os.remove(to)
    out, code = ask("http://127.0.0.1:%d/ cpu 2 -n 1 --sample samples -o " .. to, "secret")
    assert.equal(0, code)
    assert.matches("\nShowing 1 of 3 functions", out)
    os.remove(to)
  end)

  it("calls the file after what it is and when it was", function()
    local dir = os.tmpname()
    os.remove(dir)
    os.execute("mkdir " .. dir)
    local _, code, why = ask("http://127.0.0.1:%d heap", "secret", dir)
    assert.equal(0, code)
    assert.matches("^heap%-20%d%d%d%d%d%d%-%d%d%d%d%d%d%.pb%.gz\n$", why)
    assert.equal(profiles.bytes(CPU), cli.read(dir .. "/" .. why:sub(1, -2)))
    os.execute("rm -r " .. dir)
  end)

  it("says what the server said, and where the token goes", function()
    local out, code, why = ask("http://127.0.0.1:%d heap -o /dev/null", "wrong")
    assert.same({ "", 1 }, { out, code })
    assert.equal("mxrun profile: the server says 401: no: /debug/pprof/heap (MXRUN_HTTP_TOKEN holds the token)\n", why)
    why = select(3, ask("http://127.0.0.1:%d wait -o /dev/null", "secret"))
    assert.equal("mxrun profile: the server says 404: no: /debug/pprof/wait?seconds=30\n", why)
  end)

  it("fails when nobody listens", function()
    local out, code, why = cli.mxrun "profile http://127.0.0.1:1 heap"
    assert.same({ "", 1 }, { out, code })
    assert.matches("^mxrun profile: .*127.0.0.1:1", why)
  end)
end)
