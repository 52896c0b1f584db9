/* sampler_spec.c - what sampler.h promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include "measure/sampler.h"

static double held, allocated; /* as the samples have it */
static int picks;

static void on_free(const mx_picked *x) { held -= (double)x->bytes; }

static void on_pick(void) {
    mx_picked *x;
    size_t n = mx_sampler_waiting(&x);
    for (size_t i = 0; i < n; i++) held += (double)x[i].bytes, allocated += (double)x[i].bytes;
    mx_sampler_place(n);
    picks++;
}

static void on_pick_wait(void) { picks++; }

static int before(void **state) {
    (void)state;
    held = allocated = picks = 0;
    mx_sampler_set(4096, on_pick, on_free);
    return 0;
}

static int after(void **state) {
    (void)state;
    mx_sampler_set(0, on_pick, on_free);
    return 0;
}

static void *take(size_t n) {
    void *p = mx_zalloc(n);
    mx_sampler_took(p, n, 1);
    return p;
}

static void give(void *p) {
    mx_sampler_gave(p);
    free(p);
}

static void samples_stand_for_what_was_allocated_whatever_its_size(void **state) {
    (void)state;
    enum { SIZES = 4, EACH = 20000 };
    static const size_t sizes[SIZES] = {16, 100, 1500, 20000};
    double total = 0;
    for (int i = 0; i < EACH * SIZES; i++) {
        size_t n = sizes[i % SIZES];
        give(take(n));
        total += (double)n;
    }
    assert_true(allocated > 0.97 * total && allocated < 1.03 * total);
    assert_true(held == 0); /* each was freed */
    assert_int_equal(mx_sampler.live, 0);
}

static void what_is_held_is_known_and_goes_when_it_is_freed(void **state) {
    (void)state;
    enum { COUNT = 20000 };
    static void *kept[COUNT];
    for (int i = 0; i < COUNT; i++) kept[i] = take(500);
    assert_true(held > 0.9 * COUNT * 500 && held < 1.1 * COUNT * 500);
    for (int i = 0; i < COUNT; i += 2) give(kept[i]);
    assert_true(held > 0.85 * COUNT * 250 && held < 1.15 * COUNT * 250);
    for (int i = 1; i < COUNT; i += 2) give(kept[i]);
    assert_true(held == 0);
    assert_int_equal(mx_sampler.live, 0);
}

static void a_block_that_grows_and_moves_is_followed(void **state) {
    (void)state;
    enum { BLOCKS = 200 };
    static char *block[BLOCKS];
    double total = 0;
    for (int i = 0; i < BLOCKS; i++) block[i] = take(64);
    for (size_t n = 64; n < 65536; n *= 2)
        for (int i = 0; i < BLOCKS; i++) {
            char *bigger = mx_zalloc(2 * n);
            mx_sampler_resized(block[i], bigger);
            mx_sampler_took(bigger, n, 0);
            free(block[i]);
            block[i] = bigger;
        }
    total = 65536.0 * BLOCKS;
    assert_true(held > 0.9 * total && held < 1.1 * total);
    for (int i = 0; i < BLOCKS; i++) give(block[i]);
    assert_true(held == 0);
    assert_int_equal(mx_sampler.live, 0);
}

static void a_block_that_is_freed_before_it_is_placed_is_not_held(void **state) {
    (void)state;
    mx_picked *x;
    mx_sampler_set(1, on_pick_wait, on_free);
    void *p = take(4096), *q = take(4096);
    assert_int_equal(picks, 2);
    give(p);
    assert_int_equal(mx_sampler_waiting(&x), 2);
    assert_null(x[0].block);
    assert_ptr_equal(x[1].block, q);
    mx_sampler_place(2);
    assert_int_equal(mx_sampler.live, 1);
    give(q);
    assert_int_equal(mx_sampler.live, 0);
}

static void nothing_is_picked_when_it_is_off(void **state) {
    (void)state;
    mx_sampler_set(0, on_pick, on_free);
    for (int i = 0; i < 1000; i++) give(take(100000));
    assert_int_equal(picks, 0);
}

int main(void) {
#define CASE(f) cmocka_unit_test_setup_teardown(f, before, after)
    const struct CMUnitTest cases[] = {
        CASE(samples_stand_for_what_was_allocated_whatever_its_size),
        CASE(what_is_held_is_known_and_goes_when_it_is_freed),
        CASE(a_block_that_grows_and_moves_is_followed),
        CASE(a_block_that_is_freed_before_it_is_placed_is_not_held),
        CASE(nothing_is_picked_when_it_is_off),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
