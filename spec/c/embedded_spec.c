/* embedded_spec.c - mem:// as its users see it: a link, its calls, what is delivered and what became of each publish. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"
#include "link/link.h"
#include "broker/store.h"

enum { TABLE_ROOM = 512 };
static mx_runtime rt;
static mx_link *l;
static mx_pub *p;
static int woken;
static uint64_t now;
static mx_reply *last; /* of the last operation */

static mx_span S(const char *text) { return mx_span_of(text); }
static void on_wake(mx_runtime *r) {
    (void)r;
    woken++;
}

/* The code of the operation whose ticket was posted last; its reply stays in last. */
static int outcome(uint32_t ticket) {
    mx_waits *w = &rt.waits.pub;
    mx_reply_free(last);
    last = NULL;
    for (int found = 0; w->head != w->tail; w->head++) {
        mx_post *post = &w->post[w->head & w->mask];
        if (post->ticket == ticket && !found++) last = post->reply;
        else mx_reply_free(post->reply);
    }
    assert_non_null(last);
    return last->code;
}

static uint32_t ticket(void) { return mx_wait_new(&rt.waits.pub, -1); }

static mx_link *open_named(const char *name) {
    mx_link_options o = {.scheme = S("mem"), .host = S(name), .max_body = 1000};
    uint32_t t = ticket();
    mx_link *link = mx_link_open(&rt, &o, t);
    assert_int_equal(outcome(t), 0);
    return link;
}

static int op_on(mx_link *link, mx_call c) {
    uint32_t t = ticket();
    assert_int_equal(mx_link_call(link, &c, t), 0);
    return outcome(t);
}
static int op(mx_call c) { return op_on(l, c); }

static void assert_refused(int reply_code, const char *text) {
    assert_int_equal(last->reply_code, reply_code);
    assert_string_equal(last->text, text);
}

static int queue(const char *name, uint32_t flags) {
    return op((mx_call){.op = MX_DECLARE_QUEUE, .flags = flags, .name = S(name)});
}
static int exchange(const char *name, const char *type, uint32_t flags) {
    return op((mx_call){.op = MX_DECLARE_EXCHANGE, .flags = flags, .name = S(name), .source = S(type)});
}
static int bind_queue(const char *name, const char *from, const char *key) {
    return op((mx_call){.op = MX_BIND, .name = S(name), .source = S(from), .key = S(key)});
}
static int delete_queue(const char *name) { return op((mx_call){.op = MX_DELETE_QUEUE, .name = S(name)}); }
static int count(const char *name) { return queue(name, MX_F_PASSIVE) ? -1 : (int)last->messages; }

/* ---- arguments */

typedef struct table {
    uint8_t bytes[TABLE_ROOM];
    size_t n;
} table;

static void add_key(table *t, const char *key, char type) {
    t->bytes[t->n++] = (uint8_t)strlen(key);
    memcpy(t->bytes + t->n, key, strlen(key));
    t->n += strlen(key);
    t->bytes[t->n++] = (uint8_t)type;
}
static void add_int(table *t, const char *key, int32_t v) {
    add_key(t, key, 'I');
    for (int i = 24; i >= 0; i -= 8) t->bytes[t->n++] = (uint8_t)(v >> i);
}
static void add_text(table *t, const char *key, const char *v) {
    add_key(t, key, 'S');
    for (int i = 24; i >= 0; i -= 8) t->bytes[t->n++] = (uint8_t)(strlen(v) >> i);
    memcpy(t->bytes + t->n, v, strlen(v));
    t->n += strlen(v);
}
static int queue_args(const char *name, const table *t) {
    return op((mx_call){.op = MX_DECLARE_QUEUE, .name = S(name), .args = {t->bytes, t->n}});
}

/* ---- messages */

static double publish_with(const char *x, const char *key, const char *body, const mx_props *props, int flags) {
    return mx_publish(p, x, strlen(x), key, strlen(key), body, strlen(body), props, flags, 0);
}
static double publish(const char *key, const char *body) { return publish_with("", key, body, NULL, MX_MANDATORY); }

static mx_inbox *consume_with(mx_link *link, const char *name, uint32_t prefetch, uint32_t flags) {
    mx_consume c = {.queue = S(name), .tag = S("t"), .prefetch = prefetch, .flags = flags};
    uint32_t t = ticket();
    mx_inbox *ib = mx_link_consume(link, &c, t);
    outcome(t);
    return ib;
}
static mx_inbox *consume(const char *name, uint32_t prefetch) { return consume_with(l, name, prefetch, 0); }

static const mx_link_ops *ops(mx_link *link) { return ((mx_link_base *)link)->ops; }
static void fill(void) {
    while (ops(l)->fill(l)) {
    }
}
static void flush(void) { ops(l)->flush(l); }
static void tick(uint64_t ms) { mx_timers_run(&rt.timers, now += ms * 1000); }

static mx_msg *taken(mx_inbox *ib) {
    fill();
    assert_int_not_equal(ib->head, ib->tail);
    return mx_inbox_at(ib, ib->head++);
}
static void assert_body(const mx_msg *m, const char *body) {
    assert_int_equal(m->size, strlen(body));
    assert_memory_equal(m->body, body, m->size);
}
static void expect(mx_inbox *ib, const char *body, int redelivered) {
    mx_msg *m = taken(ib);
    assert_body(m, body);
    assert_int_equal(m->redelivered, redelivered);
}
static void verdict(mx_inbox *ib, uint32_t i, int v) { mx_inbox_at(ib, i)->verdict = (uint8_t)v; }
static int state(double seq) { return mx_receipt_state(p, seq); }
static int waiting(const mx_inbox *ib) { return (int)(ib->tail - ib->head); }

