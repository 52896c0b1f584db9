/* queue_spec.c - one queue without anybody consuming from it: order, limits, priorities, what comes back, dead letters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"
#include "broker/death.h"
#include "message/props.h"

static mx_timers timers;
static mx_store *s;
static mx_entry args[MX_ARGS];
static uint64_t now;

static mx_span S(const char *text) { return mx_span_of(text); }

static int begin(void **state) {
    (void)state;
    s = mx_store_get(S("queue"), &timers);
    memset(args, 0, sizeof args);
    now = mx_clock_us();
    return 0;
}

static int finish(void **state) {
    (void)state;
    assert_null(s->letters);
    assert_int_equal(s->holding, 0);
    mx_store_put(s);
    mx_store_forget(s);
    assert_int_equal(timers.count, 0);
    assert_int_equal(mx_message_bytes(), 0);
    mx_timers_fini(&timers);
    return 0;
}

static void number(int arg, int64_t n) { args[arg] = (mx_entry){.type = 'l', .number = n}; }
static void text(int arg, const char *t) { args[arg] = (mx_entry){.type = 'S', .text = S(t)}; }
static void dead_to(const char *queue) {
    text(MX_ARG_DEAD_EXCHANGE, "");
    text(MX_ARG_DEAD_KEY, queue);
}

static mx_queue *queue(const char *name) {
    mx_queue *q = mx_queue_new(s, S(name), args);
    memset(args, 0, sizeof args);
    return q;
}

static int put_with(mx_queue *q, const char *body, mx_props props) {
    uint8_t bytes[256];
    int n = mx_props_encode(&props, bytes, sizeof bytes);
    mx_message *m = mx_message_new(S(""), S(q->named.name), (mx_span){bytes, (size_t)n}, strlen(body));
    return mx_queue_put(q, mx_message_append(m, body, strlen(body)));
}
static int put(mx_queue *q, const char *body) { return put_with(q, body, (mx_props){0}); }
static int put_priority(mx_queue *q, const char *body, uint8_t priority) {
    return put_with(q, body, (mx_props){.flags = MX_P_PRIORITY, .priority = priority});
}

/* What a queue holds is taken from it: "a b c". */
static const char *all(mx_queue *q) {
    static char list[256];
    mx_held h;
    uint32_t expired = 0;
    for (*list = 0; mx_queue_take(q, &h, &expired); mx_message_unref(h.message))
        sprintf(list + strlen(list), "%s%.*s%s", *list ? " " : "", (int)h.message->size, (char *)mx_message_body(h.message),
                h.redelivered ? "r" : "");
    return list;
}

static mx_held take(mx_queue *q) {
    mx_held h;
    uint32_t expired = 0;
    assert_true(mx_queue_take(q, &h, &expired));
    return h;
}

static void queue_keeps_order_beyond_its_first_room(void **state) {
    (void)state;
    mx_queue *q = queue("q");
    char body[16];
    for (int i = 0; i < 1000; i++) {
        sprintf(body, "%d", i);
        put(q, body);
        if (i % 3 == 0) mx_message_unref(take(q).message);
    }
    for (int i = 334; i < 1000; i++) {
        mx_held h = take(q);
        sprintf(body, "%d", i);
        assert_memory_equal(mx_message_body(h.message), body, h.message->size);
        mx_message_unref(h.message);
    }
    assert_int_equal(q->count, 0);
}

static void queue_takes_back_in_any_order(void **state) {
    (void)state;
    mx_queue *q = queue("q");
    mx_held h[4];
    put(q, "0"), put(q, "1"), put(q, "2"), put(q, "3"), put(q, "4");
    for (int i = 0; i < 4; i++) h[i] = take(q);
    mx_queue_return(q, &h[2], 1), mx_queue_return(q, &h[0], 1), mx_queue_return(q, &h[3], 0), mx_queue_return(q, &h[1], 1);
    assert_string_equal(all(q), "0r 1r 2r 3r 4");
}

static void queue_without_care_has_none(void **state) {
    (void)state;
    assert_int_equal(queue("q")->special, 0);
    text(MX_ARG_OVERFLOW, "reject-publish");
    assert_int_equal(queue("without a limit nothing flows over")->special, 0);
}

static void queue_drops_its_head(void **state) {
    (void)state;
    number(MX_ARG_MAX_LENGTH, 2);
    mx_queue *q = queue("q");
    for (int i = 0; i < 4; i++) assert_int_equal(put(q, (char[]){(char)('0' + i), 0}), 0);
    assert_string_equal(all(q), "2 3");
}

