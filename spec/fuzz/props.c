/* props.c - fuzzes property lists: what is accepted encodes to the same bytes. */
#include "message/props.h"
#include <stdlib.h>
#include <string.h>

static void must(int truth) {
    if (!truth) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    mx_props found;
    int checked = mx_props_check(p, n), decoded = mx_props_decode(p, n, &found);
    must(checked || !decoded);
    if (decoded) return 0;
    size_t bound = mx_props_bound(&found);
    uint8_t *wire = malloc(bound);
    int size = mx_props_encode(&found, wire, bound), reserved = p[1] & 4; /* cluster-id is read past, and not written */
    must(bound <= n && (size == (int)bound || size == MX_EVALIDATION));
    must(size > 0 || mx_table_check(found.headers.p, found.headers.n));
    if (size > 0 && !reserved) must((size_t)size == n && !memcmp(wire, p, n));
    for (size_t cap = 0; size > 0 && cap < bound; cap += 1 + cap / 4) {
        uint8_t *small = malloc(cap ? cap : 1);
        must(mx_props_encode(&found, small, cap) == MX_EMEMORY);
        free(small);
    }
    free(wire);
    return 0;
}
