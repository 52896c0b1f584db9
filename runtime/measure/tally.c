/* tally.c - counts, histograms and windows in one shared mapping. */
#include "measure/tally.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/clock.h"
#include "measure/hist.h"

#define LATE 1e-3

typedef struct window {
    uint64_t slot[MX_TALLY_SLOTS]; /* block + 1 above 32 bits of what arrived of it; 0: nothing yet */
    uint64_t missing;              /* of blocks that have no slot any more */
} window;

typedef struct part {
    mx_tally pub; /* first */
    mx_hist hist[MX_TALLY_HISTS];
} part;

typedef struct shared {
    mx_tallies pub; /* first */
    int fd;         /* in the process that made it */
    part part[];    /* behind them the windows */
} shared;

typedef struct probe {
    mx_probe pub; /* first */
    const mx_tallies *of;
    part *part;
} probe;

static size_t size_of(const mx_tallies *t) { return sizeof(shared) + t->workers * sizeof(part) + t->windows * sizeof(window); }

static part *part_of(mx_tallies *t, uint32_t number) { return &((shared *)t)->part[number - 1]; }

static window *window_of(mx_tallies *t, uint32_t i) { return (window *)&((shared *)t)->part[t->workers] + i; }

/* ---- the mapping ---- */

static shared *map(int fd, size_t size) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

MX_EXPORT mx_tallies *mx_tallies_new(uint32_t workers, uint32_t windows) {
    mx_tallies head = {.run = (uint32_t)mx_random(), .workers = workers, .windows = windows};
    int fd = memfd_create("mxrun bench", MFD_CLOEXEC);
    if (fd < 0) return NULL;
    shared *s = ftruncate(fd, (off_t)size_of(&head)) ? NULL : map(fd, size_of(&head));
    if (!s) {
        close(fd);
        return NULL;
    }
    s->pub = head;
    s->fd = fd;
    return &s->pub;
}

mx_tallies *mx_tallies_map(int fd) {
    struct stat about;
    mx_tallies head;
    if (fstat(fd, &about) || pread(fd, &head, sizeof head, 0) != (ssize_t)sizeof head) return NULL;
    if ((size_t)about.st_size != size_of(&head)) return NULL;
    return (mx_tallies *)map(fd, size_of(&head));
}

int mx_tallies_fd(const mx_tallies *t) { return ((const shared *)t)->fd; }

MX_EXPORT mx_tally *mx_tally_of(mx_tallies *t, uint32_t number) { return &part_of(t, number)->pub; }
MX_EXPORT mx_hist *mx_tally_hist(mx_tallies *t, uint32_t number, int which) { return &part_of(t, number)->hist[which]; }

/* ---- sending ---- */

MX_EXPORT void mx_tally_sent(mx_tallies *t, uint32_t number, double due, double lag) {
    part *p = part_of(t, number);
    p->pub.published++;
    if (due < t->from) return;
    p->pub.sent++;
    if (lag < 0) return;
    if (lag > LATE) p->pub.late++;
    mx_hist_record(&p->hist[MX_TALLY_LAG], lag);
}

mx_probe *mx_probe_new(mx_tallies *t, uint32_t number, uint32_t mask) {
    probe *p = mx_zalloc(sizeof *p);
    p->pub.due = mx_zalloc((mask + (size_t)1) * sizeof *p->pub.due);
    p->pub.mask = mask;
    p->of = t;
    p->part = part_of(t, number);
    return &p->pub;
}

void mx_probe_free(mx_probe *p) {
    if (p) free(p->due);
    free(p);
}

void mx_probe_confirmed(mx_probe *pub, uint64_t seq, uint64_t sent_us, uint64_t now_us) {
    probe *p = (probe *)pub;
    double due = pub->due[seq & pub->mask];
    if (due < p->of->from) return;
    p->part->pub.confirmed++;
    mx_hist_record(&p->part->hist[MX_TALLY_CONFIRM], (double)now_us / 1e6 - due);
    mx_hist_add(&p->part->hist[MX_TALLY_CONFIRM_RAW], now_us > sent_us ? now_us - sent_us : 0, 1);
}

/* ---- arriving ---- */

enum { NEW, AGAIN, TOO_OLD };

static unsigned in_block(uint64_t slot) { return (unsigned)__builtin_popcount((uint32_t)slot); }

