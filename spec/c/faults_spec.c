/* faults_spec.c - what a test makes go wrong at a mem:// broker happens, and no more than that. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"
#include "link/link.h"
#include "broker/store.h"

enum { WINDOW = 4 };
static mx_runtime rt;
static mx_link *l;
static mx_pub *p;
static mx_faults *told;

static void on_wake(mx_runtime *r) { (void)r; }
static mx_span S(const char *text) { return mx_span_of(text); }
static const mx_link_ops *ops(mx_link *link) { return ((mx_link_base *)link)->ops; }
static void flush(void) { ops(l)->flush(l); }

static void forget_posts(void) {
    mx_waits *w = &rt.waits.pub;
    for (; w->head != w->tail; w->head++) mx_reply_free(w->post[w->head & w->mask].reply);
}

static mx_link *open_named(const char *name) {
    mx_link_options o = {.scheme = S("mem"), .host = S(name), .max_body = 1000};
    return mx_link_open(&rt, &o, 0);
}

static double publish(const char *key, int flags) { return mx_publish(p, "", 0, key, strlen(key), "x", 1, NULL, flags, 0); }
static int state(double seq) { return mx_receipt_state(p, seq); }

static uint32_t messages(void) {
    mx_store *s = mx_store_get(S("faulty"), &rt.timers);
    uint32_t n = mx_store_queue(s, S("q"))->count;
    mx_store_put(s);
    return n;
}

static int begin(void **st) {
    (void)st;
    rt = (mx_runtime){.wake = on_wake};
    mx_waits_init(&rt.waits, &rt.timers);
    told = mx_faults_of("faulty");
    *told = (mx_faults){.close_channels = told->close_channels};
    l = open_named("faulty");
    p = mx_pub_open(l, WINDOW, 1, 30, 0);
    mx_call c = {.op = MX_DECLARE_QUEUE, .name = S("q")};
    assert_int_equal(mx_link_call(l, &c, 0), 0);
    return 0;
}

static void forget_broker(const char *name) {
    mx_store *s = mx_store_get(S(name), &rt.timers);
    mx_store_put(s);
    mx_store_forget(s);
}

static int finish(void **st) {
    (void)st;
    mx_link_close(l, 0);
    forget_posts();
    assert_null(rt.links);
    assert_int_equal(rt.timers.count, 0);
    forget_broker("faulty");
    assert_int_equal(mx_message_bytes(), 0);
    mx_waits_fini(&rt.waits);
    mx_timers_fini(&rt.timers);
    return 0;
}

static void faults_are_none_until_told(void **st) {
    (void)st;
    double seq = publish("q", MX_MANDATORY);
    flush();
    assert_int_equal(state(seq), MX_CONFIRMED);
    assert_int_equal(messages(), 1);
}

static void faults_leave_other_brokers_alone(void **st) {
    (void)st;
    mx_link *other = open_named("sound");
    assert_ptr_not_equal(ops(other), ops(l));
    told->blocked = 1;
    mx_pub *sound = mx_pub_open(other, WINDOW, 1, 30, 0);
    assert_int_equal(sound->window, WINDOW);
    assert_int_equal(other->blocked, 0);
    mx_link_close(other, 0);
    forget_broker("sound");
}

static void faults_nack_as_many_as_told(void **st) {
    (void)st;
    told->nack = 2;
    double a = publish("q", 0), b = publish("q", 0), c = publish("q", 0);
    flush();
    assert_int_equal(state(a), MX_NACKED);
    assert_int_equal(state(b), MX_NACKED);
    assert_int_equal(state(c), MX_CONFIRMED);
    assert_int_equal(messages(), 1);
}

static void faults_return_only_what_is_mandatory(void **st) {
    (void)st;
    told->give_back = 1;
    double a = publish("q", 0), b = publish("q", MX_MANDATORY), c = publish("q", MX_MANDATORY);
    flush();
    assert_int_equal(state(a), MX_CONFIRMED);
    assert_int_equal(state(b), MX_RETURNED);
    assert_int_equal(state(c), MX_CONFIRMED);
    assert_int_equal(messages(), 2);
}

static void faults_count_no_publish_that_a_full_window_refused(void **st) {
    (void)st;
    for (int i = 0; i < WINDOW; i++) publish("q", 0);
    told->nack = 1;
    assert_int_equal((int)publish("q", 0), MX_EAGAIN);
    assert_int_equal(told->nack, 1);
    flush();
    assert_int_equal(state(publish("q", 0)), MX_NACKED);
}

static void faults_hold_confirms_back_and_let_them_go_in_time(void **st) {
    (void)st;
    told->delay = 10;
    double seq = publish("q", 0);
    flush();
    assert_int_equal(state(seq), MX_PENDING);
    assert_int_equal(messages(), 1);
    told->delay = 0; /* what is held was told before */
    flush();
    assert_int_equal(state(seq), MX_PENDING);
    mx_clock_advance(10);
    mx_timers_run(&rt.timers, mx_clock_us());
    flush();
    assert_int_equal(state(seq), MX_CONFIRMED);
    seq = publish("q", 0);
    flush();
    assert_int_equal(state(seq), MX_CONFIRMED);
}

static void faults_block_publishers_old_and_new_until_told_otherwise(void **st) {
    (void)st;
    told->blocked = 1;
    flush();
    assert_int_equal(l->blocked, 1);
    assert_int_equal((int)publish("q", 0), MX_EAGAIN);
    mx_pub *late = mx_pub_open(l, 2 * WINDOW, 1, 30, 0);
    assert_int_equal(late->window, 0);
    told->blocked = 0;
    flush();
    assert_int_equal(l->blocked, 0);
    assert_int_equal(p->window, WINDOW);
    assert_int_equal(late->window, 2 * WINDOW);
    double seq = publish("q", 0);
    flush();
    assert_int_equal(state(seq), MX_CONFIRMED);
}

static void faults_close_channels_once_and_they_open_again(void **st) {
    (void)st;
    double seq = publish("q", 0);
    told->close_channels++;
    flush();
    assert_int_equal(p->state, MX_CLOSED);
    assert_int_equal(p->reply_code, 541);
    assert_int_equal(state(seq), MX_LOST);
    assert_int_equal((int)publish("q", 0), MX_ECLOSED);
    assert_int_equal(mx_pub_reopen(p, l, 0), 0);
    flush();
    seq = publish("q", 0);
    flush();
    assert_int_equal(state(seq), MX_CONFIRMED);
}

static void faults_outlive_a_publisher_that_closes(void **st) {
    (void)st;
    mx_pub *other = mx_pub_open(l, WINDOW, 1, 30, 0);
    mx_pub_close(other, 0);
    told->close_channels++;
    flush();
    assert_int_equal(p->state, MX_CLOSED);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, begin, finish)

int main(void) {
    const struct CMUnitTest cases[] = {
        CASE(faults_are_none_until_told),
        CASE(faults_leave_other_brokers_alone),
        CASE(faults_nack_as_many_as_told),
        CASE(faults_return_only_what_is_mandatory),
        CASE(faults_count_no_publish_that_a_full_window_refused),
        CASE(faults_hold_confirms_back_and_let_them_go_in_time),
        CASE(faults_block_publishers_old_and_new_until_told_otherwise),
        CASE(faults_close_channels_once_and_they_open_again),
        CASE(faults_outlive_a_publisher_that_closes),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
