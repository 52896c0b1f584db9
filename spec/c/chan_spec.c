/* chan_spec.c - what conn.h promises of channels: content, confirms, closing; fed whole and one byte at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include "wire/chan.h"

static mx_conn *conn;
static mx_sendq out;
static mx_inbox inbox;
static char said[4096];
static int one_by_one, sliced;

static void say(const char *format, ...) {
    va_list list;
    va_start(list, format);
    size_t n = strlen(said);
    vsnprintf(said + n, sizeof said - n, format, list);
    va_end(list);
}

static void on_open(void *arg) { (void)arg; }
static void on_closed(void *arg, int code, int reply_code, const char *text) {
    (void)arg, say("closed %d %d %s;", code, reply_code, text);
}
static void on_blocked(void *arg, int on) { (void)arg, say("blocked %d;", on); }
static void on_reply(mx_chan *c, uint32_t method, void *d) { (void)d, say("reply %u %x;", c->number, method); }
static void on_chan_closed(mx_chan *c, int code, const char *text) { say("channel %u closed %d %s;", c->number, code, text); }
static void on_confirm(mx_chan *c, uint64_t tag, int multiple, int nack) {
    (void)c, say("confirm %lu %d %d;", (unsigned long)tag, multiple, nack);
}
static void on_returned(mx_chan *c, mx_span id, mx_span exchange, mx_span key) {
    (void)c, say("returned %.*s %.*s %.*s;", (int)id.n, id.p, (int)exchange.n, exchange.p, (int)key.n, key.p);
}
static void on_cancelled(mx_chan *c) { say("cancelled %u;", c->number); }
static void on_refused(mx_chan *c, const char *what, uint64_t size, uint64_t limit) {
    say("refused %u %s %lu %lu;", c->number, what, (unsigned long)size, (unsigned long)limit);
}
static const mx_conn_events events = {on_open,    on_closed,   on_blocked,   on_reply,  on_chan_closed,
                                      on_confirm, on_returned, on_cancelled, on_refused};

static uint8_t pending[2 << 20];
static size_t pending_n;

static void feed(const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    for (size_t step; n; p += step, n -= step) {
        step = one_by_one ? 1 : n;
        memcpy(pending + pending_n, p, step);
        pending_n += step;
        size_t used = mx_conn_feed(conn, pending, pending_n, &sliced);
        if (inbox.slot) mx_inbox_detach(&inbox);
        memmove(pending, pending + used, pending_n - used);
        pending_n -= used;
    }
}

static size_t put_frame(uint8_t *b, int type, int channel, const void *payload, size_t n) {
    mx_frame_head(b, type, (uint16_t)channel, n);
    memcpy(b + 7, payload, n);
    b[7 + n] = MX_FRAME_END;
    return n + 8;
}

static void frame_with_end(int end, int type, int channel, const void *payload, size_t n) {
    static uint8_t b[MX_HEADER_CAP + 1000];
    put_frame(b, type, channel, payload, n);
    b[7 + n] = (uint8_t)end;
    feed(b, n + 8);
}

static void frame(int type, int channel, const void *payload, size_t n) {
    frame_with_end(MX_FRAME_END, type, channel, payload, n);
}

#define METHOD(channel, bytes) frame(MX_FRAME_METHOD, channel, bytes, sizeof bytes - 1)
#define HEADER(channel, bytes) frame(MX_FRAME_HEADER, channel, bytes, sizeof bytes - 1)
#define DELIVER                                                                                                                  \
    "\0\x3c\0\x3c\x03tag\0\0\0\0\0\0\0\x07\0\x02"                                                                                \
    "ex\x03key"
#define OPEN_OK "\0\x14\0\x0b\0\0\0\0"
#define CLOSE "\0\x14\0\x28\x01\x94\x09NOT_FOUND\0\0\0\0"
#define CLOSE_OK "\0\x14\0\x29"

static void setup(size_t max_body) {
    const mx_conn_options options = {.heartbeat = 10,
                                     .max_body = max_body,
                                     .user = {(const uint8_t *)"u", 1},
                                     .password = {(const uint8_t *)"secret", 6},
                                     .vhost = {(const uint8_t *)"/", 1}};
    pending_n = 0;
    conn = mx_conn_new(&options, &out, &events, NULL);
    METHOD(0, "\0\x0a\0\x0a\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05"
              "en_US");
    METHOD(0, "\0\x0a\0\x1e\x07\xff\0\x02\0\0\0\x3c");
    METHOD(0, "\0\x0a\0\x29\0");
    *said = 0;
}

static void teardown(void) {
    if (inbox.slot) mx_inbox_fini(&inbox);
    inbox = (mx_inbox){0};
    mx_conn_free(conn);
    mx_sendq_clear(&out);
}

static mx_chan *open_channel(void) {
    mx_chan *c = mx_chan_new(conn, NULL);
    METHOD(c->number, OPEN_OK);
    *said = 0;
    mx_sendq_wrote(&out, out.pending); /* what follows is the answer */
    return c;
}

