/* lua.c - fuzzes Lua: calls the function that spec/fuzz/TARGET.lua returns with each input; what it raises is a finding.
 *
 * libFuzzer sees which lines run: a hook counts them, with the JIT off. MX_FUZZ_JIT=1: compiled, and blind. */
#include <lauxlib.h>
#include <lualib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include "message/table.h"

static lua_State *L;

__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t lines[1 << 14];

static void on_line(lua_State *state, lua_Debug *at) {
    static size_t before;
    lua_getinfo(state, "S", at);
    size_t here = (uintptr_t)at->source * 2654435761u + (size_t)at->currentline * 40503u;
    lines[(here ^ before) % sizeof lines]++;
    before = here >> 1;
}

/* The runtime's answer: is it a table that we would send? */
static int table_check(lua_State *state) {
    size_t n;
    const char *p = lua_tolstring(state, 1, &n);
    lua_pushboolean(state, mx_table_check((const uint8_t *)p, n) == 0);
    return 1;
}

static void must(int failed) {
    if (!failed) return;
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    abort();
}

static void stop(void) { lua_close(L); }

static void start(void) {
    L = luaL_newstate();
    atexit(stop);
    luaL_openlibs(L);
    lua_register(L, "table_check", table_check);
    must(luaL_dostring(L, "package.path = '" MX_SOURCE "/scripts/?.lua'"));
    must(luaL_dostring(L, "require('ffi').cdef(io.open('" MX_SOURCE "/runtime/abi.h'):read('*a'))"));
    if (MX_LIBFUZZER && !getenv("MX_FUZZ_JIT")) {
        must(luaL_dostring(L, "jit.off()"));
        lua_sethook(L, on_line, LUA_MASKLINE, 0);
    }
    must(luaL_dofile(L, MX_SOURCE "/spec/fuzz/" MX_TARGET ".lua"));
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    if (!L) start();
    lua_pushvalue(L, -1);
    lua_pushlstring(L, (const char *)p, n);
    must(lua_pcall(L, 1, 0, 0));
    return 0;
}
