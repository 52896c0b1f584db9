/* clock_spec.c - what the clock promises: it goes on, and jumps when a test tells it to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <cmocka.h>
#include "base/clock.h"
#include "base/mx.h"

static void clock_never_goes_back(void **state) {
    (void)state;
    uint64_t before = mx_clock_us();
    for (int i = 0; i < 10000; i++) {
        uint64_t now = mx_clock_us();
        assert_true(now >= before);
        before = now;
    }
}

static void clock_says_the_same_in_both_units(void **state) {
    (void)state;
    mx_clock_advance(1.5);
    uint64_t before = mx_clock_us();
    double now = mx_now() * 1e6;
    uint64_t after = mx_clock_us();
    assert_true(now + 1 >= (double)before && now - 1 <= (double)after);
}

static void clock_jumps_ahead_and_knows_how_far(void **state) {
    (void)state;
    uint64_t ahead = mx_clock_ahead_us(), before = mx_clock_us();
    mx_clock_advance(3600);
    mx_clock_advance(0.25);
    assert_int_equal(mx_clock_ahead_us() - ahead, 3600250000);
    assert_true(mx_clock_us() - before >= 3600250000);
}

static void clock_stays_where_a_jump_would_lead_back_or_nowhere(void **state) {
    (void)state;
    uint64_t ahead = mx_clock_ahead_us();
    mx_clock_advance(0);
    mx_clock_advance(-5);
    mx_clock_advance(-INFINITY);
    mx_clock_advance(NAN);
    assert_int_equal(mx_clock_ahead_us(), ahead);
}

static void clock_has_a_longest_time(void **state) {
    (void)state;
    assert_int_equal(mx_us_of(0.0000015), 1);
    assert_int_equal(mx_us_of(2.5), 2500000);
    assert_int_equal(mx_us_of(-1), 0);
    assert_int_equal(mx_us_of(-INFINITY), 0);
    assert_int_equal(mx_us_of(1e9), 1000000000000000);
    assert_int_equal(mx_us_of(INFINITY), 1000000000000000);
    assert_int_equal(mx_us_of(NAN), 1000000000000000);
}

int main(void) {
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(clock_never_goes_back),
        cmocka_unit_test(clock_says_the_same_in_both_units),
        cmocka_unit_test(clock_jumps_ahead_and_knows_how_far),
        cmocka_unit_test(clock_stays_where_a_jump_would_lead_back_or_nowhere),
        cmocka_unit_test(clock_has_a_longest_time),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
