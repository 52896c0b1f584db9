/* expose.c - metrics as Prometheus and OpenMetrics read them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "measure/metrics.h"

enum { BOUNDS = 18 };
static const uint64_t bounds_us[BOUNDS] = {100,    250,    500,    1000,    2500,    5000,    10000,    25000,    50000,
                                           100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000, 60000000};
static const char *const bounds[BOUNDS] = {"0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05",
                                           "0.1",    "0.25",    "0.5",    "1.0",   "2.5",    "5.0",   "10.0", "30.0",  "60.0"};

typedef struct writer {
    FILE *out;
    int openmetrics;
} writer;

/* A copy of a record, since whoever owns it may drop it meanwhile. */
typedef struct entry {
    const mx_hist *hist; /* the record's */
    mx_series s;         /* its texts follow */
} entry;

/* By name; its help first, since it is the smallest kind; then by labels. */
static int compare(const void *a, const void *b) {
    const mx_series *x = &(*(entry *const *)a)->s, *y = &(*(entry *const *)b)->s;
    int order = strcmp(mx_series_name(x), mx_series_name(y));
    if (!order) order = (x->kind > y->kind) - (x->kind < y->kind);
    return order ? order : strcmp(mx_series_labels(x), mx_series_labels(y));
}

/* NULL: it was dropped while it was copied. */
static entry *copy(mx_series *s) {
    size_t texts = (size_t)s->name_size + s->labels_size + 2;
    entry *e = mx_zalloc(sizeof *e + texts);
    memcpy(&e->s, s, sizeof *s + texts);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    size_t copied = (size_t)e->s.name_size + e->s.labels_size + 2;
    if (e->s.kind != MX_FREE && __atomic_load_n(&s->kind, __ATOMIC_RELAXED) == e->s.kind && copied == texts) {
        e->hist = mx_series_hist(s);
        return e;
    }
    free(e);
    return NULL;
}

static entry **sorted(const mx_slab *const *slabs, int count, size_t *n) {
    entry **list = NULL, *e;
    size_t room = 0;
    *n = 0;
    for (int i = 0; i < count; i++)
        for (mx_series *s = NULL; (s = mx_series_next(slabs[i], s));) {
            if (!(e = copy(s))) continue;
            if (*n == room) list = mx_realloc(list, (room = room ? 2 * room : 256) * sizeof *list);
            list[(*n)++] = e;
        }
    if (*n) qsort(list, *n, sizeof *list, compare);
    return list;
}

static void number(FILE *out, double v) {
    char text[40];
    if (isnan(v)) fputs("NaN", out);
    else if (isinf(v)) fputs(v > 0 ? "+Inf" : "-Inf", out);
    else {
        snprintf(text, sizeof text, "%.15g", v);
        if (strtod(text, NULL) != v) snprintf(text, sizeof text, "%.17g", v);
        fputs(text, out);
    }
}

/* The name of the family: in OpenMetrics that of a counter has no _total, and each of its samples does. */
static int family_size(const writer *w, const mx_series *s) {
    static const char total[] = "_total";
    int n = s->name_size, less = n - (int)sizeof total + 1;
    return w->openmetrics && s->kind == MX_COUNTER && less > 0 && !strcmp(mx_series_name(s) + less, total) ? less : n;
}

static void sample(const writer *w, const mx_series *s, const char *suffix, const char *le, double v) {
    const char *labels = mx_series_labels(s);
    fprintf(w->out, "%.*s%s", family_size(w, s), mx_series_name(s), suffix);
    if (*labels || le)
        fprintf(w->out, "{%s%s%s%s%s}", labels, *labels && le ? "," : "", le ? "le=\"" : "", le ? le : "", le ? "\"" : "");
    putc(' ', w->out);
    number(w->out, v);
    putc('\n', w->out);
}

static void histogram(const writer *w, entry **same, size_t n) {
    uint64_t counts[BOUNDS] = {0}, sum_us = 0, count = 0, below = 0;
    for (size_t i = 0; i < n; i++) {
        const mx_hist *h = same[i]->hist;
        mx_hist_spread(h, bounds_us, BOUNDS, counts);
        sum_us += h->sum_us;
        count += h->count;
    }
    for (int k = 0; k < BOUNDS; k++) sample(w, &(*same)->s, "_bucket", bounds[k], (double)(below += counts[k]));
    sample(w, &(*same)->s, "_bucket", "+Inf", (double)count);
    sample(w, &(*same)->s, "_sum", NULL, (double)sum_us / 1e6);
    sample(w, &(*same)->s, "_count", NULL, (double)count);
}

static void value(const writer *w, entry **same, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += same[i]->s.value;
    sample(w, &(*same)->s, w->openmetrics && (*same)->s.kind == MX_COUNTER ? "_total" : "", NULL, sum);
}

static void heading(const writer *w, const mx_series *help, const mx_series *s) {
    static const char *const kinds[] = {[MX_COUNTER] = "counter", [MX_GAUGE] = "gauge", [MX_HISTOGRAM] = "histogram"};
    int n = family_size(w, s);
    if (help) fprintf(w->out, "# HELP %.*s %s\n", n, mx_series_name(s), mx_series_labels(help));
    fprintf(w->out, "# TYPE %.*s %s\n", n, mx_series_name(s), kinds[s->kind]);
}

static int is_alike(const mx_series *a, const mx_series *b) {
    return a->kind == b->kind && !strcmp(mx_series_name(a), mx_series_name(b));
}

/* Writes what lies at list[at ...] and has one name and kind; returns how many those are. */
static size_t family(const writer *w, const mx_series *help, entry **list, size_t left) {
    size_t at = 0, n;
    heading(w, help, &(*list)->s);
    for (; at < left && is_alike(&(*list)->s, &list[at]->s); at += n) {
        for (n = 1; at + n < left && is_alike(&(*list)->s, &list[at + n]->s) && !compare(&list[at], &list[at + n]);) n++;
        ((*list)->s.kind == MX_HISTOGRAM ? histogram : value)(w, list + at, n);
    }
    return at;
}

char *mx_metrics_write(const mx_slab *const *slabs, int count, int openmetrics, size_t *size) {
    char *text = NULL;
    size_t n;
    writer w = {open_memstream(&text, size), openmetrics};
    if (!w.out) abort(); /* no memory */
    entry **list = sorted(slabs, count, &n);
    const mx_series *help = NULL;
    for (size_t i = 0; i < n;) {
        const mx_series *s = &list[i]->s;
        if (s->kind == MX_HELP) help = s, i++;
        else {
            const mx_series *own = help && !strcmp(mx_series_name(help), mx_series_name(s)) ? help : NULL;
            i += family(&w, own, list + i, n - i);
        }
    }
    if (openmetrics) fputs("# EOF\n", w.out);
    fclose(w.out);
    for (size_t i = 0; i < n; i++) free(list[i]);
    free(list);
    return text;
}
