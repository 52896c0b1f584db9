/* hist.c - log-linear buckets: 1 us steps to 2 ms, then 1024 steps each doubling; untouched pages cost nothing. */
#include "measure/hist.h"
#include <stdlib.h>

enum { HALF_BITS = 10, HALF = 1 << HALF_BITS, DOUBLINGS = 21, BUCKETS = (DOUBLINGS + 2) * HALF };
#define LONGEST 3600000000u /* 1 h; lies in the last doubling, [2^31, 2^32) us */

struct mx_hist {
    uint64_t count, max;
    uint64_t bucket[BUCKETS];
};

static unsigned place(uint64_t us) {
    if (us < 2 * HALF) return (unsigned)us;
    unsigned e = 63 - HALF_BITS - (unsigned)__builtin_clzll(us);
    return e * HALF + (unsigned)(us >> e);
}

/* The largest value that falls into bucket i. */
static uint64_t value(unsigned i) {
    if (i < 2 * HALF) return i;
    unsigned e = i / HALF - 1;
    return ((uint64_t)(i - e * HALF + 1) << e) - 1;
}

MX_EXPORT mx_hist *mx_hist_new(void) { return mx_zalloc(sizeof(mx_hist)); }
MX_EXPORT void mx_hist_free(mx_hist *h) { free(h); }

void mx_hist_add(mx_hist *h, uint64_t us, uint64_t count) {
    if (!count) return;
    if (us < 1) us = 1;
    if (us > LONGEST) us = LONGEST;
    if (us > h->max) h->max = us;
    h->count += count;
    h->bucket[place(us)] += count;
}

MX_EXPORT void mx_hist_record(mx_hist *h, double seconds) {
    mx_hist_add(h, seconds > 0 ? seconds < 3600 ? (uint64_t)(seconds * 1e6 + 0.5) : LONGEST : 0, 1);
}

MX_EXPORT double mx_hist_percentile(const mx_hist *h, double p) {
    if (!h->count) return 0;
    double wanted = p > 0 ? p < 100 ? p / 100 * (double)h->count : (double)h->count : 0;
    uint64_t seen = 0;
    for (unsigned i = 1, last = place(h->max); i < last; i++) {
        seen += h->bucket[i];
        if (h->bucket[i] && (double)seen >= wanted) return (double)value(i) / 1e6;
    }
    return (double)h->max / 1e6;
}

MX_EXPORT double mx_hist_max(const mx_hist *h) { return (double)h->max / 1e6; }
double mx_hist_count(const mx_hist *h) { return (double)h->count; }
