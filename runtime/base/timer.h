/* timer.h - one heap of deadlines for everything that waits.
 *
 * A timer is embedded in what it guards; zeroed memory is a stopped timer. The owner stops it before its memory goes.
 * fire runs on the loop, outside Lua, with the timer already stopped; it may set any timer again. */
#ifndef MX_TIMER_H
#define MX_TIMER_H
#include <stddef.h>
#include <stdint.h>

typedef struct mx_timer {
    uint64_t due_us;
    size_t place; /* in the heap, from 1; 0: stopped */
    void (*fire)(struct mx_timer *t, void *arg);
    void *arg;
} mx_timer;

typedef struct mx_timers {
    mx_timer **heap;
    size_t count, room;
} mx_timers;

void mx_timers_fini(mx_timers *h);
void mx_timer_set(mx_timers *h, mx_timer *t, uint64_t due_us); /* also moves one that runs */
void mx_timer_stop(mx_timers *h, mx_timer *t);
uint64_t mx_timers_next(const mx_timers *h);         /* the earliest due_us; UINT64_MAX: none */
size_t mx_timers_run(mx_timers *h, uint64_t now_us); /* fires what is due; returns how many */
#endif
