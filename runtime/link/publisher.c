/* publisher.c - a publisher on its channel: messages as bytes, and what holds them back. */
#include <stdlib.h>
#include "base/clock.h"
#include "message/entry.h"
#include "link/amqp.h"
#include "message/props.h"

enum { SILENCE_MIN_US = 1000000, SILENCE_LOOKS = 2 };
enum { FLUSH_BYTES = 128 * 1024, UNSENT_MAX = 8 * 1024 * 1024, KEPT_MAX = 64 * 1024 * 1024 };

/* Too much is on its way, or is kept until it is confirmed, or the broker wants nothing now. */
static int must_wait(const mx_amqp_publisher *p) {
    const mx_sendq *out = &p->line.link->out;
    return out->pending > UNSENT_MAX || mx_sendq_room() > KEPT_MAX || (p->line.chan && p->line.chan->paused);
}

/* mx_pub_watch knows of the window only: a full output shows as a window of 0, so that watchers wait, not spin. */
static void hold_window(mx_amqp_publisher *p) {
    p->held = 1;
    p->base.confirm.pub.window = 0;
}

static void release_window(mx_amqp_publisher *p) {
    if (!p->held) return;
    p->held = 0;
    p->base.confirm.pub.window = p->window;
    mx_confirm_post_room(&p->base.confirm);
    mx_amqp_wake(p->line.link);
}

static void on_silence(mx_timer *t, void *arg);

static void start_pub(mx_amqp_publisher *p, mx_amqp *a, uint32_t ticket) {
    mx_pub *pub = &p->base.confirm.pub;
    amqp_confirm_select_t m = {0};
    pub->state = MX_OPENING;
    mx_line_add(&p->line, MX_PUBLISHER, a);
    mx_line_open(&p->line);
    if (!p->line.chan) {
        pub->state = MX_CLOSED;
        mx_amqp_post(a, ticket, MX_ECHANNEL, 0, mx_line_refusal(a));
    } else if (pub->confirm) {
        mx_line_ask(&p->line, AMQP_CONFIRM_SELECT_METHOD, &m, ticket);
    } else {
        pub->state = MX_OPEN; /* publishes may follow channel.open at once */
        mx_amqp_done(a, ticket);
    }
}

mx_pub *mx_amqp_open_pub(mx_link *link, uint32_t window, int mode, double timeout, uint32_t ticket) {
    mx_amqp *a = (mx_amqp *)link;
    mx_amqp_publisher *p = mx_zalloc(sizeof *p);
    mx_confirm_init(&p->base.confirm, window, timeout, mx_amqp_waits(a), mx_amqp_timers(a), a->base.runtime->turn.confirm);
    p->base.confirm.pub.confirm = mode & MX_PUB_CONFIRM;
    p->once = !(mode & MX_PUB_CONFIRM) || mode & MX_PUB_ONCE;
    p->base.link = &a->base;
    p->silence.fire = on_silence;
    p->silence.arg = p;
    p->window = p->base.confirm.pub.window;
    p->max_body = a->conn->options.max_body;
    start_pub(p, a, ticket);
    return &p->base.confirm.pub;
}

/* ---- without a channel, and on a new one ---- */

static mx_amqp nowhere; /* the link of a publisher whose own is gone */
static mx_sendq limbo;  /* what is published meanwhile */

static uint8_t *next_frame(const uint8_t *p) { return (uint8_t *)p + mx_get32(p + 3) + MX_FRAME_OVERHEAD; }

/* The content header, which gets the number of this sending when it is not the first. Bytes written. */
static size_t header_again(uint8_t *to, size_t room, const uint8_t *header, unsigned attempt) {
    size_t size = mx_get32(header + 3);
    int n = -1;
    if (attempt > 1)
        n = mx_props_with_number((mx_span){header + 19, size - 12}, "x-mx-attempt", attempt, to + 19,
                                 room - MX_FRAME_OVERHEAD - 12);
    memcpy(to, header, n < 0 ? size + MX_FRAME_OVERHEAD : 19); /* one that has no room for it goes without */
    if (n < 0) return size + MX_FRAME_OVERHEAD;
    mx_put32(to + 3, (uint32_t)n + 12);
    to[19 + n] = MX_FRAME_END;
    return (size_t)n + 12 + MX_FRAME_OVERHEAD;
}

