/* wait_spec.c - what tickets promise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include "base/clock.h"
#include "base/wait.h"

static mx_timers timers;
static mx_waitroom room;

static int before(void **state) {
    (void)state;
    mx_waits_init(&room, &timers);
    return 0;
}

static int after(void **state) {
    (void)state;
    mx_waits_fini(&room);
    assert_int_equal(timers.count, 0);
    mx_timers_fini(&timers);
    return 0;
}

static mx_post take(void) { return room.pub.post[room.pub.head++ & room.pub.mask]; }

static void a_ticket_is_posted_once(void **state) {
    (void)state;
    uint32_t t = mx_wait_new(&room.pub, -1);
    mx_wait_post(&room.pub, t, 0, mx_reply_new(0, 404, "text", 4));
    mx_wait_post(&room.pub, t, 0, mx_reply_new(0, 0, NULL, 0));
    assert_int_equal(room.pub.tail - room.pub.head, 1);
    mx_post p = take();
    assert_int_equal(p.ticket, t);
    assert_int_equal(p.reply->reply_code, 404);
    assert_string_equal(p.reply->text, "text");
    mx_reply_free(p.reply);
    assert_int_equal(room.live, 0);
}

static void a_deadline_posts_timeout_and_makes_the_answer_stale(void **state) {
    (void)state;
    uint32_t t = mx_wait_new(&room.pub, 0.001);
    mx_timers_run(&timers, mx_clock_us() + 5000);
    mx_wait_post(&room.pub, t, 0, mx_reply_new(0, 0, NULL, 0));
    assert_int_equal(room.pub.tail - room.pub.head, 1);
    assert_int_equal(take().code, MX_ETIMEOUT);
}

static void a_dropped_ticket_is_never_posted(void **state) {
    (void)state;
    uint32_t t = mx_wait_new(&room.pub, 0);
    mx_wait_drop(&room.pub, t);
    mx_wait_drop(&room.pub, t);
    mx_timers_run(&timers, UINT64_MAX - 1);
    mx_wait_post(&room.pub, t, 0, NULL);
    assert_int_equal(room.pub.tail, room.pub.head);
}

static void posts_grow_without_losing_one(void **state) {
    uint32_t t[1000];
    (void)state;
    for (int i = 0; i < 1000; i++) t[i] = mx_wait_new(&room.pub, 10);
    for (int i = 0; i < 1000; i++) mx_wait_post(&room.pub, t[i], -i, NULL);
    for (int i = 0; i < 1000; i++) {
        mx_post p = take();
        assert_int_equal(p.ticket, t[i]);
        assert_int_equal(p.code, -i);
    }
}

static void a_number_does_not_come_again(void **state) {
    (void)state;
    uint32_t first = mx_wait_new(&room.pub, -1), kept = mx_wait_new(&room.pub, -1);
    mx_wait_drop(&room.pub, first);
    for (uint32_t i = 0; i < 1u << 23; i++) {
        uint32_t t = mx_wait_new(&room.pub, -1);
        if (!t || t == first || t == kept) fail_msg("ticket %u again after %u", t, i);
        mx_wait_drop(&room.pub, t);
    }
    mx_wait_post(&room.pub, kept, 0, NULL);
    assert_int_equal(take().ticket, kept);
    assert_int_equal(room.seats, 64);
}

static void numbers_may_wrap(void **state) {
    (void)state;
    uint32_t t[100];
    room.latest = UINT32_MAX - 50;
    for (int i = 0; i < 100; i++) assert_int_not_equal(t[i] = mx_wait_new(&room.pub, -1), 0);
    for (int i = 0; i < 100; i++) mx_wait_post(&room.pub, t[i], 0, NULL);
    for (int i = 0; i < 100; i++) assert_int_equal(take().ticket, t[i]);
    mx_wait_post(&room.pub, 0, 0, NULL);
    assert_int_equal(room.pub.head, room.pub.tail);
}

/* Old ones keep their seats while new ones come and go around them, and while the room grows. */
static void many_waits_are_told_apart(void **state) {
    enum { KEPT = 20000 };
    static uint32_t kept[KEPT];
    (void)state;
    for (int i = 0; i < KEPT; i++) {
        kept[i] = mx_wait_new(&room.pub, -1);
        for (int k = 0; k < i % 5; k++) mx_wait_drop(&room.pub, mx_wait_new(&room.pub, -1));
    }
    assert_int_equal(room.live, KEPT);
    for (int i = 0; i < KEPT; i++) mx_wait_post(&room.pub, kept[i], 0, NULL);
    for (int i = 0; i < KEPT; i++) assert_int_equal(take().ticket, kept[i]);
    assert_int_equal(room.live, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_ticket_is_posted_once, before, after),
        cmocka_unit_test_setup_teardown(a_deadline_posts_timeout_and_makes_the_answer_stale, before, after),
        cmocka_unit_test_setup_teardown(a_dropped_ticket_is_never_posted, before, after),
        cmocka_unit_test_setup_teardown(posts_grow_without_losing_one, before, after),
        cmocka_unit_test_setup_teardown(a_number_does_not_come_again, before, after),
        cmocka_unit_test_setup_teardown(numbers_may_wrap, before, after),
        cmocka_unit_test_setup_teardown(many_waits_are_told_apart, before, after),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
