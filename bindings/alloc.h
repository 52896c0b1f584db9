/* alloc.h - counts what Lua holds, around the VM's own allocator, and sees to its limit. */
#ifndef MX_ALLOC_H
#define MX_ALLOC_H
#include <lua.h>
#include "base/mx.h"

void mx_alloc_start(lua_State *L, mx_turn *t);
void mx_alloc_stop(lua_State *L); /* before lua_close */
/* Before and after a turn: takes the limit anew; drives the collector for a while when there is something to collect. */
void mx_alloc_enter(void);
void mx_alloc_leave(lua_State *L);
void mx_alloc_rearm(void);  /* whoever went beyond the limit has been stopped: the next one is, too */
int mx_alloc_is_over(void); /* Lua holds more than it may, also after a collection: little room is as good as none */
#endif
