/* hist.c - log-linear buckets: 1 us steps to 2 ms, then 1024 steps each doubling; untouched pages cost nothing. */
#include "measure/hist.h"
#include <string.h>
#include <sys/mman.h>
#include "base/clock.h"

enum { HALF_BITS = 10, HALF = MX_HIST_HALF, HALVES = MX_HIST_BUCKETS / HALF, WINDOW_US = 10000000 };
#define LONGEST 3600000000u /* 1 h; lies in the last doubling, [2^31, 2^32) us */

static uint64_t present; /* number of the present window */

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

static void wipe(mx_hist_window *w) {
    for (unsigned k = 0; k < HALVES; k++)
        if (w->halves & 1u << k) memset(&w->bucket[k * HALF], 0, HALF * sizeof *w->bucket);
    w->number = w->count = w->max = w->halves = 0;
}

static mx_hist_window *window_of(mx_hist *h) {
    mx_hist_window *w = &h->window[present & 1];
    if (w->number != present) {
        wipe(w);
        w->number = present;
    }
    return w;
}

/* A window that nothing was added to lately; its bits and buckets are there still. */
static int is_past(const mx_hist_window *w) { return w->number + 1 < present; }

/* Pages of its own: calloc clears, and so takes, what it gets from memory that may have been used. */
MX_EXPORT mx_hist *mx_hist_new(void) {
    void *p = mmap(NULL, sizeof(mx_hist), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return mx_sure(p == MAP_FAILED ? NULL : p, sizeof(mx_hist));
}

MX_EXPORT void mx_hist_free(mx_hist *h) {
    if (h) munmap(h, sizeof *h);
}

void mx_hist_tick(uint64_t now_us) { present = now_us / WINDOW_US; }

#ifdef MX_UNMEASURED
static const int measured = 0;
#else
static const int measured = 1;
#endif

void mx_hist_add(mx_hist *h, uint64_t us, uint64_t count) {
    if (!measured || !count) return;
    if (us < 1) us = 1;
    if (us > LONGEST) us = LONGEST;
    mx_hist_window *w = window_of(h);
    unsigned i = place(us);
    uint32_t half = 1u << i / HALF;
    h->count += count, w->count += count;
    h->sum_us += us * count;
    if (us > h->max) h->max = us;
    if (us > w->max) w->max = us;
    h->halves |= half, w->halves |= half;
    h->bucket[i] += count, w->bucket[i] += (uint32_t)count;
}

MX_EXPORT void mx_hist_record(mx_hist *h, double seconds) {
    mx_hist_add(h, seconds > 0 ? seconds < 3600 ? (uint64_t)(seconds * 1e6 + 0.5) : LONGEST : 0, 1);
}

/* ---- handlers ---------------------------------------------------------------------------------------------------- */

enum { RUN = 64, FAST_US = 2 };

MX_EXPORT void mx_pace_begin(mx_run *r, uint32_t first) { *r = (mx_run){measured ? mx_now() : 0, first}; }

MX_EXPORT void mx_pace_end(mx_pace *p, mx_run *r, uint32_t last) {
    uint32_t n = last + 1 - r->first;
    if (!measured || !n) return;
    double now = mx_now();
    uint64_t us = now > r->from ? (uint64_t)((now - r->from) * 1e6 + 0.5) : 0;
    int slow = us > n * FAST_US;
    mx_hist_add(p->hist, slow ? 1 : us / n, n - slow);
    if (slow) mx_hist_add(p->hist, us - (n - 1), 1);
    p->watched = slow ? RUN : p->watched > n ? p->watched - n : 0;
    p->every = p->watched ? 0 : RUN - 1;
    *r = (mx_run){now, last + 1};
}

/* What percentiles are taken of: the whole histogram, or its two windows. */
typedef struct view {
    uint64_t count, max;
    uint32_t halves;
    const mx_hist *all;
    const mx_hist_window *window[2];
} view;

static void look_at(view *v, const mx_hist_window *w, int k) {
    if (is_past(w)) return;
    v->window[k] = w;
    v->count += w->count;
    v->halves |= w->halves;
    if (w->max > v->max) v->max = w->max;
}

static uint64_t in(const view *v, unsigned i) {
    if (v->all) return v->all->bucket[i];
    return (v->window[0] ? (uint64_t)v->window[0]->bucket[i] : 0) + (v->window[1] ? v->window[1]->bucket[i] : 0);
}

static double percentile(const view *v, double p) {
    if (!v->count) return 0;
    double wanted = p > 0 ? p < 100 ? p / 100 * (double)v->count : (double)v->count : 0;
    uint64_t seen = 0;
    for (unsigned i = 1, last = place(v->max); i < last; i++) {
        if (!(v->halves & 1u << i / HALF)) {
            i |= HALF - 1; /* the last of this half */
            continue;
        }
        uint64_t n = in(v, i);
        seen += n;
        if (n && (double)seen >= wanted) return (double)value(i) / 1e6;
    }
    return (double)v->max / 1e6;
}

MX_EXPORT double mx_hist_percentile(const mx_hist *h, double p) {
    view v = {.count = h->count, .max = h->max, .halves = h->halves, .all = h};
    return percentile(&v, p);
}

MX_EXPORT double mx_hist_recent(const mx_hist *h, double p) {
    view v = {0};
    for (int k = 0; k < 2; k++) look_at(&v, &h->window[k], k);
    return percentile(&v, p);
}

MX_EXPORT double mx_hist_max(const mx_hist *h) { return (double)h->max / 1e6; }
MX_EXPORT double mx_hist_count(const mx_hist *h) { return (double)h->count; }

MX_EXPORT double mx_hist_mean(const mx_hist *h) { return h->count ? (double)h->sum_us / (double)h->count / 1e6 : 0; }

MX_EXPORT void mx_hist_many(mx_hist *h, double seconds, double count) { mx_hist_add(h, mx_us_of(seconds), (uint64_t)count); }

/* What follows writes only where something is counted: a page that was only read takes no memory. */

MX_EXPORT void mx_hist_clear(mx_hist *h) {
    for (unsigned i = 1; i < MX_HIST_BUCKETS; i++) {
        if (!(h->halves & 1u << i / HALF)) i |= HALF - 1;
        else if (h->bucket[i]) h->bucket[i] = 0;
    }
    h->count = h->max = h->sum_us = h->halves = 0;
    wipe(&h->window[0]);
    wipe(&h->window[1]);
}

MX_EXPORT void mx_hist_merge(mx_hist *to, const mx_hist *from) {
    for (unsigned i = 1; i < MX_HIST_BUCKETS; i++) {
        if (!(from->halves & 1u << i / HALF)) i |= HALF - 1;
        else if (from->bucket[i]) to->bucket[i] += from->bucket[i];
    }
    to->count += from->count;
    to->sum_us += from->sum_us;
    to->halves |= from->halves & ((1u << HALVES) - 1);
    if (from->max > to->max) to->max = from->max;
}

MX_EXPORT void mx_hist_subtract(mx_hist *h, const mx_hist *earlier) {
    h->count -= earlier->count;
    h->sum_us -= earlier->sum_us;
    h->max = 0;
    for (unsigned i = 1; i < MX_HIST_BUCKETS; i++) {
        if (!(h->halves & 1u << i / HALF)) {
            i |= HALF - 1;
            continue;
        }
        if (!h->bucket[i]) continue;
        h->bucket[i] -= earlier->bucket[i];
        if (h->bucket[i]) h->max = value(i);
    }
}

MX_EXPORT int mx_hist_bucket(const mx_hist *h, int at, double *seconds, double *count) {
    for (unsigned i = at > 0 ? (unsigned)at : 1; i < MX_HIST_BUCKETS; i++) {
        if (!(h->halves & 1u << i / HALF)) {
            i |= HALF - 1;
            continue;
        }
        if (!h->bucket[i]) continue;
        *seconds = (double)value(i) / 1e6;
        *count = (double)h->bucket[i];
        return (int)i + 1;
    }
    return 0;
}

void mx_hist_spread(const mx_hist *h, const uint64_t *bounds, int n, uint64_t *counts) {
    int k = 0;
    for (unsigned i = 1; i < MX_HIST_BUCKETS; i++) {
        if (!(h->halves & 1u << i / HALF)) {
            i |= HALF - 1;
            continue;
        }
        while (k < n && i > place(bounds[k])) k++;
        if (k == n) return;
        counts[k] += h->bucket[i];
    }
}
