/* sendq_spec.c - what goes out: in order, whole, and there for as long as it is held. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include "wire/sendq.h"

static mx_sendq out;

static int teardown(void **state) {
    (void)state;
    mx_sendq_clear(&out);
    assert_int_equal(mx_sendq_room(), 0);
    assert_int_equal(out.pending, 0);
    return 0;
}

static const uint8_t *put(char c, size_t n) {
    uint8_t *p = mx_sendq_reserve(&out, n);
    memset(p, c, n);
    mx_sendq_add(&out, n);
    return p;
}

static void expect(char c, size_t n) {
    for (size_t k; n; n -= k) {
        mx_span s = mx_sendq_front(&out);
        k = s.n < n ? s.n : n;
        assert_int_not_equal(k, 0);
        for (size_t i = 0; i < k; i++) assert_int_equal(s.p[i], c);
        mx_sendq_wrote(&out, k);
    }
}

static void leaves_in_the_order_of_its_writing(void **state) {
    (void)state;
    size_t sizes[] = {1, 100, MX_CHUNK / 2, MX_CHUNK / 2, 3, MX_CHUNK * 3, 7, MX_CHUNK - 1, 0, 9};
    assert_int_equal(mx_sendq_front(&out).n, 0);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) put((char)('a' + i), sizes[i]);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) expect((char)('a' + i), sizes[i]);
        assert_int_equal(mx_sendq_front(&out).n, 0);
    }
}

static void may_leave_in_any_pieces(void **state) {
    (void)state;
    for (size_t i = 0; i < 1000; i++) put((char)('a' + i % 26), 1000);
    for (size_t i = 0; i < 1000; i++)
        for (int k = 0; k < 4; k++) expect((char)('a' + i % 26), 250);
}

static void what_is_written_makes_room_again(void **state) {
    (void)state;
    for (int i = 0; i < 10000; i++) {
        put('x', 1000);
        expect('x', 1000);
    }
    assert_in_range(mx_sendq_room(), 1, MX_CHUNK);
}

static void what_is_held_stays(void **state) {
    (void)state;
    const uint8_t *held[100];
    for (int i = 0; i < 100; i++) {
        mx_sendq_hold(held[i] = put((char)i, 10000));
        put('x', 10000);
    }
    expect(0, 10000);
    mx_sendq_clear(&out);
    for (int i = 0; i < 50; i++) put('y', 60000); /* what is free is used again */
    for (int i = 99; i >= 0; i--) {
        for (int k = 0; k < 10000; k++) assert_int_equal(held[i][k], i);
        mx_sendq_release(held[i]);
    }
}

static void one_larger_than_a_chunk_is_held_as_any(void **state) {
    (void)state;
    for (size_t n = MX_CHUNK - 100; n < MX_CHUNK + 100; n++) {
        const uint8_t *large = put('l', n), *small = put('s', 1), *next = put('n', 300);
        mx_sendq_hold(large);
        mx_sendq_hold(small);
        mx_sendq_hold(next);
        mx_sendq_clear(&out);
        mx_sendq_release(small);
        mx_sendq_release(large);
        assert_int_equal(next[299], 'n');
        mx_sendq_release(next);
        assert_int_equal(mx_sendq_room(), 0);
    }
}

static void a_secret_that_was_written_does_not_stay(void **state) {
    (void)state;
    const uint8_t *p = put('p', 4000);
    expect('p', 4000);
    put('q', 10); /* where it lay: the tail of the secret is behind it */
    expect('q', 10);
    mx_sendq_wipe(&out);
    for (int i = 0; i < 4000; i++) assert_int_equal(p[i], 0);
}

static void what_is_moved_leaves_behind_what_was_there_and_stays_held(void **state) {
    (void)state;
    mx_sendq from = {0};
    size_t sizes[] = {10, MX_CHUNK, 5};
    const uint8_t *held = NULL;
    for (int round = 0; round < 3; round++) {
        if (round != 1) put('a', 100); /* in between everything has left, or nothing was there */
        for (size_t i = 0; i < 3; i++) {
            uint8_t *p = mx_sendq_reserve(&from, sizes[i]);
            memset(p, 'b', sizes[i]);
            mx_sendq_add(&from, sizes[i]);
            if (i == 0 && !round) mx_sendq_hold(held = p);
        }
        mx_sendq_move(&out, &from);
        assert_int_equal(from.pending, 0);
        mx_sendq_move(&out, &from);
        put('c', 100);
        if (round != 1) expect('a', 100);
        expect('b', MX_CHUNK + 15);
        expect('c', 100);
        assert_int_equal(out.pending, 0);
    }
    assert_int_equal(held[9], 'b');
    mx_sendq_release(held);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(leaves_in_the_order_of_its_writing, teardown),
        cmocka_unit_test_teardown(may_leave_in_any_pieces, teardown),
        cmocka_unit_test_teardown(what_is_written_makes_room_again, teardown),
        cmocka_unit_test_teardown(what_is_held_stays, teardown),
        cmocka_unit_test_teardown(one_larger_than_a_chunk_is_held_as_any, teardown),
        cmocka_unit_test_teardown(what_is_moved_leaves_behind_what_was_there_and_stays_held, teardown),
        cmocka_unit_test_teardown(a_secret_that_was_written_does_not_stay, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
