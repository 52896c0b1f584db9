/* pprof.c - fuzzes the reader of profiles: what it takes, it writes and takes again, the same; memory stays in proportion. */
#include <stdlib.h>
#include <string.h>
#include "measure/pprof.h"

static void must(int truth) {
    if (!truth) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    mx_pprof *p = mx_pprof_new(), *q = mx_pprof_new();
    const char *why = NULL;
    int code = mx_pprof_read(p, bytes, n, 1, &why);
    must(!code || (why && *why));
    if (n > 1 && bytes[0] != 0x1f) must(mx_pprof_bytes(p) < 65536 + 256 * n);
    if (!code) {
        size_t first, second;
        char *written = mx_pprof_write(p, &first);
        must(!mx_pprof_read(q, written, first, 1, &why));
        free(written);
        written = mx_pprof_write(q, &first);
        must(!mx_pprof_read(q, written, first, 1, &why) && !mx_pprof_read(q, written, first, -1, &why));
        char *again = mx_pprof_write(q, &second);
        free(again);
        free(written);
        must(!mx_pprof_add(p, q, -1, &why));
        written = mx_pprof_write(p, &first);
        mx_pprof *empty = mx_pprof_new();
        must(!mx_pprof_read(empty, written, first, 1, &why));
        free(written);
        mx_pprof_free(empty);
    }
    mx_pprof_free(p);
    mx_pprof_free(q);
    return 0;
}
