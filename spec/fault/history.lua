-- What the workload scripts share: the file that remembers what happened (history.py reads it), and bodies that show when
-- they were torn. A body is a function of its id and size, so that the reader can make it again.
local M = {}
local file

local function write(...) file:write(table.concat({ ... }, " "), "\n") end
local function time() return ("%.6f"):format(mx.now()) end

-- Line by line, so that what happened is there when the process is gone. What the connection tells is remembered too.
function M.open(path)
  file = assert(io.open(path, "a"))
  file:setvbuf "line"
  for _, event in ipairs { "up", "down", "recovered", "cancelled", "blocked", "unblocked", "stop" } do
    mx.on(event, function(_, e) M.event(event, (tostring(e):gsub("%s+", " "))) end)
  end
end

function M.connect()
  local c = mx.config
  return assert(mx.connect {
    heartbeat = c.heartbeat, connect_timeout = c.connect_timeout,
    reconnect = { base = c.base or 0.1, max = c.max or 2, jitter = c.jitter ~= 0 },
    urls = c.urls and mx.json.decode(c.urls), order = c.urls and "listed" or nil,
  })
end

function M.body(id, size)
  local head = id .. " " .. size .. " "
  return head .. (id .. "."):rep(math.ceil(size / (#id + 1))):sub(1, size - #head)
end

function M.publishing(id) write("published", id, time()) end
function M.ended(id, state, at) write("ended", id, state, ("%.6f"):format(at), time()) end

-- A handler begins with the message, and has come to its end.
function M.delivered(msg)
  local body = msg.body
  local id, size = body:match "^(%S+) (%d+) "
  local whole = id and id == msg.id and body == M.body(id, tonumber(size))
  write("delivered", tostring(msg.id):gsub("%s", "_"), time(), msg.redelivered and 1 or 0,
        tonumber(msg.headers["x-mx-attempt"]) or 1, whole and "whole" or "torn")
end
function M.handled(id) write("handled", id, time()) end

function M.event(name, text) write("event", name, time(), text) end

-- What must not have happened.
function M.wrong(...) write("wrong", ...) end

return M
