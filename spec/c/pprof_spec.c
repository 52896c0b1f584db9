/* pprof_spec.c - what pprof.h promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <zlib.h>
#include "measure/pprofparts.h"

static size_t print_stack(const mx_pprof *p, char *to, size_t room, const mx_pprof_sample *s) {
    size_t at = 0;
    mx_pprof_frame f;
    for (uint32_t i = 0; i < s->depth; i++) {
        mx_pprof_frame_of(p, s->locations[i], &f);
        at += (size_t)snprintf(to + at, room - at, "%s%s %s:%lld", i ? ";" : "", f.name, f.file, (long long)f.line);
    }
    return at;
}

static mx_pprof_summary summary(const mx_pprof *p) {
    mx_pprof_summary s;
    mx_pprof_sum_up(p, &s);
    return s;
}

/* Rows as "leaf file:line;caller file:line {key=value} 1 2|...". */
static const char *rows(const mx_pprof *p) {
    static char text[65536];
    const char *name, *value;
    size_t at = 0;
    text[0] = 0;
    for (uint32_t row = 1; row <= summary(p).rows; row++) {
        mx_pprof_sample s;
        mx_pprof_sample_of(p, row, &s);
        if (row > 1) at += (size_t)snprintf(text + at, sizeof text - at, "|");
        at += print_stack(p, text + at, sizeof text - at, &s);
        for (uint32_t i = 0; mx_pprof_label_of(p, s.labels, i, &name, &value); i++)
            at += (size_t)snprintf(text + at, sizeof text - at, " {%s=%s}", name, value);
        for (uint32_t i = 0; i < summary(p).types; i++)
            at += (size_t)snprintf(text + at, sizeof text - at, " %lld", (long long)s.values[i]);
    }
    return text;
}

static uint32_t at(mx_pprof *p, const char *name, int line) {
    return mx_pprof_location(p, mx_pprof_function(p, name, "a.lua", 1), line);
}

static mx_pprof *sampled(void) {
    mx_pprof *p = mx_pprof_new();
    mx_pprof_type(p, "samples", "count");
    mx_pprof_type(p, "cpu", "nanoseconds");
    return p;
}

static void add(mx_pprof *p, const char *leaf, int line, uint32_t labels, int64_t count) {
    uint32_t stack[] = {at(p, leaf, line), at(p, "main", 9)}, row = mx_pprof_row(p, stack, 2, labels);
    mx_pprof_values(p, row)[0] += count;
    mx_pprof_values(p, row)[1] += count * 1000;
}

static mx_pprof *copy_of(const mx_pprof *p) {
    size_t n;
    const char *why = "";
    char *bytes = mx_pprof_write(p, &n);
    mx_pprof *q = mx_pprof_new();
    assert_int_equal(mx_pprof_read(q, bytes, n, 1, &why), 0);
    free(bytes);
    return q;
}

static void refused(const void *bytes, size_t n, const char *what) {
    mx_pprof *p = mx_pprof_new();
    const char *why = "";
    assert_int_equal(mx_pprof_read(p, bytes, n, 1, &why), MX_EVALIDATION);
    assert_string_equal(why, what);
    assert_int_equal(summary(p).rows, 0);
    mx_pprof_free(p);
}

static void pprof_counts_equal_samples_in_one_row(void **state) {
    (void)state;
    mx_pprof *p = sampled();
    add(p, "f", 2, 0, 1), add(p, "f", 3, 0, 1), add(p, "f", 2, 0, 5);
    assert_string_equal(rows(p), "f a.lua:2;main a.lua:9 6 6000|f a.lua:3;main a.lua:9 1 1000");
    size_t held = mx_pprof_bytes(p);
    for (int i = 0; i < 100000; i++) add(p, "f", 2 + i % 2, 0, 1);
    assert_int_equal(mx_pprof_bytes(p), held);
    mx_pprof_free(p);
}

