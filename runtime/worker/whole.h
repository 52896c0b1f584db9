/* whole.h - --http of mxrun -w: /live, /ready, /health, /metrics and /debug/pprof/ of all workers together.
 *
 * Design: a reader of the shards, which asks no worker but for profiles. What a worker counted that is gone stays in the sums: it
 * is added to the supervisor's own slab; its gauges go with it. */
#ifndef MX_WHOLE_H
#define MX_WHOLE_H
#include "admin/http.h"
#include "options.h"
#include "worker/shard.h"

/* How a worker stands; STUCK: its loop does not turn, DOWN: it is to be started again, ENDED: it is not. */
#define MX_STANDINGS(X)                                                                                                          \
    X(STARTING, "starting") X(UP, "up") X(STOPPING, "stopping") X(STUCK, "stuck") X(DOWN, "down") X(ENDED, "ended")
enum {
#define X(name, text) MX_IS_##name,
    MX_STANDINGS(X)
#undef X
        MX_STANDINGS_COUNT
};

typedef struct mx_whole {
    mx_runtime runtime; /* the loop, and the server */
    mx_shards *shards;
    mx_series *restarts, *workers[MX_STANDINGS_COUNT];
} mx_whole;

/* 0, also when nobody wants --http; else the exit code. The shards are watched when there is --http. */
int mx_whole_open(mx_whole *w, uv_loop_t *loop, mx_shards *shards, const mx_options *o);
void mx_whole_keep(mx_whole *w, uint32_t i); /* worker i + 1 is gone: what it counted is kept, its slab is zeroed */
void mx_whole_close(mx_whole *w);            /* before the loop goes */
mx_http_hear mx_whole_hear;                  /* arg: an mx_whole */
#endif
