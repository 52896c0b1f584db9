/* entry.c - the entries of AMQP field tables. */
#include "message/entry.h"
#include <stdlib.h>
#include <string.h>
#include "base/bytes.h"
#include "message/props.h"

enum { HEADERS_MAX = 131072 };

/* RabbitMQ's words. */
static const char *const names[256] = {
    ['t'] = "bool",        ['b'] = "byte", ['B'] = "unsignedbyte", ['s'] = "short",  ['u'] = "unsignedshort", ['I'] = "signedint",
    ['i'] = "unsignedint", ['l'] = "long", ['L'] = "long",         ['f'] = "float",  ['d'] = "double",        ['D'] = "decimal",
    ['T'] = "timestamp",   ['V'] = "void", ['S'] = "longstr",      ['x'] = "binary", ['A'] = "array",         ['F'] = "table",
};

static double real(int type, const uint8_t *p) {
    uint64_t v = mx_get(p, type == 'f' ? 4 : 8);
    uint32_t small = (uint32_t)v;
    float f;
    double d;
    memcpy(&f, &small, 4);
    memcpy(&d, &v, 8);
    return type == 'f' ? (double)f : d;
}

static int is_real(int type) { return type == 'f' || type == 'd'; }

size_t mx_entry_read(const uint8_t *p, int named, mx_entry *out) {
    mx_span rest = {p, PTRDIFF_MAX}; /* a checked table ends its walk itself */
    mx_field f;
    mx_table_next(&rest, named, &f);
    *out = (mx_entry){.key = f.key, .type = f.type, .bytes = f.whole};
    if (is_real(f.type)) out->real = real(f.type, f.value.p);
    else if (!mx_field_integer(&f, &out->number)) out->text = f.value;
    return (size_t)(rest.p - p);
}

int mx_entry_find(mx_span table, mx_span key, mx_entry *out) {
    for (const uint8_t *p = table.p, *end = p + table.n; p < end;) {
        p += mx_entry_read(p, 1, out);
        if (mx_same(out->key, key)) return 1;
    }
    *out = (mx_entry){0};
    return 0;
}

int mx_entry_is_integer(const mx_entry *f) { return f->type && strchr("bBsuIilL", f->type) != NULL; }

static int is_number(const mx_entry *f) { return mx_entry_is_integer(f) || is_real(f->type) || f->type == 'T'; }
static int is_text(const mx_entry *f) { return f->type == 'S' || f->type == 'x'; }

int mx_entry_equal(const mx_entry *a, const mx_entry *b) {
    if (is_number(a) && is_number(b)) {
        if (!is_real(a->type) && !is_real(b->type)) return a->number == b->number;
        return (is_real(a->type) ? a->real : (double)a->number) == (is_real(b->type) ? b->real : (double)b->number);
    }
    if (is_text(a) && is_text(b)) return mx_same(a->text, b->text);
    if (a->type == 't' && b->type == 't') return a->number == b->number;
    return mx_same(a->bytes, b->bytes);
}

const char *mx_entry_type_name(int type) { return names[type & 0xff]; }

void mx_out_bytes(mx_out *o, const void *p, size_t n) {
    if ((size_t)(o->end - o->at) < n) {
        o->at = o->end;
        return;
    }
    if (n) memcpy(o->at, p, n);
    o->at += n;
}

void mx_out_number(mx_out *o, uint64_t v, size_t n) {
    uint8_t bytes[8];
    mx_put64(bytes, v);
    mx_out_bytes(o, bytes + 8 - n, n);
}

void mx_out_key(mx_out *o, mx_span key, int type) {
    uint8_t letter = (uint8_t)type;
    mx_out_number(o, key.n, 1);
    mx_out_bytes(o, key.p, key.n);
    mx_out_bytes(o, &letter, 1);
}

void mx_out_text(mx_out *o, const char *key, mx_span text) {
    mx_out_key(o, mx_span_of(key), 'S');
    mx_out_number(o, text.n, 4);
    mx_out_bytes(o, text.p, text.n);
}

void mx_out_entry(mx_out *o, const mx_entry *f) {
    mx_out_number(o, f->key.n, 1);
    mx_out_bytes(o, f->key.p, f->key.n);
    mx_out_bytes(o, f->bytes.p, f->bytes.n);
}

uint8_t *mx_out_open(mx_out *o) {
    mx_out_number(o, 0, 4);
    return o->at;
}

void mx_out_close(mx_out *o, uint8_t *opened) {
    if (o->at == o->end) return;
    mx_put32(opened - 4, (uint32_t)(o->at - opened));
}

static int by_key(const void *a, const void *b) {
    const mx_entry *x = a, *y = b;
    size_t n = x->key.n < y->key.n ? x->key.n : y->key.n;
    int order = n ? memcmp(x->key.p, y->key.p, n) : 0;
    return order ? order : (x->key.n > y->key.n) - (x->key.n < y->key.n);
}

mx_span mx_table_sorted(mx_span table) {
    mx_entry *fields = NULL;
    uint32_t n = 0, room = 0;
    uint8_t *copy = mx_zalloc(table.n + 1);
    mx_out o = {copy, copy + table.n + 1};
    for (const uint8_t *p = table.p, *end = p + table.n; p < end; n++) {
        if (n == room) fields = mx_realloc(fields, (room = room ? 2 * room : 8) * sizeof *fields);
        p += mx_entry_read(p, 1, &fields[n]);
    }
    if (n) qsort(fields, n, sizeof *fields, by_key);
    for (uint32_t i = 0; i < n; i++) mx_out_entry(&o, &fields[i]);
    free(fields);
    return (mx_span){copy, table.n};
}

int mx_props_with_number(mx_span props, const char *key, uint64_t number, uint8_t *to, size_t room) {
    static uint8_t headers[HEADERS_MAX];
    mx_out o = {headers, headers + sizeof headers};
    mx_props p;
    mx_entry f;
    if (mx_props_decode(props.p, props.n, &p)) return MX_EVALIDATION;
    for (const uint8_t *at = p.headers.p, *end = at + p.headers.n; at < end;) {
        at += mx_entry_read(at, 1, &f);
        if (!mx_is(f.key, key)) mx_out_entry(&o, &f);
    }
    mx_out_key(&o, mx_span_of(key), 'l');
    mx_out_number(&o, number, 8);
    p.headers = (mx_span){headers, (size_t)(o.at - headers)};
    p.flags |= MX_P_HEADERS;
    return o.at < o.end ? mx_props_encode(&p, to, room) : MX_EMEMORY;
}