/* The same publish on the channel that is open now; its frames are no longer than this connection's may be. */
static const uint8_t *send_again(void *arg, const uint8_t *method, unsigned attempt) {
    mx_amqp_publisher *p = arg;
    mx_amqp *a = p->line.link;
    uint16_t channel = p->line.chan->number;
    const uint8_t *header = next_frame(method), *body = next_frame(header);
    size_t left = mx_get64(header + 11), method_size = (size_t)(header - method), max = a->conn->frame_max;
    size_t room = max > (size_t)(body - header) ? max : (size_t)(body - header);
    uint8_t *start = mx_sendq_reserve(&a->out, method_size + room + 2 * mx_frame_body_bound(left, (uint32_t)max)), *at = start;
    memcpy(at, method, method_size);
    mx_put16(at + 1, channel);
    at += method_size;
    size_t n = header_again(at, max, header, attempt);
    mx_put16(at + 1, channel);
    at += n;
    for (size_t k; left; left -= k, body = next_frame(body)) {
        k = mx_get32(body + 3);
        at += mx_frame_body(at, channel, body + 7, k, (uint32_t)max);
    }
    mx_sendq_add(&a->out, (size_t)(at - start));
    return start;
}

/* ---- a channel on which nothing is confirmed any more ---- */

static void look_later(mx_amqp_publisher *p) {
    uint64_t us = p->base.confirm.timeout_us / 4;
    if (p->once || !us) return;
    mx_timer_set(mx_amqp_timers(p->line.link), &p->silence, mx_clock_us() + (us < SILENCE_MIN_US ? SILENCE_MIN_US : us));
}

/* On a quorum queue whose leader died the channels of RabbitMQ 3.10 that knew it wait for it for ever: a new one does not.
 * What is pending goes out again on that. */
static void on_silence(mx_timer *t, void *arg) {
    mx_amqp_publisher *p = arg;
    const mx_amqp *a = p->line.link;
    mx_confirm *c = &p->base.confirm;
    (void)t;
    if (c->pub.state != MX_OPEN) return;
    int waits =
        c->pub.seq > c->pub.settled && !a->base.pub.blocked && !p->line.chan->paused && !a->out.pending && !p->gathered.pending;
    p->silent = waits && p->heard == c->heard ? p->silent + 1 : 0;
    p->heard = c->heard;
    look_later(p);
    if (p->silent < SILENCE_LOOKS) return;
    p->silent = 0;
    c->pub.state = MX_CLOSING;
    c->pub.adrift = 1;
    mx_sendq_clear(&p->gathered); /* it goes out on the new channel */
    mx_line_close(&p->line);
}

void mx_amqp_closed_publisher(mx_amqp_publisher *p) {
    if (p->closing) mx_amqp_free_publisher(p);
    else mx_amqp_lose_publisher(p, 0, "the broker confirmed nothing any more");
}

void mx_amqp_pub_opened(mx_amqp_publisher *p) {
    mx_pub *pub = &p->base.confirm.pub;
    pub->state = MX_OPEN;
    look_later(p);
    if (!pub->adrift) return;
    pub->adrift = 0;
    mx_sendq_clear(&limbo); /* first: what is held stays until it was copied, and is not there twice then */
    mx_confirm_resend(&p->base.confirm, send_again, p);
    mx_amqp_write(p->line.link);
}

int mx_amqp_reopen_pub(mx_pub *pub, mx_link *link, uint32_t ticket) {
    mx_amqp_publisher *p = (mx_amqp_publisher *)pub;
    mx_amqp *a = (mx_amqp *)link;
    if (link->state != MX_OPEN) {
        mx_amqp_post(a, ticket, MX_ECONNECTION, 0, "the connection is closed");
        return 0;
    }
    if (pub->state != MX_CLOSED) {
        if (pub->state == MX_OPEN) mx_amqp_done(a, ticket);
        else mx_amqp_post(a, ticket, MX_EAGAIN, 0, "the channel is not closed");
        return 0;
    }
    mx_line_drop(&p->line);
    release_window(p);
    free(pub->error);
    pub->error = NULL;
    pub->reply_code = 0;
    p->base.link = &a->base;
    start_pub(p, a, ticket);
    return 0;
}

