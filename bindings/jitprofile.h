/* jitprofile.h - LuaJIT's profiler as a way into compiled code. */
#ifndef MX_JITPROFILE_H
#define MX_JITPROFILE_H
#include <lua.h>
void mx_jitprofile_start(lua_State *L); /* once a process: the profiler serves one state */
void mx_jitprofile_interrupt(void); /* async-signal-safe: the running Lua raises `interrupted` until the runtime has control */
#endif
