-- mx.tcp: sockets for handlers, as OpenResty's cosockets. C reads and writes; here it is decided what was asked for.
local ffi = require "ffi"
local C = ffi.C
local turn, err, check, tls = require "mx.turn", require "mx.err", require "mx.check", require "mx.tls"
local type, tonumber, pcall, error, max, min = type, tonumber, pcall, error, math.max, math.min

local MOST = 64 * 1024 * 1024           -- what one receive may ask for
local SLICE = 256 * 1024                -- what of a send is copied at once
local OPTIONS = { tls = "boolean|table", timeout = "seconds" }

local Socket = {}
Socket.__index = Socket

local M = { Socket = Socket, OPTIONS = OPTIONS }

-- What C says is written for brokers.
local function peers(text)
  return (text:gsub("; is this the port for amqps://%?", ""):gsub("the broker", "the server"))
end

local function failed(self, op, code, text) return err.new(code, self.text .. ": " .. text, { op = op }) end

local function late(self, op) return failed(self, op, "timeout", ("%s: not done within %.3g s"):format(op, self.timeout)) end

-- Why nothing more comes or goes.
local function ended(self, op)
  local s = self.sock
  if not s then return failed(self, op, "closed", "closed") end
  return err.of_code(s.code, op, self.text .. ": " .. peers(ffi.string(s.error)))
end

local function shut(self)
  local s = self.sock
  if not s then return end
  self.sock = nil
  C.mx_sock_close(ffi.gc(s, nil))
end

-- Waits for the ticket as the one who does op; a code as of a wait. is: "receiving" or "sending".
local function await(self, is, ticket)
  self[is] = true
  local ok, code = pcall(turn.await, ticket, is)
  self[is] = false
  return ok, code
end

local function only_one(self, is, op)
  if self[is] then check.fail(op .. ": busy, another task is " .. is) end
end

-- Opening -------------------------------------------------------------------------------------------------------

-- What C reads of them; the socket keeps it alive.
local function struct(self, secrets)
  if not secrets then return end
  local t
  t, self.anchor = tls.struct(secrets, self.text)
  return ffi.new("mx_link_tls", t)
end

-- Waits until it is open. self | nil, err
local function opened(self, ticket, op)
  local ok, code = await(self, "connecting", ticket)
  if ok and self.sock and self.sock.state == C.MX_OPEN then return self end
  local e = ok and (code == 0 and ended(self, op) or late(self, op))
  shut(self)
  if not ok then error(code, 0) end
  return nil, e
end

local function open(self, host, port, timeout, secrets)
  local o = struct(self, secrets)
  local ticket = C.mx_wait_new(turn.waits, timeout)
  self.sock = ffi.gc(C.mx_sock_open(turn.runtime, host, port, o, ticket), C.mx_sock_close)
  if secrets then tls.tell() end
  return opened(self, ticket, "connect")
end

-- The options of TLS | nil, err
local function secrets_of(what, given, needs_name)
  local o = check.options(what, given == true and {} or given, tls.OPTIONS)
  local wrong = tls.wrong(o)
  if wrong then return nil, wrong end
  if needs_name and not o.server_name and o.verify ~= false then check.fail(what .. " over a local socket needs tls.server_name") end
  return o
end

-- host, port as texts; unix:/path has no port.
local function address(host, port)
  host = check.arg(1, "mx.tcp", host, "name")
  if host:find "%z" then check.fail "mx.tcp: the host has a zero byte" end
  if host:find "^unix:" then return host, "", host end
  port = ("%d"):format(check.arg(2, "mx.tcp", port, "integer 1..65535"))
  return host, port, (host:find(":", 1, true) and "[%s]:%s" or "%s:%s"):format(host, port)
end

-- sock | nil, err; parks until it is open.
function M.tcp(host, port, options)
  if options == nil and type(port) == "table" then port, options = nil, port end
  local text
  host, port, text = address(host, port)
  local o = check.options("mx.tcp", options or {}, OPTIONS)
  local secrets = o.tls
  if secrets then
    local wrong
    secrets, wrong = secrets_of("mx.tcp: tls", o.tls, port == "")
    if not secrets then return nil, wrong end
  end
  turn.here()
  local self = setmetatable({ text = text, host = host, timeout = o.timeout or 30 }, Socket)
  return open(self, host, port, self.timeout, secrets)
end

-- Receiving -----------------------------------------------------------------------------------------------------

local function take(self, n, skip)
  local s = self.sock
  local text = n > 0 and ffi.string(s.data, n) or ""
  C.mx_sock_take(s, n + skip)
  return text
end

local function partial(self, e) return nil, e, self.sock and take(self, tonumber(self.sock.size), 0) or "" end

-- measure(sock, size) answers how many bytes are to be returned and how many dropped behind them, or nil and how many bytes
-- there have to be before it is asked again.
local function receive(self, op, measure)
  only_one(self, "receiving", op)
  local due = C.mx_now() + self.timeout
  while self.sock do
    local s = self.sock
    local n, more = measure(s, tonumber(s.size))
    if n then return take(self, n, more) end
    if s.state == C.MX_CLOSED then return partial(self, ended(self, op)) end
    if more > MOST + 1 then
      return nil, failed(self, op, "validation", op .. ": no end within 64 MiB; what came is still there for receive(n)"), ""
    end
    local ticket = C.mx_wait_new(turn.waits, max(0, due - C.mx_now()))
    C.mx_sock_wait(s, more, ticket)
    local ok, code = await(self, "receiving", ticket)
    if not ok then
      if self.sock then C.mx_sock_take(s, 0) end
      error(code, 0)
    end
    if code ~= 0 then return partial(self, late(self, op)) end
  end
  return nil, ended(self, op), ""
