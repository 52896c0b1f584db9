-- The annotations, the reference made from them, and what mxrun really has: all three agree.
local reference = loadfile "docs/reference.lua"()
local blocks = reference.blocks_of "docs/meta/mx.lua"

local function read(path)
  local f = assert(io.open(path))
  local text = f:read "*a"
  f:close()
  return text
end

local annotations = read "docs/meta/mx.lua"

-- { ["mx"] = { publish = true, ... }, ["mx.Receipt"] = { wait = true } }: the documented functions by their owner; then fields.
local function documented()
  local by, fields, class_of, class = {}, {}, {}, nil
  for line in io.lines "docs/meta/mx.lua" do
    class = line:match "^%-%-%-@class ([%w.]+)" or class
    local variable = line:match "^local (%u%w*) = {}" or line:match "^(mx) = {}"
    if variable then class_of[variable], by[class] = class, by[class] or {} end
    local name = line:match "^function mx%.([%w_]+)%(" or line:match "^mx%.([%w_]+) = "
    if name then by.mx[name] = true end
    local owner, method = line:match "^function (%u%w*):([%w_]+)%("
    if owner then by[class_of[owner]][method] = true end
  end
  for _, b in ipairs(blocks) do
    if b.class then
      fields[b.class] = {}
      for _, f in ipairs(b.fields) do fields[b.class][f:match "^[%w_]+"] = true end
    end
  end
  return by, fields
end

local function names(t)
  local list = {}
  for name in pairs(t) do
    if type(name) == "string" and not name:find "^__" then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

local function methods(object)
  local list = {}
  for name, value in pairs(getmetatable(object).__index) do
    if type(value) == "function" then list[name] = true end
  end
  return list
end

describe("the reference", function()
  local by, fields = documented()
  for name in pairs(fields.mx) do by.mx[name] = true end

  it("is what make docs writes", function()
    assert.equal(reference.render(blocks), read "docs/api.md")
  end)

  it("names each function and field of mx, and nothing else", function()
    assert(mx.test)
    assert.same(names(by.mx), names(mx))
  end)

  -- A name that is like no other makes the error list what there is.
  it("names each option of each function", function()
    local odd = { qqqqqqqqqq = true }
    local function nop() end
    for class, call in pairs {
      ["mx.ConnectOptions"] = function() mx.connect(odd) end,
      ["mx.QueueOptions"] = function() mx.queue("docs", odd) end,
      ["mx.ExchangeOptions"] = function() mx.exchange("docs", odd) end,
      ["mx.PublishOptions"] = function() mx.publish("", "docs", "", odd) end,
      ["mx.PublisherOptions"] = function() mx.publisher(odd) end,
      ["mx.TcpOptions"] = function() mx.tcp("localhost", 1, odd) end,
      ["mx.TlsOptions"] = function() mx.connect { url = "amqps://localhost", tls = odd } end,
      ["mx.ConsumeOptions"] = function() mx.consume("docs", odd, nop) end,
      ["mx.ConsumeBatchOptions"] = function() mx.consume_batch("docs", odd, nop) end,
      ["mx.BatchLimits"] = function() mx.publisher { batch = odd } end,
      ["mx.HealthOptions"] = function() mx.health("docs", odd, nop) end,
      ["mx.WhoOptions"] = function() mx.memory.who({}, odd) end,
      ["mx.ProfileOptions"] = function() mx.profile.start(odd) end,
      ["mx.ContinuousOptions"] = function() mx.profile.continuous(odd) end,
      ["mx.RetryOptions"] = function() mx.consume("docs", { retry = odd }, nop) end,
      ["mx.Workload"] = function() mx.workload(odd) end,
      ["mx.WorkloadProducers"] = function() mx.workload { producers = odd } end,
      ["mx.WorkloadStage"] = function() mx.workload { producers = { key = "docs", stages = { odd } } } end,
      ["mx.WorkloadConsumers"] = function() mx.workload { consumers = odd } end,
    } do
      local ok, e = pcall(call)
      assert.is_false(ok)
      local list = assert(tostring(e):match "unknown option 'qqqqqqqqqq'; there is (.*)$", e)
      local real = {}
      for name in list:gmatch "[%w_]+" do real[name] = true end
      assert.same(names(fields[class]), names(real), class)
    end
  end)

  it("names each function of mx.amqp, mx.health, mx.json, mx.log, mx.memory, mx.pool, mx.profile and mx.test", function()
    assert(mx.test)                               -- loaded when first asked for
    for _, part in ipairs { "amqp", "health", "json", "log", "memory", "pool", "profile", "test" } do
      for name in pairs(mx[part]) do
        local text = ("%s.%s"):format(part, name)
        local class = "mx." .. part:sub(1, 1):upper() .. part:sub(2)
        assert.is_truthy(fields[class] and fields[class][name] or annotations:find("mx." .. text .. "(", 1, true), text)
      end
    end
  end)

  it("names each method of each object", function()
    local conn = assert(mx.connect { url = "mem://docs" })
    local objects = {
      ["mx.Publisher"] = conn:publisher(), ["mx.Task"] = mx.spawn(function() end), ["mx.Timer"] = mx.after(0, function() end),
      ["mx.Channel"] = mx.chan(1), ["mx.Semaphore"] = mx.semaphore(1), ["mx.Counter"] = mx.counter "docs_c",
      ["mx.Gauge"] = mx.gauge "docs_g", ["mx.Histogram"] = mx.histogram "docs_h",
      ["mx.Snapshot"] = mx.memory.snapshot(), ["mx.Socket"] = setmetatable({}, require "mx.tcp".Socket),
    }
    assert(conn:queue "docs")
    objects["mx.DeadLetters"] = assert(conn:dlq "docs")
    objects["mx.TestBroker"], objects["mx.TestHarness"] = mx.test.broker(), mx.test.load "examples/refunds.lua"
    assert(conn:publish("", "docs", "x"))
    local batches = assert(conn:consume_batch("docs", { size = 1 }, function(batch) objects["mx.Batch"] = batch end))
    mx.test.eventually(function() return objects["mx.Batch"] end)
    batches:stop()
    objects["mx.Consumer"] = assert(conn:consume("docs", function() end))
    for class, object in pairs(objects) do assert.same(names(by[class]), names(methods(object)), class) end
    conn:close()
  end)
end)
