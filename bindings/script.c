/* script.c - a Lua state's life, and the one protected call of each turn. */
#include "script.h"
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "alloc.h"
#include "jitprofile.h"
#include "measure/profile.h"
#include "stacks.h"
#include "worker/shard.h"
#include "worker/watchdog.h"

struct mx_script {
    lua_State *L;
    int turn; /* reference of the turn function */
    mx_runtime *runtime;
    const mx_options *options;
};

__asm__(".section .rodata\n"
        ".global mx_abi_text, mx_abi_text_end\n"
        "mx_abi_text:\n"
        ".incbin \"" MX_ABI_FILE "\"\n"
        "mx_abi_text_end:\n"
        ".previous\n");
extern const char mx_abi_text[], mx_abi_text_end[];

static int traceback(lua_State *L) {
    const char *text = lua_tostring(L, 1);
    if (!text && luaL_callmeta(L, 1, "__tostring")) text = lua_tostring(L, -1);
    luaL_traceback(L, L, text ? text : "(an error without text)", 1);
    return 1;
}

static void strings(lua_State *L, const char *field, const char *const *list, int count) {
    lua_createtable(L, count, 0);
    for (int i = 0; i < count; i++) {
        lua_pushstring(L, list[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, field);
}

/* As pointers: a string of Lua's would be in core dumps. */
static void passwords(lua_State *L, const mx_options *o) {
    lua_newtable(L);
    for (int i = 0; i < o->url_count; i++) {
        if (!o->passwords[i].p) continue;
        lua_pushlightuserdata(L, &o->passwords[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "passwords");
}

static void field(lua_State *L, const char *name, const char *value) {
    lua_pushstring(L, value);
    lua_setfield(L, -2, name);
}

static void numeric(lua_State *L, const char *name, double value) {
    lua_pushnumber(L, value);
    lua_setfield(L, -2, name);
}

/* What the host hands to scripts/mx/host.lua as its only argument. */
static void push_host(mx_script *s) {
    lua_State *L = s->L;
    const mx_options *o = s->options;
    lua_newtable(L);
    lua_pushlightuserdata(L, s->runtime);
    lua_setfield(L, -2, "runtime");
    lua_pushlstring(L, mx_abi_text, (size_t)(mx_abi_text_end - mx_abi_text));
    lua_setfield(L, -2, "abi");
    field(L, "command", o->command);
    field(L, "file", o->file);
    field(L, "eval", o->eval);
    field(L, "log", o->log);
    field(L, "log_level", o->log_level);
    field(L, "profile", o->profile);
    field(L, "profile_dir", o->profile_dir);
    if (mx_place_get()->journal) {
        numeric(L, "worker", mx_place_get()->number);
        numeric(L, "workers", mx_place_get()->count);
    }
    numeric(L, "drain", o->drain);
    numeric(L, "turn_limit", o->turn_limit);
    numeric(L, "memory_limit", o->memory_limit);
    numeric(L, "eval_limit", o->eval_limit);
    lua_pushboolean(L, o->socket_read_only);
    lua_setfield(L, -2, "socket_read_only");
    lua_pushboolean(L, o->interactive);
    lua_setfield(L, -2, "interactive");
    lua_pushboolean(L, o->watch);
    lua_setfield(L, -2, "watch");
    lua_pushboolean(L, isatty(STDERR_FILENO));
    lua_setfield(L, -2, "terminal");
    strings(L, "urls", o->urls, o->url_count);
    passwords(L, o);
    strings(L, "args", (const char *const *)o->args, o->arg_count);
    lua_newtable(L);
    for (int i = 0; i < o->set_count; i++) field(L, o->set[i].key, o->set[i].value);
    lua_setfield(L, -2, "set");
    lua_pushvalue(L, LUA_REGISTRYINDEX);
    lua_setfield(L, -2, "registry");
    mx_stacks_push(L);
    lua_setfield(L, -2, "stacks");
}

/* mxrun's own Lua from files, under the same chunk names as when it is built in. */
static const char from_files[] = "local directory = ... table.insert(package.loaders, 1, function(name)\n"
                                 "  local path = name:gsub('%.', '/') .. '.lua'\n"
                                 "  local file = name:find('^mx') and io.open(directory .. '/' .. path)\n"
                                 "  if not file then return '' end\n"
                                 "  local text = file:read('*a') file:close()\n"
                                 "  return assert(loadstring(text, '@' .. path))\n"
                                 "end)";

static void read_scripts_from(lua_State *L, const char *directory) {
    if (luaL_loadbuffer(L, from_files, sizeof from_files - 1, "=scripts")) lua_error(L);
    lua_pushstring(L, directory);
    lua_call(L, 1, 0);
}

/* require "mx.host" with the host table as its argument; leaves the turn function. */
static int start(lua_State *L) {
    mx_script *s = lua_touserdata(L, 1);
    luaL_openlibs(L);
    if (s->options->scripts) read_scripts_from(L, s->options->scripts);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "mx.host");
    lua_call(L, 1, 1);
    push_host(s);
    lua_call(L, 1, 1);
    s->turn = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

static int report(mx_script *s) {
    fprintf(stderr, "mxrun: %s\n", lua_tostring(s->L, -1));
    lua_settop(s->L, 0);
    return -1;
}

mx_script *mx_script_new(mx_runtime *r, const mx_options *o) {
    mx_script *s = mx_zalloc(sizeof *s);
    s->runtime = r;
    s->options = o;
    s->L = luaL_newstate();
    if (!s->L) {
        fputs("mxrun: not enough memory for a Lua state\n", stderr);
        free(s);
        return NULL;
    }
    mx_alloc_start(s->L, &r->turn);
    lua_pushcfunction(s->L, traceback);
    lua_pushcfunction(s->L, start);
    lua_pushlightuserdata(s->L, s);
    if (lua_pcall(s->L, 1, 0, 1) == 0) {
        lua_settop(s->L, 0);
        mx_jitprofile_start(s->L, &r->turn);
        if (mx_watchdog_start(&r->turn, o->turn_limit, mx_jitprofile_interrupt) == 0) return s;
        lua_pushliteral(s->L, "cannot create the watchdog's timer");
    }
    report(s);
    mx_script_close(s);
    return NULL;
}

int mx_script_turn(void *script) {
    mx_script *s = script;
    lua_State *L = s->L;
    lua_pushcfunction(L, traceback);
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->turn);
    mx_alloc_enter();
    mx_watchdog_enter();
    mx_profile_inside(MX_IN_LUA);
    int failed = lua_pcall(L, 0, 0, 1);
    mx_profile_inside(MX_IN_C);
    mx_watchdog_leave();
    mx_profile_rest();
    if (failed) {
        mx_jitprofile_let_go(L);
        report(s);
        s->runtime->turn.exit_code = 1;
        return 1;
    }
    lua_settop(L, 0);
    mx_alloc_leave(L);
    return s->runtime->turn.stop != 0;
}

void mx_script_close(mx_script *s) {
    mx_watchdog_stop();
    mx_alloc_stop(s->L);
    lua_close(s->L);
    free(s);
}
