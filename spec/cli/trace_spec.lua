-- OpenTelemetry: the context that travels with messages, and spans that reach a collector (spec/tcp/collector).
local cli = dofile "spec/cli/run.lua"

local CHAIN = [[
  assert(mx.queue "a") assert(mx.queue "b")
  mx.consume("a", function(msg)
    mx.trace("lookup", mx.sleep, 0.001)
    assert(mx.publish("", "b", { n = 1 }, { id = "m-1", correlation_id = "c-1" }))
  end)
  mx.consume("b", function(msg)
    print(msg.headers.traceparent, msg.headers.tracestate, msg.headers.baggage)
    mx.stop()
  end)
  local headers = { traceparent = mx.config.traceparent, tracestate = mx.config.tracestate, baggage = mx.config.baggage }
  assert(mx.publish("", "a", "hello", { headers = headers }))
]]

-- Runs the script with a collector beside it: what it printed, its exit code, its stderr, and the requests that the collector saw.
local function traced(script, environment, options, statuses)
  local path, file = cli.file(script), os.tmpname()
  local out, code, why = cli.shell(([[
    rm -f $FILE
    mkfifo $FILE.in
    spec/tcp/collector $FILE %s <$FILE.in & collector=$!
    exec 3>$FILE.in
    until grep -q port $FILE 2>/dev/null; do sleep 0.02; done
    port=$(sed -n 's/^port //p' $FILE)
    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:$port/ OTEL_SERVICE_NAME=shop %s $MXRUN -u mem:// %s %s
    code=$?
    exec 3>&-
    wait $collector
    rm $FILE.in
    exit $code]]):gsub("%$FILE", file):format(statuses or "", environment or "", options or "", path))
  local requests, spans = {}, {}
  for line in cli.read(file):gmatch "[^\n]+" do
    local status, to, key, body = line:match "^(%d+) (%S+) (%S+) (.*)$"
    if status then requests[#requests + 1] = { status = tonumber(status), path = to, key = key, data = assert(mx.json.decode(body)) } end
    if status == "200" then
      for _, s in ipairs(requests[#requests].data.resourceSpans[1].scopeSpans[1].spans) do spans[s.name] = s end
    end
  end
  os.remove(path)
  os.remove(file)
  return { out = out, code = code, why = why, requests = requests, spans = spans }
end

local function attributes(span)
  local t = {}
  for _, a in ipairs(span.attributes) do t[a.key] = a.value.stringValue or tonumber(a.value.intValue) end
  return t
end

describe("a trace", function()
  it("goes from a delivery to what its handler publishes, as spans under each other", function()
    local r = traced(CHAIN, "OTEL_EXPORTER_OTLP_HEADERS=x-key=a%2Db OTEL_RESOURCE_ATTRIBUTES=region=eu", "--set baggage=k=v")
    assert.same({ 0, "" }, { r.code, r.why })
    assert.equal(1, #r.requests)
    assert.same({ "/v1/traces", "a-b" }, { r.requests[1].path, r.requests[1].key })
    local s = r.spans
    local first, process, lookup, second, last = s["publish a"], s["process a"], s["lookup"], s["publish b"], s["process b"]
    for _, span in ipairs { first, process, lookup, second, last } do
      assert.equal(first.traceId, span.traceId)
      assert.is_true(#span.traceId == 32 and #span.spanId == 16)
      assert.is_true(tonumber(span.endTimeUnixNano) >= tonumber(span.startTimeUnixNano))
      assert.is_true(math.abs(tonumber(span.startTimeUnixNano) / 1e9 - os.time()) < 60)
      assert.is_nil(span.status)
    end
    assert.same({ nil, first.spanId, process.spanId, process.spanId, second.spanId },
                { first.parentSpanId, process.parentSpanId, lookup.parentSpanId, second.parentSpanId, last.parentSpanId })
    assert.same({ 4, 5, 1 }, { first.kind, process.kind, lookup.kind })
    assert.equal(("00-%s-%s-01\tnil\tk=v\n"):format(second.traceId, second.spanId), r.out)
    local a = attributes(process)
    assert.same({ "rabbitmq", "process", "process", "a", "a", 5, 1 },
                { a["messaging.system"], a["messaging.operation.name"], a["messaging.operation.type"], a["messaging.destination.name"],
                  a["messaging.rabbitmq.destination.routing_key"], a["messaging.message.body.size"], a["mxrun.attempt"] })
    a = attributes(second)
    assert.same({ "send", "m-1", "c-1" },
                { a["messaging.operation.type"], a["messaging.message.id"], a["messaging.message.conversation_id"] })
    a = attributes(r.requests[1].data.resourceSpans[1].resource)
    assert.same({ "shop", "eu", "mxrun" }, { a["service.name"], a.region, a["telemetry.sdk.name"] })
  end)

  it("has a span of each batch, linked to the messages it is of, above what the handler publishes", function()
    local r = traced [[
      assert(mx.queue "a") assert(mx.queue "b")
      mx.trace("cause", function()
        for i = 1, 3 do assert(mx.publish("", "a", "x")) end
      end)
      mx.consume_batch("a", { size = 3 }, function() assert(mx.publish("", "b", "x")) end)
      mx.consume("b", function() mx.stop() end)
    ]]
    local batch, causes = r.spans["process a"], {}
    for _, request in ipairs(r.requests) do
      for _, s in ipairs(request.data.resourceSpans[1].scopeSpans[1].spans) do
        if s.name == "publish a" then causes[#causes + 1] = { s.traceId, s.spanId } end
      end
    end
    local links = {}
    for i, l in ipairs(batch.links) do links[i] = { l.traceId, l.spanId } end
    table.sort(causes, function(x, y) return x[2] < y[2] end)
    table.sort(links, function(x, y) return x[2] < y[2] end)
    assert.same(causes, links)
    assert.equal(3, #links)
    assert.same({ 5, 0, 3 }, { batch.kind, batch.droppedLinksCount, attributes(batch)["messaging.batch.message_count"] })
    assert.is_nil(batch.parentSpanId)
    assert.not_equal(r.spans.cause.traceId, batch.traceId)
    assert.equal(batch.spanId, r.spans["publish b"].parentSpanId)
  end)

  local PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

  it("goes on with the context that a message brings", function()
    local r = traced(CHAIN, "", "--set traceparent=" .. PARENT .. " --set tracestate=x=1")
    local first = r.spans["publish a"]
    assert.same({ "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7" }, { first.traceId, first.parentSpanId })
    assert.matches("^00%-4bf92f3577b34da6a3ce929d0e0e4736%-%x+%-01\tx=1\tnil\n$", r.out)
    assert.equal("x=1", r.spans["process b"].traceState)
  end)

  it("begins anew where the context is none", function()
    local empty = "00-00000000000000000000000000000000-00f067aa0ba902b7-01"
    for _, broken in ipairs { "nonsense", empty, PARENT:upper(), "ff" .. PARENT:sub(3) } do
      local r = traced(CHAIN, "OTEL_TRACES_EXPORTER=none OTEL_PROPAGATORS=tracecontext", "--set traceparent=" .. broken)
      assert.matches("^00%-%x+%-%x+%-01", r.out)
      assert.is_nil(r.out:find("4bf92f3577b34da6", 1, true))
    end
  end)

  it("is sampled as the parent was, or as the environment says, and carried all the same", function()
    local r = traced(CHAIN, "", "--set traceparent=" .. PARENT:sub(1, -2) .. "0")
    assert.same({ 0, 0 }, { r.code, #r.requests })
    assert.matches("^00%-4bf92f3577b34da6a3ce929d0e0e4736%-%x+%-00\t", r.out)
    for _, how in ipairs { "always_off", "parentbased_always_off", "traceidratio OTEL_TRACES_SAMPLER_ARG=0" } do
      r = traced(CHAIN, "OTEL_TRACES_SAMPLER=" .. how)
      assert.equal(0, #r.requests)
      assert.matches("^00%-%x+%-%x+%-00\t", r.out)
    end
    r = traced(CHAIN, "OTEL_TRACES_SAMPLER=always_on", "--set traceparent=" .. PARENT:sub(1, -2) .. "0")
    assert.is_truthy(r.spans["process b"])
    r = traced(CHAIN, "OTEL_TRACES_SAMPLER=sometimes")
    assert.is_truthy(r.spans["process b"])
    assert.matches("OTEL_TRACES_SAMPLER 'sometimes' is not known", r.why)
  end)

  it("is not there unless the environment asks for it", function()
    for _, off in ipairs { "OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=none", "OTEL_EXPORTER_OTLP_ENDPOINT=" } do
      local r = traced(CHAIN, off)
      assert.same({ "nil\tnil\tnil\n", 0, 0 }, { r.out, r.code, #r.requests })
    end
    local r = traced(CHAIN, "OTEL_TRACES_EXPORTER=none OTEL_PROPAGATORS=tracecontext")
    assert.matches("^00%-", r.out)
    assert.equal(0, #r.requests)
  end)

  it("says what failed, in the span and under its number in the log", function()
    local r = traced [[
      assert(mx.queue "a")
      mx.consume("a", { retry = { max = 0 } }, function(msg)
        mx.after(0.1, mx.stop)
        mx.publish("", "nowhere", "x")
        error "no luck with amqp://u:secret@h"
      end)
      assert(mx.publish("", "a", "x"))
    ]]
    assert.equal(0, r.code)
    local span = r.spans["process a"]
    assert.equal(2, span.status.code)
    assert.matches("no luck with amqp://u:%*%*%*@h", span.status.message)
    assert.equal("error", attributes(span)["error.type"])
    assert.equal("unroutable", attributes(r.spans["publish nowhere"])["error.type"])
    assert.matches("trace_id=" .. span.traceId, r.why)
  end)

  it("has spans of one's own, which change nothing of a function", function()
    for _, environment in ipairs { "", "OTEL_SDK_DISABLED=true" } do
      local r = traced([[
        print(mx.trace("outer", function(...) return select("#", ...), mx.trace("inner", function() return "in", nil end) end, 1, nil))
        print(pcall(mx.trace, "bad", error, "oops"))
        print(select(2, pcall(mx.trace, "bad", error, mx.error("timeout", "late"))).code)
      ]], environment)
      assert.equal("2\tin\tnil\nfalse\toops\ntimeout\n", r.out)
      if environment == "" then assert.equal(r.spans.outer.spanId, r.spans.inner.parentSpanId) end
    end
  end)
end)

describe("spans", function()
  local MANY = [[
    for i = 1, 30 do mx.trace("span " .. i, function() end) end
    mx.sleep(tonumber(mx.config.wait or 0))
    local export = require "mx.trace.export"
    mx.on("stop", function() end)
    print(export.exported.value, export.dropped.value)
  ]]

  it("go in batches, and what the queue has no room for is dropped and counted", function()
    local r = traced(MANY, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=10 OTEL_BSP_MAX_QUEUE_SIZE=100", "--set wait=0.5")
    assert.same({ "30\t0\n", 3 }, { r.out, #r.requests })
    r = traced(MANY, "OTEL_BSP_MAX_QUEUE_SIZE=12")
    assert.equal("0\t18\n", r.out)
    assert.equal(12, #r.requests[1].data.resourceSpans[1].scopeSpans[1].spans)
  end)

  it("are sent again while the collector is away for a moment", function()
    local r = traced(MANY, "OTEL_BSP_SCHEDULE_DELAY=10", "--set wait=3", "503")
    assert.same({ "30\t0\n", 0 }, { r.out, r.code })
    assert.same({ 503, 200 }, { r.requests[1].status, r.requests[2].status })
    assert.matches("the collector of traces takes nothing error=\"HTTP status 503\"", r.why)
    assert.matches("the collector of traces takes spans again", r.why)
  end)

  it("are dropped and counted when the collector refuses them", function()
    local r = traced(MANY, "OTEL_BSP_SCHEDULE_DELAY=10", "--set wait=0.5", "400")
    assert.same({ "0\t30\n", 0 }, { r.out, r.code })
    assert.matches("the collector of traces refuses spans error=\"HTTP status 400\"", r.why)
  end)

  it("of a collector that is not there cost nothing but a line in the log", function()
    local r = traced(CHAIN, "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1")
    assert.equal(0, r.code)
    assert.matches("^00%-", r.out)
    assert.equal(1, select(2, r.why:gsub("the collector of traces takes nothing", "")))
    r = traced(CHAIN, "OTEL_EXPORTER_OTLP_ENDPOINT=file:///etc/passwd")
    assert.equal(0, r.code)
    assert.matches("the collector of traces takes nothing", r.why)
  end)
end)