static void queue_counts_bytes(void **state) {
    (void)state;
    number(MX_ARG_MAX_BYTES, 6);
    mx_queue *q = queue("q");
    put(q, "aaa"), put(q, "bbb"), put(q, "");
    assert_int_equal(q->bytes, 6);
    put(q, "cccc");
    assert_int_equal(q->bytes, 4);
    assert_string_equal(all(q), "cccc");
    assert_int_equal(q->bytes, 0);
    put(q, "aaa"), put(q, "bbb");
    mx_queue_purge(q);
    assert_int_equal(q->bytes, 0);
}

static void queue_refuses_beyond_its_limit(void **state) {
    (void)state;
    number(MX_ARG_MAX_LENGTH, 1);
    text(MX_ARG_OVERFLOW, "reject-publish");
    mx_queue *q = queue("q");
    assert_int_equal(put(q, "0"), 0);
    assert_int_equal(put(q, "1"), 1);
    mx_held h = take(q);
    assert_int_equal(put(q, "2"), 0);
    mx_queue_return(q, &h, 1); /* what comes back is not refused */
    assert_string_equal(all(q), "0r 2");
}

static void queue_trims_what_comes_back(void **state) {
    (void)state;
    number(MX_ARG_MAX_LENGTH, 1);
    mx_queue *q = queue("q");
    put(q, "0");
    mx_held h = take(q);
    put(q, "1");
    mx_queue_return(q, &h, 1);
    assert_string_equal(all(q), "1");
}

static void queue_gives_high_priorities_first(void **state) {
    (void)state;
    number(MX_ARG_MAX_PRIORITY, 9);
    mx_queue *q = queue("q");
    put_priority(q, "a", 1), put_priority(q, "b", 9), put(q, "c"), put_priority(q, "d", 200), put_priority(q, "e", 1);
    mx_held h = take(q);
    mx_queue_return(q, &h, 1);
    assert_int_equal(q->count, 5);
    assert_string_equal(all(q), "br d a e c");
}

static void queue_of_quorum_puts_returns_where_rabbitmq_does(void **state) {
    (void)state;
    text(MX_ARG_TYPE, "quorum");
    mx_queue *q = queue("q");
    put(q, "0"), put(q, "1"), put(q, "2");
    mx_held by_hand = take(q), left = take(q);
    mx_queue_return(q, &by_hand, 1);
    mx_queue_return(q, &left, 0);
    assert_string_equal(all(q), "1r 2 0r");
    text(MX_ARG_TYPE, "quorum");
    number(MX_ARG_DELIVERY_LIMIT, 3);
    q = queue("limited");
    put(q, "0"), put(q, "1");
    by_hand = take(q);
    mx_queue_return(q, &by_hand, 1);
    assert_string_equal(all(q), "0r 1");
}

static void queue_of_quorum_buries_beyond_its_limit(void **state) {
    (void)state;
    mx_queue *dead = queue("dead");
    text(MX_ARG_TYPE, "quorum");
    number(MX_ARG_DELIVERY_LIMIT, 2);
    dead_to("dead");
    mx_queue *q = queue("q");
    put(q, "x");
    for (uint32_t i = 0; i < 3; i++) {
        mx_held h = take(q);
        assert_int_equal(h.returns, i);
        mx_queue_return(q, &h, 1);
    }
    assert_int_equal(q->count, 0);
    assert_string_equal(all(dead), "x");
}

static void queue_sends_a_chain_of_letters_in_order(void **state) {
    (void)state;
    mx_queue *last = queue("last");
    number(MX_ARG_MAX_LENGTH, 0), dead_to("last");
    queue("middle");
    number(MX_ARG_MAX_LENGTH, 1), dead_to("middle");
    mx_queue *q = queue("q");
    put(q, "0"), put(q, "1"), put(q, "2");
    assert_string_equal(all(last), "0 1");
    assert_string_equal(all(q), "2");
}

static void queue_letters_end_in_a_circle(void **state) {
    (void)state;
    number(MX_ARG_MAX_LENGTH, 0), dead_to("b");
    mx_queue *a = queue("a");
    number(MX_ARG_MAX_LENGTH, 0), dead_to("a");
    queue("b");
    put(a, "x");
    assert_int_equal(mx_message_bytes(), 0);
}

/* A rejection that stands before the queue in x-death makes RabbitMQ, and so us, think that somebody stops the circle. */
static void queue_letters_end_where_no_circle_is_seen(void **state) {
    (void)state;
    static const char rejected[] = "\7x-deathA\0\0\0\31F\0\0\0\24\6reasonS\0\0\0\10rejected";
    number(MX_ARG_MAX_LENGTH, 0), dead_to("b");
    mx_queue *a = queue("a");
    number(MX_ARG_MAX_LENGTH, 0), dead_to("a");
    queue("b");
    put_with(a, "x", (mx_props){.flags = MX_P_HEADERS, .headers = {(const uint8_t *)rejected, sizeof rejected - 1}});
    assert_int_equal(mx_message_bytes(), 0);
}

