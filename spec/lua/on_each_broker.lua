-- Runs a group of specs on mem:// and on RabbitMQ (MXRUN_SPEC_AMQP), so that both answer alike.
-- f(connect, name, again): connect() gives a connection of its own broker, closed after the spec; name(base) a name nobody
-- else uses; again(conn) one more connection to the broker of conn.
-- A spec passes its own describe and after_each, which busted keeps in the environment of the spec file.

local count = 0
local function name(base)
  count = count + 1
  return ("%s.%d.%d"):format(base, os.time(), count)
end

-- Waits until f() is true; a busy machine may take its time.
local function eventually(f) return mx.test.eventually(f, 10) end

local function on(broker, what, f, describe, after_each)
  describe(what .. " on " .. broker[1], function()
    local open, urls = {}, {}
    after_each(function()
      for i, c in ipairs(open) do
        c:close()
        open[i], urls[c] = nil, nil
      end
    end)
    local function connect(options)
      options = options or {}
      options.url = options.url or broker[2]()
      local c = assert(mx.connect(options))
      open[#open + 1], urls[c] = c, options.url
      return c
    end
    f(connect, name, function(c) return connect { url = urls[c] } end)
  end)
end

-- on_each_broker, eventually
return function(describe, after_each)
  local brokers = { { "mem://", function() count = count + 1 return "mem://spec" .. count end } }
  local amqp = os.getenv "MXRUN_SPEC_AMQP"
  if amqp then brokers[2] = { "RabbitMQ", function() return amqp end } end
  return function(what, f)
    for _, broker in ipairs(brokers) do on(broker, what, f, describe, after_each) end
  end, eventually
end
