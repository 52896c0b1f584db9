-- A mem:// broker of its own whose faults a spec switches on (runtime/link/faults.c).
local ffi = require "ffi"
local C = ffi.C
local conns, check = require "mx.conn", require "mx.check"

local M = {}
local Broker = {}
Broker.__index = Broker
local count = 0

local function number(name, n)
  n = n == nil and 1 or n
  check.arg(1, "broker:" .. name, n, "integer>=0")
  return n
end

-- The broker behind mem://NAME, as far as links opened from now on see it.
function M.of(name) return setmetatable({ name = name, faults = C.mx_faults_of(name) }, Broker) end

function M.new()
  count = count + 1
  return M.of("test.broker." .. count)
end

function Broker:url() return "mem://" .. self.name end

-- A connection to it; the options are mx.connect's.
function Broker:connect(options)
  local o = { url = self:url() }
  for k, v in pairs(options or {}) do o[k] = v end
  return conns.new(o)
end

-- Confirms come that late; 0: at once again.
function Broker:delay(seconds) self.faults.delay = check.seconds(seconds) end

-- The next n publishes are nacked.
function Broker:nack(n) self.faults.nack = number("nack", n) end

-- The next n mandatory publishes come back as unroutable.
function Broker:return_(n) self.faults.give_back = number("return_", n) end

-- Publishing waits, as while RabbitMQ is short of memory.
function Broker:block() self.faults.blocked = 1 end
function Broker:unblock() self.faults.blocked = 0 end

-- The channels that publish are closed now; what is pending ends as closed.
function Broker:close_channel() self.faults.close_channels = self.faults.close_channels + 1 end

return M
