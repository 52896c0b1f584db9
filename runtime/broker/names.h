/* names.h - a hash table of what has a name; several may have the same. */
#ifndef MX_NAMES_H
#define MX_NAMES_H
#include "base/mx.h"

typedef struct mx_named { /* the first member of what a table holds */
    struct mx_named *next;
    char *name; /* NUL-terminated as well */
    uint32_t hash, size;
} mx_named;

typedef struct mx_names { /* zeroed memory is an empty one */
    mx_named **bucket;
    uint32_t buckets, count;
} mx_names;

static inline mx_span mx_name_of(const mx_named *n) { return (mx_span){(const uint8_t *)n->name, n->size}; }

uint32_t mx_hash(mx_span s);
mx_named *mx_names_find(const mx_names *t, mx_span name);       /* the latest of that name; others follow it by next */
void mx_names_enter(mx_names *t, mx_named *n, mx_span name);    /* copies the name */
void mx_names_leave(mx_names *t, mx_named *n);                  /* frees the copy */
mx_named *mx_names_after(const mx_names *t, const mx_named *n); /* walks in no order; NULL first; n must still be in it */
void mx_names_fini(mx_names *t);
#endif
