/* table.c - fuzzes the walker of field tables: it stays inside, and its checks agree with each other. */
#include "message/table.h"
#include <stdlib.h>
#include <string.h>
#include "message/props.h"

static void must(int truth) {
    if (!truth) abort();
}

static size_t visit(mx_span rest, int named, unsigned depth) {
    const uint8_t *end = rest.p + rest.n;
    mx_field f;
    size_t seen = 0;
    int64_t v;
    for (const uint8_t *p = rest.p; mx_table_next(&rest, named, &f) > 0; p = rest.p) {
        must(f.whole.p >= p && f.whole.p + f.whole.n == rest.p && rest.p + rest.n == end);
        must(f.value.p >= f.whole.p && f.value.p + f.value.n == rest.p);
        mx_field_integer(&f, &v);
        seen += 1 + f.key.n;
        if ((f.type == 'F' || f.type == 'A') && depth < 100) seen += visit(f.value, f.type == 'F', depth + 1);
    }
    return seen;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    mx_field f;
    int strict = mx_table_check(p, n), foreign = mx_table_check_foreign(p, n);
    must(strict || !foreign);
    visit((mx_span){p, n}, 1, 1);
    visit((mx_span){p, n}, 0, 1);
    mx_table_find((mx_span){p, n}, "a", &f);
    mx_props in = {.flags = MX_P_HEADERS, .headers = {p, n}}, out;
    size_t bound = mx_props_bound(&in);
    uint8_t *wire = malloc(bound);
    int size = mx_props_encode(&in, wire, bound);
    must(strict ? size == strict : size == (int)bound);
    if (!strict) {
        must(mx_props_check(wire, bound) == 0 && mx_props_decode(wire, bound, &out) == 0);
        must(out.headers.n == n && (!n || !memcmp(out.headers.p, p, n)));
    }
    free(wire);
    return 0;
}
