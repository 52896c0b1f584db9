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
    assert_int_equal(room.pub.live, 0);
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

static void a_reused_seat_has_another_number(void **state) {
    (void)state;
    uint32_t a = mx_wait_new(&room.pub, -1);
    mx_wait_drop(&room.pub, a);
    for (int i = 0; i < 1023; i++) {
        uint32_t b = mx_wait_new(&room.pub, -1);
        if (i < 1022) assert_int_not_equal(a, b);
        assert_int_not_equal(b, 0);
        mx_wait_drop(&room.pub, b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_ticket_is_posted_once, before, after),
        cmocka_unit_test_setup_teardown(a_deadline_posts_timeout_and_makes_the_answer_stale, before, after),
        cmocka_unit_test_setup_teardown(a_dropped_ticket_is_never_posted, before, after),
        cmocka_unit_test_setup_teardown(posts_grow_without_losing_one, before, after),
        cmocka_unit_test_setup_teardown(a_reused_seat_has_another_number, before, after),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
