/* message_spec.c - what message.h promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "message/message.h"

static mx_message *hello(size_t room) { return mx_message_new(mx_span_of("ex"), mx_span_of("key"), mx_span_of("props"), room); }

static int nothing_left(void **state) {
    (void)state;
    assert_int_equal(mx_message_bytes(), 0);
    return 0;
}

static void message_holds_what_it_was_made_of(void **state) {
    (void)state;
    mx_message *m = mx_message_append(hello(10), "0123456789", 10);
    assert_memory_equal(m->bytes, "exkeyprops0123456789", 20);
    assert_memory_equal(mx_message_key(m), "key", 3);
    assert_memory_equal(mx_message_props(m), "props", 5);
    assert_int_equal(m->size, 10);
    mx_message_unref(m);
    mx_message_unref(NULL);
}

static void message_may_be_empty(void **state) {
    (void)state;
    mx_message *m = mx_message_new((mx_span){0}, (mx_span){0}, (mx_span){0}, 0);
    m = mx_message_append(m, NULL, 0);
    assert_int_equal(m->size, 0);
    mx_message_unref(m);
}

static void message_grows_through_every_class(void **state) {
    (void)state;
    static uint8_t in[300000];
    for (size_t i = 0; i < sizeof in; i++) in[i] = (uint8_t)(i * 7 + i / 256);
    for (size_t step = 1; step < 5000; step = step * 3 + 1) {
        mx_message *m = hello(0);
        for (size_t n = 0; n < sizeof in; n += step)
            m = mx_message_append(m, in + n, n + step > sizeof in ? sizeof in - n : step);
        assert_int_equal(m->size, sizeof in);
        assert_memory_equal(mx_message_body(m), in, sizeof in);
        assert_memory_equal(m->bytes, "exkeyprops", 10);
        assert_true(m->room < 2 * sizeof in + 4096);
        mx_message_unref(m);
    }
}

static void message_has_the_room_asked_for(void **state) {
    (void)state;
    for (size_t room = 0; room < 10000; room++) {
        mx_message *m = hello(room);
        assert_true(m->room >= room);
        memset(mx_message_body(m), 0xee, m->room);
        mx_message_unref(m);
    }
}

static void message_lives_until_the_last_reference(void **state) {
    (void)state;
    mx_message *m = hello(1);
    mx_message_ref(m);
    mx_message_unref(m);
    assert_memory_equal(m->bytes, "exkey", 5);
    assert_true(mx_message_bytes() > 0);
    mx_message_unref(m);
}

static void message_counts_live_bytes(void **state) {
    (void)state;
    mx_message *small = hello(10), *large = hello(100000);
    assert_in_range(mx_message_bytes(), 100010, 110000);
    mx_message_unref(large);
    assert_in_range(mx_message_bytes(), 10, 1000);
    mx_message_unref(small);
}

/* The lists hold at most 2 MiB: far more than that goes through here, out of order, under the sanitizer too. */
static void message_survives_churn(void **state) {
    (void)state;
    static mx_message *held[4096];
    uint32_t rnd = 1;
    for (int i = 0; i < 400000; i++) {
        rnd = rnd * 1664525 + 1013904223;
        mx_message **h = &held[rnd >> 20];
        mx_message_unref(*h);
        *h = mx_message_append(hello(rnd >> 8 & 2047), "abcdefgh", 8);
    }
    for (int i = 0; i < 4096; i++) mx_message_unref(held[i]);
}

int main(void) {
#define CASE(f) cmocka_unit_test_teardown(f, nothing_left)
    const struct CMUnitTest cases[] = {
        CASE(message_holds_what_it_was_made_of),
        CASE(message_may_be_empty),
        CASE(message_grows_through_every_class),
        CASE(message_has_the_room_asked_for),
        CASE(message_lives_until_the_last_reference),
        CASE(message_counts_live_bytes),
        CASE(message_survives_churn),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
