/* hist.h - an HDR histogram of microseconds, 1 us to 1 h, 3 significant digits; all samples, never a reservoir.
 *
 * Design: log-linear buckets. Each sample is counted twice: for ever, and in one of two windows of 10 s. A window of the past
 * is cleared when the next sample falls into it, so nothing runs by the clock. Memory that no sample touched stays zero. */
#ifndef MX_HIST_H
#define MX_HIST_H
#include "base/mx.h"

enum { MX_HIST_HALF = 1024, MX_HIST_DOUBLINGS = 21, MX_HIST_BUCKETS = (MX_HIST_DOUBLINGS + 2) * MX_HIST_HALF };

typedef struct mx_hist_window {
    uint64_t number; /* of the window: what is older than the one before the present counts no more */
    uint64_t count, max;
    uint32_t halves; /* bit i: some of bucket[i * MX_HIST_HALF ...] are not 0 */
    uint32_t bucket[MX_HIST_BUCKETS];
} mx_hist_window;

struct mx_hist { /* in zeroed memory it is empty */
    uint64_t count, max, sum_us;
    uint32_t halves;
    uint64_t bucket[MX_HIST_BUCKETS];
    mx_hist_window window[2];
};

void mx_hist_add(mx_hist *h, uint64_t us, uint64_t count);
void mx_hist_tick(uint64_t now_us); /* which window the next samples of all histograms belong to */
/* Adds to counts[i] how many samples are above bounds[i - 1] and at most bounds[i] us; ascending. The rest is left out. */
void mx_hist_spread(const mx_hist *h, const uint64_t *bounds, int n, uint64_t *counts);
#endif
