-- What ngx does with texts: digests, base64, URIs, SQL.
local ffi = require "ffi"
local C = ffi.C

ffi.cdef [[
typedef struct evp_md_st EVP_MD;
const EVP_MD *EVP_md5(void);
const EVP_MD *EVP_sha1(void);
int EVP_Digest(const void *data, size_t n, unsigned char *to, unsigned *size, const EVP_MD *type, void *engine);
unsigned char *HMAC(const EVP_MD *type, const void *key, int key_size, const void *data, size_t n, unsigned char *to, unsigned *size);
int EVP_EncodeBlock(unsigned char *to, const unsigned char *from, int n);
]]

local M = {}
local digest, size = ffi.new "unsigned char[64]", ffi.new "unsigned[1]"

local function hash(text, kind)
  text = tostring(text == nil and "" or text)
  C.EVP_Digest(text, #text, digest, size, kind, nil)
  return ffi.string(digest, size[0])
end

function M.hex(bytes) return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

function M.md5_bin(text) return hash(text, C.EVP_md5()) end
function M.md5(text) return M.hex(M.md5_bin(text)) end
function M.sha1_bin(text) return hash(text, C.EVP_sha1()) end

function M.hmac_sha1(key, text)
  C.HMAC(C.EVP_sha1(), key, #key, text, #text, digest, size)
  return ffi.string(digest, size[0])
end

function M.encode_base64(text, no_padding)
  text = tostring(text == nil and "" or text)
  local to = ffi.new("unsigned char[?]", math.ceil(#text / 3) * 4 + 1)
  local encoded = ffi.string(to, C.EVP_EncodeBlock(to, text, #text))
  return no_padding and encoded:gsub("=+$", "") or encoded
end

local VALUE = {}
for i, c in ipairs { ("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"):byte(1, 64) } do VALUE[c] = i - 1 end

-- nil: it is none
function M.decode_base64(text)
  text = text:gsub("=+$", "")
  if #text % 4 == 1 then return nil end
  local out, value, bits = {}, 0, 0
  for i = 1, #text do
    local v = VALUE[text:byte(i)]
    if not v then return nil end
    value, bits = value * 64 + v, bits + 6
    if bits >= 8 then
      bits = bits - 8
      local byte = math.floor(value / 2 ^ bits)
      out[#out + 1], value = string.char(byte), value - byte * 2 ^ bits
    end
  end
  return table.concat(out)
end

local function percent(c) return ("%%%02X"):format(c:byte()) end

function M.escape_uri(text) return (tostring(text):gsub("[^%w%-._~]", percent)) end
function M.unescape_uri(text)
  return (tostring(text):gsub("+", " "):gsub("%%(%x%x)", function(code) return string.char(tonumber(code, 16)) end))
end

function M.encode_args(args)
  local names, out = {}, {}
  for name in pairs(args) do names[#names + 1] = name end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, name in ipairs(names) do
    local values = type(args[name]) == "table" and args[name] or { args[name] }
    for _, v in ipairs(values) do
      if v == true then out[#out + 1] = M.escape_uri(name)
      elseif v ~= false then out[#out + 1] = M.escape_uri(name) .. "=" .. M.escape_uri(v) end
    end
  end
  return table.concat(out, "&")
end

function M.decode_args(text, most)
  local args, n = {}, 0
  for pair in tostring(text):gmatch "[^&]+" do
    n = n + 1
    if most ~= 0 and n > (most or 100) then return args, "truncated" end
    local name, value = pair:match "^([^=]*)=?(.*)$"
    name, value = M.unescape_uri(name), not pair:find "=" or M.unescape_uri(value)
    local before = args[name]
    if before == nil then args[name] = value
    elseif type(before) == "table" then before[#before + 1] = value
    else args[name] = { before, value } end
  end
  return args
end

local QUOTED = { ["\0"] = "\\0", ["\b"] = "\\b", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\26"] = "\\Z",
                 ["\\"] = "\\\\", ["'"] = "\\'", ['"'] = '\\"' }
function M.quote_sql_str(text) return "'" .. text:gsub("[%z\b\n\r\t\26\\'\"]", QUOTED) .. "'" end

return M
