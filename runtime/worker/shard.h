/* shard.h - what a supervisor and its workers tell each other: one mapping, a shard a worker, each number with one writer.
 *
 * Design: the mapping is a memfd that a worker inherits as descriptor 3; MXRUN_WORKER in its environment is its number. Both
 * are gone once it is attached, so that what a script starts is no worker. */
#ifndef MX_SHARD_H
#define MX_SHARD_H
#include "base/mx.h"
#include "worker/journal.h"

enum { MX_SHARD_FD = 3, MX_WORKERS_MAX = 1024 };

typedef struct mx_shard {
    /* the supervisor's */
    _Alignas(64) int32_t pid; /* 0: it does not run */
    uint32_t generation;      /* how often it was started */
    uint64_t started_us;      /* by mx_clock_us */
    /* the worker's; the supervisor clears them before it starts one */
    _Alignas(64) uint32_t turns; /* changes at least once a second while the loop turns */
    uint32_t state;              /* MX_STARTING, MX_UP, MX_STOPPING */
    uint64_t running;            /* the mark of a redelivered message while its handler executes, else 0 */
} mx_shard;

typedef struct mx_shards {
    uint64_t magic;
    int32_t supervisor; /* its pid */
    uint32_t count;
    mx_journal journal; /* the supervisor's */
    mx_shard shard[];
} mx_shards;

/* Where this process stands. A process of its own has a shard that nobody reads, and no journal. */
typedef struct mx_place {
    uint32_t number, count; /* 1 of 1, or of -w */
    mx_shard *shard;
    const mx_journal *journal;
} mx_place;

mx_shards *mx_shards_new(uint32_t count, int *fd); /* NULL: errno says why. fd is closed in what is executed */
void mx_shards_free(mx_shards *s);
void mx_place_attach(void); /* once, before anything is started; a worker dies with its supervisor from now on */
const mx_place *mx_place_get(void);
#endif
