/* wire.c - fuzzes a connection with its channels: whatever a broker sends, in whatever pieces.
 *
 * The first byte chooses: 1: the rest is records (type, channel, two bytes of length, payload) that are framed here, else
 * raw bytes; 2: the handshake is done, channel 1 has a consumer and channel 2 publishes; the upper bits cut the pieces. */
#include <stdlib.h>
#include <string.h>
#include "wire/chan.h"

static mx_conn *conn;
static mx_sendq out;
static mx_inbox inbox;
static int closed;
static uint32_t dice;
static uint8_t *pending;
static size_t pending_n;

static void must(int truth) {
    if (!truth) abort();
}

static void on_open(void *arg) { (void)arg; }
static void on_closed(void *arg, int code, int reply_code, const char *text) {
    (void)arg, (void)code, (void)reply_code;
    must(text && strlen(text) < 1024 && !closed);
    closed = 1;
}
static void on_blocked(void *arg, int on) { (void)arg, (void)on; }
static void on_reply(mx_chan *c, uint32_t method, void *d) { (void)c, (void)method, (void)d; }
static void on_chan_closed(mx_chan *c, int code, const char *text) { (void)c, (void)code, must(text != NULL); }
static void on_confirm(mx_chan *c, uint64_t tag, int multiple, int nack) { (void)c, (void)tag, (void)multiple, (void)nack; }
static void on_cancelled(mx_chan *c) { (void)c; }

static void on_refused(mx_chan *c, const char *what, uint64_t size, uint64_t limit) { (void)c, must(what && size > limit); }

static uint32_t sum; /* reading is the point: the sanitizer watches */
static void touch(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) sum += p[i];
}
static void on_returned(mx_chan *c, mx_span id, mx_span exchange, mx_span key) {
    (void)c, touch(id.p, id.n), touch(exchange.p, exchange.n), touch(key.p, key.n);
}
static const mx_conn_events events = {on_open,    on_closed,   on_blocked,   on_reply,  on_chan_closed,
                                      on_confirm, on_returned, on_cancelled, on_refused};

static void ack(void *arg, uint64_t tag, int multiple) { (void)arg, (void)tag, (void)multiple; }
static const mx_settle settle = {ack, ack};

static void take(void) {
    for (uint32_t i = inbox.settled; i != inbox.tail; i++) {
        const mx_msg *m = mx_inbox_at(&inbox, i);
        if (m->verdict) continue;
        touch(m->body, m->size), touch(m->props, m->props_size);
        touch(m->exchange, m->exchange_size), touch(m->key, m->key_size);
    }
    for (inbox.head = inbox.tail; dice % 3 == 0 && inbox.settled != inbox.tail;) {
        for (uint32_t i = inbox.settled; i != inbox.tail; i++) mx_inbox_at(&inbox, i)->verdict = MX_ACK;
        must(mx_inbox_settle(&inbox, &settle, NULL) > 0);
    }
}

static void feed(const uint8_t *p, size_t n) {
    int again = 1;
    pending = mx_realloc(pending, pending_n + n);
    if (n) memcpy(pending + pending_n, p, n);
    pending_n += n;
    while (again && !closed) {
        uint8_t *exact = mx_zalloc(pending_n);
        if (pending_n) memcpy(exact, pending, pending_n);
        size_t used = mx_conn_feed(conn, exact, pending_n, &again);
        must(used <= pending_n);
        if (inbox.slot) {
            take();
            mx_inbox_detach(&inbox);
        }
        free(exact);
        memmove(pending, pending + used, pending_n - used);
        pending_n -= used;
        mx_sendq_wrote(&out, out.pending);
    }
}

static void in_pieces(const uint8_t *p, size_t n) {
    for (size_t step; n && !closed; p += step, n -= step) {
        dice = dice * 1103515245 + 12345;
        step = dice >> 16 & 1 ? 1 + (dice >> 17) % 9 : n;
        if (step > n) step = n;
        feed(p, step);
    }
}

static void frame(int type, uint16_t channel, const void *payload, size_t n) {
    uint8_t *b = mx_zalloc(n + MX_FRAME_OVERHEAD);
    mx_frame_head(b, type, channel, n);
    if (n) memcpy(b + 7, payload, n);
    b[7 + n] = MX_FRAME_END;
    in_pieces(b, n + MX_FRAME_OVERHEAD);
    free(b);
}

#define METHOD(channel, bytes) frame(MX_FRAME_METHOD, channel, bytes, sizeof bytes - 1)

static void open_up(void) {
    METHOD(0, "\0\x0a\0\x0a\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05"
              "en_US");
    METHOD(0, "\0\x0a\0\x1e\0\x10\0\0\x10\0\0\x3c"); /* 16 channels, frames of 4096 bytes */
    METHOD(0, "\0\x0a\0\x29\0");
    mx_chan *consumer = mx_chan_new(conn, NULL), *publisher = mx_chan_new(conn, NULL);
    must(consumer && publisher);
    METHOD(1, "\0\x14\0\x0b\0\0\0\0");
    METHOD(2, "\0\x14\0\x0b\0\0\0\0");
    mx_inbox_init(&inbox, 4);
    memcpy(consumer->consumer_tag, "\1t", 2);
    consumer->inbox = &inbox;
    consumer->slice = 3;
}

static void records(const uint8_t *p, size_t n) {
    while (n >= 4 && !closed) {
        size_t size = (size_t)(p[2] << 8 | p[3]);
        if (size > n - 4) size = n - 4;
        frame(p[0], p[1], p + 4, size);
        p += 4 + size, n -= 4 + size;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    static const mx_conn_options options = {.heartbeat = 10,
                                            .max_body = 1 << 20,
                                            .user = {(const uint8_t *)"u", 1},
                                            .password = {(const uint8_t *)"secret", 6},
                                            .vhost = {(const uint8_t *)"/", 1}};
    if (!n) return 0;
    closed = 0;
    dice = p[0];
    pending_n = 0;
    conn = mx_conn_new(&options, &out, &events, NULL);
    if (p[0] & 2) open_up();
    if (p[0] & 1) records(p + 1, n - 1);
    else in_pieces(p + 1, n - 1);
    if (!closed) mx_conn_fail(conn, MX_ECONNECTION, "the stream is gone");
    must(closed);
    mx_conn_free(conn);
    mx_sendq_clear(&out);
    if (inbox.slot) mx_inbox_fini(&inbox);
    inbox = (mx_inbox){0};
    free(pending);
    pending = NULL;
    return 0;
}
