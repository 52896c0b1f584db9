-- Reads what /metrics says as strictly as Prometheus and OpenMetrics do. samples by name and labels as they stand, types by
-- family; raises with the first line that is wrong.
local SUFFIXES = { counter = { "" }, gauge = { "" }, histogram = { "_bucket", "_sum", "_count" } }

local function fail(line, why) error(("%s: %s"):format(why, line), 0) end

-- The labels of a sample as a table; the text that an escape stands for is not made.
local function labels_of(text, line)
  local labels, rest = {}, text
  while rest ~= "" do
    local name, value, left = rest:match '^([%a_][%w_]*)="(.-)"(.*)$'
    while value and value:match "\\*$":len() % 2 == 1 do       -- that quote was escaped
      local more, after = left:match '^(.-)"(.*)$'
      if not more then fail(line, "a label without an end") end
      value, left = value .. '"' .. more, after
    end
    if not name or labels[name] then fail(line, "bad labels") end
    if value:gsub('\\[\\"n]', ""):find '[\\"\n]' then fail(line, "a bad escape") end
    labels[name] = value
    rest = left:gsub("^,", "", 1)
  end
  return labels
end

local function number_of(text, line)
  local n = ({ ["+Inf"] = math.huge, ["-Inf"] = -math.huge, NaN = 0 / 0 })[text] or tonumber(text)
  return n or fail(line, "no number")
end

-- Which family a sample belongs to, and what follows its name there.
local function family_of(name, current, kind, openmetrics, line)
  local suffixes = openmetrics and kind == "counter" and { "_total" } or SUFFIXES[kind]
  for _, suffix in ipairs(suffixes or {}) do
    if name == current .. suffix then return suffix end
  end
  fail(line, "a sample outside its family")
end

local function check_buckets(h)
  for key, list in pairs(h) do
    for i = 2, #list do
      if list[i].le <= list[i - 1].le or list[i].n < list[i - 1].n then error("buckets that fall: " .. key, 0) end
    end
    if list[#list].le ~= math.huge or list[#list].n ~= list.count or not list.sum then error("an incomplete histogram: " .. key, 0) end
  end
end

local function note_bucket(histograms, current, labels, suffix, n)
  local le = labels.le
  labels.le = nil
  local parts = {}
  for k, v in pairs(labels) do parts[#parts + 1] = k .. "=" .. v end
  table.sort(parts)
  local key = current .. table.concat(parts, ",")
  histograms[key] = histograms[key] or {}
  if suffix == "_bucket" then table.insert(histograms[key], { le = number_of(le, key), n = n }) else histograms[key][suffix:sub(2)] = n end
end

return function(text, openmetrics)
  local samples, types, histograms, current, kind = {}, {}, {}, nil, nil
  if openmetrics then
    local body = text:match "^(.*)# EOF\n$"
    text = body or error("no end", 0)
  end
  local helped
  for line in text:gmatch "([^\n]*)\n" do
    local word, name, rest = line:match "^# (%u+) ([%a_:][%w_:]*) (.+)$"
    if word == "HELP" then
      if types[name] then fail(line, "help after the type") end
      helped = name
    elseif word == "TYPE" then
      if types[name] or not SUFFIXES[rest] then fail(line, "a second or unknown type") end
      if helped ~= name then fail(line, "no help") end
      types[name], current, kind = rest, name, rest
      if kind == "counter" and openmetrics and name:find "_total$" then fail(line, "an OpenMetrics family ends in _total") end
    else
      local sample, labels, value = line:match "^([%a_:][%w_:]*){(.*)} (%S+)$"
      if not sample then sample, value = line:match "^([%a_:][%w_:]*) (%S+)$" end
      if not sample then fail(line, "not a sample") end
      local suffix, n = family_of(sample, current or "", kind, openmetrics, line), number_of(value, line)
      local list = labels_of(labels or "", line)
      if suffix == "_bucket" and not list.le then fail(line, "a bucket without le") end
      if kind == "histogram" then note_bucket(histograms, current, list, suffix, n) end
      local key = sample .. (labels and "{" .. labels .. "}" or "")
      if samples[key] then fail(line, "twice the same sample") end
      samples[key] = n
    end
  end
  check_buckets(histograms)
  return samples, types
end
