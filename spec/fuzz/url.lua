-- Any text: an address or a reason, and no password in either.
local url, err = require "mx.url", require "mx.err"

return function(text)
  local u, e = url.parse(text)
  local once = select(2, text:gsub("S3CRET", "")) == 1
  local password = u and u.password or not u and text:match "^%w+://[^:/?@]*:([^/?@]*)@"
  if once and password and password:find "S3CRET" then
    assert(not url.hide(text):find "S3CRET", url.hide(text))
    assert(not tostring(e or u.text):find "S3CRET", tostring(e))
  end
  if not u then
    assert(err.is(e) and e.code == "config")
    return
  end
  if u.scheme == "mem" then return end
  local port = tonumber(u.port)
  assert(port and port >= 1 and port <= 65535 and port == math.floor(port), u.port)
  for _, field in ipairs { "host", "user", "password", "vhost", "text" } do
    assert(type(u[field]) == "string" and not u[field]:find "%z", field)
  end
  assert(u.host ~= "" and u.vhost ~= "")
end
