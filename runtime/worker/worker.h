/* worker.h - one loop, one script: reads fill the inboxes, Lua takes a turn, what it decided leaves.
 *
 * The worker knows the script only as a function and a pointer that it does not understand. */
#ifndef MX_WORKER_H
#define MX_WORKER_H
#include "link/link.h"
#include "worker/shard.h"

typedef struct mx_worker {
    mx_runtime runtime; /* first */
    uv_loop_t loop;
    uv_prepare_t prepare; /* just before the loop sleeps: the alarm is set */
    uv_check_t check;     /* just after: the turn */
    uv_idle_t idle;       /* runs while there is more to do at once */
    uv_poll_t alarm;      /* a timerfd, since a uv_timer counts whole milliseconds */
    uv_signal_t term, interrupt, hangup;
    mx_timer rest;                 /* pools shrink when nobody asks them for so long */
    mx_timer log;                  /* lines of it are left */
    uv_timer_t beat;               /* so that the loop turns now and then, for those who watch it */
    mx_shard *shard;               /* its turns are counted there */
    mx_series *confirm, *lag, *gc; /* what the turn's histograms lie in */
    int alarm_fd;
    int terminal;           /* it began on one, and ends with it */
    uint64_t alarm_us;      /* what it is set to */
    int due;                /* a turn is wanted */
    int leaving;            /* turn said so: it is not called again */
    int (*turn)(void *arg); /* the script's turn; not 0: leave the loop */
    void *turn_arg;
} mx_worker;

int mx_worker_init(mx_worker *w); /* 0 or MX_EINTERNAL with errno set */
void mx_worker_run(mx_worker *w); /* until turn answers otherwise than 0 */
/* Closes every link and socket first. Not 0: a name is still being looked up, on a thread that exit would wait for. */
int mx_worker_fini(mx_worker *w);
#endif
