/* metrics.h - the numbers that /metrics shows, as records in one run of memory that a reader needs no pointer to understand.
 *
 * Design: a slab is a header and records one behind the other, each with its kind, its name, its labels and its number. It never
 * moves, so that Lua keeps pointers into it; it may lie in memory that other processes read. The text adds up what has the
 * same name and labels, within a slab and over the slabs of several workers. */
#ifndef MX_METRICS_H
#define MX_METRICS_H
#include "measure/hist.h"

typedef struct mx_slab {
    uint64_t room, used; /* bytes, this header included */
    uint64_t free;       /* how many records are MX_FREE */
} mx_slab;

mx_slab *mx_slab_init(void *zeroed, size_t size); /* at the start of the memory, which stays the caller's */
void mx_slab_use(mx_slab *s);                     /* where mx_series_new puts records; without it memory of its own */
void mx_slab_seal(void);                /* the process ends: nothing is dropped any more, for those who read it afterwards */
void mx_slab_keep(const mx_slab *from); /* adds what it counted to the slab in use: counters, histograms and helps, no gauges */
const char *mx_series_name(const mx_series *s);
const char *mx_series_labels(const mx_series *s);
/* s NULL: the first. NULL: there is no other, or what follows is no record: whoever wrote it may have died of that. */
mx_series *mx_series_next(const mx_slab *slab, const mx_series *s);
/* Prometheus text format 0.0.4, or OpenMetrics 1.0; freed by the caller. */
char *mx_metrics_write(const mx_slab *const *slabs, int count, int openmetrics, size_t *size);
#endif
