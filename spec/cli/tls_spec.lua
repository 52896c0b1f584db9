-- New certificates without a restart, on the suite's RabbitMQ; what is kept of files that broke is tls_spec.c's.
local cli = dofile "spec/cli/run.lua"

local port, pki, rabbit = os.getenv "MXRUN_SPEC_TLS", os.getenv "MXRUN_SPEC_PKI", os.getenv "MXRUN_SPEC_RABBIT"

-- Ends the connection with the name from the broker's side, and answers whose certificate it had.
local CUT = [[
[begin rabbit_networking:close_connection(proplists:get_value(pid, C), "spec"), proplists:get_value(peer_cert_subject, C) end
 || C <- rabbit_networking:connection_info_all([pid, client_properties, peer_cert_subject]),
    lists:member({<<"connection_name">>, longstr, <<"NAME">>}, proplists:get_value(client_properties, C))].]]

local SHELL = [[
dir=$(mktemp -d) pki=%s
trap 'kill $pid; rm -rf $dir' EXIT
take() { cp $pki/$1.pem $dir/now.pem; cp $pki/$1.key $dir/now.key; }
count() { until [ $(grep -c $1 $dir/out) = $2 ]; do sleep 0.02; done; }
cut() { spec/rabbit ctl %s -q eval '%s'; }
take client
"$MXRUN" -e '
  local conn = assert(mx.connect { url = "amqps://guest:guest@localhost:%s", name = "%s", reconnect = { base = 0.05 },
    tls = { ca = arg[1] .. "/ca.pem", cert = arg[2] .. "/now.pem", key = arg[2] .. "/now.key" } })
  assert(conn:consume(assert(conn:queue("", {})), print))
  local function say(what) print(what) io.stdout:flush() end
  for _, event in ipairs { "reload", "recovered", "down" } do mx.on(event, function() say(event) end) end
  say "up"
' $pki $dir >$dir/out 2>$dir/log & pid=$!
count up 1
head -c 300 $pki/client2.key >$dir/now.key; kill -HUP $pid; count reload 1
cut; count recovered 1
take client2; kill -HUP $pid; count reload 2
cut; count recovered 2
cut; count recovered 3
kill $pid; wait $pid; echo exit $? of $(grep -c down $dir/out); cat $dir/log
]]

describe("TLS", function()
  it("takes new files while it runs, keeps the old ones while those are broken, and says so", function()
    if not port then return end
    local name = cli.name "rotation"
    local cut = CUT:gsub("NAME", name)
    local out, code = cli.shell(SHELL:format(pki, rabbit, cut, port, name))
    assert.equal(0, code)
    local first, second, third, exit, of, log = out:match "CN=(%w+).-CN=(%w+).-CN=(%w+).-exit (%d+) of (%d+)\n(.*)"
    assert.same({ "localhost", "localhost", "second", "0", "3" }, { first, second, third, exit, of })
    assert.equal(1, select(2, log:gsub("TLS goes on with what it had read before", "")))
    assert.matches("now.key cannot be used", log)
  end)
end)

describe("SIGHUP", function()
  it("is told to the script, which goes on", function()
    local out, code = cli.shell [["$MXRUN" -u mem:// -e '
      mx.on("reload", function() print "reload" mx.stop() end)
      require("ffi").cdef "int getpid(void); int kill(int, int);"
      require("ffi").C.kill(require("ffi").C.getpid(), 1)
      mx.sleep(30)
      print "late"']]
    assert.same({ "reload\n", 0 }, { out, code })
  end)

  it("ends what a terminal began when that terminal goes", function()
    local out = cli.shell [[timeout 30 python3 -c '
import os, pty, sys
pid, master = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], [sys.argv[1], "-u", "mem://", "-e", "print(1) io.stdout:flush() mx.sleep(60)"])
os.read(master, 1)
os.close(master)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))' "$MXRUN"]]
    assert.matches("^[01]\n$", out)
  end)
end)