static void pprof_tells_rows_apart_by_their_labels(void **state) {
    (void)state;
    mx_pprof *p = sampled();
    const char *one[] = {"queue", "a", "worker", "1"}, *same[] = {"worker", "1", "queue", "a"}, *none[] = {"queue", ""};
    add(p, "f", 1, mx_pprof_labels(p, one, 2), 1);
    add(p, "f", 1, mx_pprof_labels(p, same, 2), 1);
    add(p, "f", 1, mx_pprof_labels(p, one, 1), 1);
    add(p, "f", 1, mx_pprof_labels(p, none, 1), 1);
    assert_int_equal(mx_pprof_labels(p, none, 0), 0);
    assert_string_equal(rows(p), "f a.lua:1;main a.lua:9 {queue=a} {worker=1} 2 2000|f a.lua:1;main a.lua:9 {queue=a} 1 1000|"
                                 "f a.lua:1;main a.lua:9 1 1000");
    mx_pprof_free(p);
}

static void pprof_reads_what_it_writes(void **state) {
    (void)state;
    mx_pprof *p = sampled();
    const char *pair[] = {"queue", "zamówienia"};
    mx_pprof_period(p, "cpu", "nanoseconds", 1000000);
    mx_pprof_time(p, 1700000000000000000, 30000000000);
    mx_pprof_comment(p, "one"), mx_pprof_comment(p, "two"), mx_pprof_comment(p, "one");
    mx_pprof_default(p, "samples");
    add(p, "f", 2, mx_pprof_labels(p, pair, 1), 7);
    add(p, "g <\"'&>", 300, 0, -1);
    mx_pprof_values(p, mx_pprof_row(p, NULL, 0, 0))[0] = INT64_MIN;
    mx_pprof *q = copy_of(p);
    char *before = strdup(rows(p));
    assert_string_equal(rows(q), before);
    mx_pprof_summary s = summary(q);
    assert_true(s.types == 2 && s.shown == 0 && s.period == 1000000 && q->comments.count == 2);
    assert_string_equal(s.type[0], "samples");
    assert_string_equal(s.unit[1], "nanoseconds");
    assert_string_equal(s.period_type, "cpu");
    assert_true(s.time_ns == 1700000000000000000 && s.duration_ns == 30000000000);
    free(before);
    mx_pprof_free(p);
    mx_pprof_free(q);
}

static void pprof_writes_an_empty_profile(void **state) {
    (void)state;
    mx_pprof *p = sampled(), *q = copy_of(p);
    assert_true(summary(q).types == 2 && summary(q).shown == 1);
    assert_string_equal(rows(q), "");
    mx_pprof_free(p);
    mx_pprof_free(q);
}

static void pprof_leaves_out_rows_of_zeros(void **state) {
    (void)state;
    mx_pprof *p = sampled();
    add(p, "f", 1, 0, 3), add(p, "g", 1, 0, 3), add(p, "f", 1, 0, -3);
    mx_pprof *q = copy_of(p);
    assert_string_equal(rows(q), "g a.lua:1;main a.lua:9 3 3000");
    mx_pprof_free(p);
    mx_pprof_free(q);
}

static void pprof_keeps_deep_stacks(void **state) {
    (void)state;
    mx_pprof *p = sampled();
    uint32_t stack[500];
    for (int i = 0; i < 500; i++) stack[i] = at(p, "f", i);
    mx_pprof_values(p, mx_pprof_row(p, stack, 500, 0))[0] = 1;
    mx_pprof_values(p, mx_pprof_row(p, stack, 499, 0))[0] = 2;
    mx_pprof_values(p, mx_pprof_row(p, stack, 1, 0))[0] = 3;
    mx_pprof *q = copy_of(p);
    char *before = strdup(rows(p));
    assert_int_equal(summary(q).rows, 3);
    assert_string_equal(rows(q), before);
    free(before);
    mx_pprof_free(p);
    mx_pprof_free(q);
}

static void pprof_adds_and_takes_away(void **state) {
    (void)state;
    mx_pprof *p = sampled(), *q = sampled();
    const char *why = "";
    mx_pprof_time(p, 2000, 10), mx_pprof_time(q, 1000, 5);
    add(p, "f", 1, 0, 3), add(p, "g", 1, 0, 1);
    add(q, "h", 1, 0, 4), add(q, "f", 1, 0, 1);
    assert_int_equal(mx_pprof_add(p, q, 1, &why), 0);
    assert_string_equal(rows(p), "f a.lua:1;main a.lua:9 4 4000|g a.lua:1;main a.lua:9 1 1000|h a.lua:1;main a.lua:9 4 4000");
    assert_true(p->time_ns == 1000 && p->duration_ns == 15);
    assert_int_equal(mx_pprof_add(p, q, -1, &why), 0);
    assert_int_equal(mx_pprof_add(p, p, 1, &why), 0);
    assert_string_equal(rows(p), "f a.lua:1;main a.lua:9 6 6000|g a.lua:1;main a.lua:9 2 2000|h a.lua:1;main a.lua:9 0 0");
    mx_pprof_free(p);
    mx_pprof_free(q);
}

