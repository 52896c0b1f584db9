-- The alerts and the dashboard of contrib/ ask for metrics and labels that /metrics has.
local cli = dofile "spec/cli/run.lua"
local MXRUN = os.getenv "MXRUN" or "build/mxrun"

local SCRIPT = [[
mx.topology { queues = { orders = { dlq = true } } }
mx.consume("orders", function(msg) return "reject", "bad" end)
mx.publish("", "orders", "x")
mx.health.connections { min = 1 }
]]

-- What a script under -w serves as /metrics, once its workers have told what they counted.
local function metrics()
  local script, log = cli.file(SCRIPT), os.tmpname()
  local p = io.popen(("MXRUN_URLS= %s -u mem:// -w 2 --http 127.0.0.1:0 %s </dev/null >%s 2>&1 & echo $!"):format(MXRUN, script, log))
  local pid = p:read "*n"
  p:close()
  local function get(port)
    local s = assert(mx.tcp("127.0.0.1", port, { timeout = 20 }))
    s:send "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    local text = s:receive "*a"
    s:close()
    return text
  end
  local text
  local ok = pcall(mx.test.eventually, function()
    local port = tonumber(cli.read(log):match "http=127.0.0.1:(%d+)")
    text = port and get(port)
    return text and text:find('mxrun_health_status{', 1, true) and text:find 'rejected"} [12]'
  end, 20)
  os.execute(("kill %d"):format(pid))
  local said = cli.read(log)
  os.remove(script)
  os.remove(log)
  assert(ok, said)
  return text
end

-- name → set of its labels; parts of a histogram by the names that queries have.
local function names_of(exposed)
  local names = {}
  for name, labels in exposed:gmatch "\n([%a_][%w_]*){?([^}\n]*)" do
    local set = names[name] or {}
    names[name] = set
    for label in labels:gmatch '([%a_]+)="' do set[label] = true end
  end
  return names
end

-- What was scraped with: Prometheus adds these.
local ADDED = { instance = true, job = true }

describe("contrib", function()
  local names, text
  setup(function()
    text = metrics()
    names = names_of(text)
  end)

  for path, least in pairs { ["contrib/prometheus-rules.yml"] = 14, ["contrib/dashboard.json"] = 20 } do
    it(path .. " names metrics that there are, with labels that they have", function()
      local n, asked = 0, cli.read(path):gsub('\\"', '"')
      for name in asked:gmatch "%f[%w_][%a]+_[%w_]+" do
        if name:find "^mxrun_" or name:find "^messaging_" or name:find "^process_" then
          n = n + 1
          assert.is_truthy(names[name], name .. " is not in /metrics")
        end
      end
      for name, selector in asked:gmatch "%f[%w_]([%a]+_[%w_]+)(%b{})" do
        for label in selector:gmatch "([%a_]+)[=!]" do
          assert.is_true(names[name][label] or ADDED[label] or false, name .. " has no label " .. label)
        end
      end
      assert.is_true(n >= least, "only " .. n)
    end)
  end

  it("dashboard.json is JSON with panels that have queries", function()
    local panels = mx.json.decode(cli.read "contrib/dashboard.json").panels
    assert.is_true(#panels > 8)
    for _, panel in ipairs(panels) do assert.is_truthy(panel.targets[1].expr, panel.title) end
  end)
end)
