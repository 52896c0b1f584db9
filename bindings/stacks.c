/* stacks.c - walks stacks of Lua. */
#include "stacks.h"
#include <lauxlib.h>
#include <string.h>
#include "measure/profile.h"

/* Without C functions, which are pcall and its like: a stack is taken at a line of Lua. */
static int walk(lua_State *L, int level, mx_frame *frames) {
    lua_Debug at;
    int n = 0;
    for (; n < MX_PROFILE_DEPTH && lua_getstack(L, level, &at); level++)
        if (lua_getinfo(L, "Snl", &at) && at.source && strcmp(at.source, "=[C]"))
            frames[n++] = (mx_frame){at.name, at.source, at.linedefined, at.currentline > 0 ? at.currentline : 0};
    return n;
}

void mx_stacks_sample(lua_State *L, int state) {
    uint64_t from = mx_profile_clock();
    mx_frame frames[MX_PROFILE_DEPTH];
    if (!mx_profile_is_noted()) return;
    int depth = walk(L, 0, frames);
    mx_profile_stack(frames, depth, state, from);
}

/* Past what of mxrun itself leads to the wait: its user's line is the one to see. */
static int own_frames(const mx_frame *frames, int depth) {
    int n = 0;
    while (n < depth && !strncmp(frames[n].file, "@mx/", 4)) n++;
    return n == depth ? 0 : n;
}

static int waited(lua_State *L) {
    mx_frame frames[MX_PROFILE_DEPTH];
    int depth = walk(L, 1, frames), skip = own_frames(frames, depth);
    mx_profile_waited(frames + skip, depth - skip, luaL_checkstring(L, 1), luaL_checknumber(L, 2));
    return 0;
}

static int task(lua_State *L) {
    mx_frame frames[MX_PROFILE_DEPTH];
    luaL_checktype(L, 1, LUA_TTHREAD);
    int depth = walk(lua_tothread(L, 1), 0, frames), skip = own_frames(frames, depth);
    mx_profile_task(frames + skip, depth - skip, luaL_checkstring(L, 2));
    return 0;
}

void mx_stacks_push(lua_State *L) {
    static const luaL_Reg functions[] = {{"waited", waited}, {"task", task}, {NULL, NULL}};
    lua_newtable(L);
    luaL_register(L, NULL, functions);
}
