/* props.c - the property list, driven by one table of its fields. */
#include "message/props.h"
#include <string.h>
#include "base/bytes.h"

/* Order on the wire is the order of the flag bits, highest first; a field's index is 15 minus its bit. */
enum kind { NONE, TEXT, TABLE, OCTET, STAMP };
enum { CLUSTER_ID = 4, UNSEEN = 0xffff };
#define AT(name) offsetof(mx_props, name)
static const struct {
    uint16_t kind, at; /* at: in mx_props; UNSEEN: read past, never written */
} field[16] = {{TEXT, AT(content_type)}, {TEXT, AT(content_encoding)},
               {TABLE, AT(headers)},     {OCTET, AT(delivery_mode)},
               {OCTET, AT(priority)},    {TEXT, AT(correlation_id)},
               {TEXT, AT(reply_to)},     {TEXT, AT(expiration)},
               {TEXT, AT(message_id)},   {STAMP, AT(timestamp)},
               {TEXT, AT(type)},         {TEXT, AT(user_id)},
               {TEXT, AT(app_id)},       {TEXT, UNSEEN},
               {NONE, UNSEEN},           {NONE, UNSEEN}};
#undef AT

/* Bytes left to read; a short read leaves p NULL and every later one fails too. */
typedef struct cursor {
    const uint8_t *p, *end;
} cursor;

/* The next n bytes, or NULL. */
static const uint8_t *eat(cursor *c, size_t n) {
    if ((size_t)(c->end - c->p) < n) return NULL;
    const uint8_t *p = c->p;
    c->p += n;
    return p;
}

static int eat_short(cursor *c, mx_span *s) {
    const uint8_t *n = eat(c, 1);
    if (!n) return 0;
    *s = (mx_span){eat(c, *n), *n};
    return s->p != NULL;
}

static int eat_long(cursor *c, mx_span *s) {
    const uint8_t *n = eat(c, 4);
    if (!n) return 0;
    *s = (mx_span){NULL, mx_get32(n)};
    s->p = eat(c, s->n);
    return s->p != NULL;
}

static unsigned first(unsigned flags) { return (unsigned)__builtin_clz(flags) - 16; }

/* Reads the field i into out, which may be a scratch one. */
static int read(cursor *c, unsigned i, mx_props *out) {
    mx_span unseen;
    const uint8_t *p;
    void *to = field[i].at == UNSEEN ? (void *)&unseen : (uint8_t *)out + field[i].at;
    switch (field[i].kind) {
    case TEXT: return eat_short(c, to);
    case TABLE: return eat_long(c, to);
    case OCTET:
        if ((p = eat(c, 1))) *(uint8_t *)to = *p;
        return p != NULL;
    case STAMP:
        if ((p = eat(c, 8))) *(uint64_t *)to = mx_get64(p);
        return p != NULL;
    default: return 0; /* also a second flag word: nothing we know needs one */
    }
}

/* Fields that are not there stay as they were. */
static int parse(const uint8_t *props, size_t size, mx_props *out) {
    if (size < 2) return MX_EVALIDATION;
    cursor c = {props + 2, props + size};
    unsigned flags = mx_get16(props);
    out->flags = flags & ~(unsigned)CLUSTER_ID;
    for (unsigned i; flags; flags ^= 0x8000u >> i)
        if (!read(&c, i = first(flags), out)) return MX_EVALIDATION;
    return c.p == c.end ? 0 : MX_EVALIDATION;
}

MX_EXPORT int mx_props_decode(const uint8_t *props, size_t size, mx_props *out) {
    memset(out, 0, sizeof *out);
    return parse(props, size, out);
}

int mx_props_check(const uint8_t *p, size_t n) {
    mx_props found;
    int code = parse(p, n, &found);
    if (code || !(found.flags & MX_P_HEADERS)) return code;
    return mx_table_check_foreign(found.headers.p, found.headers.n);
}

static uint8_t *put(uint8_t *to, mx_span s) {
    if (s.n) memcpy(to, s.p, s.n);
    return to + s.n;
}

static int fits(unsigned kind, const mx_span *s) {
    if (kind == TEXT) return s->n <= 255;
    return s->n < 1u << 30 && mx_table_check(s->p, s->n) == 0;
}

int mx_props_encode(const mx_props *in, uint8_t *out, size_t cap) {
    uint8_t *p = out, *end = out + cap;
    unsigned flags = in->flags;
    if (flags & ~0xfff8u) return MX_EVALIDATION;
    if (cap < 2) return MX_EMEMORY;
    mx_put16(p, (uint16_t)flags);
    p += 2;
    for (unsigned i; flags; flags ^= 0x8000u >> i) {
        i = first(flags);
        const void *from = (const uint8_t *)in + field[i].at;
        const mx_span *s = from;
        size_t left = (size_t)(end - p);
        switch (field[i].kind) {
        case OCTET:
            if (left < 1) return MX_EMEMORY;
            *p++ = *(const uint8_t *)from;
            break;
        case STAMP:
            if (left < 8) return MX_EMEMORY;
            mx_put64(p, *(const uint64_t *)from);
            p += 8;
            break;
        case TEXT:
            if (!fits(TEXT, s)) return MX_EVALIDATION;
            if (left < 1 + s->n) return MX_EMEMORY;
            *p++ = (uint8_t)s->n;
            p = put(p, *s);
            break;
        default:
            if (!fits(TABLE, s)) return MX_EVALIDATION;
            if (left < 4 + s->n) return MX_EMEMORY;
            mx_put32(p, (uint32_t)s->n);
            p = put(p + 4, *s);
        }
    }
    return (int)(p - out);
}

size_t mx_props_bound(const mx_props *in) {
    static const uint8_t fixed[] = {[TEXT] = 1, [TABLE] = 4, [OCTET] = 1, [STAMP] = 8};
    size_t n = 2;
    for (unsigned i, flags = in->flags & 0xfff8; flags; flags ^= 0x8000u >> i) {
        i = first(flags);
        n += fixed[field[i].kind];
        if (field[i].kind <= TABLE) n += ((const mx_span *)((const uint8_t *)in + field[i].at))->n;
    }
    return n;
}
