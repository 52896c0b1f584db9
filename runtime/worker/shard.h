/* shard.h - what a supervisor and its workers tell each other: one mapping, a shard a worker, each number with one writer; where
 * somebody watches also a slab a worker, and one of the supervisor's own.
 *
 * Design: the mapping is a memfd that a worker inherits as descriptor 3; MXRUN_WORKER in its environment is its number. Both
 * are gone once it is attached, so that what a script starts is no worker. */
#ifndef MX_SHARD_H
#define MX_SHARD_H
#include "base/mx.h"
#include "measure/metrics.h"
#include "worker/journal.h"
#include "worker/report.h"

enum { MX_SHARD_FD = 3, MX_WORKERS_MAX = 1024, MX_SLAB_BYTES = 32 << 20 }; /* of addresses; 80 histograms */

typedef struct mx_shard {
    /* the supervisor's */
    _Alignas(64) int32_t pid; /* 0: it does not run */
    uint32_t generation;      /* how often it was started */
    uint64_t started_us;      /* by mx_clock_us */
    uint32_t still_ms;        /* since its turns changed, as far as was looked */
    uint32_t ended;           /* in order: it is not started again */
    int32_t ask_fd;           /* see ask.h; of the supervisor's descriptors */
    /* the worker's; the supervisor clears them before it starts one */
    _Alignas(64) uint32_t turns; /* changes at least once a second while the loop turns */
    uint32_t state;              /* MX_STARTING, MX_UP, MX_STOPPING */
    uint64_t running;            /* the mark of a redelivered message while its handler executes, else 0 */
    mx_report report;
} mx_shard;

typedef struct mx_shards {
    uint64_t magic;
    int32_t supervisor; /* its pid */
    uint32_t count;
    uint32_t watched;  /* slabs follow the shards: of each worker, of the supervisor */
    uint32_t restarts; /* the supervisor's, and so is the journal */
    mx_journal journal;
    mx_shard shard[];
} mx_shards;

/* Where this process stands. A process of its own has a shard that nobody reads, and no journal. */
typedef struct mx_place {
    uint32_t number, count; /* 1 of 1, or of -w */
    mx_shard *shard;
    const mx_journal *journal;
    int watched; /* there is somebody who reads the report and the slab */
} mx_place;

mx_shards *mx_shards_new(uint32_t count, int watched, int *fd); /* NULL: errno says why. fd is closed in what is executed */
void mx_shards_free(mx_shards *s);
/* When watched. i: of worker i + 1; count: the supervisor's. One that nobody began is empty. */
mx_slab *mx_shards_slab(const mx_shards *s, uint32_t i);
void mx_shards_wipe(const mx_shards *s, uint32_t i); /* that slab; it is zeroed again */
void mx_place_attach(void); /* once, before anything is started; a worker dies with its supervisor from now on */
const mx_place *mx_place_get(void);
#endif
