/* stacks.h - stacks of Lua, for measure/profile. */
#ifndef MX_STACKS_H
#define MX_STACKS_H
#include <lua.h>
/* The stack of L belongs to all that was noted for a profile; state: the VM's, as LuaJIT's profiler says it. */
void mx_stacks_sample(lua_State *L, int state);
/* Leaves a table: waited(why, seconds), the calling task has waited so long; task(co, why), one more for mx_profile_tasks. */
void mx_stacks_push(lua_State *L);
#endif
