-- mx.fieldtable: what is decoded encodes to the same bytes.
local ffi = require "ffi"
local ft = require "mx.fieldtable"
local amqp = mx.amqp

local FIXED = { t = 1, b = 1, B = 1, s = 2, u = 2, I = 4, i = 4, l = 8, L = 8, f = 4, d = 8, D = 5, T = 8, V = 0 }

local function u32(n) return ffi.string(ffi.new("uint8_t[4]", n / 2 ^ 24, n / 2 ^ 16 % 256, n / 256 % 256, n % 256), 4) end

-- The same table with its keys in order.
local function sorted(s, named)
  local entries, i = {}, 1
  while i <= #s do
    local from = i
    if named then i = i + 1 + s:byte(i) end
    local letter, n = s:sub(i, i), FIXED[s:sub(i, i)]
    i = i + 1
    local head = s:sub(from, i - 1)
    if not n then
      local a, b, c, d = s:byte(i, i + 3)
      n, i = ((a * 256 + b) * 256 + c) * 256 + d, i + 4
    end
    local value = s:sub(i, i + n - 1)
    if letter == "F" or letter == "A" then value = u32(n) .. sorted(value, letter == "F") end
    entries[#entries + 1] = head .. value
    i = i + n
  end
  if named then table.sort(entries) end
  return table.concat(entries)
end

local function random_bytes(n)
  local t = {}
  for i = 1, n do t[i] = string.char(math.random(0, 255)) end
  return table.concat(t)
end

-- Bytes of a random value, with its letter. No NaN and no Infinity: RabbitMQ takes neither.
local LETTERS = "tbBsuIiLlfdDTVSxFA"
local random_table
local function random_value(depth)
  local k = math.random(#LETTERS)
  local letter = LETTERS:sub(k, k)
  if letter == "t" then return "t" .. string.char(math.random(0, 1)) end
  if letter == "S" or letter == "x" then
    local text = random_bytes(math.random(0, math.random(0, 40)))
    return letter .. u32(#text) .. text
  end
  if letter == "F" or letter == "A" then
    local text = depth < 5 and random_table(depth + 1, letter == "F") or ""
    return letter .. u32(#text) .. text
  end
  local bytes = random_bytes(FIXED[letter])
  if math.random(4) == 1 then bytes = ("\0"):rep(#bytes - 1) .. bytes:sub(-1, -1) end
  if letter == "d" or letter == "f" then
    if bytes:byte(1) % 128 == 127 then bytes = "\64" .. bytes:sub(2) end
    if math.random(3) == 1 then bytes = bytes:sub(1, 2) .. ("\0"):rep(#bytes - 2) end
  end
  return letter .. bytes:sub(1, FIXED[letter])
end

function random_table(depth, named)
  local entries, seen = {}, {}
  for _ = 1, math.random(0, 6) do
    local key = named and random_bytes(math.random(0, 6)) or nil
    if not key then
      entries[#entries + 1] = random_value(depth)
    elseif not seen[key] then
      seen[key] = true
      entries[#entries + 1] = string.char(#key) .. key .. random_value(depth)
    end
  end
  return table.concat(entries)
end

describe("fieldtable", function()
  it("encodes what it decoded to the same bytes, whatever it is", function()
    local seed = tonumber(os.getenv "MXRUN_SPEC_SEED") or os.time()
    local count = tonumber(os.getenv "MXRUN_SPEC_TABLES") or 20000
    io.stderr:write(("fieldtable: %d random tables, MXRUN_SPEC_SEED=%d\n"):format(count, seed))
    math.randomseed(seed)
    for i = 1, count do
      local bytes = random_table(1, true)
      local again = assert(ft.encode(assert(ft.decode(bytes))))
      if again ~= bytes and sorted(again, true) ~= sorted(bytes, true) then
        error(("seed %d, table %d: %q came back as %q"):format(seed, i, bytes, again))
      end
      if i % 1000 == 0 then mx.sleep(0) end              -- the turn limit
    end
  end)

  it("reads each type as the Lua value that it is", function()
    local function value(bytes) return assert(ft.decode("\1a" .. bytes)).a end
    for bytes, expected in pairs {
      ["t\0"] = false, ["t\1"] = true, ["b\127"] = 127, ["b\128"] = -128, ["B\255"] = 255, ["s\128\0"] = -2 ^ 15,
      ["u\255\255"] = 65535, ["I\128\0\0\0"] = -2 ^ 31, ["i\255\255\255\255"] = 2 ^ 32 - 1, ["l\0\0\0\0\0\0\0\5"] = 5,
      ["L\255\255\255\255\255\255\255\255"] = -1, ["l\0\32\0\0\0\0\0\0"] = 2 ^ 53, ["f\63\128\0\0"] = 1,
      ["d\63\224\0\0\0\0\0\0"] = 0.5, ["S\0\0\0\2\0\255"] = "\0\255", ["V"] = mx.null,
      ["T\0\0\0\0\0\0\0\9"] = amqp.timestamp(9), ["D\2\255\255\255\106"] = amqp.decimal(-150, 2), ["x\0\0\0\1a"] = amqp.bytes "a",
    } do
      assert.equal(expected, value(bytes))
    end
    assert.is_true(value "l\0\32\0\0\0\0\0\1" == 9007199254740993LL)
    assert.is_true(value "l\128\0\0\0\0\0\0\0" == -9223372036854775807LL - 1)
    assert.is_true(value "T\255\255\255\255\255\255\255\255".value == 18446744073709551615ULL)
    assert.equal(-math.huge, 1 / value "d\128\0\0\0\0\0\0\0")
    assert.same({ "a", { b = { true } } }, value "A\0\0\0\20S\0\0\0\1aF\0\0\0\9\1bA\0\0\0\2t\1")
    assert.equal("[]", mx.json.encode(value "A\0\0\0\0"))
    assert.equal("{}", mx.json.encode(value "F\0\0\0\0"))
  end)

  it("sends a number as wide as it came while it fits, and as int64 or double else", function()
    local function edited(bytes, v)
      local t = assert(ft.decode("\1a" .. bytes))
      t.a = v
      return ft.encode(t):sub(3, 3)
    end
    for _, case in ipairs {
      { "b\1", -128, "b" }, { "b\1", 128, "l" }, { "B\1", -1, "l" }, { "s\0\1", 32767, "s" }, { "u\0\1", 65536, "l" },
      { "I\0\0\0\1", -2 ^ 31, "I" }, { "I\0\0\0\1", 2 ^ 31, "l" }, { "i\0\0\0\1", 2 ^ 32 - 1, "i" }, { "I\0\0\0\1", 0.5, "d" },
      { "f\0\0\0\0", 0.5, "f" }, { "f\0\0\0\0", 0.1, "d" }, { "f\0\0\0\0", -0.0, "f" }, { "f\0\0\0\0", 2 ^ 24 + 1, "l" },
      { "d\0\0\0\0\0\0\0\0", 7, "d" }, { "L\0\0\0\0\0\0\0\0", 7, "L" }, { "L\0\0\0\0\0\0\0\0", 9007199254740993LL, "L" },
      { "I\0\0\0\1", -0.0, "d" }, { "I\0\0\0\1", 2 ^ 63, "d" }, { "I\0\0\0\1", true, "t" }, { "I\0\0\0\1", "text", "S" },
    } do
      assert.equal(case[3], edited(case[1], case[2]))
    end
  end)

  it("encodes typed values as their types", function()
    for letter, v in pairs {
      T = amqp.timestamp(5), D = amqp.decimal(-150, 2), f = amqp.float32(1.5), x = amqp.bytes "a\0b", V = amqp.void(), l = amqp.int64(7),
      d = amqp.double(7), b = amqp.int8(-128), B = amqp.uint8(255), s = amqp.int16(-2 ^ 15), u = amqp.uint16(2 ^ 16 - 1),
      I = amqp.int32(-2 ^ 31), i = amqp.uint32(2 ^ 32 - 1), A = { 1, { x = true } }, F = {}, t = true, S = "x",
    } do
      local bytes = assert(ft.encode { k = v })
      assert.equal(letter, bytes:sub(3, 3))
      assert.equal(bytes, ft.encode(assert(ft.decode(bytes))))
    end
    assert.equal(ft.encode { k = amqp.decimal(-150, 2) }, ft.encode { k = amqp.decimal "-1.50" })
    assert.equal("0.05", tostring(amqp.decimal(5, 2)))
    assert.equal("-5", tostring(amqp.decimal(-5)))
  end)

  it("refuses typed values that do not fit, at the caller's line", function()
    for name, bad in pairs {
      int8 = { 128, -129, 0.5, "1", 2 ^ 63, -1ULL }, uint8 = { -1, 256 }, int16 = { 32768 }, uint16 = { 65536, -1LL }, int32 = { 2 ^ 31 },
      uint32 = { 2 ^ 32, -1 }, int64 = { 2 ^ 63, -2 ^ 64, -1ULL, 0.5, 0 / 0, "7" }, float32 = { 1 / 0, "1", 0 / 0 },
      double = { -1 / 0, {} }, timestamp = { -1, 0.5, 2 ^ 65, "now", -1LL }, decimal = { 2 ^ 31, "1e5", "", 0.5 }, bytes = { 7 },
    } do
      for _, v in ipairs(bad) do
        local line = debug.getinfo(1, "l").currentline + 1
        local ok, e = pcall(function() amqp[name](v) end)
        assert.is_false(ok)
        assert.matches("fieldtable_spec.lua:" .. line .. ": mx.amqp." .. name .. ": expected", e)
      end
    end
    assert.is_false((pcall(amqp.decimal, 1, 256)))
    assert.equal(5, amqp.int8(5ULL).value)
    assert.is_true(amqp.timestamp(2 ^ 63).value == 2 ^ 63)
  end)

  it("never reads past a table that is cut short", function()
    local bytes = ft.encode { key = { 1, "two", { k = amqp.timestamp(5) }, amqp.decimal(5), 0.5, true } }
    for n = 1, #bytes - 1 do assert.is_nil((ft.decode(bytes, n))) end
  end)

  it("takes a NaN of any bits for a NaN, an Infinity for one", function()
    for _, bits in ipairs { "d\255\255\255\255\255\255\255\255", "d\127\240\0\0\0\0\0\1", "d\255\252\0\0\0\0\0\0",
                            "f\255\255\255\255", "f\127\128\0\1", "f\127\192\0\0" } do
      local v = assert(ft.decode("\1a" .. bits)).a
      assert.equal("number", type(v))
      assert.is_true(v ~= v)
    end
    for bits, v in pairs { ["d\127\240\0\0\0\0\0\0"] = math.huge, ["f\255\128\0\0"] = -math.huge,
                            ["f\127\127\255\255"] = 2 ^ 128 - 2 ^ 104 } do
      assert.equal(v, ft.decode("\1a" .. bits).a)
    end
  end)

  it("says of a type it does not know which key has it", function()
    local t, e = ft.decode "\1aF\0\0\0\4\1b?x"
    assert.is_nil(t)
    assert.equal("serialization", e.code)
    assert.equal('headers: key "b": unknown type "?" (byte 63)', tostring(e))
  end)

  it("refuses to read what is nested or numbered beyond the limits", function()
    local bytes = ""
    for _ = 1, 31 do bytes = "\1aF" .. u32(#bytes) .. bytes end
    assert(ft.decode(bytes))
    local t, e = ft.decode("\1aF" .. u32(#bytes) .. bytes)
    assert.is_nil(t)
    assert.equal("serialization", e.code)
    assert.matches("nested deeper than 32 tables", tostring(e))
    assert(ft.decode(("\0V"):rep(4096)))
    t, e = ft.decode(("\0V"):rep(4097))
    assert.is_nil(t)
    assert.matches("more than 4096 entries", tostring(e))
  end)

  it("names the key and the limit", function()
    local _, e = ft.encode { [("k"):rep(256)] = 1 }
    assert.equal("validation", e.code)
    assert.truthy(e.message:find("at most 255", 1, true))
  end)

  it("runs no code of the script", function()
    local function trap() error "ran" end
    local mt = { __index = trap, __len = trap, __pairs = trap, __tostring = trap, __eq = trap }
    assert.equal("\1aF\0\0\0\0", ft.encode(setmetatable({ a = setmetatable({}, mt) }, mt)))
    assert.is_nil((ft.encode { [setmetatable({}, mt)] = 1 }))
  end)
end)
