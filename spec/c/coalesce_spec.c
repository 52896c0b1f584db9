/* coalesce_spec.c - when a connection may leave unread what comes, and for how long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include "link/amqp.h"

static mx_amqp amqp;
static mx_amqp_consumer consumer;
static mx_amqp_publisher publisher;
static uint64_t now;

static void join(mx_line *l, int kind) {
    l->kind = kind;
    l->next = amqp.lines;
    amqp.lines = l;
}

/* A connection to a broker on this machine, at a time when the rate is known: nothing came yet. */
static int before(void **state) {
    (void)state;
    memset(&amqp, 0, sizeof amqp);
    memset(&consumer, 0, sizeof consumer);
    memset(&publisher, 0, sizeof publisher);
    amqp.local = 1;
    amqp.base.pub.state = MX_OPEN;
    now = 1000000;
    return 0;
}

static uint64_t ask(void) { return mx_amqp_coalesce(&amqp.base.pub, now); }

static void consume(uint32_t prefetch) {
    consumer.prefetch = prefetch;
    consumer.base.inbox.state = MX_OPEN;
    join(&consumer.line, MX_CONSUMER);
}

static void publish(uint32_t window, double pending) {
    publisher.base.confirm.pub.window = window;
    publisher.base.confirm.pub.seq = pending;
    join(&publisher.line, MX_PUBLISHER);
}

/* What it says after so many ms, in each of which n deliveries came. */
static uint64_t deliver(int ms, uint32_t n) {
    uint64_t answer = ask();
    for (; ms; ms--) {
        now += 1000;
        consumer.base.inbox.tail += n;
        answer = ask();
    }
    return answer;
}

/* The same with confirms, each of which makes room for the next publish. */
static uint64_t confirm(int ms, uint32_t n) {
    uint64_t answer = ask();
    for (; ms; ms--) {
        now += 1000;
        publisher.base.confirm.pub.settled += n;
        publisher.base.confirm.pub.seq += n;
        answer = ask();
    }
    return answer;
}

static void coalesce_waits_for_an_eighth_of_the_prefetch(void **state) {
    (void)state;
    consume(256);
    assert_int_equal(deliver(3, 100), 320); /* 32, each 10 us */
    assert_int_equal(deliver(3, 200), 160);
}

static void coalesce_costs_a_delivery_half_a_millisecond_at_most(void **state) {
    (void)state;
    consume(4000);
    assert_int_equal(deliver(3, 20), 500);
    assert_int_equal(deliver(3, 100), 500);
}

static void coalesce_lets_slow_deliveries_be_taken_at_once(void **state) {
    (void)state;
    consume(256);
    assert_int_equal(deliver(5, 15), 0);
    assert_int_equal(deliver(5, 1), 0);
}

static void coalesce_does_not_sleep_for_less_than_a_sleep_takes(void **state) {
    (void)state;
    consume(256);
    assert_int_equal(deliver(3, 1000), 0); /* 32, each 1 us */
}

static void coalesce_leaves_a_connection_without_traffic_to_the_others(void **state) {
    (void)state;
    assert_true(ask() == UINT64_MAX);
    consume(256);
    assert_true(deliver(3, 0) == UINT64_MAX);
    assert_int_equal(deliver(1, 1), 0); /* the first that comes is taken at once */
}

static void coalesce_does_not_keep_a_small_prefetch_waiting(void **state) {
    (void)state;
    consume(63);
    assert_int_equal(deliver(3, 100), 0);
}

static void coalesce_waits_for_an_eighth_of_a_full_window(void **state) {
    (void)state;
    publish(256, 256);
    assert_int_equal(confirm(3, 40), 800);
    assert_int_equal(confirm(3, 10), 1000);
}

static void coalesce_reads_confirms_at_once_while_the_window_has_room(void **state) {
    (void)state;
    publish(256, 191);
    assert_int_equal(confirm(3, 40), 0);
}

static void coalesce_reads_at_once_what_a_small_window_waits_for(void **state) {
    (void)state;
    publish(63, 63);
    assert_int_equal(confirm(3, 40), 0);
}

/* A handler that publishes what it makes of a message: whoever asked for it waits. */
static void coalesce_reads_at_once_while_handlers_publish(void **state) {
    (void)state;
    consume(256);
    publish(256, 0);
    assert_int_equal(deliver(3, 100), 320);
    publisher.base.confirm.pub.seq++;
    publisher.base.confirm.pub.settled++;
    assert_int_equal(ask(), 0);
    assert_int_equal(deliver(2, 100), 320);
}

static void coalesce_reads_at_once_where_replies_or_answers_are_awaited(void **state) {
    (void)state;
    consume(256);
    publish(256, 0);
    publisher.replies = &consumer;
    assert_int_equal(deliver(3, 100), 0);
    publisher.replies = NULL;
    assert_int_equal(deliver(3, 100), 320);
    publisher.line.waiting = 1;
    assert_int_equal(deliver(3, 100), 0);
}

static void coalesce_is_for_a_broker_on_this_machine(void **state) {
    (void)state;
    consume(256);
    amqp.local = 0;
    assert_int_equal(deliver(3, 100), 0);
}

static void coalesce_reads_at_once_until_what_is_written_has_left(void **state) {
    (void)state;
    consume(256);
    amqp.out.pending = 1;
    assert_int_equal(deliver(3, 100), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(coalesce_waits_for_an_eighth_of_the_prefetch, before),
        cmocka_unit_test_setup(coalesce_costs_a_delivery_half_a_millisecond_at_most, before),
        cmocka_unit_test_setup(coalesce_lets_slow_deliveries_be_taken_at_once, before),
        cmocka_unit_test_setup(coalesce_does_not_sleep_for_less_than_a_sleep_takes, before),
        cmocka_unit_test_setup(coalesce_leaves_a_connection_without_traffic_to_the_others, before),
        cmocka_unit_test_setup(coalesce_does_not_keep_a_small_prefetch_waiting, before),
        cmocka_unit_test_setup(coalesce_waits_for_an_eighth_of_a_full_window, before),
        cmocka_unit_test_setup(coalesce_reads_confirms_at_once_while_the_window_has_room, before),
        cmocka_unit_test_setup(coalesce_reads_at_once_what_a_small_window_waits_for, before),
        cmocka_unit_test_setup(coalesce_reads_at_once_while_handlers_publish, before),
        cmocka_unit_test_setup(coalesce_reads_at_once_where_replies_or_answers_are_awaited, before),
        cmocka_unit_test_setup(coalesce_is_for_a_broker_on_this_machine, before),
        cmocka_unit_test_setup(coalesce_reads_at_once_until_what_is_written_has_left, before),
    };
    return cmocka_run_group_tests_name("coalesce", tests, NULL, NULL);
}
