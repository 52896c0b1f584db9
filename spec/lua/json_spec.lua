-- mx.json: exact numbers, empty arrays, strictness.
local json = require "mx.json"

local function refuses(pattern, text)
  local v, e = json.decode(text)
  assert.is_nil(v, text)
  assert.equal("serialization", e.code)
  assert.matches(pattern, tostring(e))
end

local function cannot(pattern, v)
  local text, e = json.encode(v)
  assert.is_nil(text)
  assert.equal("serialization", e.code)
  assert.matches(pattern, tostring(e))
end

describe("json", function()
  it("keeps integers exact", function()
    for _, s in ipairs { "9007199254740993", "-9223372036854775808", "18446744073709551615", "[]", "{}", "[0.1,1e-7]" } do
      local again = json.encode(json.decode(s)):gsub("1e%-07", "1e-7")
      assert.equal(s, again)
    end
  end)

  it("reads a number as what a script can use: a number within 2^53, int64 or uint64 beyond, a double past those", function()
    for s, v in pairs { ["9007199254740992"] = 2 ^ 53, ["-9007199254740992"] = -2 ^ 53, ["1e2"] = 100, ["1E+2"] = 100, ["0.5e-1"] = 0.05,
                        ["18446744073709551616"] = 2 ^ 64, ["-9223372036854775809"] = -2 ^ 63, ["1e17"] = 1e17, ["5e-324"] = 5e-324,
                        ["1e-400"] = 0, ["1.7976931348623157e308"] = 1.7976931348623157e308, ["100000000000000000000"] = 1e20 } do
      local got = json.decode(s)
      assert.equal("number", type(got), s)
      assert.equal(v, got)
      assert.equal(v, json.decode("[" .. s .. "]")[1])
    end
    for s, v in pairs { ["9007199254740993"] = 9007199254740993LL, ["-9007199254740993"] = -9007199254740993LL,
                        ["9223372036854775808"] = 9223372036854775808ULL } do
      local got = json.decode(s)
      assert.is_true(got == v and type(got) == "cdata")
    end
    assert.equal(-math.huge, 1 / json.decode "-0")
    assert.equal("-0", json.encode(-0.0))
  end)

  it("writes a number in as few digits as read back the same", function()
    for _, v in ipairs { 0.1, 0.1 + 0.2, 1 / 3, 1e100, 5e-324, 1.7976931348623157e308, 123456789.125, -1e-7, 2 ^ 53 + 2, 2 ^ 70,
                         -2 ^ 63 } do
      assert.is_true(json.decode(json.encode(v)) == v)
    end
    assert.equal("[0.1,0.30000000000000004,1,-5,100000000000000]", json.encode { 0.1, 0.1 + 0.2, 1, -5, 1e14 })
    assert.equal('{"a":-9223372036854775808}', json.encode { a = -2 ^ 63 })
    assert.equal("18446744073709551615", json.encode(18446744073709551615ULL))
  end)

  it("refuses what is not JSON", function()
    for _, s in ipairs { "", "[1.]", "[-.5]", "[0x10]", "[NaN]", "[1e400]", '["\\ud800"]', "[1,]", "[01]", ("["):rep(129) } do
      refuses("JSON: ", s)
    end
    for _, s in ipairs { "-", "[-]", "[+1]", "[.5]", "[1e]", "[1e+]", "[-Infinity]", "[Infinity]", "[nan]", "[inf]", "[1_0]",
                         "[1 2]" } do
      refuses("at byte %d", s)
    end
    for _, s in ipairs { "{", "[", '"', '"a', "{a:1}", "{'a':1}", '{"a"}', '{"a":}', '{"a":1,}', "{,}", "[,]", '{1:2}',
                         '{"a":1 "b":2}', "]", "tru", "nul", "True", "[1]]", "[1] x", "// c\n1", "\239\187\191{}", "'a'",
                         '["a\nb"]', '["a\0b"]', '["\\x41"]', '["\\u12g4"]', '["\\u12"]', '["\\' } do
      refuses("at byte %d", s)
    end
    refuses("number out of range at byte 2", "[1e999]")
    refuses("number out of range", "[-1e188724854]")
    refuses("number out of range", "1e99999999999999999999")
  end)

  it("sees what follows a NUL", function()
    refuses("unexpected text after the value at byte 6", "[1,2]\0garbage")
    refuses("at byte", "[1,\0002]")
    refuses("at byte", "\0[1]")
  end)

  it("takes 128 levels, both ways", function()
    local text = ("["):rep(128) .. "1" .. ("]"):rep(128)
    assert.equal(text, json.encode(json.decode(text)))
    refuses("deeper than 128 levels at byte 129", "[" .. text .. "]")
    refuses("deeper than 128 levels", ('{"a":'):rep(129) .. "1" .. ("}"):rep(129))
    refuses("deeper than 128 levels", ("["):rep(1e6))
    cannot("deeper than 128 levels at %[1%]%[1%]", { json.decode(text) })
  end)

  it("reads escapes and surrogate pairs, and refuses half of one", function()
    assert.equal('"\\/\b\f\n\r\té€😀', json.decode [["\"\\\/\b\f\n\r\t\u00e9\u20AC\ud83d\ude00"]])
    assert.equal("\0", json.decode [["\u0000"]])
    for _, s in ipairs { [["\ud800"]], [["\ud800x"]], [["\ud800\u0041"]], [["\udc00"]], [["\ud800\ud800"]], [["\ude00\ud83d"]] } do
      refuses("lone surrogate", s)
    end
  end)

  it("passes bytes that are no UTF-8 as they are", function()
    for _, s in ipairs { "\255", "\192\128", "\237\160\128", "\226\130", "a\128b" } do
      assert.equal('"' .. s .. '"', json.encode(s))
      assert.equal(s, json.decode('"' .. s .. '"'))
    end
  end)

  it("escapes what must be escaped", function()
    assert.equal([["\"\\\n\r\t\u0000\u0001\u001f\u007f/"]], json.encode "\"\\\n\r\t\0\1\31\127/")
    for i = 0, 255 do assert.equal(string.char(i), json.decode(json.encode(string.char(i)))) end
  end)

  it("keeps the last of a key given twice", function()
    assert.same({ a = 2 }, json.decode '{"a":1,"a":2}')
    assert.same({ a = {}, b = 1 }, json.decode '{"a":1,"b":1,"a":[]}')
    assert.same({ [""] = 1 }, json.decode '{"":1}')
  end)

  it("tells [] from {}, and null from nothing", function()
    assert.equal("[]", json.encode(json.decode "[]"))
    assert.equal("{}", json.encode(json.decode "{}"))
    assert.equal('[[],{},[[]]]', json.encode(json.decode '[[],{},[[]]]'))
    assert.equal("{}", json.encode {})
    assert.equal("[]", json.encode(json.array()))
    assert.equal(mx.null, json.decode "null")
    assert.equal("[null,1]", json.encode { mx.null, 1 })
    assert.equal('{"a":null}', json.encode(json.decode '{"a":null}'))
    local list = json.decode "[]"
    list[1] = "x"
    assert.equal('["x"]', json.encode(list))
  end)

  it("refuses cycles, sparse arrays and NaN", function()
    local t = {}
    t.t = t
    for _, v in ipairs { t, { 1, [3] = 1 }, { 0 / 0 }, { [5] = 1 } } do assert.is_nil((json.encode(v))) end
    cannot("the table contains itself", t)
    cannot("the table contains itself", { a = { 1, { t } } })
    cannot("sparse array: element 2 of 3 is missing", { 1, [3] = 1 })
    cannot("sparse array: element 2 of 1", { 1, [1e9] = 1 })
    cannot("NaN and Infinity are not JSON at .a%[2%]", { a = { 1, -1 / 0 } })
  end)

  it("is not led astray by a table that is in many places, or a very long chain", function()
    local t = { 1 }
    for _ = 1, 20 do t = { t } end
    assert(json.encode { t, t, t })
    local dag = {}
    for _ = 1, 200 do dag = { dag, dag } end
    cannot("deeper than 128 levels", dag)
    local chain = {}
    for _ = 1, 300000 do chain = { chain } end
    cannot("deeper than 128 levels", chain)
  end)

  it("names what it cannot encode and where it is", function()
    cannot('an array has the key "x"', { 1, x = 2 })
    cannot('an array has the key "x"', json.array { x = 2 })
    cannot("an array has the key 0", { [0] = 0, 1 })
    cannot("an array has the key 1.5", { 1, [1.5] = 0 })
    cannot("key 2 is a number", { [2] = 1 })
    cannot("key true is a boolean", { [true] = 1 })
    cannot("cannot encode a function at .a.b", { a = { b = print } })
    cannot("cannot encode a thread", { coroutine.create(print) })
    cannot("cannot encode a userdata", { io.stdout })
    cannot("cannot encode cdata %(ctype<complex>%)", { 1i })
  end)

  it("runs no code of the script", function()
    local function trap() error "ran" end
    local t = setmetatable({ a = 1 }, { __index = trap, __len = trap, __pairs = trap, __ipairs = trap, __tostring = trap })
    assert.equal('{"a":1}', json.encode(t))
    assert.equal("[{}]", json.encode { setmetatable({}, { __index = function() return 1 end }) })
  end)

  it("is well again after a refusal", function()
    cannot("function", { a = { b = { print } } })
    assert.equal("[1]", json.encode { 1 })
    cannot("NaN and Infinity are not JSON$", 0 / 0)
  end)
end)
