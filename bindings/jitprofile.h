/* jitprofile.h - LuaJIT's profiler as a way into compiled code. */
#ifndef MX_JITPROFILE_H
#define MX_JITPROFILE_H
#include <lua.h>
#include "base/mx.h"
void mx_jitprofile_start(lua_State *L, mx_turn *turn); /* once a process: the profiler serves one state */
void mx_jitprofile_interrupt(void); /* async-signal-safe: the running Lua raises `interrupted` until the runtime has control */
void mx_jitprofile_interrupt_for_memory(void); /* it raises `memory`, if a collection does not help */
void mx_jitprofile_let_go(lua_State *L);       /* no more of that */
#endif
