/* pprofwrite.c - a profile as the bytes of profile.proto, gzip'd. */
#include <stdlib.h>
#include <zlib.h>
#include "measure/pprofparts.h"

typedef struct out {
    uint8_t *p;
    size_t n, room;
} out;

static uint8_t *room_for(out *o, size_t n) {
    if (o->n + n > o->room) {
        o->room = 2 * o->room + n + 1024;
        o->p = mx_realloc(o->p, o->room);
    }
    return o->p + o->n;
}

static size_t varint(uint8_t *to, uint64_t v) {
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) to[n++] = (uint8_t)(v | 0x80);
    to[n++] = (uint8_t)v;
    return n;
}

static void put(out *o, uint64_t v) { o->n += varint(room_for(o, 10), v); }

/* A field whose number is 0 is left out, as proto3 has it. */
static void put_number(out *o, unsigned field, uint64_t v) {
    if (!v) return;
    put(o, field << 3);
    put(o, v);
}

static void put_text(out *o, unsigned field, const void *s, size_t n) {
    put(o, field << 3 | 2);
    put(o, n);
    if (n) memcpy(room_for(o, n), s, n);
    o->n += n;
}

/* What was put since `from` becomes a field: its length is known only now. */
static void wrap(out *o, unsigned field, size_t from) {
    uint8_t head[20];
    size_t n = o->n - from, h = varint(head, field << 3 | 2);
    h += varint(head + h, n);
    room_for(o, h);
    memmove(o->p + from + h, o->p + from, n);
    memcpy(o->p + from, head, h);
    o->n += h;
}

enum { SAMPLE_TYPE = 1, SAMPLE, MAPPING, LOCATION, FUNCTION, STRING, TIME = 9, DURATION, PERIOD_TYPE, PERIOD, COMMENT, DEFAULT };

static void put_kind(out *o, unsigned field, mx_pprof_kind k) {
    size_t from = o->n;
    put_number(o, 1, k.type - 1);
    put_number(o, 2, k.unit - 1);
    wrap(o, field, from);
}

static void put_labels(out *o, const mx_pprof *p, uint32_t number) {
    size_t n;
    const mx_pprof_label *l = mx_intern_at(&p->labels, number, &n);
    for (const mx_pprof_label *end = l + n / sizeof *l; l < end; l++) {
        size_t from = o->n;
        put_number(o, 1, l->key - 1);
        put_number(o, 2, l->text - 1);
        put_number(o, 3, (uint64_t)l->number);
        put_number(o, 4, l->unit - 1);
        wrap(o, 3, from);
    }
}

static void put_row(out *o, const mx_pprof *p, uint32_t row) {
    const int64_t *values = p->values + (size_t)(row - 1) * MX_PPROF_VALUES;
    uint64_t any = 0;
    for (uint32_t i = 0; i < p->types; i++) any |= (uint64_t)values[i];
    if (!any) return;
    size_t n, whole = o->n, from = o->n;
    const uint32_t *key = mx_intern_at(&p->stacks, row, &n);
    for (size_t i = 1; i < n / sizeof *key; i++) put(o, key[i]);
    wrap(o, 1, from);
    from = o->n;
    for (uint32_t i = 0; i < p->types; i++) put(o, (uint64_t)values[i]);
    wrap(o, 2, from);
    if (key[0]) put_labels(o, p, key[0]);
    wrap(o, SAMPLE, whole);
}

/* One that knows its functions, files and lines, so that no tool looks for a binary. */
static void put_mapping(out *o, uint32_t file) {
    size_t from = o->n;
    put_number(o, 1, 1);
    put_number(o, 5, file);
    for (unsigned has = 7; has <= 10; has++) put_number(o, has, 1);
    wrap(o, MAPPING, from);
}

static void put_location(out *o, const mx_pprof *p, uint32_t number) {
    const mx_pprof_location_key *k = mx_intern_at(&p->locations, number, NULL);
    size_t whole = o->n;
    put_number(o, 1, number);
    put_number(o, 2, 1);
    size_t from = o->n;
    put_number(o, 1, k->function);
    put_number(o, 2, (uint64_t)k->line);
    wrap(o, 4, from);
    wrap(o, LOCATION, whole);
}

static void put_function(out *o, const mx_pprof *p, uint32_t number) {
    const mx_pprof_function_key *k = mx_intern_at(&p->functions, number, NULL);
    size_t from = o->n;
    put_number(o, 1, number);
    put_number(o, 2, k->name - 1);
    put_number(o, 3, k->name - 1);
    put_number(o, 4, k->file - 1);
    put_number(o, 5, (uint64_t)k->line);
    wrap(o, FUNCTION, from);
}

static void put_strings(out *o, const mx_pprof *p) {
    for (uint32_t i = 1; i <= p->strings.count; i++) {
        size_t n;
        const void *s = mx_intern_at(&p->strings, i, &n);
        put_text(o, STRING, s, n);
    }
    put_text(o, STRING, "mxrun", 5);
}

static void put_profile(out *o, const mx_pprof *p) {
    for (uint32_t i = 0; i < p->types; i++) put_kind(o, SAMPLE_TYPE, p->type[i]);
    for (uint32_t i = 1; i <= p->stacks.count; i++) put_row(o, p, i);
    put_mapping(o, p->strings.count);
    for (uint32_t i = 1; i <= p->locations.count; i++) put_location(o, p, i);
    for (uint32_t i = 1; i <= p->functions.count; i++) put_function(o, p, i);
    put_strings(o, p);
    put_number(o, TIME, (uint64_t)p->time_ns);
    put_number(o, DURATION, (uint64_t)p->duration_ns);
    put_kind(o, PERIOD_TYPE, p->period_type);
    put_number(o, PERIOD, (uint64_t)p->period);
    for (uint32_t i = 1; i <= p->comments.count; i++)
        put_number(o, COMMENT, *(const uint32_t *)mx_intern_at(&p->comments, i, NULL) - 1);
    put_number(o, DEFAULT, p->default_type - 1);
}

MX_EXPORT char *mx_pprof_write(const mx_pprof *p, size_t *n) {
    out o = {0};
    put_profile(&o, p);
    z_stream z = {0};
    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) abort();
    size_t room = deflateBound(&z, o.n);
    char *to = mx_realloc(NULL, room);
    z.next_in = o.p, z.avail_in = (uInt)o.n;
    z.next_out = (Bytef *)to, z.avail_out = (uInt)room;
    deflate(&z, Z_FINISH);
    *n = z.total_out;
    deflateEnd(&z);
    free(o.p);
    return to;
}