static void pprof_refuses_other_sample_types(void **state) {
    (void)state;
    mx_pprof *p = sampled(), *q = mx_pprof_new();
    const char *why = "";
    mx_pprof_type(q, "space", "bytes");
    add(p, "f", 1, 0, 3);
    add(q, "f", 1, 0, 3);
    assert_int_equal(mx_pprof_add(p, q, 1, &why), MX_EVALIDATION);
    assert_string_equal(why, "it has other sample types");
    assert_string_equal(rows(p), "f a.lua:1;main a.lua:9 3 3000");
    mx_pprof_free(p);
    mx_pprof_free(q);
}

/* A message of profile.proto by hand, one that others may write: lists not packed, what is referred to stands later. */
static const char foreign[] = "\x0a\x04\x08\x01\x10\x02"                                         /* sample_type: inuse, bytes */
                              "\x12\x0c\x08\x05\x08\x06\x10\x07\x1a\x04\x08\x03\x18\x40"         /* sample: 5, 6; 7; n = 64 */
                              "\x12\x04\x08\x07\x10\x01"                                         /* sample: 7; 1 */
                              "\x1a\x04\x08\x02\x28\x04"                                         /* mapping 2: ./prog */
                              "\x22\x0e\x08\x05\x18\x10\x22\x04\x08\x09\x10\x0b\x22\x02\x08\x08" /* location 5: 9 at 11 in 8 */
                              "\x22\x08\x08\x06\x22\x04\x08\x08\x10\x63"                         /* location 6: 8 at 99 */
                              "\x22\x08\x08\x07\x10\x02\x18\xff\xff\x03" /* location 7 of mapping 2, at an address */
                              "\x2a\x06\x08\x08\x10\x05\x20\x06"         /* function 8: main of m.go */
                              "\x2a\x06\x08\x09\x10\x07\x20\x06"         /* function 9: leaf of m.go */
                              "\x32\x00\x32\x05inuse\x32\x05\x62ytes\x32\x01n\x32\x06./prog\x32\x04main\x32\x04m.go\x32\x04leaf";

static void pprof_reads_inlined_lines_addresses_and_numbers_of_others(void **state) {
    (void)state;
    mx_pprof *p = mx_pprof_new();
    const char *why = "";
    int code = mx_pprof_read(p, foreign, sizeof foreign - 1, 1, &why);
    assert_string_equal(code ? why : "", "");
    assert_string_equal(rows(p), "leaf m.go:11;main m.go:0;main m.go:99 {n=64} 7|0xffff ./prog:0 1");
    mx_pprof_free(p);
}

static void pprof_survives_every_cut_and_every_wrong_byte(void **state) {
    (void)state;
    const char *why;
    size_t n = sizeof foreign - 1;
    for (size_t i = 0; i < n; i++)
        for (int v = 0; v < 256; v += i % 7 ? 17 : 1) {
            uint8_t *bytes = malloc(n);
            memcpy(bytes, foreign, n);
            bytes[i] = (uint8_t)v;
            mx_pprof *p = mx_pprof_new();
            mx_pprof_read(p, bytes, n, 1, &why);
            mx_pprof_read(p, bytes, i, 1, &why);
            mx_pprof_free(p);
            free(bytes);
        }
}

static void pprof_refuses_what_is_no_profile(void **state) {
    (void)state;
    refused("", 0, "it is empty");
    refused("hello, world", 12, "it is no profile: it is cut short or was damaged");
    refused("\x32\x00", 2, "it is no profile: it has no sample types");
    refused("\x32\x00\x0a\x02\x08\x07", 6, "it is no profile: there is no text 7");
    refused("\x32\x00\x0a\x00\x12\x04\x08\x01\x10\x01", 10, "it is no profile: there is no location 1");
    refused("\x32\x00\x0a\x00\x12\x02\x08\x01", 8, "it is no profile: a sample has 0 values, not one of each type");
    refused("\x32\x00\x0a\x00\x22\x06\x08\x01\x22\x02\x08\x03", 12, "it is no profile: there is no function 3");
    refused("\x32\x00\x0a\x00\x2a\x02\x08\x01\x2a\x02\x08\x01", 12, "it is no profile: function 1 is there twice");
    refused("\x32\x00\x0a\x00\x0a\x00\x0a\x00\x0a\x00\x0a\x00\x0a\x00\x0a\x00\x0a\x00\x0a\x00", 20,
            "it has more than 8 sample types");
}