static mx_chan *open_consumer(uint32_t prefetch) {
    mx_chan *c = open_channel();
    mx_inbox_init(&inbox, prefetch);
    memcpy(c->consumer_tag, "\x03tag", 4);
    c->inbox = &inbox;
    return c;
}

static size_t put_delivery(uint8_t *b, int channel, const char *body, size_t size) {
    uint8_t header[] = "\0\x3c\0\0\0\0\0\0\0\0\0\0\x10\0\x02";
    size_t n = put_frame(b, MX_FRAME_METHOD, channel, DELIVER, sizeof DELIVER - 1);
    mx_put64(header + 4, size);
    n += put_frame(b + n, MX_FRAME_HEADER, channel, header, 15);
    return size ? n + put_frame(b + n, MX_FRAME_BODY, channel, body, size) : n;
}

static void deliver(int channel, const char *body) {
    uint8_t b[1024];
    feed(b, put_delivery(b, channel, body, strlen(body)));
}

#define EACH_WAY for (one_by_one = 0; one_by_one < 2; one_by_one++)
#define assert_answer(bytes)                                                                                                     \
    (assert_int_equal(out.pending, sizeof bytes - 1), assert_memory_equal(mx_sendq_front(&out).p, bytes, sizeof bytes - 1))

static void chan_numbers_are_used_again_as_late_as_possible(void **state) {
    (void)state;
    one_by_one = 0;
    setup(1 << 20);
    mx_chan *c = open_channel();
    assert_int_equal(c->number, 1);
    mx_chan_close(c);
    METHOD(1, CLOSE_OK);
    mx_chan_free(c);
    assert_int_equal(open_channel()->number, 2);
    for (int i = 3; i <= 2047; i++) assert_int_equal(mx_chan_new(conn, NULL)->number, i);
    assert_int_equal(mx_chan_new(conn, NULL)->number, 1);
    assert_null(mx_chan_new(conn, NULL));
    teardown();
}

static void chan_closes_before_it_is_open(void **state) {
    (void)state;
    EACH_WAY {
        setup(1 << 20);
        mx_chan *c = mx_chan_new(conn, NULL);
        mx_chan_close(c);
        METHOD(1, OPEN_OK);
        assert_string_equal(said, "");
        METHOD(1, CLOSE_OK);
        assert_string_equal(said, "reply 1 140029;");
        assert_true(mx_conn_is_open(conn));
        teardown();
    }
}

static void chan_answers_a_close_once_and_discards_the_rest(void **state) {
    (void)state;
    EACH_WAY {
        setup(1 << 20);
        open_consumer(16);
        METHOD(1, DELIVER); /* half a message is never seen */
        METHOD(1, CLOSE);
        assert_answer("\x01\0\x01\0\0\0\x04\0\x14\0\x29\xce");
        deliver(1, "late");
        METHOD(1, "\0\x3c\0\x50\0\0\0\0\0\0\0\x05\x01");
        assert_string_equal(said, "channel 1 closed 404 NOT_FOUND;");
        assert_int_equal(inbox.tail, 0);
        assert_answer("\x01\0\x01\0\0\0\x04\0\x14\0\x29\xce");
        teardown();
    }
}

