/* profile.h - where CPU time goes, what is allocated and what of it is still held, and what is waited for, each by stack.
 *
 * Design: three tables that grow while somebody wants them; what happened between two moments is the difference of two copies, so
 * any number of people may look at once. A sample is only noted where it happens (a timer's signal, the allocator); its Lua stack
 * is taken at the next line, where the VM lets us. What happens outside of Lua has its C stack alone. The timer counts this
 * thread's CPU time and its signal comes to this thread. */
#ifndef MX_PROFILE_H
#define MX_PROFILE_H
#include "base/mx.h"

/* A frame of a Lua stack. name: as it was called, NULL where nothing is known; file: as debug.getinfo has source. */
typedef struct mx_frame {
    const char *name, *file;
    int64_t defined, line;
} mx_frame;
enum { MX_PROFILE_DEPTH = 64 }; /* of Lua */

/* Once: turn says which labels hold; ask(SIGPROF), async-signal-safe, makes the VM call back at the next line of Lua. */
void mx_profile_start(mx_turn *turn, void (*ask)(int));
enum { MX_IN_C, MX_IN_LUA, MX_IN_GC }; /* MX_IN_GC: the collector, driven from outside of Lua */
void mx_profile_inside(int what);      /* runs from now on; only in Lua is anybody asked */
/* The stack, innermost first, for all that was noted; state: the VM's, 'G' collects, 'J' compiles, 'C' in C. from_us: when the
 * taking of it began, for it counts as cost. */
void mx_profile_stack(const mx_frame *frames, int depth, int state, uint64_t from);
uint64_t mx_profile_clock(void); /* nanoseconds of this thread's processor time */
int mx_profile_is_noted(void);   /* something was, since the last stack */
void mx_profile_rest(void);      /* after a turn: what has no stack of Lua gets none */
void mx_profile_waited(const mx_frame *frames, int depth, const char *why, double seconds); /* a task did */
void mx_profile_task(const mx_frame *frames, int depth, const char *why);                   /* one more for mx_profile_tasks */
#endif
