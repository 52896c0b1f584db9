/* hist_spec.c - what hist.h promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include "measure/hist.h"

static void near(double got, double want) { assert_true(got >= want * 0.999 - 1e-9 && got <= want * 1.001 + 1e-9); }

static void hist_is_zero_when_empty(void **state) {
    (void)state;
    mx_hist *h = mx_hist_new();
    assert_true(mx_hist_percentile(h, 50) == 0 && mx_hist_max(h) == 0 && mx_hist_count(h) == 0);
    mx_hist_free(h);
}

static void hist_keeps_three_digits_from_1us_to_1h(void **state) {
    (void)state;
    for (double us = 1; us < 3.6e9; us = us * 1.01 + 1) {
        mx_hist *h = mx_hist_new();
        mx_hist_add(h, (uint64_t)us, 1);
        mx_hist_record(h, 3600);
        near(mx_hist_percentile(h, 50), (double)(uint64_t)us / 1e6);
        mx_hist_free(h);
    }
}

static void hist_ranks_every_sample(void **state) {
    (void)state;
    mx_hist *h = mx_hist_new();
    for (int i = 1; i <= 100000; i++) mx_hist_record(h, i / 1e6);
    for (int p = 1; p <= 100; p++) near(mx_hist_percentile(h, p), p / 1e3);
    near(mx_hist_percentile(h, 99.9), 0.0999);
    near(mx_hist_percentile(h, 0), 1e-6);
    assert_true(mx_hist_max(h) == 0.1 && mx_hist_count(h) == 100000);
    mx_hist_free(h);
}

static void hist_adds_many_at_once(void **state) {
    (void)state;
    mx_hist *h = mx_hist_new();
    mx_hist_add(h, 10, 99);
    mx_hist_add(h, 1000, 1);
    mx_hist_add(h, 5000, 0);
    assert_true(mx_hist_percentile(h, 99) == 10e-6 && mx_hist_percentile(h, 99.5) == 1e-3);
    assert_true(mx_hist_count(h) == 100 && mx_hist_max(h) == 1e-3);
    mx_hist_free(h);
}

static void hist_clamps_what_is_out_of_range(void **state) {
    (void)state;
    mx_hist *h = mx_hist_new();
    mx_hist_record(h, -1);
    mx_hist_record(h, 0.0 / 0.0);
    assert_true(mx_hist_max(h) == 1e-6);
    mx_hist_record(h, 1e300);
    mx_hist_add(h, UINT64_MAX, 1);
    assert_true(mx_hist_max(h) == 3600 && mx_hist_percentile(h, 100) == 3600 && mx_hist_count(h) == 4);
    mx_hist_free(h);
}

static void hist_forgets_in_its_windows_what_is_20s_old(void **state) {
    (void)state;
    const uint64_t s = 1000000;
    mx_hist *h = mx_hist_new();
    mx_hist_tick(1005 * s);
    mx_hist_record(h, 5);
    assert_true(mx_hist_recent(h, 100) == 5);
    mx_hist_tick(1015 * s);
    mx_hist_record(h, 0.001);
    near(mx_hist_recent(h, 50), 0.001);
    assert_true(mx_hist_recent(h, 100) == 5);
    mx_hist_tick(1025 * s);
    assert_true(mx_hist_recent(h, 100) == 0.001);
    mx_hist_record(h, 0.002);
    assert_true(mx_hist_recent(h, 100) == 0.002);
    mx_hist_tick(5000 * s);
    assert_true(mx_hist_recent(h, 100) == 0 && mx_hist_percentile(h, 100) == 5 && mx_hist_count(h) == 3);
    mx_hist_tick(0);
    mx_hist_free(h);
}

static void hist_is_empty_when_cleared(void **state) {
    (void)state;
    mx_hist *h = mx_hist_new();
    for (int i = 0; i < 10000; i++) mx_hist_record(h, i / 100.0);
    mx_hist_clear(h);
    assert_true(mx_hist_count(h) == 0 && mx_hist_percentile(h, 99) == 0 && mx_hist_recent(h, 99) == 0);
    mx_hist_record(h, 1);
    near(mx_hist_percentile(h, 1), 1);
    near(mx_hist_recent(h, 1), 1);
    mx_hist_free(h);
}

static void hist_spreads_over_bounds(void **state) {
    (void)state;
    mx_hist *h = mx_hist_new();
    const uint64_t bounds[] = {10, 5000, 60000000};
    uint64_t counts[3] = {0, 0, 100};
    mx_hist_add(h, 10, 1);
    mx_hist_add(h, 11, 2);
    mx_hist_add(h, 5000, 4);
    mx_hist_add(h, 6000, 8);
    mx_hist_add(h, 70000000, 16);
    mx_hist_spread(h, bounds, 3, counts);
    assert_true(counts[0] == 1 && counts[1] == 6 && counts[2] == 108);
    mx_hist_free(h);
}

static void pace_takes_a_run_of_fast_handlers_as_one(void **state) {
    (void)state;
    mx_hist *h = mx_hist_new();
    mx_pace p = {h, 63, 0};
    mx_run r = {mx_now() + 1e-3, 100}; /* not longer than nothing */
    mx_pace_end(&p, &r, 163);
    assert_true(mx_hist_count(h) == 64 && mx_hist_max(h) == 1e-6);
    assert_int_equal(p.every, 63);
    assert_int_equal(r.first, 164);
    mx_pace_end(&p, &r, 163); /* none since then */
    assert_true(mx_hist_count(h) == 64);
    mx_hist_free(h);
}

