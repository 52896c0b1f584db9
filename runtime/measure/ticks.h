/* ticks.h - the timer of CPU profiles: a signal each so much CPU time of this thread, and what it interrupted.
 *
 * Design: the handler writes into a ring that only this thread reads, so that nothing is locked: the C stack, the labels, what
 * ran. Whoever reads the ring adds the stack of Lua, which a handler cannot take. */
#ifndef MX_TICKS_H
#define MX_TICKS_H
#include "measure/native.h"

typedef struct mx_tick {
    uint32_t weight; /* how many periods it stands for */
    uint32_t labels;
    int inside, depth; /* inside: as mx_profile_inside has it */
    uintptr_t pc[MX_NATIVE_DEPTH];
} mx_tick;

/* Once: takes over SIGPROF. What a tick finds in *inside and *labels it notes; ask is called in the handler when *inside is
 * MX_IN_LUA. */
void mx_ticks_start(const volatile int *inside, const volatile uint32_t *labels, void (*ask)(int));
int mx_ticks_set(uint64_t period_us); /* 0: no more; 0, or MX_EINTERNAL with errno set */
const mx_tick *mx_ticks_first(void);  /* the oldest that was not taken; NULL: none */
void mx_ticks_take(void);
#endif