static void queue_expires_at_its_head(void **state) {
    (void)state;
    mx_queue *dead = queue("dead");
    number(MX_ARG_TTL, 100), dead_to("dead");
    mx_queue *q = queue("q");
    put(q, "0");
    put_with(q, "1", (mx_props){.flags = MX_P_EXPIRATION, .expiration = S("10")});
    mx_timers_run(&timers, now + 50000);
    assert_int_equal(q->count, 2);
    mx_timers_run(&timers, now + 200000);
    assert_int_equal(q->count, 0);
    assert_string_equal(all(dead), "0 1");
}

static void queue_does_after_sleep_what_came_due(void **state) {
    (void)state;
    mx_queue *dead = queue("dead");
    number(MX_ARG_TTL, 1), dead_to("dead");
    mx_queue *q = queue("q");
    put(q, "x");
    mx_store_put(s);
    assert_int_equal(timers.count, 0);
    while (mx_clock_us() < now + 3000) {
    }
    s = mx_store_get(S("queue"), &timers);
    assert_int_equal(q->count, 0);
    assert_string_equal(all(dead), "x");
}

static mx_span headers(mx_message *m) {
    mx_props p;
    assert_int_equal(mx_props_decode(mx_message_props(m), m->props_size, &p), 0);
    assert_int_equal(mx_props_check(mx_message_props(m), m->props_size), 0);
    return p.headers;
}

static void letter_survives_headers_that_would_grow_too_long(void **state) {
    (void)state;
    static uint8_t table[131000], props[131100], filling[248];
    mx_queue *dead = queue("dead");
    dead_to("dead");
    mx_queue *q = queue("q");
    mx_out o = {table, table + sizeof table};
    for (int i = 0; i < 500; i++) mx_out_text(&o, "filling", (mx_span){filling, 248});
    size_t before = (size_t)(o.at - table);
    for (int i = 0; i < 10; i++) mx_out_text(&o, "x", (mx_span){filling, 30});
    mx_props p = {.flags = MX_P_HEADERS, .headers = {table, (size_t)(o.at - table)}};
    assert_true(before > 129000 && o.at < o.end);
    int n = mx_props_encode(&p, props, sizeof props);
    mx_queue_bury(q, mx_message_new(S(""), S("q"), (mx_span){props, (size_t)n}, 0), "rejected");
    mx_held h = take(dead);
    assert_true(headers(h.message).n >= p.headers.n);
    mx_message_unref(h.message);
}

static void letter_keeps_its_hands_off_a_strange_x_death(void **state) {
    (void)state;
    static const char *const strange[] = {"\7x-deathA\0\0\0\2t\1", "\7x-deathA\0\0\0\0", "\7x-deathA\0\0\0\5F\0\0\0\0",
                                          "\7x-deathF\0\0\0\0", "\7x-deathV"};
    static const size_t size[] = {15, 13, 18, 13, 9};
    uint8_t bytes[128];
    mx_queue *dead = queue("dead");
    dead_to("dead");
    mx_queue *q = queue("q");
    for (int i = 0; i < 5; i++) {
        mx_props p = {.flags = MX_P_HEADERS, .headers = {(const uint8_t *)strange[i], size[i]}};
        int n = mx_props_encode(&p, bytes, sizeof bytes);
        assert_true(n > 0);
        mx_queue_bury(q, mx_message_new(S(""), S("q"), (mx_span){bytes, (size_t)n}, 0), "expired");
        mx_held h = take(dead);
        mx_entry deaths;
        assert_true(mx_entry_find(headers(h.message), S("x-death"), &deaths));
        assert_int_equal(deaths.type, 'A');
        mx_message_unref(h.message);
    }
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, begin, finish)
int main(void) {
    const struct CMUnitTest cases[] = {
        CASE(queue_keeps_order_beyond_its_first_room),
        CASE(queue_takes_back_in_any_order),
        CASE(queue_without_care_has_none),
        CASE(queue_drops_its_head),
        CASE(queue_counts_bytes),
        CASE(queue_refuses_beyond_its_limit),
        CASE(queue_trims_what_comes_back),
        CASE(queue_gives_high_priorities_first),
        CASE(queue_of_quorum_puts_returns_where_rabbitmq_does),
        CASE(queue_of_quorum_buries_beyond_its_limit),
        CASE(queue_sends_a_chain_of_letters_in_order),
        CASE(queue_letters_end_in_a_circle),
        CASE(queue_letters_end_where_no_circle_is_seen),
        CASE(queue_expires_at_its_head),
        CASE(queue_does_after_sleep_what_came_due),
        CASE(letter_survives_headers_that_would_grow_too_long),
        CASE(letter_keeps_its_hands_off_a_strange_x_death),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
