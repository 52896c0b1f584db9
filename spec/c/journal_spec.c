/* journal_spec.c - what journal.h promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "worker/journal.h"

static mx_journal j;

static int before(void **state) {
    (void)state;
    memset(&j, 0, sizeof j);
    return 0;
}

static void a_journal_counts_by_mark(void **state) {
    (void)state;
    assert_int_equal(mx_journal_crashes(&j, 7), 0);
    assert_int_equal(mx_journal_add(&j, 7), 1);
    assert_int_equal(mx_journal_add(&j, 8), 1);
    assert_int_equal(mx_journal_add(&j, 7), 2);
    assert_int_equal(mx_journal_crashes(&j, 7), 2);
    assert_int_equal(mx_journal_crashes(&j, 8), 1);
}

static void a_full_journal_forgets_what_came_first(void **state) {
    (void)state;
    for (uint64_t mark = 1; mark <= MX_JOURNAL_SIZE; mark++) mx_journal_add(&j, mark);
    mx_journal_add(&j, 1);
    assert_int_equal(mx_journal_crashes(&j, 1), 2);
    assert_int_equal(mx_journal_add(&j, 9999), 1);
    assert_int_equal(mx_journal_crashes(&j, 1), 0);
    assert_int_equal(mx_journal_crashes(&j, 2), 1);
    assert_int_equal(mx_journal_crashes(&j, 9999), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_journal_counts_by_mark, before),
        cmocka_unit_test_setup(a_full_journal_forgets_what_came_first, before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
