-- What TLS is told by a script: the options, what must hold of them, and the struct that C reads.
local ffi = require "ffi"
local C = ffi.C
local err, log, topology = require "mx.err", require "mx.log", require "mx.topology"

local M = {}

M.OPTIONS = {
  ca = "string", cert = "string", key = "string", crl = "string", server_name = "string", min_version = { "1.2", "1.3" },
  verify = "boolean", insecure = "boolean",
}

-- What is wrong with the options, nil: nothing.
function M.wrong(t)
  if (t.cert == nil) ~= (t.key == nil) then return err.new("config", "tls.cert and tls.key go together") end
  if t.external and not t.cert then return err.new("config", "to log in by certificate needs tls.cert and tls.key") end
  if t.verify == false and not t.insecure then
    return err.new("config", "tls.verify = false trusts whoever answers; if that is meant, set tls.insecure = true as well")
  end
end

-- A table for ffi.new of mx_link_tls, and what keeps its texts alive. peer: for the log.
function M.struct(t, peer)
  local anchor = {}
  local function span(text)
    anchor[#anchor + 1] = text
    return topology.span(text or "")
  end
  if t.verify == false then log.warn("the peer's certificate is not verified (tls.verify = false)", { peer = peer }) end
  return {
    ca = span(t.ca), cert = span(t.cert), key = span(t.key), crl = span(t.crl), name = span(t.server_name),
    min_version = t.min_version == "1.3" and 13 or 12, unverified = t.verify == false and 1 or 0, external = t.external and 1 or 0,
  }, anchor
end

-- Says which files were changed to something that cannot be used: after a connection was begun, and after a reload.
function M.tell()
  local why = C.mx_tls_trouble()
  while why ~= nil do
    log.warn("TLS goes on with what it had read before", { error = ffi.string(why) })
    why = C.mx_tls_trouble()
  end
end

function M.reload()
  local sets = C.mx_tls_reload()
  M.tell()
  if sets > 0 then log.info "the files of TLS were read again" end
end

return M
