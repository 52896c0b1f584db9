/* table_spec.c - what table.h promises, to friends and to hostile peers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "message/table.h"

#define TABLE(bytes) (const uint8_t *)(bytes), sizeof(bytes) - 1
#define SPAN(bytes) ((mx_span){TABLE(bytes)})

static void good(const uint8_t *p, size_t n) { assert_int_equal(mx_table_check(p, n), 0); }
static void bad(const uint8_t *p, size_t n) { assert_int_equal(mx_table_check(p, n), MX_EVALIDATION); }

#define EVERY_TYPE                                                                                                               \
    "\1at\1\1bb\xfe\1cB\xfe\1ds\xff\2\1eu\xff\2\1fI\xff\2\3\4\1gi\xff\2\3\4\1hl\xff\2\3\4\5\6\7\x8"                              \
    "\1iL\1\2\3\4\5\6\7\x8\1jf\1\2\3\4\1kd\1\2\3\4\5\6\7\x8\1lD\1\1\2\3\4\1mS\0\0\0\2ab"                                         \
    "\1nA\0\0\0\4t\1b\2\1oT\1\2\3\4\5\6\7\x8\1pF\0\0\0\3\1aV\1qV\1rx\0\0\0\1\xff"

static void walk_visits_every_entry_once(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 5, 2, 4, 8, 3, 0, 1};
    mx_span rest = SPAN(EVERY_TYPE);
    const uint8_t *p = rest.p;
    mx_field f;
    for (int i = 0; i < 18; i++) {
        assert_int_equal(mx_table_next(&rest, 1, &f), 1);
        assert_true(f.key.p == p + 1 && f.key.n == 1 && *f.key.p == 'a' + i);
        assert_int_equal(f.type, "tbBsuIilLfdDSATFVx"[i]);
        assert_int_equal(f.value.n, sizes[i]);
        assert_true(f.whole.p == p + 2 && f.whole.p + f.whole.n == f.value.p + f.value.n);
        p = f.whole.p + f.whole.n;
        assert_ptr_equal(rest.p, p);
    }
    assert_int_equal(mx_table_next(&rest, 1, &f), 0);
}

static void walk_of_an_array_has_no_keys(void **state) {
    (void)state;
    mx_span rest = SPAN("t\1S\0\0\0\2hiV");
    mx_field f;
    assert_int_equal(mx_table_next(&rest, 0, &f), 1);
    assert_true(f.type == 't' && f.key.n == 0);
    assert_int_equal(mx_table_next(&rest, 0, &f), 1);
    assert_true(f.type == 'S' && f.value.n == 2);
    assert_int_equal(mx_table_next(&rest, 0, &f), 1);
    assert_int_equal(mx_table_next(&rest, 0, &f), 0);
}

static void walk_stops_at_what_it_does_not_know(void **state) {
    (void)state;
    mx_span rest = SPAN("\1a?xyz");
    mx_field f;
    assert_int_equal(mx_table_next(&rest, 1, &f), MX_EVALIDATION);
    assert_true(f.type == '?' && f.value.n == 3 && rest.n == 6);
    rest = SPAN("\1aS\0\0\0\5hi");
    assert_int_equal(mx_table_next(&rest, 1, &f), MX_EVALIDATION);
    assert_int_equal(f.type, 0);
}

static void find_knows_keys_whole(void **state) {
    (void)state;
    mx_span t = SPAN("\2aaV\1at\1\1aI\0\0\0\1");
    mx_field f;
    assert_int_equal(mx_table_find(t, "a", &f), 1);
    assert_int_equal(f.type, 't'); /* the first of two */
    assert_int_equal(mx_table_find(t, "b", &f), 0);
    assert_int_equal(mx_table_find((mx_span){0}, "a", &f), 0);
}

static void integers_have_their_sign(void **state) {
    (void)state;
    static const struct {
        const char *key;
        int64_t value;
    } is[] = {{"a", 1},
              {"b", -2},
              {"c", 254},
              {"d", -254},
              {"e", 0xff02},
              {"f", -0xfdfcfc},
              {"g", 0xff020304},
              {"h", (int64_t)0xff02030405060708},
              {"i", 0x0102030405060708},
              {"o", 0x0102030405060708}};
    mx_field f;
    int64_t v;
    for (size_t i = 0; i < sizeof is / sizeof *is; i++) {
        assert_int_equal(mx_table_find(SPAN(EVERY_TYPE), is[i].key, &f), 1);
        assert_int_equal(mx_field_integer(&f, &v), 1);
        assert_true(v == is[i].value);
    }
    assert_int_equal(mx_table_find(SPAN(EVERY_TYPE), "j", &f), 1);
    assert_int_equal(mx_field_integer(&f, &v), 0);
}

static void table_may_hold_every_type_of_rabbitmq(void **state) {
    (void)state;
    static const uint8_t all[] = "\1at\1\1bb\1\1cB\1\1ds\1\2\1eu\1\2\1fI\1\2\3\4\1gi\1\2\3\4\1hl\1\2\3\4\5\6\7\x8"
                                 "\1iL\1\2\3\4\5\6\7\x8\1jf\1\2\3\4\1kd\1\2\3\4\5\6\7\x8\1lD\1\1\2\3\4\1mS\0\0\0\2ab"
                                 "\1nA\0\0\0\4t\1b\2\1oT\1\2\3\4\5\6\7\x8\1pF\0\0\0\3\1aV\1qV\1rx\0\0\0\1\xff";
    good(all, sizeof all - 1);
    good(NULL, 0);
    good(TABLE("\0V"));
    /* cut anywhere but between two entries it is refused */
    size_t entries = 0;
    for (size_t i = 1; i < sizeof all - 1; i++) {
        uint8_t *copy = malloc(i);
        memcpy(copy, all, i);
        entries += mx_table_check(copy, i) == 0;
        free(copy);
    }
    assert_int_equal(entries, 17);
}

