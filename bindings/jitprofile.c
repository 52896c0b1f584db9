/* jitprofile.c - LuaJIT's profiler and its two users: stacks for profiles, and stopping Lua that runs too long, also where the
 * JIT compiled it.
 *
 * Design: a debug hook does not fire in compiled loops. The profiler in mode "l" puts a guard into every trace; its own timer is
 * switched off, and its signal handler, called as a function, makes the guards leave for the interpreter: there the profiler
 * calls back with a stack and, for the second user, a hook for every instruction waits. The hook raises again and again, through
 * any pcall of the script, until mx/turn.lua runs: then the runtime has control. */
#include "jitprofile.h"
#include "alloc.h"
#include "stacks.h"
#include "measure/profile.h"
#include <lauxlib.h>
#include <luajit.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>

static lua_State *state;
static volatile sig_atomic_t too_long, too_much; /* why it is interrupted */

static void (*ask)(int); /* LuaJIT's handler of SIGPROF */

static void on_sample(void *data, lua_State *L, int samples, int vmstate) {
    (void)data, (void)samples;
    mx_stacks_sample(L, vmstate);
}

static void push_error(lua_State *L) {
    lua_getfield(L, LUA_REGISTRYINDEX, "mx.interrupted"); /* the error's metatable, put there by mx/turn.lua */
    lua_newtable(L);
    lua_pushstring(L, too_long ? "interrupted" : "memory");
    lua_setfield(L, -2, "code");
    lua_pushstring(L, too_long ? "ran past the turn limit without waiting" : "went beyond the memory limit");
    luaL_where(L, 0);
    lua_insert(L, -2);
    lua_concat(L, 2);
    lua_setfield(L, -2, "message");
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "retryable");
    luaL_traceback(L, L, "", 0);
    lua_setfield(L, -2, "traceback");
    lua_insert(L, -2);
    lua_setmetatable(L, -2);
}

/* The chunks of mx/turn.lua: the file, and the loop over deliveries that it compiles. */
static int is_turn(const char *source) { return !strcmp(source, "@mx/turn.lua") || !strcmp(source, "=mx/turn:serve"); }

void mx_jitprofile_let_go(lua_State *L) {
    too_long = too_much = 0;
    lua_sethook(L, NULL, 0, 0);
    mx_alloc_rearm();
}

/* What it went beyond the limit with may be garbage. */
static int collected(lua_State *L) {
    if (too_much != 1) return 0;
    too_much = 2; /* once */
    lua_gc(L, LUA_GCCOLLECT, 0);
    return !mx_alloc_is_over();
}

/* Whose code runs: what is of C or built in works for whoever called it. */
static const char *source_of(lua_State *L, lua_Debug *at) {
    lua_getinfo(L, "S", at);
    for (int level = 1; (!strcmp(at->source, "=[C]") || !strncmp(at->short_src, "[builtin:", 9)) && lua_getstack(L, level, at);
         level++)
        lua_getinfo(L, "S", at);
    return at->source;
}

static void on_instruction(lua_State *L, lua_Debug *activation) {
    lua_Debug at = *activation;
    const char *source = source_of(L, &at);
    if (!too_long && !is_turn(source) && !strncmp(source, "@mx/", 4)) return; /* it sees to those who went beyond */
    if (is_turn(source) || (!too_long && collected(L))) {
        mx_jitprofile_let_go(L);
        return;
    }
    if (!lua_checkstack(L, 8)) luaL_error(L, "interrupted: ran past a limit, and out of stack");
    push_error(L);
    lua_error(L);
}

void mx_jitprofile_start(lua_State *L, mx_turn *turn) {
    static const struct itimerval never;
    struct sigaction action;
    state = L;
    signal(SIGPROF, SIG_IGN); /* what lua_close puts back: a profile may still run then */
    luaJIT_profile_start(L, "li1000000", on_sample, NULL);
    setitimer(ITIMER_PROF, &never, NULL);
    sigaction(SIGPROF, NULL, &action);
    ask = action.sa_handler;
    mx_profile_start(turn, ask);
}

static void interrupt(void) {
    lua_sethook(state, on_instruction, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
    ask(SIGPROF);
}

void mx_jitprofile_interrupt(void) {
    too_long = 1;
    interrupt();
}

void mx_jitprofile_interrupt_for_memory(void) {
    if (!state) return; /* no script runs yet */
    too_much = 1;
    interrupt();
}
