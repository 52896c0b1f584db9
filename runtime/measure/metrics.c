/* metrics.c - the slab: records of name, labels and number. */
#include "measure/metrics.h"
#include <stdlib.h>
#include <sys/mman.h>

enum { ALIGN = 64 };
#define RESERVED ((size_t)256 << 20) /* of addresses; memory only where records lie */
#define LEAST ((size_t)4 << 20)      /* where addresses are limited; has room for what the worker measures */

static mx_slab *slab;
static int sealed;

static size_t rounded(size_t n) { return (n + ALIGN - 1) & ~(size_t)(ALIGN - 1); }
static size_t head_size(size_t texts) { return rounded(sizeof(mx_series) + texts + 2); }
static mx_series *at(const mx_slab *s, uint64_t offset) { return (mx_series *)((char *)s + offset); }

mx_slab *mx_slab_init(void *zeroed, size_t size) {
    mx_slab *s = zeroed;
    s->room = size;
    s->used = rounded(sizeof *s);
    return s;
}

void mx_slab_use(mx_slab *s) {
    slab = s;
    sealed = 0;
}

void mx_slab_seal(void) { sealed = 1; }

static mx_slab *reserve(void) {
    for (size_t size = RESERVED; size > LEAST; size /= 2) {
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p != MAP_FAILED) return mx_slab_init(p, size);
    }
    return mx_slab_init(mx_zalloc(LEAST), LEAST);
}

const char *mx_series_name(const mx_series *s) { return (const char *)(s + 1); }
const char *mx_series_labels(const mx_series *s) { return mx_series_name(s) + s->name_size + 1; }

MX_EXPORT mx_hist *mx_series_hist(mx_series *s) {
    return s->kind == MX_HISTOGRAM ? (mx_hist *)((char *)s + head_size((size_t)s->name_size + s->labels_size)) : NULL;
}

static int is_record(const mx_series *s, uint64_t room) {
    size_t texts = (size_t)s->name_size + s->labels_size;
    size_t least = head_size(texts) + (s->kind == MX_HISTOGRAM ? sizeof(mx_hist) : 0);
    if (s->size > room || s->size < (s->kind == MX_FREE ? ALIGN : least)) return 0;
    return s->kind == MX_FREE || (s->kind <= MX_HISTOGRAM && !mx_series_name(s)[s->name_size] && !mx_series_name(s)[texts + 1]);
}

mx_series *mx_series_next(const mx_slab *s, const mx_series *r) {
    uint64_t offset = r ? (uint64_t)((const char *)r - (const char *)s) + r->size : rounded(sizeof *s);
    uint64_t used = __atomic_load_n(&s->used, __ATOMIC_ACQUIRE);
    for (; offset < used && is_record(at(s, offset), used - offset); offset += at(s, offset)->size)
        if (__atomic_load_n(&at(s, offset)->kind, __ATOMIC_ACQUIRE) != MX_FREE) return at(s, offset);
    return NULL;
}

/* A record that was dropped and is just large enough, so that those of queues that come and go take turns. */
static mx_series *reused(uint32_t size) {
    if (!slab->free) return NULL;
    for (uint64_t offset = rounded(sizeof *slab); offset < slab->used; offset += at(slab, offset)->size) {
        mx_series *s = at(slab, offset);
        if (s->kind != MX_FREE || s->size < size || s->size > size + 2 * ALIGN) continue;
        slab->free--;
        return s;
    }
    return NULL;
}

static mx_series *appended(uint32_t size) {
    if (slab->room - slab->used < size) return NULL;
    mx_series *s = at(slab, slab->used);
    s->size = size;
    return s;
}

MX_EXPORT mx_series *mx_series_new(int kind, const char *name, const char *labels) {
    size_t n = strlen(name), m = strlen(labels);
    if (!slab) slab = reserve();
    if (n > UINT16_MAX || m > UINT16_MAX) return NULL;
    uint32_t size = (uint32_t)(head_size(n + m) + (kind == MX_HISTOGRAM ? rounded(sizeof(mx_hist)) : 0));
    mx_series *s = reused(size);
    if (!s && !(s = appended(size))) return NULL;
    s->value = 0;
    s->name_size = (uint16_t)n, s->labels_size = (uint16_t)m;
    memcpy(s + 1, name, n + 1);
    memcpy((char *)(s + 1) + n + 1, labels, m + 1);
    __atomic_store_n(&s->kind, (uint32_t)kind, __ATOMIC_RELEASE);
    uint64_t end = (uint64_t)((char *)s - (char *)slab) + s->size;
    if (end > slab->used) __atomic_store_n(&slab->used, end, __ATOMIC_RELEASE);
    return s;
}

/* What a record held is wiped: in the next one of its place the histogram may begin elsewhere. */
MX_EXPORT void mx_series_drop(mx_series *s) {
    if (sealed) return;
    mx_hist *h = mx_series_hist(s);
    __atomic_store_n(&s->kind, MX_FREE, __ATOMIC_RELEASE);
    if (h) mx_hist_clear(h);
    memset(s + 1, 0, (size_t)s->name_size + s->labels_size + 2);
    slab->free++;
}

static mx_series *find(const mx_series *like) {
    for (mx_series *s = NULL; (s = mx_series_next(slab, s));)
        if (s->kind == like->kind && s->name_size == like->name_size && s->labels_size == like->labels_size &&
            !memcmp(s + 1, like + 1, (size_t)s->name_size + s->labels_size + 2))
            return s;
    return NULL;
}

void mx_slab_keep(const mx_slab *from) {
    if (!slab) slab = reserve();
    for (mx_series *s = NULL, *to; (s = mx_series_next(from, s));) {
        if (s->kind == MX_GAUGE) continue;
        if (!(to = find(s)) && !(to = mx_series_new((int)s->kind, mx_series_name(s), mx_series_labels(s)))) continue;
        to->value += s->value;
        if (s->kind == MX_HISTOGRAM) mx_hist_merge(mx_series_hist(to), mx_series_hist(s));
    }
}

MX_EXPORT const char *mx_metrics_text(int openmetrics, size_t *size) {
    static char *text;
    if (!slab) slab = reserve();
    free(text);
    return text = mx_metrics_write((const mx_slab *const *)&slab, 1, openmetrics, size);
}
