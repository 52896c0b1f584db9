/* gather_spec.c - what link.h and abi.h promise of publishes that are kept together, on mem://. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"
#include "broker/store.h"
#include "link/link.h"

enum { WINDOW = 8 };
static mx_runtime rt;
static mx_link *l;
static mx_pub *p;
static mx_batch_look look;

static void on_wake(mx_runtime *r) { (void)r; }

/* The messages that were ready when the queue was declared again. */
static uint32_t ready(void) {
    mx_waits *w = &rt.waits.pub;
    uint32_t ticket = mx_wait_new(w, -1), messages = UINT32_MAX;
    mx_link_call(l, &(mx_call){.op = MX_DECLARE_QUEUE, .name = mx_span_of("q")}, ticket);
    for (; w->head != w->tail; w->head++) {
        mx_post *post = &w->post[w->head & w->mask];
        if (post->ticket == ticket) messages = post->reply->messages;
        mx_reply_free(post->reply);
    }
    return messages;
}

static int begin(void **state) {
    mx_link_options o = {.scheme = mx_span_of("mem"), .host = mx_span_of("gather"), .max_body = 1000};
    (void)state;
    rt = (mx_runtime){.wake = on_wake};
    mx_waits_init(&rt.waits, &rt.timers);
    l = mx_link_open(&rt, &o, 0);
    p = mx_pub_open(l, WINDOW, MX_PUB_CONFIRM, 30, 0);
    assert_int_equal(ready(), 0);
    return 0;
}

static int finish(void **state) {
    (void)state;
    ready();
    mx_link_close(l, 0);
    for (mx_waits *w = &rt.waits.pub; w->head != w->tail; w->head++) mx_reply_free(w->post[w->head & w->mask].reply);
    assert_int_equal(rt.timers.count, 0);
    mx_store *s = mx_store_get(mx_span_of("gather"), &rt.timers);
    mx_store_put(s);
    mx_store_forget(s);
    assert_int_equal(mx_message_bytes(), 0);
    mx_waits_fini(&rt.waits);
    mx_timers_fini(&rt.timers);
    return 0;
}

static double publish_to(const char *exchange, const char *body) {
    return mx_publish(p, exchange, strlen(exchange), "q", 1, body, strlen(body), NULL, MX_MANDATORY, 0);
}
static double publish(const char *body) { return publish_to("", body); }
static void flush(void) { ((mx_link_base *)l)->ops->flush(l); }

static void go_out_once_there_are_enough(void **state) {
    (void)state;
    mx_pub_gather(p, 3, 1000, 60, &look);
    assert_true(publish("a") == 1 && publish("b") == 2);
    flush();
    assert_int_equal(mx_receipt_state(p, 1), MX_PENDING);
    assert_int_equal(ready(), 0);
    assert_float_equal(look.count, 2, 0);
    assert_float_equal(look.bytes, 2, 0);
    assert_true(publish("c") == 3);
    flush();
    for (int i = 1; i <= 3; i++) assert_int_equal(mx_receipt_state(p, i), MX_CONFIRMED);
    assert_int_equal(ready(), 3);
}

static void go_out_when_they_are_old_enough(void **state) {
    (void)state;
    mx_pub_gather(p, 100, 1000, 1, &look);
    publish("a");
    mx_timers_run(&rt.timers, mx_clock_us() + 900000);
    assert_int_equal(ready(), 0);
    mx_timers_run(&rt.timers, mx_clock_us() + 1100000);
    assert_int_equal(ready(), 1);
}

static void go_out_when_they_fill_the_window(void **state) {
    (void)state;
    mx_pub_gather(p, 100, 1000, 60, &look);
    for (int i = 0; i < WINDOW; i++) publish("a");
    assert_int_equal(ready(), 0);
    assert_true(publish("b") == MX_EAGAIN);
    assert_int_equal(ready(), WINDOW);
    flush();
    assert_true(publish("b") > 0);
}

static void end_as_they_would_by_themselves(void **state) {
    (void)state;
    mx_pub_gather(p, 100, 1000, 60, &look);
    publish("a");
    double bad = publish_to("nowhere", "b"), behind = publish("c");
    mx_pub_release(p);
    flush();
    assert_int_equal(mx_receipt_state(p, 1), MX_CONFIRMED);
    assert_int_equal(mx_receipt_state(p, bad), MX_LOST);
    assert_int_equal(mx_receipt_state(p, behind), MX_LOST);
    assert_int_equal(p->state, MX_CLOSED);
    assert_int_equal(ready(), 1);
}

static void are_dropped_with_their_publisher(void **state) {
    (void)state;
    mx_pub_gather(p, 100, 1000, 60, &look);
    publish("a");
    mx_pub_close(p, 0);
    assert_int_equal(ready(), 0);
}

#define SPEC(f) cmocka_unit_test_setup_teardown(f, begin, finish)
int main(void) {
    const struct CMUnitTest specs[] = {
        SPEC(go_out_once_there_are_enough),    SPEC(go_out_when_they_are_old_enough),  SPEC(go_out_when_they_fill_the_window),
        SPEC(end_as_they_would_by_themselves), SPEC(are_dropped_with_their_publisher),
    };
    return cmocka_run_group_tests(specs, NULL, NULL);
}
