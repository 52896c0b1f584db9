-- Runs a group of specs on mem:// and on RabbitMQ (MXRUN_SPEC_AMQP), so that both answer alike.
-- f(connect, name): connect() gives a connection of its own broker, closed after the spec; name(base) a name nobody else uses.
-- A spec passes its own describe and after_each, which busted keeps in the environment of the spec file.

local count = 0
local function name(base)
  count = count + 1
  return ("%s.%d.%d"):format(base, os.time(), count)
end

return function(describe, after_each)
  return function(what, f)
  local brokers = { { "mem://", function() count = count + 1 return "mem://spec" .. count end } }
  local amqp = os.getenv "MXRUN_SPEC_AMQP"
  if amqp then brokers[2] = { "RabbitMQ", function() return amqp end } end
  for _, broker in ipairs(brokers) do
    describe(what .. " on " .. broker[1], function()
      local open = {}
      after_each(function()
        for i, c in ipairs(open) do
          c:close()
          open[i] = nil
        end
      end)
      f(function(options)
        options = options or {}
        options.url = broker[2]()
        local c = assert(mx.connect(options))
        open[#open + 1] = c
        return c
      end, name)
    end)
  end
  end
end
