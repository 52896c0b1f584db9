/* conn_spec.c - what the connection promises, by transcripts fed whole and one byte at a time. */
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
static char said[4096]; /* what happened, in words */
static int one_by_one;

static void say(const char *format, ...) {
    va_list list;
    va_start(list, format);
    size_t n = strlen(said);
    vsnprintf(said + n, sizeof said - n, format, list);
    va_end(list);
}

static void on_open(void *arg) { (void)arg, say("open;"); }
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

static uint8_t pending[600000];
static size_t pending_n;

/* As the link does: what was not consumed is fed again with what follows; deliveries leave the buffer before. */
static void feed(const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    for (size_t step; n; p += step, n -= step) {
        int again;
        step = one_by_one ? 1 : n;
        memcpy(pending + pending_n, p, step);
        pending_n += step;
        size_t used = mx_conn_feed(conn, pending, pending_n, &again);
        if (inbox.slot) mx_inbox_detach(&inbox);
        memmove(pending, pending + used, pending_n - used);
        pending_n -= used;
    }
}

static void frame(int type, int channel, const void *payload, size_t n) {
    static uint8_t b[300000];
    mx_frame_head(b, type, (uint16_t)channel, n);
    memcpy(b + 7, payload, n);
    b[7 + n] = MX_FRAME_END;
    feed(b, n + 8);
}

#define METHOD(channel, bytes) frame(MX_FRAME_METHOD, channel, bytes, sizeof bytes - 1)
#define START                                                                                                                    \
    "\0\x0a\0\x0a\0\x09\0\0\0\0\0\0\0\x0ePLAIN AMQPLAIN\0\0\0\x05"                                                               \
    "en_US"
#define RABBIT(version)                                                                                                          \
    "\0\x0a\0\x0a\0\x09\0\0\0\x27\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x05" version                                   \
    "\0\0\0\x0ePLAIN AMQPLAIN\0\0\0\x05"                                                                                         \
    "en_US"
#define TUNE "\0\x0a\0\x1e\x07\xff\0\x02\0\0\0\x3c"
#define OPEN_OK "\0\x0a\0\x29\0"

static void setup(void) {
    static const mx_conn_options options = {.heartbeat = 10,
                                            .max_body = 16 << 20,
                                            .user = {(const uint8_t *)"u", 1},
                                            .password = {(const uint8_t *)"secret", 6},
                                            .vhost = {(const uint8_t *)"/", 1}};
    *said = 0;
    pending_n = 0;
    conn = mx_conn_new(&options, &out, &events, NULL);
}

static void teardown(void) {
    if (inbox.slot) mx_inbox_fini(&inbox);
    inbox = (mx_inbox){0};
    mx_conn_free(conn);
    mx_sendq_clear(&out);
}

static void shake_hands(void) {
    METHOD(0, START);
    METHOD(0, TUNE);
    METHOD(0, OPEN_OK);
}

static mx_chan *open_channel(void) {
    mx_chan *c = mx_chan_new(conn, NULL);
    METHOD(1, "\0\x14\0\x0b\0\0\0\0");
    return c;
}

static mx_chan *open_consumer(void) {
    mx_chan *c = open_channel();
    mx_inbox_init(&inbox, 16);
    memcpy(c->consumer_tag, "\x03tag", 4);
    c->inbox = &inbox;
    *said = 0;
    return c;
}

#define EACH_WAY for (one_by_one = 0; one_by_one < 2; one_by_one++)

static void conn_shakes_hands(void **state) {
    (void)state;
    EACH_WAY {
        setup();
        assert_memory_equal(mx_sendq_front(&out).p, "AMQP\0\0\x09\x01", 8);
        shake_hands();
        assert_string_equal(said, "open;");
        assert_int_equal(conn->frame_max, 131072);
        assert_int_equal(conn->channel_max, 2047);
        assert_int_equal(conn->heartbeat, 10);
        teardown();
    }
}

static void conn_refuses_a_tiny_frame_max(void **state) {
    (void)state;
    EACH_WAY {
        setup();
        METHOD(0, START);
        METHOD(0, "\0\x0a\0\x1e\x07\xff\0\0\x0f\xff\0\x3c");
        assert_non_null(strstr(said, "closed -5 501"));
        teardown();
    }
}

static void conn_refuses_a_broker_without_plain(void **state) {
    (void)state;
    setup();
    METHOD(0, "\0\x0a\0\x0a\0\x09\0\0\0\0\0\0\0\x08"
              "EXTERNAL\0\0\0\x05"
              "en_US");
    assert_non_null(strstr(said, "does not offer PLAIN"));
    assert_null(strstr(said, "secret"));
    teardown();
}