static void chan_survives_that_both_sides_close(void **state) {
    (void)state;
    EACH_WAY {
        setup(1 << 20);
        mx_chan *c = open_consumer(16);
        mx_chan_close(c);
        deliver(1, "late");
        METHOD(1, CLOSE);
        METHOD(1, CLOSE_OK);
        assert_string_equal(said, "reply 1 140029;");
        assert_int_equal(inbox.tail, 0);
        teardown();
    }
}

static void chan_points_into_the_buffer_when_all_is_there(void **state) {
    uint8_t b[1024];
    (void)state;
    one_by_one = 0;
    setup(1 << 20);
    open_consumer(16);
    size_t n = put_delivery(b, 1, "hello", 5);
    assert_int_equal(mx_conn_feed(conn, b, n, &sliced), n);
    mx_msg *m = mx_inbox_at(&inbox, 0);
    assert_null(m->own);
    assert_ptr_equal(m->body, b + n - 6);
    assert_true(m->props > b && m->props < b + n && m->key > b && m->exchange > b);
    assert_int_equal(mx_conn_feed(conn, b, n - 1, &sliced), n - 13); /* method and header; the body is short */
    assert_int_equal(inbox.tail, 1);
    mx_conn_feed(conn, b + n - 13, 13, &sliced);
    assert_int_equal(inbox.tail, 2);
    assert_non_null(mx_inbox_at(&inbox, 1)->own);
    inbox.head = inbox.tail;
    for (uint32_t i = 0; i < inbox.tail; i++) mx_inbox_at(&inbox, i)->verdict = MX_ACK;
    teardown();
}

static void chan_assembles_each_channel_by_itself(void **state) {
    (void)state;
    EACH_WAY {
        setup(1 << 20);
        open_consumer(16);
        open_channel();
        METHOD(1, DELIVER);
        METHOD(2, "\0\x3c\0\x32\x01\x38\x08NO_ROUTE\x02"
                  "ex\x01k");
        HEADER(1, "\0\x3c\0\0\0\0\0\0\0\0\0\x04\0\0");
        HEADER(2, "\0\x3c\0\0\0\0\0\0\0\0\0\x01\0\x80\x02id");
        frame(MX_FRAME_BODY, 1, "ab", 2);
        frame(MX_FRAME_BODY, 2, "x", 1);
        frame(MX_FRAME_BODY, 1, "", 0);
        frame(MX_FRAME_BODY, 1, "cd", 2);
        assert_string_equal(said, "returned id ex k;");
        assert_int_equal(inbox.tail, 1);
        assert_memory_equal(mx_inbox_at(&inbox, 0)->body, "abcd", 4);
        teardown();
    }
}

#define NACK(requeue) "\x01\0\x01\0\0\0\x0d\0\x3c\0\x78\0\0\0\0\0\0\0\x07" requeue "\xce"

/* A body in two frames. */
static void deliver_in_parts(int channel, const char *tag, const char *body) {
    size_t n = strlen(body);
    uint8_t method[] = DELIVER, header[] = "\0\x3c\0\0\0\0\0\0\0\0\0\0\x10\0\x02";
    memcpy(method + 5, tag, 3);
    mx_put64(header + 4, n);
    frame(MX_FRAME_METHOD, channel, method, sizeof method - 1);
    frame(MX_FRAME_HEADER, channel, header, 15);
    frame(MX_FRAME_BODY, channel, body, 2);
    frame(MX_FRAME_BODY, channel, body + 2, n - 2);
}