static int begin(void **st) {
    (void)st;
    rt = (mx_runtime){.wake = on_wake};
    mx_waits_init(&rt.waits, &rt.timers);
    now = mx_clock_us();
    l = open_named("spec");
    p = mx_pub_open(l, 16, 1, 30, 0);
    return 0;
}

static int finish(void **st) {
    (void)st;
    uint32_t t = ticket();
    mx_link_close(l, t);
    assert_int_equal(outcome(t), 0);
    mx_reply_free(last);
    last = NULL;
    assert_null(rt.links);
    assert_int_equal(rt.timers.count, 0);
    mx_store *s = mx_store_get(S("spec"), &rt.timers);
    mx_store_put(s);
    mx_store_forget(s);
    assert_int_equal(mx_message_bytes(), 0);
    mx_waits_fini(&rt.waits);
    mx_timers_fini(&rt.timers);
    return 0;
}

/* ---- declaring */

static void embedded_declares_again_what_is_equal(void **st) {
    (void)st;
    assert_int_equal(queue("q", MX_F_DURABLE), 0);
    assert_string_equal(last->text, "q");
    assert_int_equal(queue("q", MX_F_DURABLE), 0);
    assert_int_equal(queue("q", 0), MX_ECHANNEL);
    assert_refused(406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' "
                        "but current is 'true'");
    assert_int_equal(exchange("x", "topic", 0), 0);
    assert_int_equal(exchange("x", "topic", 0), 0);
    assert_int_equal(exchange("x", "fanout", 0), MX_ECHANNEL);
    assert_refused(406, "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x' in vhost '/': received 'fanout' "
                        "but current is 'topic'");
}

static void embedded_compares_arguments(void **st) {
    (void)st;
    table t = {.n = 0}, none = {.n = 0};
    add_int(&t, "x-message-ttl", 60000);
    assert_int_equal(queue_args("q", &t), 0);
    assert_int_equal(queue_args("q", &t), 0);
    assert_int_equal(queue_args("q", &none), MX_ECHANNEL);
    assert_refused(406, "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received none "
                        "but current is the value '60000' of type 'signedint'");
    t.n = 0;
    add_int(&t, "x-message-ttl", 5000);
    assert_int_equal(queue_args("q", &t), MX_ECHANNEL);
    assert_refused(406, "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received "
                        "'5000' but current is '60000'");
}

static void embedded_refuses_arguments_of_other_kinds_of_queue(void **st) {
    (void)st;
    table t = {.n = 0}, stream = {.n = 0}, fine = {.n = 0};
    add_int(&t, "x-delivery-limit", 5);
    assert_int_equal(queue_args("q", &t), MX_ECHANNEL);
    assert_refused(406, "PRECONDITION_FAILED - invalid arg 'x-delivery-limit' for queue 'q' in vhost '/' of queue type "
                        "rabbit_classic_queue");
    add_text(&stream, "x-queue-type", "stream");
    assert_int_equal(queue_args("q", &stream), MX_ECHANNEL);
    assert_refused(406, "PRECONDITION_FAILED - invalid property 'non-durable' for queue 'q' in vhost '/'");
    assert_int_equal(count("q"), -1);
    add_text(&fine, "x-queue-mode", "lazy");
    add_int(&fine, "mine", 1);
    assert_int_equal(queue_args("q", &fine), 0);
}

static void embedded_refuses_arguments_that_are_wrong(void **st) {
    (void)st;
    table ttl = {.n = 0}, key = {.n = 0};
    add_int(&ttl, "x-message-ttl", -1);
    assert_int_equal(queue_args("q", &ttl), MX_ECHANNEL);
    assert_refused(406, "PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue 'q' in vhost '/': "
                        "{value_negative,-1}");
    add_text(&key, "x-dead-letter-routing-key", "k");
    assert_int_equal(queue_args("q", &key), MX_ECHANNEL);
    assert_int_equal(last->reply_code, 406);
}

static void embedded_says_what_is_not_there(void **st) {
    (void)st;
    assert_int_equal(queue("q", MX_F_PASSIVE), MX_ECHANNEL);
    assert_refused(404, "NOT_FOUND - no queue 'q' in vhost '/'");
    assert_int_equal(exchange("x", "", MX_F_PASSIVE), MX_ECHANNEL);
    assert_refused(404, "NOT_FOUND - no exchange 'x' in vhost '/'");
    assert_int_equal(bind_queue("q", "amq.direct", "k"), MX_ECHANNEL);
    queue("q", 0);
    assert_int_equal(bind_queue("q", "x", "k"), MX_ECHANNEL);
    assert_int_equal(op((mx_call){.op = MX_PURGE, .name = S("none")}), MX_ECHANNEL);
}