static void table_refuses_unknown_types(void **state) {
    (void)state;
    for (int c = 0; c < 256; c++) {
        uint8_t entry[] = {1, 'a', (uint8_t)c, 0, 0, 0, 0, 0, 0, 0, 0};
        if (!c || !strchr("tbBsuIilLfdDSATFVx", c)) bad(entry, sizeof entry);
    }
}

static void table_refuses_an_entry_that_overruns_it(void **state) {
    (void)state;
    bad(TABLE("\1aS\0\0\0\5abcd"));
    bad(TABLE("\1aF\0\0\0\4\1bI\0\0\0\0\0"));
    bad(TABLE("\1aA\0\0\0\3I\0\0\0\1\1bV"));
    bad(TABLE("\5a"));
    bad(TABLE("\1aS\xff\xff\xff\xff"));
    bad(TABLE("\1aF\xff\xff\xff\xff\1bV"));
    bad(TABLE("\1ax\xff\xff\xff\xfbxxxx"));
}

/* depth arrays inside a table. */
static int nested(unsigned depth, int (*check)(const uint8_t *, size_t)) {
    size_t n = 2 + 5 * (size_t)depth;
    uint8_t *p = malloc(n);
    memcpy(p, "\1a", 2);
    for (unsigned i = 0; i < depth; i++) {
        uint32_t rest = __builtin_bswap32((uint32_t)(5 * (depth - i - 1)));
        p[2 + 5 * i] = 'A';
        memcpy(p + 3 + 5 * i, &rest, 4);
    }
    int code = check(p, n);
    free(p);
    return code;
}

static void table_nests_to_32_and_no_deeper(void **state) {
    (void)state;
    assert_int_equal(nested(MX_TABLE_DEPTH - 1, mx_table_check), 0); /* the table itself is the first level */
    assert_int_equal(nested(MX_TABLE_DEPTH, mx_table_check), MX_EVALIDATION);
    assert_int_equal(nested(26000, mx_table_check), MX_EVALIDATION);
    assert_int_equal(nested(2000000, mx_table_check), MX_EVALIDATION);
}

static void table_has_at_most_4096_entries_in_all(void **state) {
    (void)state;
    static uint8_t p[7 + 2 * MX_TABLE_ENTRIES];
    for (size_t i = 0; i < MX_TABLE_ENTRIES; i++) memcpy(p + 2 * i, "\0V", 2);
    good(p, 2 * MX_TABLE_ENTRIES);
    memset(p, 'V', sizeof p);
    memcpy(p, "\1aA\0\0\x0f\xff", 7); /* itself and 4095 */
    good(p, 7 + 4095);
    memcpy(p, "\1aA\0\0\x10\0", 7);
    bad(p, 7 + 4096);
}

static void a_foreign_table_may_have_types_that_we_do_not_know(void **state) {
    (void)state;
    assert_int_equal(mx_table_check_foreign(TABLE("\1aV\1b?xyz")), 0);
    assert_int_equal(mx_table_check_foreign(TABLE("\1aF\0\0\0\4\1b?x\1bV")), 0);
    assert_int_equal(mx_table_check_foreign(TABLE("\1aF\0\0\0\4\5b?x\1bV")), MX_EVALIDATION);
    assert_int_equal(mx_table_check_foreign(TABLE("\1aS\0\0\0\5abcd")), MX_EVALIDATION);
    assert_int_equal(mx_table_check_foreign(TABLE("\1a")), MX_EVALIDATION);
}

static void a_foreign_table_may_be_larger_than_ours(void **state) {
    (void)state;
    assert_int_equal(nested(MX_TABLE_DEPTH, mx_table_check_foreign), 0);
    assert_int_equal(nested(2000000, mx_table_check_foreign), 0);
    static uint8_t p[2 * MX_TABLE_ENTRIES + 2];
    for (size_t i = 0; i <= MX_TABLE_ENTRIES; i++) memcpy(p + 2 * i, "\0V", 2);
    assert_int_equal(mx_table_check_foreign(p, sizeof p), 0);
}

int main(void) {
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(walk_visits_every_entry_once),
        cmocka_unit_test(walk_of_an_array_has_no_keys),
        cmocka_unit_test(walk_stops_at_what_it_does_not_know),
        cmocka_unit_test(find_knows_keys_whole),
        cmocka_unit_test(integers_have_their_sign),
        cmocka_unit_test(table_may_hold_every_type_of_rabbitmq),
        cmocka_unit_test(table_refuses_unknown_types),
        cmocka_unit_test(table_refuses_an_entry_that_overruns_it),
        cmocka_unit_test(table_nests_to_32_and_no_deeper),
        cmocka_unit_test(table_has_at_most_4096_entries_in_all),
        cmocka_unit_test(a_foreign_table_may_have_types_that_we_do_not_know),
        cmocka_unit_test(a_foreign_table_may_be_larger_than_ours),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
