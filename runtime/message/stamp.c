/* stamp.c - the stamp of a benchmark in a delivery: at the start of its body, or in a header. */
#include "measure/tally.h"
#include "message/table.h"

static int is_of(const mx_tallies *t, const uint8_t *p, size_t n, mx_stamp *to) {
    if (n < sizeof *to) return 0;
    memcpy(to, p, sizeof *to);
    return to->run == t->run;
}

static int find(const mx_tallies *t, const mx_msg *m, mx_stamp *to) {
    mx_props props;
    mx_field f;
    if (is_of(t, m->body, m->size, to)) return 1;
    if (mx_props_decode(m->props, m->props_size, &props) || !(props.flags & MX_P_HEADERS)) return 0;
    return mx_table_find(props.headers, "x-mx-bench", &f) && f.type == 'S' && is_of(t, f.value.p, f.value.n, to);
}

MX_EXPORT void mx_tally_receive(mx_tallies *t, uint32_t number, const mx_msg *m, uint32_t streams, uint32_t stream,
                                double *last) {
    mx_stamp s;
    mx_tally_take(t, number, find(t, m, &s) ? &s : NULL, streams, stream, last, mx_now());
}