static void pace_finds_the_slow_one_of_a_run_and_times_the_next_each(void **state) {
    (void)state;
    mx_hist *h = mx_hist_new();
    mx_pace p = {h, 63, 0};
    mx_run r;
    mx_pace_begin(&r, UINT32_MAX - 30); /* positions wrap */
    r.from -= 0.5;
    mx_pace_end(&p, &r, 32);
    assert_true(mx_hist_count(h) == 64 && mx_hist_percentile(h, 98) == 1e-6 && mx_hist_max(h) >= 0.49);
    for (uint32_t i = 33; i < 33 + 64; i++) {
        assert_int_equal(p.every, 0);
        r.from = mx_now() + 1e-3;
        mx_pace_end(&p, &r, i);
    }
    assert_int_equal(p.every, 63);
    assert_true(mx_hist_count(h) == 128);
    mx_hist_free(h);
}

static void hist_tells_what_was_added_since(void **state) {
    (void)state;
    mx_hist *h = mx_hist_new(), *before = mx_hist_new();
    mx_hist_record(h, 3);
    mx_hist_many(h, 0.001, 10);
    mx_hist_merge(before, h);
    mx_hist_many(h, 0.002, 99);
    mx_hist_record(h, 0.5);
    mx_hist_subtract(h, before);
    assert_true(mx_hist_count(h) == 100);
    near(mx_hist_percentile(h, 1), 0.002);
    near(mx_hist_percentile(h, 99), 0.002);
    near(mx_hist_max(h), 0.5);
    near(mx_hist_mean(h), (99 * 0.002 + 0.5) / 100);
    mx_hist_subtract(h, h);
    assert_true(mx_hist_count(h) == 0 && mx_hist_max(h) == 0 && mx_hist_mean(h) == 0);
    mx_hist_free(h);
    mx_hist_free(before);
}

static void hist_lists_its_buckets(void **state) {
    (void)state;
    mx_hist *h = mx_hist_new();
    double seconds, count;
    assert_int_equal(mx_hist_bucket(h, 0, &seconds, &count), 0);
    mx_hist_many(h, 0.0001, 3);
    mx_hist_many(h, 2, 4);
    int at = mx_hist_bucket(h, 0, &seconds, &count);
    assert_true(at > 0 && seconds == 0.0001 && count == 3);
    at = mx_hist_bucket(h, at, &seconds, &count);
    near(seconds, 2);
    assert_true(at > 0 && count == 4);
    assert_int_equal(mx_hist_bucket(h, at, &seconds, &count), 0);
    mx_hist_free(h);
}

int main(void) {
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(hist_is_zero_when_empty),
        cmocka_unit_test(hist_keeps_three_digits_from_1us_to_1h),
        cmocka_unit_test(hist_ranks_every_sample),
        cmocka_unit_test(hist_adds_many_at_once),
        cmocka_unit_test(hist_clamps_what_is_out_of_range),
        cmocka_unit_test(hist_forgets_in_its_windows_what_is_20s_old),
        cmocka_unit_test(hist_is_empty_when_cleared),
        cmocka_unit_test(hist_spreads_over_bounds),
        cmocka_unit_test(pace_takes_a_run_of_fast_handlers_as_one),
        cmocka_unit_test(pace_finds_the_slow_one_of_a_run_and_times_the_next_each),
        cmocka_unit_test(hist_is_zero_when_empty),
        cmocka_unit_test(hist_keeps_three_digits_from_1us_to_1h),
        cmocka_unit_test(hist_ranks_every_sample),
        cmocka_unit_test(hist_adds_many_at_once),
        cmocka_unit_test(hist_clamps_what_is_out_of_range),
        cmocka_unit_test(hist_forgets_in_its_windows_what_is_20s_old),
        cmocka_unit_test(hist_is_empty_when_cleared),
        cmocka_unit_test(hist_spreads_over_bounds),
        cmocka_unit_test(hist_tells_what_was_added_since),
        cmocka_unit_test(hist_lists_its_buckets),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
