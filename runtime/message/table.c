/* table.c - walks field tables; the only place that knows how long a value is. */
#include "message/table.h"
#include <string.h>
#include "base/bytes.h"

/* Bytes of a value by its type as RabbitMQ reads it (rabbit_binary_parser), plus 1; 0: no such type. */
enum { LONG = 100, NESTED = 101 };
static const uint8_t width[256] = {
    ['t'] = 2, ['b'] = 2, ['B'] = 2, ['s'] = 3, ['u'] = 3, ['I'] = 5,    ['i'] = 5,    ['l'] = 9,      ['L'] = 9,
    ['f'] = 5, ['d'] = 9, ['D'] = 6, ['T'] = 9, ['V'] = 1, ['S'] = LONG, ['x'] = LONG, ['A'] = NESTED, ['F'] = NESTED};

/* The first n bytes of rest, or NULL. */
static const uint8_t *eat(mx_span *rest, size_t n) {
    const uint8_t *p = rest->p;
    if (rest->n < n) return NULL;
    rest->p += n, rest->n -= n;
    return p;
}

int mx_table_next(mx_span *rest, int named, mx_field *out) {
    if (!rest->n) return 0;
    mx_span r = *rest;
    *out = (mx_field){0};
    if (named) {
        size_t n = *eat(&r, 1);
        out->key = (mx_span){eat(&r, n), n};
        if (!out->key.p) return MX_EVALIDATION;
    }
    const uint8_t *type = eat(&r, 1);
    if (!type) return MX_EVALIDATION;
    size_t n = width[*type];
    if (!n) {
        out->type = *type;
        out->value = r;
        return MX_EVALIDATION;
    }
    if (n-- >= LONG) {
        const uint8_t *length = eat(&r, 4);
        if (!length) return MX_EVALIDATION;
        n = mx_get32(length);
    }
    out->value = (mx_span){eat(&r, n), n};
    if (!out->value.p) return MX_EVALIDATION;
    out->type = *type;
    out->whole = (mx_span){type, (size_t)(r.p - type)};
    *rest = r;
    return 1;
}

int mx_table_find(mx_span table, const char *key, mx_field *out) {
    size_t n = strlen(key);
    while (mx_table_next(&table, 1, out) > 0)
        if (out->key.n == n && !memcmp(out->key.p, key, n)) return 1;
    return 0;
}

int mx_field_integer(const mx_field *f, int64_t *out) {
    uint64_t v = mx_get(f->value.p, f->value.n);
    switch (f->type) {
    case 'b': *out = (int8_t)v; return 1;
    case 's': *out = (int16_t)v; return 1;
    case 'I': *out = (int32_t)v; return 1;
    case 't':
    case 'B':
    case 'u':
    case 'i':
    case 'l':
    case 'L':
    case 'T': *out = (int64_t)v; return 1;
    }
    return 0;
}

/* foreign: what is beyond our limits or of no type we know ends the walk where it stands. */
static int walk(mx_span rest, int named, int foreign, unsigned depth, unsigned *entries) {
    mx_field f;
    int more;
    if (depth > MX_TABLE_DEPTH) return foreign;
    while ((more = mx_table_next(&rest, named, &f)) > 0) {
        if (++*entries > MX_TABLE_ENTRIES) return foreign;
        if (width[f.type] == NESTED && !walk(f.value, f.type == 'F', foreign, depth + 1, entries)) return 0;
    }
    return !more || (foreign && f.type);
}

static int check(const uint8_t *p, size_t n, int foreign) {
    unsigned entries = 0;
    return walk((mx_span){p, n}, 1, foreign, 1, &entries) ? 0 : MX_EVALIDATION;
}

int mx_table_check(const uint8_t *p, size_t n) { return check(p, n, 0); }
int mx_table_check_foreign(const uint8_t *p, size_t n) { return check(p, n, 1); }