static void conn_reports_a_close_and_answers_it(void **state) {
    (void)state;
    EACH_WAY {
        setup();
        shake_hands();
        METHOD(0, "\0\x0a\0\x32\x01\x40\x0a"
                  "FORCED\x1b[m\0\0\0\0\0");
        assert_non_null(strstr(said, "closed -5 320 FORCED?[m"));
        assert_memory_equal(out.last->bytes + out.last->len - 12, "\x01\0\0\0\0\0\x04\0\x0a\0\x33\xce", 12);
        size_t before = strlen(said);
        METHOD(0, OPEN_OK);
        assert_int_equal(strlen(said), before);
        teardown();
    }
}

static void deliver(const char *body, size_t size) {
    uint8_t header[] = "\0\x3c\0\0\0\0\0\0\0\0\0\0\x10\0\x02";
    METHOD(1, "\0\x3c\0\x3c\x03tag\0\0\0\0\0\0\0\x07\x01\x02"
              "ex\x03key");
    mx_put64(header + 4, size);
    frame(MX_FRAME_HEADER, 1, header, 15);
    if (size) frame(MX_FRAME_BODY, 1, body, size);
}

static void conn_delivers_into_the_inbox(void **state) {
    (void)state;
    EACH_WAY {
        setup();
        shake_hands();
        open_consumer();
        deliver("hello", 5);
        deliver("", 0);
        assert_int_equal(inbox.tail, 2);
        mx_msg *m = mx_inbox_at(&inbox, 0);
        assert_int_equal(m->tag, 7);
        assert_int_equal(m->size, 5);
        assert_memory_equal(m->body, "hello", 5);
        assert_memory_equal(m->exchange, "ex", m->exchange_size);
        assert_memory_equal(m->key, "key", m->key_size);
        assert_int_equal(m->redelivered, 1);
        assert_int_equal(m->props_size, 3);
        assert_int_equal(mx_inbox_at(&inbox, 1)->size, 0);
        teardown();
    }
}

static void conn_joins_bodies_of_several_frames(void **state) {
    static char body[250000];
    uint8_t header[] = "\0\x3c\0\0\0\0\0\0\0\x03\xd0\x90\0\0";
    (void)state;
    for (size_t i = 0; i < sizeof body; i++) body[i] = (char)(i * 31);
    setup();
    shake_hands();
    open_consumer();
    METHOD(1, "\0\x3c\0\x3c\x03tag\0\0\0\0\0\0\0\x07\x01\x02"
              "ex\x03key");
    frame(MX_FRAME_HEADER, 1, header, 14);
    frame(MX_FRAME_BODY, 1, body, 100000);
    frame(MX_FRAME_HEARTBEAT, 0, "", 0);
    frame(MX_FRAME_BODY, 1, body + 100000, 131064);
    frame(MX_FRAME_BODY, 1, body + 231064, sizeof body - 231064);
    assert_int_equal(inbox.tail, 1);
    assert_int_equal(mx_inbox_at(&inbox, 0)->size, sizeof body);
    assert_memory_equal(mx_inbox_at(&inbox, 0)->body, body, sizeof body);
    teardown();
}

static void conn_gives_back_what_is_for_nobody(void **state) {
    (void)state;
    setup();
    shake_hands();
    open_consumer();
    METHOD(1, "\0\x3c\0\x3c\x03xxx\0\0\0\0\0\0\0\x09\0\0\0");
    frame(MX_FRAME_HEADER, 1, "\0\x3c\0\0\0\0\0\0\0\0\0\x02\0\0", 14);
    frame(MX_FRAME_BODY, 1, "ab", 2);
    assert_int_equal(inbox.tail, 0);
    assert_memory_equal(out.last->bytes + out.last->len - 21, "\x01\0\x01\0\0\0\x0d\0\x3c\0\x78\0\0\0\0\0\0\0\x09\x02\xce", 21);
    teardown();
}

static void conn_reports_confirms_and_returns(void **state) {
    (void)state;
    EACH_WAY {
        setup();
        shake_hands();
        open_channel();
        *said = 0;
        METHOD(1, "\0\x3c\0\x50\0\0\0\0\0\0\0\x05\x01");
        METHOD(1, "\0\x3c\0\x78\0\0\0\0\0\0\0\x06\0");
        METHOD(1, "\0\x3c\0\x32\x01\x38\x08NO_ROUTE\x02"
                  "ex\x01k");
        frame(MX_FRAME_HEADER, 1, "\0\x3c\0\0\0\0\0\0\0\0\0\0\0\x80\x02id", 17);
        assert_string_equal(said, "confirm 5 1 0;confirm 6 0 1;returned id ex k;");
        teardown();
    }
}

