-- What TLS is told by a script: the checks of its options, and the struct that C reads.
local err, check, log, topology = require "mx.err", require "mx.check", require "mx.log", require "mx.topology"

local M = {}

local OPTIONS = {
  ca = "string", cert = "string", key = "string", crl = "string", server_name = "string", min_version = { "1.2", "1.3" },
  verify = "boolean", insecure = "boolean",
}

-- The checked options | nil, err; where: for the texts, "mx.tcp: tls".
function M.check(where, options)
  local t = check.options(where, options, OPTIONS)
  if (t.cert == nil) ~= (t.key == nil) then return nil, err.new("config", "tls.cert and tls.key go together") end
  if t.verify == false and not t.insecure then
    return nil, err.new("config", "tls.verify = false trusts whoever answers; if that is meant, set tls.insecure = true as well")
  end
  return t
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
    min_version = t.min_version == "1.3" and 13 or 12, unverified = t.verify == false and 1 or 0,
  }, anchor
end

return M