static void chan_holds_bodies_to_max_body(void **state) {
    (void)state;
    EACH_WAY {
        setup(5);
        mx_chan *c = open_consumer(16);
        size_t before = mx_message_bytes();
        deliver(1, "123456"); /* rejected for good: it would come back for ever */
        assert_answer(NACK("\0"));
        deliver_in_parts(1, "tag", "1234567");
        assert_string_equal(said, "refused 1 body 6 5;refused 1 body 7 5;");
        assert_int_equal(mx_message_bytes(), before);
        deliver(1, "12345");
        assert_int_equal(inbox.tail, 1);
        mx_sendq_wrote(&out, out.pending);
        c->no_ack = 1; /* there is nothing to reject */
        deliver(1, "123456");
        assert_int_equal(out.pending, 0);
        c->no_ack = 0;
        deliver_in_parts(1, "xxx", "123456"); /* nobody's: somebody with other limits may want it */
        assert_answer(NACK("\x02"));
        assert_int_equal(inbox.tail, 1);
        assert_true(mx_conn_is_open(conn));
        teardown();
    }
}

static void chan_reads_past_headers_that_are_too_large(void **state) {
    static uint8_t huge[MX_HEADER_CAP + 100];
    (void)state;
    memcpy(huge, "\0\x3c\0\0\0\0\0\0\0\0\0\x02\x20\0", 14);
    mx_put32(huge + 14, sizeof huge - 18);
    EACH_WAY {
        setup(1 << 20);
        open_consumer(16);
        METHOD(1, DELIVER);
        frame(MX_FRAME_HEADER, 1, huge, sizeof huge);
        frame(MX_FRAME_BODY, 1, "ab", 2);
        assert_string_equal(said, "refused 1 headers 1048676 1048576;");
        assert_answer(NACK("\0"));
        deliver(1, "next");
        assert_int_equal(inbox.tail, 1);
        METHOD(1, DELIVER);
        frame_with_end(0, MX_FRAME_HEADER, 1, huge, sizeof huge);
        assert_non_null(strstr(said, "closed -5 501"));
        teardown();
    }
}

static void chan_tells_of_a_return_however_large_it_is(void **state) {
    (void)state;
    EACH_WAY {
        setup(5);
        open_channel();
        size_t before = mx_message_bytes();
        METHOD(1, "\0\x3c\0\x32\x01\x38\x08NO_ROUTE\x02"
                  "ex\x01k");
        HEADER(1, "\0\x3c\0\0\0\0\0\0\0\0\0\x08\0\x80\x02id");
        frame(MX_FRAME_BODY, 1, "1234", 4);
        assert_int_equal(mx_message_bytes(), before);
        frame(MX_FRAME_BODY, 1, "5678", 4);
        METHOD(1, "\0\x3c\0\x50\0\0\0\0\0\0\0\x01\0");
        assert_string_equal(said, "returned id ex k;confirm 1 0 0;");
        assert_int_equal(out.pending, 0);
        teardown();
    }
}

static void chan_allocates_as_bytes_arrive(void **state) {
    (void)state;
    setup((size_t)1 << 62);
    one_by_one = 0;
    open_consumer(16);
    size_t before = mx_message_bytes();
    METHOD(1, DELIVER);
    HEADER(1, "\0\x3c\0\0\x20\0\0\0\0\0\0\0\0\0");
    frame(MX_FRAME_BODY, 1, "ab", 2);
    assert_true(mx_message_bytes() - before < 1 << 20);
    teardown();
    assert_int_equal(mx_message_bytes(), before);
}