static void conn_discards_what_follows_a_closed_channel(void **state) {
    (void)state;
    EACH_WAY {
        setup();
        shake_hands();
        open_consumer();
        METHOD(1, "\0\x14\0\x28\x01\x94\x09NOT_FOUND\0\0\0\0");
        deliver("late", 4);
        assert_string_equal(said, "channel 1 closed 404 NOT_FOUND;");
        assert_int_equal(inbox.tail, 0);
        teardown();
    }
}

static void hear_ack(void *arg, uint64_t tag, int multiple) { (void)arg, (void)tag, (void)multiple; }
static const mx_settle nobody = {hear_ack, NULL};

static void conn_stops_at_a_full_inbox(void **state) {
    (void)state;
    setup();
    shake_hands();
    open_consumer();
    for (int i = 0; i < 20; i++) deliver("x", 1);
    assert_int_equal(inbox.tail, inbox.mask + 1);
    assert_true(conn->stalled);
    for (uint32_t i = 0; i < inbox.tail; i++) mx_inbox_at(&inbox, i)->verdict = MX_ACK;
    inbox.head = inbox.tail;
    mx_inbox_settle(&inbox, &nobody, NULL);
    int again;
    size_t used = mx_conn_feed(conn, pending, pending_n, &again);
    assert_int_equal(used, pending_n);
    assert_int_equal(inbox.tail, 20);
    teardown();
}

static void conn_closes_although_an_inbox_is_full(void **state) {
    (void)state;
    EACH_WAY {
        setup();
        shake_hands();
        open_consumer();
        for (int i = 0; i < 20; i++) deliver("x", 1);
        assert_true(conn->stalled);
        mx_conn_close(conn);
        METHOD(0, "\0\x0a\0\x33");
        assert_non_null(strstr(said, "closed 0 0 closed;"));
        teardown();
    }
}

/* Each of these must end in one closed event, and nothing is fed afterwards. */
static void conn_ends_on_broken_input(void **state) {
    static const struct {
        const char *bytes;
        size_t n;
    } hostile[] = {
#define H(s) {s, sizeof s - 1}
        H("\x01\0\0\xff\xff\xff\xff"),                               /* size 2^32-1 */
        H("\x03\0\x01\0\x02\0\x01"),                                 /* body above frame_max */
        H("\x01\0\0\0\0\0\x03\0\0\0\xce"),                           /* method of 3 bytes */
        H("\x02\0\x01\0\0\0\x0d"),                                   /* header of 13 bytes */
        H("\x08\0\0\0\0\0\x01\0\xce"),                               /* heartbeat with a payload */
        H("\x07\0\0\0\0\0\0\xce"),                                   /* unknown type */
        H("\x08\0\0\0\0\0\0\xcf"),                                   /* wrong end octet */
        H("\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\0\0\0\0\0\0\xce"), /* header without its method */
        H("\x01\x0f\xff\0\0\0\x04\0\x3c\0\x3c\xce"),                 /* unknown channel */
        H("\x01\0\x01\0\0\0\x04\0\x0a\0\x32\xce"),                   /* connection method on a channel */
        H("\x01\0\0\0\0\0\x04\0\x3c\0\x50\xce"),                     /* channel method on 0, cut short */
        H("\x01\0\x01\0\0\0\x04\0\xff\0\xff\xce"),                   /* unknown method */
        H("\x08\0\x01\0\0\0\0\xce"),                                 /* heartbeat on a channel */
        H("\x01\0\x01\0\0\0\x04\0\x14\0\x29\xce"),                   /* close-ok that nobody waits for */
        H("\x01\0\x01\0\0\0\x08\0\x14\0\x0b\0\0\0\0\xce"),           /* open-ok again */
        H("\x01\0\0\0\0\0\x04\0\x0a\0\x33\xce"),                     /* connection.close-ok likewise */
        H("\x01\0\0\0\0\0\x05\0\x0a\0\x29\0\xce"),                   /* connection.open-ok again */
        H("\x02\0\0\0\0\0\x0e\0\x3c\0\0\0\0\0\0\0\0\0\0\0\0\xce"),   /* content on channel 0 */
        H("\x03\0\x01\0\0\0\x01x\xce"),                              /* body without its method */
        H("\x01\0\x01\0\0\0\x06\0\x3c\0\x3c\xff\xff\xce"),           /* deliver with a string past its end */
#undef H
    };
    (void)state;
    EACH_WAY for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        setup();
        shake_hands();
        open_consumer();
        feed(hostile[i].bytes, hostile[i].n);
        if (!strstr(said, "closed -5")) fail_msg("case %zu: %s", i, said);
        size_t n = strlen(said);
        feed(hostile[i].bytes, hostile[i].n);
        assert_int_equal(strlen(said), n);
        teardown();
    }
}