void mx_amqp_free_publisher(mx_amqp_publisher *p) {
    mx_amqp *a = p->line.link;
    mx_timer_stop(mx_amqp_timers(a), &p->silence);
    mx_amqp_lose_replies(p);
    mx_sendq_clear(&p->gathered);
    mx_gather_fini(&p->base);
    mx_confirm_lose(&p->base.confirm);
    mx_confirm_fini(&p->base.confirm);
    free(p->base.confirm.pub.error);
    mx_line_drop(&p->line);
    mx_amqp_done(a, p->close_ticket);
    free(p);
}

void mx_amqp_close_pub(mx_pub *pub, uint32_t ticket) {
    mx_amqp_publisher *p = (mx_amqp_publisher *)pub;
    p->close_ticket = ticket;
    p->closing = 1;
    pub->state = MX_CLOSING; /* nothing is published behind channel.close */
    mx_sendq_clear(&p->gathered);
    if (!p->line.chan || p->line.chan->state == MX_CHAN_CLOSED) mx_amqp_free_publisher(p);
    else mx_line_close(&p->line);
}

/* Refuses what AMQP cannot carry, before a byte of it is queued. */
static int check(const mx_amqp_publisher *p, size_t frame_max, mx_span exchange, mx_span key, mx_span body,
                 const mx_props *props) {
    if (exchange.n > 255) return mx_refuse(MX_EVALIDATION, "exchange is %zu bytes, at most 255", exchange.n);
    if (key.n > 255) return mx_refuse(MX_EVALIDATION, "routing key is %zu bytes, at most 255", key.n);
    if (body.n > p->max_body) return mx_refuse(MX_EVALIDATION, "body is %zu bytes, at most %zu", body.n, p->max_body);
    size_t most = frame_max - MX_FRAME_OVERHEAD - 12;
    if (props && mx_props_bound(props) > most)
        return mx_refuse(MX_EVALIDATION, "properties and headers are %zu bytes, at most %zu", mx_props_bound(props), most);
    return 0;
}

/* basic.publish (1.8.3.7), header and bodies, one after the other. Bytes, or negative. */
static long encode(uint32_t frame_max, uint8_t *p, uint16_t channel, mx_span exchange, mx_span key, mx_span body,
                   const mx_props *props, int mandatory) {
    uint8_t *start = p;
    amqp_basic_publish_t m = {0, mx_bytes(exchange), mx_bytes(key), (amqp_boolean_t)mandatory, 0};
    int n = mx_frame_method(p, 1024, channel, AMQP_BASIC_PUBLISH_METHOD, &m);
    if (n < 0) return n;
    p += n;
    n = mx_props_encode(props, p + 19, mx_props_bound(props));
    if (n < 0) return mx_refuse(MX_EVALIDATION, "a property is too long or its table is broken");
    mx_frame_head(p, MX_FRAME_HEADER, channel, (size_t)n + 12);
    mx_put32(p + 7, 60 << 16);
    mx_put64(p + 11, body.n);
    p[19 + n] = MX_FRAME_END;
    p += n + 20;
    return p + mx_frame_body(p, channel, body.p, body.n, frame_max) - start;
}

