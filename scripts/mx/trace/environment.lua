-- What OpenTelemetry's specification of environment variables asks of traces: OTEL_… as a table.
local M = {}

local function get(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

local function number(name, default)
  local value = get(name)
  if not value then return default end
  local n = tonumber(value)
  if n and n >= 0 then return n end
  M.wrong = M.wrong or ("%s is '%s', expected a number"):format(name, value)
  return default
end

-- "key=value,key2=value2", percent-encoded.
local function pairs_of(text)
  local list = {}
  for key, value in (text or ""):gmatch "%s*([^=,%s]+)%s*=%s*([^,]*)" do
    list[#list + 1] = { key, (value:gsub("%s+$", ""):gsub("%%(%x%x)", function(x) return string.char(tonumber(x, 16)) end)) }
  end
  return list
end

local function endpoint()
  local own, base = get "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", get "OTEL_EXPORTER_OTLP_ENDPOINT"
  return own or base and base:gsub("/*$", "") .. "/v1/traces"
end

local SAMPLERS = {
  always_on = { root = 1 }, always_off = { root = 0 }, traceidratio = { ratio = true },
  parentbased_always_on = { parent = true, root = 1 }, parentbased_always_off = { parent = true, root = 0 },
  parentbased_traceidratio = { parent = true, ratio = true },
}

-- { parent: the parent's decision counts, root: the share of the others }
local function sampler()
  local name = get "OTEL_TRACES_SAMPLER" or "parentbased_always_on"
  local s = SAMPLERS[name]
  if not s then
    M.wrong = M.wrong or ("OTEL_TRACES_SAMPLER '%s' is not known"):format(name)
    s = SAMPLERS.parentbased_always_on
  end
  return { parent = s.parent, root = s.ratio and math.min(1, number("OTEL_TRACES_SAMPLER_ARG", 1)) or s.root }
end

local function resource()
  local list, name = pairs_of(get "OTEL_RESOURCE_ATTRIBUTES"), get "OTEL_SERVICE_NAME"
  for i = #list, 1, -1 do
    if list[i][1] == "service.name" then name = name or table.remove(list, i)[2] end
    if list[i] and list[i][1] == "service.name" then table.remove(list, i) end
  end
  table.insert(list, 1, { "service.name", name or "unknown_service:mxrun" })
  return list
end

local function headers()
  local lines = {}
  for _, h in ipairs(pairs_of(get "OTEL_EXPORTER_OTLP_TRACES_HEADERS" or get "OTEL_EXPORTER_OTLP_HEADERS")) do
    if not (h[1] .. h[2]):find "%c" then lines[#lines + 1] = h[1] .. ": " .. h[2] .. "\n" end
  end
  return table.concat(lines)
end

local function propagates()
  local said = get "OTEL_PROPAGATORS"
  if not said then return nil end
  return said:find("tracecontext", 1, true) ~= nil
end

-- What is asked for; nil: nothing.
function M.read()
  M.wrong = nil
  if (get "OTEL_SDK_DISABLED" or ""):lower() == "true" then return nil end
  local url = (get "OTEL_TRACES_EXPORTER" or "otlp") ~= "none" and endpoint() or nil
  local carry = propagates()
  if not url and not carry then return nil end
  local protocol = get "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL" or get "OTEL_EXPORTER_OTLP_PROTOCOL" or "http/json"
  if url and protocol ~= "http/json" then
    M.wrong = ("OTEL_EXPORTER_OTLP_PROTOCOL is %s, but spans go as http/json"):format(protocol)
  end
  return {
    url = url, carry = carry ~= false, sampler = sampler(), resource = resource(), headers = headers(),
    ca = get "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE" or get "OTEL_EXPORTER_OTLP_CERTIFICATE",
    timeout = number("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", number("OTEL_EXPORTER_OTLP_TIMEOUT", 10000)) / 1000,
    delay = number("OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000, queue = number("OTEL_BSP_MAX_QUEUE_SIZE", 2048),
    batch = math.max(1, number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)), wrong = M.wrong,
  }
end

return M