/* librabbitmq recurses into their tables: it must not see a client's methods, not even sound ones. */
static void conn_refuses_methods_with_tables_that_no_broker_sends(void **state) {
    static const uint32_t methods[] = {0x000a000b, 0x0028000a, 0x0028001e, 0x00280028,
                                       0x0032000a, 0x00320014, 0x00320032, 0x003c0014};
    (void)state;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        uint8_t b[64] = {0}; /* empty names and tables */
        one_by_one = 0;
        setup();
        shake_hands();
        open_consumer();
        mx_put32(b, methods[i]);
        frame(MX_FRAME_METHOD, methods[i] >> 16 == 10 ? 0 : 1, b, sizeof b);
        if (!strstr(said, "closed -5 502")) fail_msg("%x: %s", methods[i], said);
        teardown();
    }
}

static void conn_answers_each_close_of_a_channel_once(void **state) {
    (void)state;
    EACH_WAY {
        setup();
        shake_hands();
        open_channel();
        mx_sendq_wrote(&out, out.pending);
        *said = 0;
        for (int i = 0; i < 3; i++) METHOD(1, "\0\x14\0\x28\x01\x94\x09NOT_FOUND\0\0\0\0");
        assert_string_equal(said, "channel 1 closed 404 NOT_FOUND;");
        assert_int_equal(out.pending, 12);
        teardown();
    }
}

static void conn_refuses_bodies_beyond_what_was_announced(void **state) {
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        setup();
        shake_hands();
        open_consumer();
        METHOD(1, "\0\x3c\0\x3c\x03tag\0\0\0\0\0\0\0\x07\x01\x02"
                  "ex\x03key");
        if (kind == 0) frame(MX_FRAME_HEADER, 1, "\0\x3c\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0", 14);
        if (kind == 1) frame(MX_FRAME_HEADER, 1, "\0\x3c\0\0\0\0\0\0\0\0\0\x02\0\0", 14), frame(MX_FRAME_BODY, 1, "abc", 3);
        if (kind == 2) frame(MX_FRAME_BODY, 1, "abc", 3);
        if (!strstr(said, "closed -5")) fail_msg("case %d: %s", kind, said);
        teardown();
    }
}

static void conn_survives_random_bytes(void **state) {
    (void)state;
    srand(11);
    one_by_one = 0;
    for (int round = 0; round < 20000; round++) {
        uint8_t b[64];
        size_t n = (size_t)rand() % sizeof b;
        setup();
        shake_hands();
        open_consumer();
        for (size_t i = 0; i < n; i++) b[i] = (uint8_t)rand();
        if (n > 12) { /* a sound frame around nonsense */
            mx_frame_head(b, rand() % 3 + 1, (uint16_t)(rand() % 2), n - 8);
            mx_put32(b + 7, (uint32_t)(rand() % 2 ? 60 : 20) << 16 | (uint32_t)(rand() % 130));
            b[n - 1] = MX_FRAME_END;
        }
        feed(b, n);
        teardown();
    }
}

static void conn_knows_which_rabbitmq_it_is(void **state) {
    (void)state;
    setup();
    METHOD(0, RABBIT("4.1.2"));
    assert_int_equal(conn->rabbit, 4);
    teardown();
    setup();
    METHOD(0, RABBIT("13.10"));
    assert_int_equal(conn->rabbit, 13);
    teardown();
    setup();
    METHOD(0, RABBIT("magic"));
    assert_int_equal(conn->rabbit, 0);
    teardown();
    setup();
    METHOD(0, START);
    assert_int_equal(conn->rabbit, 0);
    teardown();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conn_shakes_hands),
        cmocka_unit_test(conn_refuses_a_tiny_frame_max),
        cmocka_unit_test(conn_refuses_a_broker_without_plain),
        cmocka_unit_test(conn_reports_a_close_and_answers_it),
        cmocka_unit_test(conn_delivers_into_the_inbox),
        cmocka_unit_test(conn_joins_bodies_of_several_frames),
        cmocka_unit_test(conn_gives_back_what_is_for_nobody),
        cmocka_unit_test(conn_reports_confirms_and_returns),
        cmocka_unit_test(conn_discards_what_follows_a_closed_channel),
        cmocka_unit_test(conn_stops_at_a_full_inbox),
        cmocka_unit_test(conn_closes_although_an_inbox_is_full),
        cmocka_unit_test(conn_ends_on_broken_input),
        cmocka_unit_test(conn_refuses_methods_with_tables_that_no_broker_sends),
        cmocka_unit_test(conn_answers_each_close_of_a_channel_once),
        cmocka_unit_test(conn_refuses_bodies_beyond_what_was_announced),
        cmocka_unit_test(conn_knows_which_rabbitmq_it_is),
        cmocka_unit_test(conn_survives_random_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