static void embedded_deletes_what_is_missing(void **st) {
    (void)st;
    assert_int_equal(delete_queue("none"), 0);
    assert_int_equal(op((mx_call){.op = MX_DELETE_EXCHANGE, .name = S("none")}), 0);
    assert_int_equal(op((mx_call){.op = MX_UNBIND, .name = S("q"), .source = S("x"), .key = S("k")}), 0);
}

static void embedded_keeps_the_names_of_the_broker(void **st) {
    (void)st;
    assert_int_equal(queue("amq.mine", 0), MX_EACCESS);
    assert_refused(403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'");
    assert_int_equal(exchange("amq.mine", "direct", 0), MX_EACCESS);
    assert_int_equal(exchange("amq.topic", "topic", MX_F_DURABLE), 0);
    assert_int_equal(op((mx_call){.op = MX_DELETE_EXCHANGE, .name = S("amq.topic")}), MX_EACCESS);
    queue("q", 0);
    assert_int_equal(bind_queue("q", "", "k"), MX_EACCESS);
    assert_refused(403, "ACCESS_REFUSED - operation not permitted on the default exchange");
    assert_int_equal(op((mx_call){.op = MX_DELETE_EXCHANGE, .name = S("amq.none")}), MX_EACCESS);
}

static void embedded_names_a_queue(void **st) {
    (void)st;
    assert_int_equal(queue("", 0), 0);
    char *first = mx_strndup(last->text, last->text_size);
    assert_memory_equal(first, "amq.gen-", 8);
    assert_int_equal(queue("", 0), 0);
    assert_string_not_equal(first, last->text);
    assert_int_equal(queue(first, MX_F_PASSIVE), 0);
    free(first);
}

static void embedded_locks_exclusive_queues(void **st) {
    (void)st;
    mx_link *other = open_named("spec");
    mx_call mine = {.op = MX_DECLARE_QUEUE, .flags = MX_F_EXCLUSIVE, .name = S("q")};
    assert_int_equal(op_on(other, mine), 0);
    assert_int_equal(queue("q", MX_F_EXCLUSIVE), MX_ECHANNEL);
    assert_refused(405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be "
                        "originally declared on another connection or the exclusive property value does not match "
                        "that of the original declaration.");
    assert_int_equal(delete_queue("q"), MX_ECHANNEL);
    mx_link_close(other, 0);
    assert_int_equal(count("q"), -1);
}

static void embedded_shares_a_broker_by_name(void **st) {
    (void)st;
    mx_link *same = open_named("spec"), *different = open_named("other");
    mx_call ask = {.op = MX_DECLARE_QUEUE, .flags = MX_F_PASSIVE, .name = S("q")};
    queue("q", 0);
    assert_int_equal(op_on(same, ask), 0);
    assert_int_equal(op_on(different, ask), MX_ECHANNEL);
    mx_link_close(same, 0);
    mx_link_close(different, 0);
    mx_store *s = mx_store_get(S("other"), &rt.timers);
    mx_store_put(s);
    mx_store_forget(s);
}

static void embedded_keeps_messages_without_a_link(void **st) {
    (void)st;
    queue("q", 0);
    publish("q", "one");
    mx_link_close(l, 0);
    l = open_named("spec");
    assert_int_equal(count("q"), 1);
}

/* ---- publishing */

static void embedded_confirms_in_flush(void **st) {
    (void)st;
    queue("q", 0);
    double seq = publish("q", "one");
    assert_int_equal(state(seq), MX_PENDING);
    flush();
    assert_int_equal(state(seq), MX_CONFIRMED);
}

static void embedded_parks_a_full_window(void **st) {
    (void)st;
    queue("q", 0);
    for (int i = 0; i < 16; i++) assert_true(publish("q", "x") > 0);
    assert_true(publish("q", "x") == MX_EAGAIN);
    flush();
    assert_true(publish("q", "x") == 17);
}

static void embedded_returns_the_unroutable(void **st) {
    (void)st;
    double mandatory = publish("none", "x"), not = publish_with("", "none", "x", NULL, 0);
    flush();
    assert_int_equal(state(mandatory), MX_RETURNED);
    assert_int_equal(state(not ), MX_CONFIRMED);
}

static void embedded_closes_the_channel_over_a_missing_exchange(void **st) {
    (void)st;
    queue("q", 0);
    double before = publish("q", "x"), seq = publish_with("nowhere", "k", "x", NULL, 0);
    assert_int_equal(p->state, MX_CLOSED);
    assert_int_equal(p->reply_code, 404);
    assert_string_equal(p->error, "NOT_FOUND - no exchange 'nowhere' in vhost '/'");
    assert_int_equal(state(before), MX_CONFIRMED);
    assert_int_equal(state(seq), MX_LOST);
    assert_true(publish("q", "x") == MX_ECLOSED);
    assert_int_equal(mx_pub_reopen(p, NULL, 0), 0);
    assert_true(publish("q", "x") == 3);
    flush();
    assert_int_equal(state(3), MX_CONFIRMED);
}

static void embedded_refuses_what_amqp_cannot_carry(void **st) {
    (void)st;
    char key[300], body[1002];
    memset(key, 'k', sizeof key);
    memset(body, 'b', sizeof body);
    key[256] = body[1001] = 0;
    assert_true(publish(key, "x") == MX_EVALIDATION);
    assert_string_equal(mx_refusal(), "routing key is 256 bytes, at most 255");
    assert_true(publish("q", body) == MX_EVALIDATION);
    assert_string_equal(mx_refusal(), "body is 1001 bytes, at most 1000");
    assert_true(p->seq == 0);
}

static void embedded_refuses_an_expiration_that_is_no_number(void **st) {
    (void)st;
    mx_props props = {.flags = MX_P_EXPIRATION, .expiration = S("soon")};
    queue("q", 0);
    publish_with("", "q", "x", &props, 0);
    assert_int_equal(p->reply_code, 406);
    assert_int_equal(p->state, MX_CLOSED);
}

static void embedded_keeps_clients_off_internal_exchanges(void **st) {
    (void)st;
    exchange("x", "fanout", MX_F_INTERNAL);
    publish_with("x", "", "x", NULL, 0);
    assert_int_equal(p->reply_code, 403);
}

static void embedded_nacks_beyond_its_memory(void **st) {
    (void)st;
    mx_store *s = mx_store_get(S("spec"), &rt.timers);
    queue("q", 0);
    s->bytes_max = 300;
    double fits = publish("q", "x"), too_much = 0;
    for (int i = 0; i < 4; i++) too_much = publish("q", "x");
    flush();
    assert_int_equal(state(fits), MX_CONFIRMED);
    assert_int_equal(state(too_much), MX_NACKED);
    assert_true(count("q") < 5);
    mx_store_put(s);
}

static void embedded_gives_a_message_an_id(void **st) {
    (void)st;
    mx_props props;
    queue("q", 0);
    mx_inbox *ib = consume("q", 10);
    publish("q", "x");
    mx_msg *m = taken(ib);
    assert_int_equal(mx_props_decode(m->props, m->props_size, &props), 0);
    assert_int_equal(props.flags, MX_P_DELIVERY_MODE | MX_P_MESSAGE_ID);
    assert_int_equal(props.delivery_mode, 2);
    assert_int_equal(props.message_id.n, MX_ID_SIZE);
}

/* ---- consuming */

static void embedded_delivers_what_was_published(void **st) {
    (void)st;
    queue("q", 0);
    bind_queue("q", "amq.topic", "order.*");
    mx_inbox *ib = consume("q", 10);
    publish_with("amq.topic", "order.new", "hello", NULL, 0);
    mx_msg *m = taken(ib);
    assert_body(m, "hello");
    assert_memory_equal(m->exchange, "amq.topic", m->exchange_size);
    assert_memory_equal(m->key, "order.new", m->key_size);
    assert_int_equal(m->tag, 1);
    m->verdict = MX_ACK;
    flush();
    assert_int_equal(ib->settled, 1);
    assert_true(ib->acked == 1);
    assert_int_equal(mx_message_bytes(), 0);
}

static void embedded_fills_no_more_than_the_prefetch(void **st) {
    (void)st;
    queue("q", 0);
    mx_inbox *ib = consume("q", 8);
    for (int i = 0; i < 12; i++) publish("q", "x");
    assert_int_equal(ops(l)->fill(l), 0);
    assert_int_equal(waiting(ib), 8);
}

static void embedded_holds_a_publisher_that_runs_ahead(void **st) {
    (void)st;
    queue("q", 0);
    mx_inbox *ib = consume("q", 1);
    double seq = publish("q", "x");
    publish("q", "more than the consumer has room for");
    flush();
    assert_int_equal(state(seq), MX_PENDING);
    fill();
    flush();
    assert_int_equal(state(seq), MX_CONFIRMED);
    assert_int_equal(waiting(ib), 1);
}

static void embedded_credits_what_is_settled_beyond_a_gap(void **st) {
    (void)st;
    queue("q", 0);
    mx_inbox *ib = consume("q", 2);
    for (int i = 0; i < 4; i++) publish("q", i ? "later" : "parked");
    fill();
    ib->head = 2;
    verdict(ib, 1, MX_ACK);
    flush();
    assert_int_equal(ib->settled, 0);
    fill();
    assert_int_equal(ib->tail, 3);
}

static void embedded_serves_consumers_in_turn(void **st) {
    (void)st;
    queue("q", 0);
    mx_inbox *a = consume("q", 8), *b = consume("q", 8);
    const char *bodies[] = {"0", "1", "2", "3", "4", "5"};
    for (int i = 0; i < 6; i++) publish("q", bodies[i]);
    fill();
    assert_int_equal(waiting(a), 3);
    assert_int_equal(waiting(b), 3);
    expect(a, "0", 0), expect(b, "1", 0), expect(a, "2", 0), expect(b, "3", 0);
}

static void embedded_requeues_in_place(void **st) {
    (void)st;
    queue("q", 0);
    mx_inbox *ib = consume("q", 4);
    const char *bodies[] = {"0", "1", "2", "3", "4"};
    for (int i = 0; i < 5; i++) publish("q", bodies[i]);
    fill();
    ib->head = 4;
    verdict(ib, 0, MX_REQUEUE), verdict(ib, 1, MX_ACK), verdict(ib, 2, MX_REQUEUE), verdict(ib, 3, MX_ACK);
    flush();
    assert_int_equal(count("q"), 3);
    expect(ib, "0", 1), expect(ib, "2", 1), expect(ib, "4", 0);
}

static void embedded_requeue_in_one_queue_is_not_redelivered_in_another(void **st) {
    (void)st;
    queue("a", 0), queue("b", 0);
    bind_queue("a", "amq.fanout", ""), bind_queue("b", "amq.fanout", "");
    mx_inbox *a = consume("a", 4);
    publish_with("amq.fanout", "", "x", NULL, 0);
    taken(a)->verdict = MX_REQUEUE;
    flush();
    mx_inbox *b = consume("b", 4);
    expect(b, "x", 0);
    expect(a, "x", 1);
}

static void embedded_close_requeues_what_is_unsettled_in_order(void **st) {
    (void)st;
    queue("q", 0);
    mx_inbox *ib = consume("q", 4);
    publish("q", "0"), publish("q", "1"), publish("q", "2"), publish("q", "3"), publish("q", "4");
    fill();
    ib->head = 2;
    verdict(ib, 0, MX_ACK);
    uint32_t t = ticket();
    mx_inbox_close(ib, t);
    assert_int_equal(outcome(t), 0);
    ib = consume("q", 8);
    expect(ib, "1", 1), expect(ib, "2", 1), expect(ib, "3", 1), expect(ib, "4", 0);
}

static void embedded_cancel_gives_back_and_still_takes_verdicts(void **st) {
    (void)st;
    queue("q", 0);
    mx_inbox *ib = consume("q", 4);
    publish("q", "0"), publish("q", "1"), publish("q", "2");
    fill();
    ib->head = 1;
    mx_inbox_cancel(ib, 0);
    assert_int_equal(count("q"), 2);
    assert_int_equal(last->consumers, 0);
    fill();
    assert_int_equal(waiting(ib), 0);
    verdict(ib, 0, MX_REQUEUE);
    flush();
    assert_int_equal(count("q"), 3);
    expect(consume("q", 4), "0", 1);
}

static void embedded_without_acks_forgets_what_it_delivered(void **st) {
    (void)st;
    queue("q", 0);
    mx_inbox *ib = consume_with(l, "q", 4, MX_F_NO_ACK);
    publish("q", "0");
    fill();
    assert_int_equal(count("q"), 0);
    mx_inbox_close(ib, 0);
    assert_int_equal(count("q"), 0);
    assert_int_equal(mx_message_bytes(), 0);
}

static void embedded_cancels_consumers_of_a_deleted_queue(void **st) {
    (void)st;
    queue("q", 0);
    mx_inbox *ib = consume("q", 4);
    publish("q", "0");
    mx_msg *m = taken(ib);
    delete_queue("q");
    assert_int_equal(ib->cancelled, 1);
    assert_int_equal(ib->state, MX_CLOSED);
    assert_body(m, "0");
    m->verdict = MX_REQUEUE;
    flush();
    assert_int_equal(mx_message_bytes(), 0);
}

static void embedded_consumes_exclusively(void **st) {
    (void)st;
    queue("q", 0);
    consume_with(l, "q", 4, MX_F_EXCLUSIVE);
    assert_int_equal(consume("q", 4)->state, MX_CLOSED);
    assert_refused(403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use");
    consume("none", 4);
    assert_refused(404, "NOT_FOUND - no queue 'none' in vhost '/'");
}

static void embedded_auto_deletes_with_the_last_consumer(void **st) {
    (void)st;
    queue("q", MX_F_AUTO_DELETE);
    mx_inbox *a = consume("q", 4), *b = consume("q", 4);
    mx_inbox_close(a, 0);
    assert_int_equal(count("q"), 0);
    mx_inbox_cancel(b, 0);
    assert_int_equal(count("q"), -1);
}

static void embedded_purges_what_is_ready(void **st) {
    (void)st;
    queue("q", 0);
    mx_inbox *ib = consume("q", 1);
    publish("q", "0"), publish("q", "1"), publish("q", "2");
    taken(ib);
    assert_int_equal(op((mx_call){.op = MX_PURGE, .name = S("q")}), 0);
    assert_int_equal(last->messages, 2);
    verdict(ib, 0, MX_REQUEUE);
    flush();
    expect(ib, "0", 1);
}

/* ---- time and dead letters */

static void dead_letter_queue(const char *name, int32_t ttl, const char *to, const char *key) {
    table t = {.n = 0};
    if (ttl >= 0) add_int(&t, "x-message-ttl", ttl);
    add_text(&t, "x-dead-letter-exchange", to);
    if (key) add_text(&t, "x-dead-letter-routing-key", key);
    assert_int_equal(queue_args(name, &t), 0);
}

static int has(const mx_msg *m, const char *text) { return memmem(m->props, m->props_size, text, strlen(text)) != NULL; }

static void embedded_dead_letters_what_is_rejected(void **st) {
    (void)st;
    dead_letter_queue("q", -1, "", "dead");
    queue("dead", 0);
    mx_inbox *ib = consume("q", 4), *dead = consume("dead", 4);
    publish("q", "bad");
    taken(ib)->verdict = MX_REJECT;
    flush();
    mx_msg *m = taken(dead);
    assert_body(m, "bad");
    assert_memory_equal(m->key, "dead", m->key_size);
    assert_int_equal(m->redelivered, 0);
    assert_true(has(m, "x-death") && has(m, "rejected") && has(m, "x-first-death-queue"));
    assert_true(ib->rejected == 1);
}

static void embedded_drops_what_is_rejected_without_a_target(void **st) {
    (void)st;
    queue("q", 0);
    mx_inbox *ib = consume("q", 4);
    publish("q", "bad");
    taken(ib)->verdict = MX_REJECT;
    flush();
    assert_int_equal(mx_message_bytes(), 0);
}

static void embedded_dead_letters_after_the_ttl(void **st) {
    (void)st;
    dead_letter_queue("wait", 100, "", "q");
    queue("q", 0);
    publish("wait", "later");
    tick(50);
    assert_int_equal(count("wait"), 1);
    tick(60);
    assert_int_equal(count("wait"), 0);
    mx_inbox *ib = consume("q", 4);
    mx_msg *m = taken(ib);
    assert_body(m, "later");
    assert_true(has(m, "expired"));
}

static void embedded_counts_deaths(void **st) {
    (void)st;
    dead_letter_queue("q", -1, "", "wait");
    dead_letter_queue("wait", 100, "", "q");
    mx_inbox *ib = consume("q", 4);
    publish("q", "again");
    for (int i = 1; i <= 3; i++) {
        taken(ib)->verdict = MX_REJECT;
        flush();
        tick(1000);
    }
    mx_props props;
    mx_msg *m = taken(ib);
    static const uint8_t three[] = "\5countl\0\0\0\0\0\0\0\3";
    assert_int_equal(mx_props_decode(m->props, m->props_size, &props), 0);
    assert_non_null(memmem(props.headers.p, props.headers.n, three, sizeof three - 1));
}

static void embedded_expired_ones_do_not_go_in_circles(void **st) {
    (void)st;
    dead_letter_queue("q", 0, "", "q");
    publish("q", "x");
    tick(10);
    assert_int_equal(count("q"), 0);
    assert_int_equal(mx_message_bytes(), 0);
}

static void embedded_honours_expiration_at_the_head(void **st) {
    (void)st;
    mx_props soon = {.flags = MX_P_EXPIRATION, .expiration = S("100")};
    dead_letter_queue("q", -1, "", "dead");
    queue("dead", 0);
    publish("q", "stays");
    publish_with("", "q", "goes", &soon, 0);
    tick(200);
    assert_int_equal(count("q"), 2);
    mx_inbox *ib = consume("q", 1);
    expect(ib, "stays", 0);
    tick(200);
    assert_int_equal(count("q"), 0);
    mx_msg *m = taken(consume("dead", 1));
    assert_body(m, "goes");
    assert_true(has(m, "original-expiration"));
}

static void embedded_requeue_does_not_lengthen_a_life(void **st) {
    (void)st;
    dead_letter_queue("q", 100, "amq.fanout", NULL);
    mx_inbox *ib = consume("q", 1);
    publish("q", "x");
    mx_msg *m = taken(ib);
    mx_inbox_cancel(ib, 0);
    tick(60);
    m->verdict = MX_REQUEUE;
    flush();
    tick(50);
    assert_int_equal(count("q"), 0);
}

static void embedded_deletes_an_unused_queue(void **st) {
    (void)st;
    table t = {.n = 0};
    add_int(&t, "x-expires", 100);
    queue_args("q", &t);
    mx_inbox *ib = consume("q", 1);
    tick(200);
    assert_int_equal(count("q"), 0);
    mx_inbox_close(ib, 0);
    tick(400);
    assert_int_equal(count("q"), -1);
}

/* ---- limits, turns and chance */

static void embedded_standby_consumer_holds_nobody_up(void **st) {
    (void)st;
    table t = {.n = 0};
    add_key(&t, "x-single-active-consumer", 't');
    t.bytes[t.n++] = 1;
    queue_args("q", &t);
    consume("q", 1), consume("q", 4);
    publish("q", "0");
    double seq = publish("q", "1");
    fill();
    flush();
    assert_int_equal(state(seq), MX_CONFIRMED);
    assert_int_equal(count("q"), 1);
}

static void embedded_nacks_what_a_full_queue_refuses(void **st) {
    (void)st;
    table t = {.n = 0};
    add_int(&t, "x-max-length", 1);
    add_text(&t, "x-overflow", "reject-publish");
    queue_args("q", &t);
    double fits = publish("q", "0"), refused = publish("q", "1");
    flush();
    assert_int_equal(state(fits), MX_CONFIRMED);
    assert_int_equal(state(refused), MX_NACKED);
    mx_inbox *ib = consume("q", 4);
    expect(ib, "0", 0);
    publish("q", "2"), publish("q", "3"); /* the consumer has room: the first is not in the way of the second */
    expect(ib, "2", 0), expect(ib, "3", 0);
}

static void embedded_quorum_queue_takes_first_what_a_consumer_left(void **st) {
    (void)st;
    table t = {.n = 0};
    mx_props props;
    add_text(&t, "x-queue-type", "quorum");
    op((mx_call){.op = MX_DECLARE_QUEUE, .flags = MX_F_DURABLE, .name = S("q"), .args = {t.bytes, t.n}});
    mx_inbox *ib = consume("q", 2);
    publish("q", "0"), publish("q", "1"), publish("q", "2");
    fill();
    ib->head = 1;
    mx_inbox_close(ib, 0);
    ib = consume("q", 4);
    mx_msg *m = taken(ib);
    assert_body(m, "0");
    assert_int_equal(mx_props_decode(m->props, m->props_size, &props), 0);
    static const uint8_t once[] = "\20x-delivery-countl\0\0\0\0\0\0\0\1";
    assert_non_null(memmem(props.headers.p, props.headers.n, once, sizeof once - 1));
    expect(ib, "1", 1), expect(ib, "2", 0);
}

static mx_inbox *consume_stream(const char *from, uint32_t prefetch) {
    table t = {.n = 0};
    add_text(&t, "x-stream-offset", from);
    mx_consume c = {.queue = S("s"), .tag = S("t"), .prefetch = prefetch, .args = {t.bytes, t.n}};
    uint32_t number = ticket();
    mx_inbox *ib = mx_link_consume(l, &c, number);
    assert_int_equal(outcome(number), 0);
    return ib;
}

static void declare_stream(int32_t bytes) {
    table t = {.n = 0};
    add_text(&t, "x-queue-type", "stream");
    if (bytes) add_int(&t, "x-max-length-bytes", bytes);
    assert_int_equal(op((mx_call){.op = MX_DECLARE_QUEUE, .flags = MX_F_DURABLE, .name = S("s"), .args = {t.bytes, t.n}}), 0);
}

static void embedded_stream_is_read_by_each_consumer(void **st) {
    (void)st;
    declare_stream(0);
    publish("s", "0"), publish("s", "1");
    mx_inbox *first = consume_stream("first", 1), *next = consume_stream("next", 4);
    expect(first, "0", 0);
    assert_int_equal(waiting(next), 0);
    double seq = publish("s", "2");
    expect(next, "2", 0);
    flush();
    assert_int_equal(state(seq), MX_CONFIRMED); /* the one without room holds nobody up, nor does what everybody has read */
    verdict(first, 0, MX_REJECT);
    flush();
    expect(first, "1", 0);
    assert_int_equal(count("s"), 3);
}

static void embedded_stream_asks_for_a_prefetch(void **st) {
    (void)st;
    declare_stream(0);
    consume("s", 0);
    assert_refused(406, "PRECONDITION_FAILED - consumer prefetch count is not set for 'queue 's' in vhost '/''");
    assert_int_equal(op((mx_call){.op = MX_PURGE, .name = S("s")}), MX_ECHANNEL);
    assert_refused(540, "NOT_IMPLEMENTED - queue.purge not supported by stream queues queue 's' in vhost '/'");
}

static void embedded_stream_forgets_its_oldest(void **st) {
    (void)st;
    declare_stream(4);
    publish("s", "aa"), publish("s", "bb");
    mx_inbox *slow = consume_stream("first", 1);
    expect(slow, "aa", 0);
    publish("s", "cc"), publish("s", "dd"), publish("s", "ee");
    assert_int_equal(count("s"), 2);
    verdict(slow, 0, MX_ACK);
    flush();
    expect(slow, "dd", 0); /* it missed what is gone */
    expect(consume_stream("first", 1), "dd", 0);
}

enum { INBOXES = 6 };
static mx_inbox *inboxes[INBOXES];

static void declare_by_chance(const char *q) {
    static const char *const overflows[] = {"drop-head", "reject-publish", "reject-publish-dlx"};
    table t = {.n = 0};
    char to[] = {'a' + rand() % 4, 0};
    if (rand() % 2) add_text(&t, "x-dead-letter-exchange", ""), add_text(&t, "x-dead-letter-routing-key", to);
    if (rand() % 3 == 0) add_int(&t, "x-max-length", rand() % 4);
    if (rand() % 3 == 0) add_text(&t, "x-overflow", overflows[rand() % 3]);
    if (rand() % 3 == 0) add_int(&t, "x-message-ttl", rand() % 3);
    if (rand() % 6 == 0) {
        t.n = 0;
        add_text(&t, "x-queue-type", "stream");
        if (rand() % 2) add_int(&t, "x-max-length-bytes", 60);
    } else if (rand() % 4 == 0) add_int(&t, "x-max-priority", 3);
    else if (rand() % 3 == 0) add_text(&t, "x-queue-type", "quorum"), add_int(&t, "x-delivery-limit", rand() % 3);
    op((mx_call){.op = MX_DECLARE_QUEUE, .flags = MX_F_DURABLE, .name = S(q), .args = {t.bytes, t.n}});
}

static void consume_by_chance(const char *q) {
    int i = rand() % INBOXES;
    table t = {.n = 0};
    if (rand() % 3 == 0) add_int(&t, "x-priority", rand() % 3);
    if (inboxes[i]) {
        mx_inbox_close(inboxes[i], 0);
        inboxes[i] = NULL;
        return;
    }
    mx_consume c = {.queue = S(q), .tag = S("t"), .prefetch = (uint32_t)rand() % 4, .args = {t.bytes, t.n}};
    if (rand() % 5 == 0) c.flags = MX_F_NO_ACK;
    uint32_t number = ticket();
    inboxes[i] = mx_link_consume(l, &c, number);
    outcome(number);
}

static void settle_by_chance(void) {
    mx_inbox *ib = inboxes[rand() % INBOXES];
    if (!ib) return;
    if (rand() % 8 == 0) mx_inbox_cancel(ib, 0);
    if (ib->head != ib->tail) ib->head++;
    for (uint32_t i = ib->settled; i != ib->head; i++)
        if (rand() % 2 && !mx_inbox_at(ib, i)->verdict) verdict(ib, i, MX_ACK + rand() % 3);
}

static void publish_by_chance(const char *q) {
    mx_props props = {.flags = MX_P_PRIORITY, .priority = (uint8_t)(rand() % 5)};
    if (rand() % 3 == 0) props.flags |= MX_P_EXPIRATION, props.expiration = S(rand() % 2 ? "0" : "1");
    if (rand() % 2) publish(q, "body");
    else publish_with("", q, "body with properties", &props, 0);
}

/* Each outcome has its own specs; here it is that nothing is lost count of, read after its end or left behind. */
static void embedded_stands_whatever_comes(void **st) {
    (void)st;
    srand(11);
    for (int i = 0; i < 40000; i++) {
        char q[] = {'a' + rand() % 4, 0};
        switch (rand() % 16) {
        case 0: declare_by_chance(q); break;
        case 1:
            if (rand() % 8 == 0) delete_queue(q);
            break;
        case 2:
        case 3: consume_by_chance(q); break;
        case 4:
        case 5:
        case 6: settle_by_chance(); break;
        case 7: ops(l)->fill(l); break;
        case 8:
        case 9: flush(); break;
        case 10: tick(1); break;
        case 11:
            if (rand() % 16 == 0) op((mx_call){.op = MX_PURGE, .name = S(q)});
            break;
        default: publish_by_chance(q);
        }
        mx_store *s = mx_store_get(S("spec"), &rt.timers);
        assert_int_equal(s->holding, 0);
        assert_null(s->letters);
        mx_store_put(s);
    }
    for (int i = 0; i < INBOXES; i++) {
        if (inboxes[i]) mx_inbox_close(inboxes[i], 0);
        inboxes[i] = NULL;
    }
}

static void embedded_wakes_for_whatever_it_did(void **st) {
    (void)st;
    woken = 0;
    queue("q", 0);
    assert_true(woken > 0);
    mx_inbox *ib = consume("q", 1);
    publish("q", "0"), publish("q", "1");
    fill();
    flush();
    woken = 0;
    taken(ib)->verdict = MX_ACK;
    flush();
    assert_true(woken > 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, begin, finish)
int main(void) {
    const struct CMUnitTest cases[] = {
        CASE(embedded_declares_again_what_is_equal),
        CASE(embedded_compares_arguments),
        CASE(embedded_refuses_arguments_of_other_kinds_of_queue),
        CASE(embedded_refuses_arguments_that_are_wrong),
        CASE(embedded_says_what_is_not_there),
        CASE(embedded_deletes_what_is_missing),
        CASE(embedded_keeps_the_names_of_the_broker),
        CASE(embedded_names_a_queue),
        CASE(embedded_locks_exclusive_queues),
        CASE(embedded_shares_a_broker_by_name),
        CASE(embedded_keeps_messages_without_a_link),
        CASE(embedded_confirms_in_flush),
        CASE(embedded_parks_a_full_window),
        CASE(embedded_returns_the_unroutable),
        CASE(embedded_closes_the_channel_over_a_missing_exchange),
        CASE(embedded_refuses_what_amqp_cannot_carry),
        CASE(embedded_refuses_an_expiration_that_is_no_number),
        CASE(embedded_keeps_clients_off_internal_exchanges),
        CASE(embedded_nacks_beyond_its_memory),
        CASE(embedded_gives_a_message_an_id),
        CASE(embedded_delivers_what_was_published),
        CASE(embedded_fills_no_more_than_the_prefetch),
        CASE(embedded_holds_a_publisher_that_runs_ahead),
        CASE(embedded_credits_what_is_settled_beyond_a_gap),
        CASE(embedded_serves_consumers_in_turn),
        CASE(embedded_requeues_in_place),
        CASE(embedded_requeue_in_one_queue_is_not_redelivered_in_another),
        CASE(embedded_close_requeues_what_is_unsettled_in_order),
        CASE(embedded_cancel_gives_back_and_still_takes_verdicts),
        CASE(embedded_without_acks_forgets_what_it_delivered),
        CASE(embedded_cancels_consumers_of_a_deleted_queue),
        CASE(embedded_consumes_exclusively),
        CASE(embedded_auto_deletes_with_the_last_consumer),
        CASE(embedded_purges_what_is_ready),
        CASE(embedded_dead_letters_what_is_rejected),
        CASE(embedded_drops_what_is_rejected_without_a_target),
        CASE(embedded_dead_letters_after_the_ttl),
        CASE(embedded_counts_deaths),
        CASE(embedded_expired_ones_do_not_go_in_circles),
        CASE(embedded_honours_expiration_at_the_head),
        CASE(embedded_requeue_does_not_lengthen_a_life),
        CASE(embedded_deletes_an_unused_queue),
        CASE(embedded_standby_consumer_holds_nobody_up),
        CASE(embedded_nacks_what_a_full_queue_refuses),
        CASE(embedded_quorum_queue_takes_first_what_a_consumer_left),
        CASE(embedded_stream_is_read_by_each_consumer),
        CASE(embedded_stream_asks_for_a_prefetch),
        CASE(embedded_stream_forgets_its_oldest),
        CASE(embedded_stands_whatever_comes),
        CASE(embedded_wakes_for_whatever_it_did),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
