-- spec/rabbit stop leaves nothing of its own node running, and touches no other.
local cli = dofile "spec/cli/run.lua"

describe("spec/rabbit stop", function()
  it("ends a node that has written no pid file yet, and only the one of its folder", function()
    local dir = os.tmpname()
    finally(function() os.execute("rm -rf " .. dir .. " " .. dir .. ".other") end)
    local out = cli.shell(([[
      dir=%s; rm $dir; mkdir -p $dir $dir.other; echo 1 >$dir/port; cp "$(command -v bash)" $dir/beam.smp
      node() { exec $dir/beam.smp -c 'read -t 30 <>$0/fifo' "$1" -home "$1"; }
      mkfifo $dir/fifo $dir.other/fifo
      node $dir & own=$!
      node $dir.other & other=$!
      until grep -q beam /proc/$own/comm && grep -q beam /proc/$other/comm; do sleep 0.01; done
      spec/rabbit stop $dir
      { kill -0 $own && echo own; kill -0 $other && echo other; kill $other; } 2>/dev/null
    ]]):format(dir))
    assert.equal("other\n", out)
  end)
end)