static void chan_ends_the_connection_on_broken_content(void **state) {
    static const char sound[] = "\0\x3c\0\0\0\0\0\0\0\0\0\x02\0\0";
    (void)state;
    for (int kind = 0; kind < 9; kind++) EACH_WAY {
            setup(1 << 20);
            open_consumer(16);
            METHOD(1, DELIVER);
            if (kind == 0) HEADER(1, "\0\x3c\0\0\0\0\0\0\0\0\0\x02\0\x01\0\0");                       /* two flag words */
            if (kind == 1) HEADER(1, "\0\x32\0\0\0\0\0\0\0\0\0\x02\0\0");                             /* another class */
            if (kind == 2) HEADER(1, "\0\x3c\0\x01\0\0\0\0\0\0\0\x02\0\0");                           /* a weight */
            if (kind == 3) HEADER(1, "\0\x3c\0\0\0\0\0\0\0\0\0\x02\x20\0\0\0\0\x07\x01kS\0\0\0\x09"); /* entry past its table */
            if (kind == 4)
                HEADER(1, "\0\x3c\0\0\0\0\0\0\0\0\0\x02\x20\0\0\0\0\x0c\x01kA\0\0\0\5A\0\0\0\1"); /* in an array, too */
            if (kind == 5) HEADER(1, "\0\x3c\0\0\0\0\0\0\0\0\0\x02\x20\0\0\0\0\x07\x01kx\xff\xff\xff\xff");
            if (kind == 6) METHOD(1, DELIVER); /* a method inside a content */
            if (kind == 7) HEADER(1, "\0\x3c\0\0\0\0\0\0\0\0\0\x02\0\0"), frame(MX_FRAME_HEADER, 1, sound, 14);
            if (kind == 8) frame(MX_FRAME_HEADER, 1, sound, 14), frame(MX_FRAME_BODY, 1, "abc", 3);
            if (!strstr(said, "closed -5 50")) fail_msg("kind %d: %s", kind, said);
            assert_int_equal(inbox.tail, 0);
            teardown();
        }
}

/* RabbitMQ delivers them; who reads them refuses them, and no message comes back for ever because the connection broke. */
static void chan_delivers_headers_beyond_our_limits(void **state) {
    static uint8_t nested[100000]; /* a table that holds an array in an array ... */
    (void)state;
    size_t n = 0;
    memcpy(nested, "\0\x3c\0\0\0\0\0\0\0\0\0\0\x20\0", n = 14);
    mx_put32(nested + n, sizeof nested - 18), n += 4;
    nested[n++] = 1, nested[n++] = 'k';
    for (; n + 5 <= sizeof nested; n += 5) nested[n] = 'A', mx_put32(nested + n + 1, (uint32_t)(sizeof nested - n - 5));
    memset(nested + n, 'V', sizeof nested - n);
    setup(1 << 20);
    open_consumer(16);
    METHOD(1, DELIVER);
    frame(MX_FRAME_HEADER, 1, nested, sizeof nested);
    METHOD(1, DELIVER);
    HEADER(1, "\0\x3c\0\0\0\0\0\0\0\0\0\0\x20\0\0\0\0\x03\x01k?"); /* a type that we do not know */
    assert_int_equal(inbox.tail, 2);
    assert_null(strstr(said, "closed"));
    teardown();
}

static void chan_gives_back_what_is_for_nobody(void **state) {
    (void)state;
    EACH_WAY {
        setup(1 << 20);
        mx_chan *c = open_consumer(16);
        c->consumer_tag[0] = 0; /* cancelled */
        deliver(1, "late");
        assert_answer("\x01\0\x01\0\0\0\x0d\0\x3c\0\x78\0\0\0\0\0\0\0\x07\x02\xce");
        mx_sendq_wrote(&out, out.pending);
        c->no_ack = 1; /* then the broker has forgotten the tag: naming it would close the channel */
        deliver(1, "late");
        assert_int_equal(out.pending, 0);
        assert_int_equal(inbox.tail, 0);
        teardown();
    }
}

static void chan_never_answers_a_cancel_of_the_broker(void **state) {
    (void)state;
    EACH_WAY {
        setup(1 << 20);
        open_consumer(16);
        METHOD(1, "\0\x3c\0\x1e\x03tag\x01");
        assert_string_equal(said, "cancelled 1;");
        assert_int_equal(out.pending, 0);
        teardown();
    }
}

static void chan_answers_flow(void **state) {
    (void)state;
    EACH_WAY {
        setup(1 << 20);
        mx_chan *c = open_channel();
        METHOD(1, "\0\x14\0\x14\0");
        assert_answer("\x01\0\x01\0\0\0\x05\0\x14\0\x15\0\xce");
        assert_true(c->paused);
        METHOD(1, "\0\x14\0\x14\x01");
        assert_false(c->paused);
        teardown();
    }
}