static void pprof_refuses_gzip_that_is_cut_or_followed(void **state) {
    (void)state;
    mx_pprof *p = sampled();
    size_t n;
    char *bytes = mx_pprof_write(p, &n);
    for (size_t i = 3; i < n; i++) refused(bytes, i, "it is cut short or was damaged: gzip cannot read it");
    bytes = mx_realloc(bytes, n + 1);
    bytes[n] = 0;
    refused(bytes, n + 1, "something follows the end of it");
    free(bytes);
    mx_pprof_free(p);
}

static void pprof_unpacks_no_bomb(void **state) {
    (void)state;
    static uint8_t block[1 << 20];
    z_stream z = {0};
    size_t room = 1 << 20;
    uint8_t *bomb = malloc(room);
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_out = bomb, z.avail_out = (uInt)room;
    for (int i = 0; i < 200; i++) {
        z.next_in = block, z.avail_in = sizeof block;
        deflate(&z, i == 199 ? Z_FINISH : Z_NO_FLUSH);
    }
    refused(bomb, z.total_out, "it is larger than 64 MiB unpacked");
    deflateEnd(&z);
    free(bomb);
}

/* One location of 1,000 inlined lines, and stacks that name it. */
static size_t inlined(uint8_t *to, int stacks, int times) {
    static const char head[] = "\x32\x00\x0a\x00\x2a\x02\x08\x01\x22\xa2\x1f\x08\x01";
    uint8_t *begin = to;
    memcpy(to, head, sizeof head - 1), to += sizeof head - 1;
    for (int i = 0; i < 1000; i++, to += 4) memcpy(to, "\x22\x02\x08\x01", 4);
    for (int i = 0; i < stacks; i++) {
        memcpy(to, (uint8_t[]){0x12, (uint8_t)(4 + times), 0x10, 0x01, 0x0a, (uint8_t)times}, 6), to += 6;
        memset(to, 1, (size_t)times), to += times;
    }
    return (size_t)(to - begin);
}

static void pprof_refuses_stacks_that_inlined_lines_make_huge(void **state) {
    (void)state;
    static uint8_t bytes[40000];
    const char *why = "";
    mx_pprof *p = mx_pprof_new();
    assert_int_equal(mx_pprof_read(p, bytes, inlined(bytes, 2, 2), 1, &why), 0);
    assert_int_equal(strlen(rows(p)), 2000 * 3 + 1999 + 2);
    mx_pprof_free(p);
    refused(bytes, inlined(bytes, 1, 3), "a stack is deeper than 2048");
    refused(bytes, inlined(bytes, 1000, 2), "its stacks have too many inlined lines");
}

int main(void) {
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(pprof_counts_equal_samples_in_one_row),
        cmocka_unit_test(pprof_tells_rows_apart_by_their_labels),
        cmocka_unit_test(pprof_reads_what_it_writes),
        cmocka_unit_test(pprof_writes_an_empty_profile),
        cmocka_unit_test(pprof_leaves_out_rows_of_zeros),
        cmocka_unit_test(pprof_keeps_deep_stacks),
        cmocka_unit_test(pprof_adds_and_takes_away),
        cmocka_unit_test(pprof_refuses_other_sample_types),
        cmocka_unit_test(pprof_reads_inlined_lines_addresses_and_numbers_of_others),
        cmocka_unit_test(pprof_survives_every_cut_and_every_wrong_byte),
        cmocka_unit_test(pprof_refuses_what_is_no_profile),
        cmocka_unit_test(pprof_refuses_gzip_that_is_cut_or_followed),
        cmocka_unit_test(pprof_unpacks_no_bomb),
        cmocka_unit_test(pprof_refuses_stacks_that_inlined_lines_make_huge),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