/* Of the blocks that had the slot so far, or were left out. */
static uint64_t missing_before(uint64_t old, uint64_t tag, size_t place) {
    uint64_t first = old ? old >> 32 : place + 1;
    uint64_t left_out = (tag - first) / MX_TALLY_SLOTS - (old ? 1 : 0);
    return left_out * MX_TALLY_BLOCK + (old ? MX_TALLY_BLOCK - in_block(old) : 0);
}

static int mark(window *w, uint64_t number) {
    uint64_t block = (number - 1) / MX_TALLY_BLOCK, tag = block + 1, bit = 1u << (number - 1) % MX_TALLY_BLOCK;
    size_t place = block % MX_TALLY_SLOTS;
    uint64_t *slot = &w->slot[place], old = __atomic_load_n(slot, __ATOMIC_RELAXED), now;
    do {
        if (old >> 32 > tag) return TOO_OLD;
        if (old >> 32 == tag && old & bit) return AGAIN;
        now = old >> 32 == tag ? old | bit : tag << 32 | bit;
    } while (!__atomic_compare_exchange_n(slot, &old, now, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    if (old >> 32 != tag) {
        uint64_t missing = missing_before(old, tag, place);
        if (missing) __atomic_fetch_add(&w->missing, missing, __ATOMIC_RELAXED);
    }
    return NEW;
}

static int take_missing(window *w) {
    uint64_t n = __atomic_load_n(&w->missing, __ATOMIC_RELAXED);
    while (n && !__atomic_compare_exchange_n(&w->missing, &n, n - 1, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) continue;
    return n ? NEW : AGAIN;
}

MX_EXPORT int mx_tally_has(mx_tallies *t, uint32_t i, double number) {
    uint64_t n = (uint64_t)number - 1, tag = n / MX_TALLY_BLOCK + 1;
    uint64_t slot = __atomic_load_n(&window_of(t, i)->slot[(tag - 1) % MX_TALLY_SLOTS], __ATOMIC_RELAXED);
    return slot >> 32 > tag || (slot >> 32 == tag && slot >> n % MX_TALLY_BLOCK & 1);
}

static int is_of_run(const mx_tallies *t, const mx_stamp *s, uint32_t streams) {
    return s && (uint64_t)s->producer * streams + streams <= t->windows && s->number >= 1 && s->number < 1e11;
}

static void count(mx_tallies *t, mx_tally *p, const mx_stamp *s, uint32_t streams, uint32_t stream, double *last) {
    window *w = window_of(t, s->producer * streams + stream);
    int is = mark(w, (uint64_t)s->number);
    if (is == TOO_OLD) is = take_missing(w);
    if (is == AGAIN) {
        p->duplicated++;
        return;
    }
    p->arrived++;
    if (s->number < last[s->producer]) p->reordered++;
    else last[s->producer] = s->number;
}

void mx_tally_take(mx_tallies *t, uint32_t number, const mx_stamp *s, uint32_t streams, uint32_t stream, double *last,
                   double now) {
    part *p = part_of(t, number);
    if (t->start && now >= t->from) p->pub.received++;
    if (!is_of_run(t, s, streams)) {
        p->pub.strange++;
        return;
    }
    count(t, &p->pub, s, streams, stream, last);
    if (s->due < t->from) return;
    mx_hist_record(&p->hist[MX_TALLY_E2E], now - s->due);
    mx_hist_record(&p->hist[MX_TALLY_E2E_RAW], now - s->sent);
}

/* What the kernel says of the thread of the loop, in ns. */
static void read_loop(mx_usage *to) {
    static int fd = -1;
    char text[128];
    unsigned long long ran, waited;
    if (fd < 0) fd = open("/proc/self/schedstat", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    if (sscanf(text, "%llu %llu", &ran, &waited) != 2) return;
    to->ran = (double)ran / 1e9;
    to->waited = (double)waited / 1e9;
}

/* Bytes. ru_maxrss also has the pages of the process that this one was forked from. */
static double peak(const struct rusage *u) {
    char line[128];
    unsigned long kilobytes = (unsigned long)u->ru_maxrss;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lu", &kilobytes) == 1) break;
    if (f) fclose(f);
    return (double)kilobytes * 1024;
}

MX_EXPORT void mx_usage_read(mx_usage *to) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    to->user = (double)u.ru_utime.tv_sec + (double)u.ru_utime.tv_usec / 1e6;
    to->system = (double)u.ru_stime.tv_sec + (double)u.ru_stime.tv_usec / 1e6;
    to->ran = to->user + to->system;
    to->waited = 0;
    read_loop(to);
    to->peak_rss = peak(&u);
}
