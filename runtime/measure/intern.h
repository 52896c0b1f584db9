/* intern.h - runs of bytes as numbers: the same bytes, the same number. Numbers count from 1, in the order of first use.
 *
 * Design: one growing block of bytes, an array of where each run lies, and a table of numbers open to the next slot. The hash is
 * keyed by the process, so that no file can be made whose runs all fall into one place. All zeros: it is empty. */
#ifndef MX_INTERN_H
#define MX_INTERN_H
#include "base/mx.h"

typedef struct mx_interned {
    size_t at;
    uint32_t n, hash;
} mx_interned;

typedef struct mx_intern {
    uint8_t *bytes;
    size_t used, room;
    mx_interned *item;
    uint32_t *slot; /* numbers, 0: free */
    uint32_t count, item_room, slots;
} mx_intern;

void mx_intern_fini(mx_intern *t);
size_t mx_intern_bytes(const mx_intern *t);                           /* what it holds of memory */
uint32_t mx_intern_put(mx_intern *t, const void *p, size_t n);        /* its number, a new one for what is new */
uint32_t mx_intern_find(const mx_intern *t, const void *p, size_t n); /* 0: there is none */
const void *mx_intern_at(const mx_intern *t, uint32_t number,
                         size_t *n); /* aligned to 8, a NUL follows; valid until the next put */
#endif