end

local function exactly(count)
  return function(_, size)
    if size >= count then return count, 0 end
    return nil, count
  end
end

-- Up to the text, which is dropped; what was looked at is not looked at again.
local function up_to(text)
  local from = 0
  return function(s, size)
    local at = C.mx_sock_find(s, from, text, #text)
    if at >= 0 then return at, #text end
    from = max(0, size - #text + 1)
    return nil, size + 1
  end
end

local function line()
  local ending = up_to "\n"
  return function(s, size)
    local n, more = ending(s, size)
    if n and n > 0 and s.data[n - 1] == 13 then return n - 1, 2 end
    return n, more
  end
end

local function all(s, size)
  if s.state == C.MX_CLOSED and s.code == err.number.closed and size <= MOST then return size, 0 end
  return nil, size > MOST and size + 1 or MOST + 1
end

-- A text | nil, err, what came before it failed.
function Socket:receive(what)
  if what == nil or what == "*l" then return receive(self, "sock:receive", line()) end
  if what == "*a" then
    if self.read_all and self.sock then return nil, ended(self, "sock:receive"), "" end     -- a loop over it ends
    local text, e, rest = receive(self, "sock:receive", all)
    self.read_all = text ~= nil
    return text, e, rest
  end
  if type(what) ~= "number" then check.fail 'sock:receive: expected a number of bytes, "*l" or "*a"' end
  return receive(self, "sock:receive", exactly(check.arg(1, "sock:receive", what, "integer 0.." .. MOST)))
end

-- A function that receives up to the text and drops that.
function Socket:receiveuntil(text)
  text = check.arg(1, "sock:receiveuntil", text, "name")
  return function() return receive(self, "sock:receiveuntil", up_to(text)) end
end

-- Sending -------------------------------------------------------------------------------------------------------

-- nil | err
local function send_slice(self, p, n, due)
  local ticket = C.mx_wait_new(turn.waits, max(0, due - C.mx_now()))
  local code = C.mx_sock_send(self.sock, p, n, ticket)
  if code ~= err.number.again then
    C.mx_wait_drop(turn.waits, ticket)
    return code ~= 0 and ended(self, "sock:send") or nil
  end
  local ok, answer = await(self, "sending", ticket)
  if ok and answer == 0 and self.sock and self.sock.state == C.MX_OPEN then return nil end
  local e = ok and (answer == 0 and ended(self, "sock:send") or late(self, "sock:send"))
  if not ok or answer ~= 0 then shut(self) end          -- half of it is sent: nothing sensible could follow
  if not ok then error(answer, 0) end
  return e
end

-- How many bytes | nil, err; parks until the kernel has them all. data: a string, or a list of strings.
function Socket:send(data)
  if type(data) == "table" then
    local ok, text = pcall(table.concat, data)
    if not ok then check.fail "sock:send: expected a string or a list of strings" end
    data = text
  end
  data = check.arg(1, "sock:send", data, "string")
  turn.here()
  only_one(self, "sending", "sock:send")
  local due, p = C.mx_now() + self.timeout, ffi.cast("const char *", data)
  for at = 0, max(0, #data - 1), SLICE do
    if not self.sock then return nil, ended(self, "sock:send") end
    local e = send_slice(self, p + at, min(SLICE, #data - at), due)
    if e then return nil, e end
  end
  return #data
end

-- Encrypts what is open, as STARTTLS and its like ask for: what the server said before is to be received first. When it fails,
-- the socket is closed. true | nil, err
function Socket:starttls(options)
  local secrets, wrong = secrets_of("sock:starttls", options == nil and true or options, self.host:find "^unix:" ~= nil)
  if not secrets then return nil, wrong end
  turn.here()
  only_one(self, "receiving", "sock:starttls")
  only_one(self, "sending", "sock:starttls")
  if not self.sock then return nil, ended(self, "sock:starttls") end
  local o = struct(self, secrets)
  local ticket = C.mx_wait_new(turn.waits, self.timeout)
  local code = C.mx_sock_encrypt(self.sock, self.host, o, ticket)
  tls.tell()
  if code ~= 0 then
    C.mx_wait_drop(turn.waits, ticket)
    local text = "sock:starttls: " .. ffi.string(C.mx_refusal())
    if self.sock.state == C.MX_CLOSED then return nil, ended(self, "sock:starttls") end
    return nil, failed(self, "sock:starttls", code == err.number.config and "config" or "validation", text)
  end
  local ok, e = opened(self, ticket, "sock:starttls")
  if ok then return true end
  return nil, e
end

-- Closing -------------------------------------------------------------------------------------------------------

-- Of each later operation.
function Socket:settimeout(seconds) self.timeout = check.seconds(seconds) end

-- true | nil, err when it was closed already. Who waits for it is told.
function Socket:close()
  if not self.sock then return nil, ended(self, "sock:close") end
  shut(self)
  return true
end

-- There is no pool: scripts written for one work without.
function Socket:setkeepalive() return self:close() end
function Socket:getreusedtimes() return 0 end -- luacheck: ignore self

return M