static void chan_takes_a_slice_of_each_inbox(void **state) {
    static uint8_t b[4096];
    size_t n = 0, used;
    (void)state;
    one_by_one = 0;
    setup(1 << 20);
    open_consumer(16)->slice = 3;
    for (int i = 0; i < 7; i++) n += put_delivery(b + n, 1, "x", 1);
    used = mx_conn_feed(conn, b, n, &sliced);
    assert_int_equal(inbox.tail, 3);
    assert_true(sliced);
    used += mx_conn_feed(conn, b + used, n - used, &sliced);
    assert_int_equal(inbox.tail, 6);
    used += mx_conn_feed(conn, b + used, n - used, &sliced);
    assert_int_equal(used, n);
    assert_false(sliced);
    for (uint32_t i = 0; i < 7; i++) mx_inbox_at(&inbox, i)->verdict = MX_ACK;
    inbox.head = inbox.tail;
    teardown();
}

/* What is not a delivery passes a full inbox: a cancel-ok or a close behind it would wait for the slowest handler. */
static void chan_lets_a_close_through_a_full_inbox(void **state) {
    (void)state;
    EACH_WAY {
        setup(1 << 20);
        open_consumer(4);
        for (int i = 0; i < 4; i++) deliver(1, "x");
        METHOD(1, "\0\x3c\0\x1f\x03tag");
        METHOD(1, CLOSE);
        assert_string_equal(said, "reply 1 3c001f;channel 1 closed 404 NOT_FOUND;");
        assert_false(conn->stalled);
        teardown();
    }
}

static void chan_refuses_channels_that_are_not_open(void **state) {
    (void)state;
    for (int number = 2; number < 65536; number += 1021) {
        one_by_one = 0;
        setup(1 << 20);
        open_channel();
        METHOD(number, DELIVER);
        assert_non_null(strstr(said, "closed -5 504"));
        teardown();
    }
}

static void chan_texts_show_neither_passwords_nor_controls(void **state) {
    (void)state;
    EACH_WAY {
        setup(1 << 20);
        open_channel();
        METHOD(1, "\0\x14\0\x28\x01\x94\x12is secret\x1b[m\xc2\x9b!\n\xc3\xa9\0\0\0\0");
        assert_string_equal(said, "channel 1 closed 404 is ******?[m\xc2?!?\xc3\xa9;");
        teardown();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chan_numbers_are_used_again_as_late_as_possible),
        cmocka_unit_test(chan_closes_before_it_is_open),
        cmocka_unit_test(chan_answers_a_close_once_and_discards_the_rest),
        cmocka_unit_test(chan_survives_that_both_sides_close),
        cmocka_unit_test(chan_points_into_the_buffer_when_all_is_there),
        cmocka_unit_test(chan_assembles_each_channel_by_itself),
        cmocka_unit_test(chan_holds_bodies_to_max_body),
        cmocka_unit_test(chan_reads_past_headers_that_are_too_large),
        cmocka_unit_test(chan_tells_of_a_return_however_large_it_is),
        cmocka_unit_test(chan_allocates_as_bytes_arrive),
        cmocka_unit_test(chan_ends_the_connection_on_broken_content),
        cmocka_unit_test(chan_delivers_headers_beyond_our_limits),
        cmocka_unit_test(chan_gives_back_what_is_for_nobody),
        cmocka_unit_test(chan_never_answers_a_cancel_of_the_broker),
        cmocka_unit_test(chan_answers_flow),
        cmocka_unit_test(chan_takes_a_slice_of_each_inbox),
        cmocka_unit_test(chan_lets_a_close_through_a_full_inbox),
        cmocka_unit_test(chan_refuses_channels_that_are_not_open),
        cmocka_unit_test(chan_texts_show_neither_passwords_nor_controls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