double mx_amqp_publish(mx_pub *pub, mx_span exchange, mx_span key, mx_span body, const mx_props *props, int flags,
                       double timeout) {
    mx_amqp_publisher *p = (mx_amqp_publisher *)pub;
    mx_amqp *a = (mx_amqp *)p->base.link;
    mx_confirm *c = &p->base.confirm;
    if (pub->state != MX_OPEN && !pub->adrift) return mx_refuse(MX_ECLOSED, "the channel is not open");
    if (must_wait(p)) hold_window(p);
    if (mx_confirm_full(c)) return MX_EAGAIN;
    uint8_t id[MX_ID_SIZE];
    mx_props plain;
    uint64_t hash = props && props->flags & MX_P_MESSAGE_ID ? mx_confirm_hash(props->message_id, exchange, key) : 0;
    if (props) props = mx_confirm_props(c, props, &plain, id);
    uint32_t frame_max = pub->adrift ? MX_FRAME_MAX : a->conn->frame_max;
    int code = check(p, frame_max, exchange, key, body, props);
    if (code) return code;
    if (!props) {
        mx_confirm_id(c, id);
        plain.flags = MX_P_DELIVERY_MODE | MX_P_MESSAGE_ID;
        plain.delivery_mode = flags & MX_TRANSIENT ? 1 : 2;
        plain.message_id = (mx_span){id, sizeof id};
        props = &plain;
    }
    mx_sendq *out = pub->adrift ? &limbo : p->base.batch ? &p->gathered : &a->out;
    size_t most = 1024 + 32 + mx_props_bound(props) + mx_frame_body_bound(body.n, frame_max);
    uint8_t *frames = mx_sendq_reserve(out, most);
    long n = encode(frame_max, frames, pub->adrift ? 0 : p->line.chan->number, exchange, key, body, props, flags & MX_MANDATORY);
    if (n < 0) return (double)n;
    mx_sendq_add(out, (size_t)n);
    double seq = mx_confirm_add(c, mx_clock_us(), timeout, hash, frames);
    if (pub->adrift) {
        mx_confirm_unsent(c);
    } else if (!p->base.batch && (++p->unflushed >= (pub->window + 3) / 4 || out->pending >= FLUSH_BYTES)) {
        p->unflushed = 0;
        mx_amqp_write(a);
    }
    return seq;
}

/* The exchange that the broker says is missing, or not allowed, as RabbitMQ words it. */
static mx_span named_exchange(const char *text) {
    const char *from = strstr(text, "exchange '"), *to = from ? strchr(from + 10, '\'') : NULL;
    return to ? (mx_span){(const uint8_t *)from + 10, (size_t)(to - from) - 10} : (mx_span){0};
}

static int is_for_exchange(void *arg, const uint8_t *method) {
    const mx_span *exchange = arg;
    return method[13] == exchange->n && !memcmp(method + 14, exchange->p, exchange->n);
}

/* What may be sent again on a new channel: all but what made the broker close this one. 0: nobody knows what that was. */
static int part_blame(mx_amqp_publisher *p, int reply_code, const char *text) {
    mx_span exchange = named_exchange(text);
    if (!reply_code) return 1; /* the connection went */
    if (reply_code != 404 && reply_code != 403) return 0;
    return exchange.n && mx_confirm_lose_some(&p->base.confirm, is_for_exchange, &exchange);
}

void mx_amqp_lose_publisher(mx_amqp_publisher *p, int reply_code, const char *text) {
    mx_pub *pub = &p->base.confirm.pub;
    mx_amqp *a = p->line.link;
    mx_amqp_lose_replies(p);
    mx_sendq_clear(&p->gathered);
    pub->state = MX_CLOSED;
    pub->reply_code = (uint16_t)reply_code;
    free(pub->error);
    pub->error = mx_strndup(text, strlen(text));
    if (p->closing || p->once || !part_blame(p, reply_code, text)) mx_confirm_lose(&p->base.confirm);
    else pub->adrift = 1;
    if (p->closing) {
        mx_amqp_free_publisher(p);
    } else if (!reply_code) {
        mx_line_drop(&p->line);
        nowhere.base.ops = a->base.ops;
        nowhere.base.runtime = a->base.runtime;
        mx_line_add(&p->line, MX_PUBLISHER, &nowhere);
        p->base.link = &nowhere.base;
        release_window(p);
    }
}

void mx_amqp_release_pub(mx_pub *pub) {
    mx_amqp_publisher *p = (mx_amqp_publisher *)pub;
    mx_amqp *a = p->line.link;
    if (!p->gathered.pending) return;
    mx_sendq_move(&a->out, &p->gathered);
    mx_amqp_write(a);
}

void mx_amqp_flush_pub(mx_amqp_publisher *p) {
    p->unflushed = 0;
    if (p->held && p->line.chan && !must_wait(p)) release_window(p);
}
