-- What a caller does wrong raises at the caller's line and says what would be right.
local CASES = {
  ["a code of an error that is not one"] = {
    [[mx.error: unknown code 'timeut', did you mean 'timeout'?]], function() mx.error("timeut", "x") end },
  ["a code that resembles none"] = {
    "mx.error: unknown code 'nil'; there is access, backpressure, channel, closed, config, connection, internal, interrupted, "
    .. "memory, nacked, serialization, timeout, unroutable, validation", function() mx.error(nil, "x") end },
  ["a timestamp between two seconds"] = {
    "publish: option 'timestamp': expected whole seconds since 1970, got 1.5",
    function() mx.publish("", "q", "x", { timestamp = 1.5 }) end },
  ["a number as a line of the log"] = { "mx.log.info: expected a text or an error, got a number", function() mx.log.info(5) end },
  ["a line of the log that is not written, too"] = {
    "mx.log.debug: expected a text or an error, got a table", function() mx.log.debug {} end },
  ["a counter without the values of its labels"] = {
    "counter c: expected a text for each of its labels: country, tenant",
    function() mx.counter("c", "", { "country", "tenant" }):inc() end },
  ["a label's value that is no text"] = {
    "counter d: expected a text for each of its labels: country", function() mx.counter("d", "", { "country" }):inc(1, {}) end },
  ["a value for a label that it has not"] = { "counter e: it has no labels", function() mx.counter("e"):get("PL") end },
  ["a counter that goes back"] = { "counter:inc: expected a number of 0 or more", function() mx.counter("e"):inc(-1) end },
  ["a gauge that is no number"] = { "gauge:set: expected a number, got a nil", function() mx.gauge("g"):set() end },
  ["a sample that is no number"] = {
    "histogram:observe: expected seconds, got a string", function() mx.histogram("h"):observe "1" end },
  ["a list of queues"] = {
    "mx.topology: queues are given by name: queues = { orders = {} }", function() mx.topology { queues = { "orders" } } end },
  ["a list of exchanges"] = {
    'mx.topology: exchanges are given by name: exchanges = { app = "topic" }', function() mx.topology { exchanges = { "app" } } end },
  ["a queue without a table of options"] = {
    "mx.topology: queues.orders: expected a table of options, got true", function() mx.topology { queues = { orders = true } } end },
  ["a binding that is none"] = {
    "mx.topology: bindings: expected { queue, exchange, key, args } at [1]", function() mx.topology { bindings = { "orders" } } end },
}

describe("a mistake of the caller", function()
  for what, case in pairs(CASES) do
    it(what, function()
      local ok, e = pcall(case[2])
      assert.is_false(ok)
      assert.equal(("spec/lua/misuse_spec.lua:%d: %s"):format(debug.getinfo(case[2], "S").linedefined, case[1]), e)
    end)
  end

  it("is not a label whose value the message lacks", function()
    local c = mx.counter("sold", "", { "country" })
    c:inc(2, nil)
    c:inc(1, "PL")
    assert.same({ 2, 1 }, { c:get "", c:get "PL" })
  end)
end)
