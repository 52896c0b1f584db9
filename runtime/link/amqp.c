/* amqp.c - a link over a real broker: a stream, a connection on it, and who waits for which answer. */
#include <amqp.h>
#include <amqp_framing.h>
#include <stdio.h>
#include <stdlib.h>
#include "base/clock.h"
#include "link/link.h"
#include "message/props.h"
#include "wire/chan.h"
#include "wire/stream.h"

enum {
    READ_ROOM = 256 * 1024,
    FLUSH_BYTES = 128 * 1024,
    HIGH_WATER = 8 * 1024 * 1024,
    ACK_US = 5000,
    GAP_US = 50000,
    CLOSE_US = 2000000,
    LATE_US = 200000,
    NO_PREFETCH_SLICE = 1024,
    ROOM_MIN = 64,
    SPARE_MAX = 4096
};

typedef struct request request;
typedef struct amqp amqp;

/* A method that waits for its answer. */
struct request {
    request *next;
    uint32_t ticket, method; /* the method as sent */
    size_t size;
    uint8_t frame[]; /* its payload, encoded; channel 0 until it is sent */
};

enum { CONTROL, CONSUMER, PUBLISHER };
typedef struct line { /* a channel and what runs on it, one request after the other */
    int kind;
    amqp *link;
    mx_chan *chan;
    request *first, *last; /* first is sent when waiting */
    int waiting;
    mx_timer limit; /* of the request under way */
    struct line *next;
} line;

typedef struct consumer {
    mx_consumer base; /* first */
    line line;
    uint32_t close_ticket, prefetch;
    uint32_t spare; /* slots beyond the prefetch: as many may be settled beyond a gap */
    int closing, no_ack;
    char refusal[96];    /* inbox.refusal */
    mx_timer acks, gaps; /* of what is settled in order; of what lies beyond a gap */
} consumer;

typedef struct publisher {
    mx_publisher base; /* first */
    line line;
    uint32_t close_ticket, unflushed, window;
    int closing, held; /* held: the window reads 0 until the output has drained */
} publisher;

struct amqp {
    mx_link_base base; /* first */
    mx_stream *stream;
    mx_conn *conn;
    line control, *lines;
    mx_timer limit, beat; /* handshake or close; heartbeats */
    uint64_t heard_us, said_us;
    uint32_t open_ticket, close_ticket;
    uint8_t *in;
    size_t in_off, in_len, in_room;
    int again; /* in may hold whole frames */
    int patience_ms;
    char *secrets[5]; /* what the connection's options point at */
};

static mx_waits *waits(amqp *a) { return &a->base.runtime->waits.pub; }
static mx_timers *timers(amqp *a) { return &a->base.runtime->timers; }
/* A slice is due; wake: and Lua is to look at what has changed. */
static void stir(amqp *a) { a->base.runtime->wake(a->base.runtime); }
static void wake(amqp *a) {
    a->base.runtime->news = 1;
    stir(a);
}
static consumer *consumer_of(line *l) { return (consumer *)((char *)l - offsetof(consumer, line)); }
static publisher *publisher_of(line *l) { return (publisher *)((char *)l - offsetof(publisher, line)); }

static void post(amqp *a, uint32_t ticket, int code, int reply_code, const char *text) {
    mx_wait_post(waits(a), ticket, code, mx_reply_new(code, reply_code, text, text ? strlen(text) : 0));
    wake(a);
}

static void post_done(amqp *a, uint32_t ticket) { post(a, ticket, 0, 0, NULL); }

static void write_out(amqp *a) {
    if (!mx_buffer_pending(&a->conn->out)) return;
    mx_stream_write(a->stream, &a->conn->out);
    a->said_us = mx_clock_us();
}

/* ---- requests: one at a time on each channel -------------------------------------------------------------------- */

static void set_limit(line *l);

static void on_request_limit(mx_timer *t, void *arg) {
    line *l = arg;
    (void)t;
    request *r = l->first;
    if (l->link->conn->stalled) { /* it is us who do not read: the answer may lie behind a full inbox */
        set_limit(l);
        return;
    }
    if (r) post(l->link, r->ticket, MX_ETIMEOUT, 0, "the broker did not answer");
    /* what the broker made of it is unknown: only a new connection is in a known state */
    mx_conn_fail(l->link->conn, MX_ECONNECTION, "the broker did not answer a request in time");
}

static void set_limit(line *l) {
    l->limit.fire = on_request_limit;
    l->limit.arg = l;
    mx_timer_set(timers(l->link), &l->limit, mx_clock_us() + mx_us_of(l->link->base.pub.rpc_timeout));
}

static void send_next(line *l) {
    amqp *a = l->link;
    request *r = l->first;
    if (!r || l->waiting || !l->chan || l->chan->state != MX_CHAN_OPEN) return;
    uint8_t *p = mx_buffer_reserve(&a->conn->out, r->size + MX_FRAME_OVERHEAD);
    mx_frame_head(p, MX_FRAME_METHOD, l->chan->number, r->size);
    memcpy(p + 7, r->frame, r->size);
    p[7 + r->size] = MX_FRAME_END;
    a->conn->out.len += r->size + MX_FRAME_OVERHEAD;
    l->waiting = 1;
    set_limit(l);
    wake(a);
}

/* 0 or MX_EVALIDATION when it cannot be encoded. */
static int ask(line *l, uint32_t method, void *decoded, uint32_t ticket) {
    static uint8_t scratch[MX_FRAME_MAX];
    int n = mx_frame_method(scratch, l->link->conn->frame_max, 0, method, decoded);
    if (n < 0) return mx_refuse(MX_EVALIDATION, "a name or an argument is too long for AMQP");
    request *r = mx_zalloc(sizeof *r + (size_t)n);
    r->ticket = ticket;
    r->method = method;
    r->size = (size_t)n - MX_FRAME_OVERHEAD;
    memcpy(r->frame, scratch + 7, r->size);
    if (l->first) l->last->next = r;
    else l->first = r;
    l->last = r;
    send_next(l);
    return 0;
}

static request *take_request(line *l) {
    request *r = l->first;
    mx_timer_stop(timers(l->link), &l->limit);
    l->waiting = 0;
    if (r) l->first = r->next;
    return r;
}

static void fail_requests(line *l, int code, int reply_code, const char *text) {
    for (request *r; (r = take_request(l)); free(r)) post(l->link, r->ticket, code, reply_code, text);
}

static void open_channel(line *l) {
    l->chan = mx_chan_new(l->link->conn, l);
    if (l->chan) set_limit(l);
    wake(l->link);
}

static void close_channel(line *l) {
    mx_chan_close(l->chan);
    set_limit(l);
    wake(l->link);
}

static void add_line(line *l, int kind, amqp *a) {
    *l = (line){.kind = kind, .link = a, .next = a->lines};
    a->lines = l;
}

static const char *why_no_channel(amqp *a) {
    return a->base.pub.state == MX_OPEN ? "no channel is free" : "the connection is not open";
}

static void drop_line(line *l) {
    amqp *a = l->link;
    mx_timer_stop(timers(a), &l->limit);
    fail_requests(l, MX_ECLOSED, 0, "closed");
    if (l->chan) mx_chan_free(l->chan);
    l->chan = NULL;
    for (line **at = &a->lines; *at; at = &(*at)->next)
        if (*at == l) {
            *at = l->next;
            break;
        }
}

static amqp_bytes_t bytes(mx_span s) { return (amqp_bytes_t){s.n, (void *)s.p}; }

/* A method's table as librabbitmq wants it; the table was checked before, for its decoder recurses without a limit. */
typedef struct arguments {
    amqp_pool_t pool;
    amqp_table_t table;
    uint8_t *raw;
} arguments;

static arguments read_arguments(mx_span s) {
    arguments x = {.raw = mx_zalloc(s.n + 4)};
    size_t at = 0;
    init_amqp_pool(&x.pool, 4096);
    mx_put32(x.raw, (uint32_t)s.n);
    if (s.n) memcpy(x.raw + 4, s.p, s.n);
    if (amqp_decode_table((amqp_bytes_t){s.n + 4, x.raw}, &x.pool, &x.table, &at) < 0) x.table = (amqp_table_t){0};
    return x;
}

static void drop_arguments(arguments *x) {
    empty_amqp_pool(&x->pool);
    free(x->raw);
}

/* ---- consumers ---------------------------------------------------------------------------------------------------- */

static void send_ack(void *arg, uint64_t tag, int multiple) {
    amqp_basic_ack_t m = {tag, multiple};
    mx_chan_method(arg, AMQP_BASIC_ACK_METHOD, &m);
}

static void send_reject(void *arg, uint64_t tag, int requeue) {
    amqp_basic_nack_t m = {tag, 0, requeue};
    mx_chan_method(arg, AMQP_BASIC_NACK_METHOD, &m);
}

static void no_ack(void *arg, uint64_t tag, int multiple) { (void)arg, (void)tag, (void)multiple; }

static const mx_settle to_broker = {send_ack, send_reject}, to_nobody = {no_ack, no_ack};

static const mx_settle *settles(consumer *c) {
    return c->no_ack || !c->line.chan || c->line.chan->state != MX_CHAN_OPEN ? &to_nobody : &to_broker;
}

static void on_gaps(mx_timer *t, void *arg) {
    consumer *c = arg;
    (void)t;
    mx_inbox_settle_gaps(&c->base.inbox, c->spare, settles(c), c->line.chan);
    wake(c->line.link);
}

static void settle_now(consumer *c) {
    mx_timer_stop(timers(c->line.link), &c->acks);
    mx_inbox_settle(&c->base.inbox, settles(c), c->line.chan);
    if (c->line.link->conn->stalled) wake(c->line.link); /* there is room again for what was held up */
}

static void on_acks(mx_timer *t, void *arg) {
    consumer *c = arg;
    (void)t;
    settle_now(c);
    wake(c->line.link);
}

/* Each ack costs a busy broker more than a delivery. While more input is at hand, one is for a quarter of the prefetch,
 * so that both work at once; when deliveries come in dribbles, for a half. None is older than 5 ms. */
static int may_wait(const consumer *c) {
    const mx_inbox *ib = &c->base.inbox;
    uint32_t enough = c->line.link->again ? c->line.chan->slice : 2 * c->line.chan->slice;
    return ib->state == MX_OPEN && !c->no_ack && ib->head - ib->settled < enough && ib->head - ib->settled <= c->prefetch / 2;
}

static void settle(consumer *c) {
    mx_inbox *ib = &c->base.inbox;
    uint64_t now = mx_clock_us();
    if (ib->settled != ib->head && mx_inbox_at(ib, ib->settled)->verdict) {
        if (!may_wait(c)) settle_now(c);
        else if (!c->acks.place) mx_timer_set(timers(c->line.link), &c->acks, now + ACK_US);
    }
    if (ib->head - ib->settled > 1 && !c->gaps.place) mx_timer_set(timers(c->line.link), &c->gaps, now + GAP_US);
}

static void free_consumer(consumer *c) {
    amqp *a = c->line.link;
    mx_timer_stop(timers(a), &c->acks);
    mx_timer_stop(timers(a), &c->gaps);
    drop_line(&c->line);
    mx_inbox_fini(&c->base.inbox);
    post_done(a, c->close_ticket);
    free(c);
}

/* What Lua did not take goes back. */
static void give_back(consumer *c) {
    mx_inbox *ib = &c->base.inbox;
    for (uint32_t i = ib->head; i != ib->tail; i++) mx_inbox_at(ib, i)->verdict = MX_REQUEUE;
    ib->head = ib->tail;
    if (ib->settled == ib->head) return;
    mx_inbox_settle(ib, settles(c), c->line.chan);
    mx_inbox_settle_gaps(ib, UINT32_MAX, settles(c), c->line.chan);
}

static int check_consume(const mx_consume *o) {
    if (o->queue.n > 255) return mx_refuse(MX_EVALIDATION, "queue name is %zu bytes, at most 255", o->queue.n);
    if (o->tag.n < 1 || o->tag.n > 255) return mx_refuse(MX_EVALIDATION, "consumer tag is %zu bytes, 1 to 255", o->tag.n);
    if (o->prefetch > UINT16_MAX) return mx_refuse(MX_EVALIDATION, "prefetch is %u, at most 65535", o->prefetch);
    if (mx_table_check(o->args.p, o->args.n)) return mx_refuse(MX_EVALIDATION, "broken arguments");
    return 0;
}

static mx_inbox *fail_consume(consumer *c, uint32_t ticket, int code, const char *text) {
    c->base.inbox.state = MX_CLOSED;
    post(c->line.link, ticket, code, 0, text);
    return &c->base.inbox;
}

/* A slow handler holds its slot and all behind it, while the broker goes on with what it hears is settled: with room for
 * a few times the prefetch others may pass it, and what the broker may still send always finds a slot. */
static void make_inbox(consumer *c, uint32_t prefetch) {
    uint32_t spare = prefetch < SPARE_MAX / 3 ? 3 * prefetch : SPARE_MAX, room = prefetch + spare;
    mx_inbox_init(&c->base.inbox, !prefetch ? 0 : room > ROOM_MIN ? room : ROOM_MIN);
    c->prefetch = prefetch;
    c->spare = c->base.inbox.mask + 1 - prefetch;
}

static mx_inbox *start_consume(mx_link *link, const mx_consume *o, uint32_t ticket) {
    amqp *a = (amqp *)link;
    consumer *c = mx_zalloc(sizeof *c);
    mx_inbox *ib = &c->base.inbox;
    make_inbox(c, o->prefetch);
    c->base.link = &a->base;
    c->acks.fire = on_acks;
    c->gaps.fire = on_gaps;
    c->acks.arg = c->gaps.arg = c;
    c->no_ack = (o->flags & MX_F_NO_ACK) != 0;
    add_line(&c->line, CONSUMER, a);
    int code = check_consume(o);
    if (code) return fail_consume(c, ticket, code, mx_refusal());
    open_channel(&c->line);
    mx_chan *h = c->line.chan;
    if (!h) return fail_consume(c, ticket, MX_ECHANNEL, why_no_channel(a));
    h->consumer_tag[0] = (uint8_t)o->tag.n;
    memcpy(h->consumer_tag + 1, o->tag.p, o->tag.n);
    h->inbox = ib;
    h->no_ack = (uint8_t)c->no_ack;
    h->slice = o->prefetch ? (o->prefetch + 3) / 4 : NO_PREFETCH_SLICE;
    arguments args = read_arguments(o->args);
    amqp_basic_qos_t qos = {0, (uint16_t)o->prefetch, 0};
    amqp_basic_consume_t m = {0, bytes(o->queue), bytes(o->tag), 0, (amqp_boolean_t)c->no_ack, (o->flags & MX_F_EXCLUSIVE) != 0,
                              0, args.table};
    ask(&c->line, AMQP_BASIC_QOS_METHOD, &qos, 0);
    code = ask(&c->line, AMQP_BASIC_CONSUME_METHOD, &m, ticket);
    if (code) post(a, ticket, code, 0, mx_refusal());
    drop_arguments(&args);
    return ib;
}

static void cancel(mx_inbox *ib, uint32_t ticket) {
    consumer *c = (consumer *)ib;
    amqp *a = c->line.link;
    mx_chan *h = c->line.chan;
    if (ib->state > MX_OPEN || !h) {
        post_done(a, ticket);
        return;
    }
    ib->state = MX_CLOSING; /* while it opens the request waits behind basic.consume */
    amqp_basic_cancel_t m = {{h->consumer_tag[0], h->consumer_tag + 1}, 0};
    give_back(c);
    wake(a);
    ask(&c->line, AMQP_BASIC_CANCEL_METHOD, &m, ticket);
    h->consumer_tag[0] = 0; /* what still comes is nobody's: it is given back */
}

static void close_inbox(mx_inbox *ib, uint32_t ticket) {
    consumer *c = (consumer *)ib;
    give_back(c);
    c->close_ticket = ticket;
    c->closing = 1;
    mx_chan *h = c->line.chan;
    wake(c->line.link);
    if (!h || h->state == MX_CHAN_CLOSED) free_consumer(c);
    else close_channel(&c->line);
}

/* ---- calls -------------------------------------------------------------------------------------------------------- */

static int ask_for(line *l, const mx_call *q, amqp_table_t args, uint32_t ticket) {
    amqp_bytes_t name = bytes(q->name), source = bytes(q->source), key = bytes(q->key);
    uint32_t f = q->flags;
    switch (q->op) {
    case MX_DECLARE_QUEUE: {
        amqp_queue_declare_t m = {
            0, name, !!(f & MX_F_PASSIVE), !!(f & MX_F_DURABLE), !!(f & MX_F_EXCLUSIVE), !!(f & MX_F_AUTO_DELETE), 0, args};
        return ask(l, AMQP_QUEUE_DECLARE_METHOD, &m, ticket);
    }
    case MX_DECLARE_EXCHANGE: {
        amqp_exchange_declare_t m = {
            0, name, source, !!(f & MX_F_PASSIVE), !!(f & MX_F_DURABLE), !!(f & MX_F_AUTO_DELETE), !!(f & MX_F_INTERNAL),
            0, args};
        return ask(l, AMQP_EXCHANGE_DECLARE_METHOD, &m, ticket);
    }
    case MX_BIND: {
        amqp_queue_bind_t m = {0, name, source, key, 0, args};
        return ask(l, AMQP_QUEUE_BIND_METHOD, &m, ticket);
    }
    case MX_UNBIND: {
        amqp_queue_unbind_t m = {0, name, source, key, args};
        return ask(l, AMQP_QUEUE_UNBIND_METHOD, &m, ticket);
    }
    case MX_BIND_EXCHANGE: {
        amqp_exchange_bind_t m = {0, name, source, key, 0, args};
        return ask(l, AMQP_EXCHANGE_BIND_METHOD, &m, ticket);
    }
    case MX_PURGE: {
        amqp_queue_purge_t m = {0, name, 0};
        return ask(l, AMQP_QUEUE_PURGE_METHOD, &m, ticket);
    }
    case MX_DELETE_QUEUE: {
        amqp_queue_delete_t m = {0, name, 0, 0, 0};
        return ask(l, AMQP_QUEUE_DELETE_METHOD, &m, ticket);
    }
    case MX_DELETE_EXCHANGE: {
        amqp_exchange_delete_t m = {0, name, 0, 0};
        return ask(l, AMQP_EXCHANGE_DELETE_METHOD, &m, ticket);
    }
    }
    return mx_refuse(MX_EINTERNAL, "unknown operation %u", q->op);
}

static int call(mx_link *link, const mx_call *q, uint32_t ticket) {
    amqp *a = (amqp *)link;
    line *l = &a->control;
    if (link->state != MX_OPEN) return mx_refuse(MX_ECLOSED, "the connection is not open");
    if (mx_table_check(q->args.p, q->args.n)) return mx_refuse(MX_EVALIDATION, "broken arguments");
    if (!l->chan) {
        if (l->link) drop_line(l);
        add_line(l, CONTROL, a);
        open_channel(l);
        if (!l->chan) return mx_refuse(MX_ECHANNEL, "no channel is free");
    }
    arguments args = read_arguments(q->args);
    int code = ask_for(l, q, args.table, ticket);
    drop_arguments(&args);
    wake(a);
    return code;
}

/* ---- publishing --------------------------------------------------------------------------------------------------- */

/* mx_pub_watch knows of the window only: a full output shows as a window of 0, so that watchers wait, not spin. */
static void hold_window(publisher *p) {
    p->held = 1;
    p->base.confirm.pub.window = 0;
}

static void release_window(publisher *p) {
    if (!p->held) return;
    p->held = 0;
    p->base.confirm.pub.window = p->window;
    mx_confirm_post_room(&p->base.confirm);
    wake(p->line.link);
}

static void start_pub(publisher *p, amqp *a, uint32_t ticket) {
    mx_pub *pub = &p->base.confirm.pub;
    amqp_confirm_select_t m = {0};
    pub->state = MX_OPENING;
    add_line(&p->line, PUBLISHER, a);
    open_channel(&p->line);
    if (!p->line.chan) {
        pub->state = MX_CLOSED;
        post(a, ticket, MX_ECHANNEL, 0, why_no_channel(a));
    } else if (pub->confirm) {
        ask(&p->line, AMQP_CONFIRM_SELECT_METHOD, &m, ticket);
    } else {
        pub->state = MX_OPEN; /* publishes may follow channel.open at once */
        post_done(a, ticket);
    }
}

static mx_pub *open_pub(mx_link *link, uint32_t window, int confirm, double timeout, uint32_t ticket) {
    amqp *a = (amqp *)link;
    publisher *p = mx_zalloc(sizeof *p);
    mx_confirm_init(&p->base.confirm, window, timeout, waits(a), timers(a), a->base.runtime->turn.confirm);
    p->base.confirm.pub.confirm = (uint32_t)confirm;
    p->base.link = &a->base;
    p->window = p->base.confirm.pub.window;
    start_pub(p, a, ticket);
    return &p->base.confirm.pub;
}

static int reopen_pub(mx_pub *pub, uint32_t ticket) {
    publisher *p = (publisher *)pub;
    amqp *a = (amqp *)p->base.link;
    if (a->base.pub.state != MX_OPEN) {
        post(a, ticket, MX_ECLOSED, 0, "the connection is closed");
        return 0;
    }
    if (pub->state != MX_CLOSED) {
        if (pub->state == MX_OPEN) post_done(a, ticket);
        else post(a, ticket, MX_EAGAIN, 0, "the channel is not closed");
        return 0;
    }
    drop_line(&p->line);
    release_window(p);
    free(pub->error);
    pub->error = NULL;
    pub->reply_code = 0;
    start_pub(p, a, ticket);
    return 0;
}

static void free_publisher(publisher *p) {
    amqp *a = p->line.link;
    mx_confirm_lose(&p->base.confirm);
    mx_confirm_fini(&p->base.confirm);
    free(p->base.confirm.pub.error);
    drop_line(&p->line);
    post_done(a, p->close_ticket);
    free(p);
}

static void close_pub(mx_pub *pub, uint32_t ticket) {
    publisher *p = (publisher *)pub;
    p->close_ticket = ticket;
    p->closing = 1;
    pub->state = MX_CLOSING; /* nothing is published behind channel.close */
    if (!p->line.chan || p->line.chan->state == MX_CHAN_CLOSED) free_publisher(p);
    else close_channel(&p->line);
}

/* Refuses what AMQP cannot carry, before a byte of it is queued. */
static int check(amqp *a, mx_span exchange, mx_span key, mx_span body, const mx_props *props) {
    if (exchange.n > 255) return mx_refuse(MX_EVALIDATION, "exchange is %zu bytes, at most 255", exchange.n);
    if (key.n > 255) return mx_refuse(MX_EVALIDATION, "routing key is %zu bytes, at most 255", key.n);
    if (body.n > a->conn->options.max_body)
        return mx_refuse(MX_EVALIDATION, "body is %zu bytes, at most %zu", body.n, a->conn->options.max_body);
    size_t most = a->conn->frame_max - MX_FRAME_OVERHEAD - 12;
    if (props && mx_props_bound(props) > most)
        return mx_refuse(MX_EVALIDATION, "properties and headers are above %zu bytes", most);
    return 0;
}

/* basic.publish (1.8.3.7), header and bodies, one after the other. Bytes, or negative. */
static long encode(amqp *a, uint8_t *p, uint16_t channel, mx_span exchange, mx_span key, mx_span body, const mx_props *props,
                   int mandatory) {
    uint8_t *start = p;
    amqp_basic_publish_t m = {0, bytes(exchange), bytes(key), (amqp_boolean_t)mandatory, 0};
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
    return p + mx_frame_body(p, channel, body.p, body.n, a->conn->frame_max) - start;
}

static double publish(mx_pub *pub, mx_span exchange, mx_span key, mx_span body, const mx_props *props, int flags,
                      double timeout) {
    publisher *p = (publisher *)pub;
    amqp *a = (amqp *)p->base.link;
    mx_confirm *c = &p->base.confirm;
    if (pub->state != MX_OPEN) return mx_refuse(MX_ECLOSED, "the channel is not open");
    if (mx_buffer_pending(&a->conn->out) > HIGH_WATER || p->line.chan->paused) hold_window(p);
    if (mx_confirm_full(c)) return MX_EAGAIN;
    uint8_t id[MX_ID_SIZE];
    mx_props plain;
    uint64_t hash = props && props->flags & MX_P_MESSAGE_ID ? mx_confirm_hash(props->message_id, exchange, key) : 0;
    if (props) props = mx_confirm_props(c, props, &plain, id);
    int code = check(a, exchange, key, body, props);
    if (code) return code;
    if (!props) {
        mx_confirm_id(c, id);
        plain.flags = MX_P_DELIVERY_MODE | MX_P_MESSAGE_ID;
        plain.delivery_mode = flags & MX_TRANSIENT ? 1 : 2;
        plain.message_id = (mx_span){id, sizeof id};
        props = &plain;
    }
    mx_buffer *out = &a->conn->out;
    size_t most = 1024 + 32 + mx_props_bound(props) + mx_frame_body_bound(body.n, a->conn->frame_max);
    long n = encode(a, mx_buffer_reserve(out, most), p->line.chan->number, exchange, key, body, props, flags & MX_MANDATORY);
    if (n < 0) return (double)n;
    out->len += (size_t)n;
    p->unflushed++;
    double seq = mx_confirm_add(c, mx_clock_us(), timeout, hash);
    if (p->unflushed >= (pub->window + 3) / 4 || mx_buffer_pending(out) >= FLUSH_BYTES) {
        p->unflushed = 0;
        write_out(a);
    }
    return seq;
}

/* ---- events of the connection --------------------------------------------------------------------------------------- */

static void on_open(void *arg) {
    amqp *a = arg;
    a->base.pub.state = MX_OPEN;
    mx_timer_stop(timers(a), &a->limit);
    if (a->conn->heartbeat) mx_timer_set(timers(a), &a->beat, mx_clock_us() + a->conn->heartbeat * 500000ull);
    post_done(a, a->open_ticket);
}

static void on_closed(void *arg, int code, int reply_code, const char *text) {
    amqp *a = arg;
    mx_link *link = &a->base.pub;
    write_out(a);
    link->state = MX_CLOSED;
    if (!link->error) link->error = mx_strndup(text, strlen(text));
    link->error_code = code ? code : MX_ECLOSED;
    link->reply_code = (uint16_t)reply_code;
    mx_timer_stop(timers(a), &a->beat);
    mx_timer_stop(timers(a), &a->limit);
    post(a, a->open_ticket, code ? code : MX_ECLOSED, reply_code, text);
    mx_stream_close(a->stream);
    wake(a);
}

static void on_blocked(void *arg, int on) {
    amqp *a = arg;
    /* a blocked broker reads nothing, but its heartbeats come: only they may decide now */
    mx_stream_patience(a->stream, on ? 0 : a->patience_ms);
    a->base.pub.blocked = (uint32_t)on;
    wake(a);
}

static void answer(line *l, request *r, uint32_t method, void *decoded) {
    mx_reply *reply = mx_reply_new(0, 0, NULL, 0);
    if (method == AMQP_QUEUE_DECLARE_OK_METHOD) {
        amqp_queue_declare_ok_t *m = decoded;
        free(reply);
        reply = mx_reply_new(0, 0, m->queue.bytes, m->queue.len);
        reply->messages = m->message_count;
        reply->consumers = m->consumer_count;
    } else if (method == AMQP_QUEUE_PURGE_OK_METHOD || method == AMQP_QUEUE_DELETE_OK_METHOD) {
        reply->messages = ((amqp_queue_purge_ok_t *)decoded)->message_count;
    }
    mx_wait_post(waits(l->link), r->ticket, 0, reply);
    wake(l->link);
}

static void begin_deliveries(consumer *c) {
    if (c->base.inbox.state == MX_OPENING) c->base.inbox.state = MX_OPEN; /* it may be cancelled already */
}

static void on_reply(mx_chan *h, uint32_t method, void *decoded) {
    line *l = h->arg;
    if (method == AMQP_CHANNEL_CLOSE_OK_METHOD) {
        if (l->kind == CONSUMER) free_consumer(consumer_of(l));
        else if (l->kind == PUBLISHER) free_publisher(publisher_of(l));
        return;
    }
    if (method == AMQP_CHANNEL_OPEN_OK_METHOD) {
        mx_timer_stop(timers(l->link), &l->limit);
    } else {
        /* each answer's number follows its request's: any other would be taken for a consumer's or a publisher's */
        if (!l->waiting || method != l->first->method + 1) {
            mx_conn_break(l->link->conn, 503, "COMMAND_INVALID - an answer that nobody asked for");
            return;
        }
        request *r = take_request(l);
        if (method == AMQP_BASIC_CONSUME_OK_METHOD) begin_deliveries(consumer_of(l));
        if (method == AMQP_CONFIRM_SELECT_OK_METHOD) publisher_of(l)->base.confirm.pub.state = MX_OPEN;
        answer(l, r, method, decoded);
        free(r);
    }
    send_next(l);
}

static void lose_publisher(publisher *p, int reply_code, const char *text) {
    mx_pub *pub = &p->base.confirm.pub;
    pub->state = MX_CLOSED;
    pub->reply_code = (uint16_t)reply_code;
    free(pub->error);
    pub->error = mx_strndup(text, strlen(text));
    mx_confirm_lose(&p->base.confirm);
    if (p->closing) free_publisher(p);
}

/* Only the call that was under way is to blame; those behind it go to a new channel. */
static void renew_control(line *l, int code, int reply_code, const char *text) {
    request *r = l->waiting ? take_request(l) : NULL;
    if (r) post(l->link, r->ticket, code, reply_code, text);
    free(r);
    mx_timer_stop(timers(l->link), &l->limit);
    mx_chan_free(l->chan);
    l->chan = NULL;
    if (r && l->first && reply_code) open_channel(l);
    if (!l->chan) fail_requests(l, code, reply_code, text);
}

static void on_chan_closed(mx_chan *h, int reply_code, const char *text) {
    line *l = h->arg;
    amqp *a = l->link;
    int code = reply_code == 403 ? MX_EACCESS : reply_code ? MX_ECHANNEL : MX_ECONNECTION;
    if (l->kind != CONTROL) fail_requests(l, code, reply_code, text);
    if (l->kind == CONTROL) {
        renew_control(l, code, reply_code, text);
    } else if (l->kind == CONSUMER) {
        consumer *c = consumer_of(l);
        c->base.inbox.state = MX_CLOSED;
        if (c->closing) free_consumer(c);
    } else {
        lose_publisher(publisher_of(l), reply_code, text);
    }
    wake(a);
}

static void on_confirm(mx_chan *h, uint64_t tag, int multiple, int nack) {
    line *l = h->arg;
    amqp *a = l->link;
    if (l->kind != PUBLISHER || mx_confirm_settle(&publisher_of(l)->base.confirm, tag, multiple, nack))
        mx_conn_break(a->conn, 503, "COMMAND_INVALID - a confirm for what was not published");
    else if (publisher_of(l)->base.confirm.pub.seq == publisher_of(l)->base.confirm.pub.settled)
        wake(a); /* the process may be done */
}

static void on_returned(mx_chan *h, mx_span id, mx_span exchange, mx_span key) {
    line *l = h->arg;
    if (l->kind == PUBLISHER) mx_confirm_return(&publisher_of(l)->base.confirm, id, exchange, key);
}

static void on_cancelled(mx_chan *h) {
    line *l = h->arg;
    if (l->kind != CONSUMER) return;
    consumer_of(l)->base.inbox.cancelled = 1;
    consumer_of(l)->base.inbox.state = MX_CLOSED;
    wake(l->link);
}

static void on_refused(mx_chan *h, const char *what, uint64_t size, uint64_t limit) {
    line *l = h->arg;
    if (l->kind != CONSUMER) return;
    consumer *c = consumer_of(l);
    snprintf(c->refusal, sizeof c->refusal, "%s of %llu bytes, at most %llu are taken", what, (unsigned long long)size,
             (unsigned long long)limit);
    c->base.inbox.refused++;
    c->base.inbox.refusal = c->refusal;
    wake(l->link);
}

static const mx_conn_events conn_events = {on_open,    on_closed,   on_blocked,   on_reply,  on_chan_closed,
                                           on_confirm, on_returned, on_cancelled, on_refused};

/* ---- the read buffer: deliveries point into it until it moves or is written over ---- */

static int can_make_room(const amqp *a) {
    return a->in_off == a->in_len || a->in_off > a->in_room / 2 || (a->in_len == a->in_room && !a->again);
}

static int has_room(const amqp *a) { return a->in_len < a->in_room || can_make_room(a); }

static void resize(amqp *a, size_t room) { a->in = mx_realloc(a->in, a->in_room = room); }

static void make_room(amqp *a) {
    for (line *l = a->lines; l; l = l->next)
        if (l->kind == CONSUMER) mx_inbox_detach(&consumer_of(l)->base.inbox);
    memmove(a->in, a->in + a->in_off, a->in_len - a->in_off);
    a->in_len -= a->in_off;
    a->in_off = 0;
    if (!a->in_len && a->in_room > READ_ROOM) resize(a, READ_ROOM);
    /* the parser has seen all of it and wants more: a header frame, which may be longer than frame_max */
    if (a->in_len == a->in_room && a->in_room < MX_HEADER_CAP + READ_ROOM) resize(a, 2 * a->in_room);
}

/* ---- events of the stream -------------------------------------------------------------------------------------------- */

static void on_up(void *arg) {
    amqp *a = arg;
    write_out(a);
}

static void on_room(void *arg, uint8_t **p, size_t *n) {
    amqp *a = arg;
    if (can_make_room(a)) make_room(a);
    *p = a->in + a->in_len;
    *n = a->in_room - a->in_len;
}

static void on_data(void *arg, size_t n) {
    amqp *a = arg;
    a->in_len += n;
    a->heard_us = mx_clock_us();
    a->again = 1;
    stir(a);
}

static void on_drained(void *arg) {
    amqp *a = arg;
    write_out(a);
    stir(a); /* flush lets the publishers go on */
}

static void on_down(void *arg, const char *why) { mx_conn_fail(((amqp *)arg)->conn, MX_ECONNECTION, why); }

static void on_gone(void *arg) {
    amqp *a = arg;
    a->stream = NULL;
    wake(a);
}

static const mx_stream_events stream_events = {on_up, on_room, on_data, on_drained, on_down, on_gone};

/* ---- the worker's side -------------------------------------------------------------------------------------------------- */

static int fill(mx_link *link) {
    amqp *a = (amqp *)link;
    if (!a->again || link->state == MX_CLOSED) return 0;
    a->in_off += mx_conn_feed(a->conn, a->in + a->in_off, a->in_len - a->in_off, &a->again);
    if (a->conn->stalled) a->again = 1;
    for (line *l = a->lines; l; l = l->next)
        if (l->kind == CONSUMER && consumer_of(l)->base.inbox.head != consumer_of(l)->base.inbox.tail) a->base.runtime->news = 1;
    if (!a->stream || link->state == MX_CLOSED) return 0;
    if (has_room(a)) mx_stream_resume(a->stream);
    return a->again && !a->conn->stalled;
}

static void release(amqp *a);

static void flush_one(amqp *a, publisher *p) {
    mx_chan *h = p->line.chan;
    p->unflushed = 0;
    if (p->held && mx_buffer_pending(&a->conn->out) <= HIGH_WATER && h && !h->paused) release_window(p);
}

static void flush(mx_link *link) {
    amqp *a = (amqp *)link;
    for (line *l = a->lines, *next; l; l = next) {
        next = l->next;
        if (l->kind == CONSUMER) settle(consumer_of(l));
        else if (l->kind == PUBLISHER) flush_one(a, publisher_of(l));
    }
    if (a->stream) write_out(a);
    else if (a->close_ticket) release(a);
}

/* Heartbeats (4.2.7): a frame each half interval when nothing else was sent; two intervals of silence are the end. */
static void on_beat(mx_timer *t, void *arg) {
    amqp *a = arg;
    uint64_t now = mx_clock_us(), half = a->conn->heartbeat * 500000ull, next = now + half, end;
    int late = now > t->due_us + LATE_US;
    /* while a full inbox keeps us from reading, or the loop was busy, silence says nothing about the broker */
    if (!has_room(a)) a->heard_us = now;
    end = a->heard_us + 4 * half;
    if (now >= end && !late) {
        mx_conn_fail(a->conn, MX_ECONNECTION, "no heartbeat from the broker");
        return;
    }
    if (now - a->said_us >= half) {
        mx_conn_heartbeat(a->conn);
        write_out(a);
    }
    if (now >= end) next = now + LATE_US;
    else if (end < next) next = end;
    mx_timer_set(timers(a), t, next);
}

static void on_limit(mx_timer *t, void *arg) {
    amqp *a = arg;
    (void)t;
    int connecting = a->base.pub.state == MX_OPENING;
    mx_conn_fail(a->conn, MX_ECONNECTION, connecting ? "no answer while connecting; is it an AMQP broker?" : "closed");
}

static void release(amqp *a) {
    uint32_t ticket = a->close_ticket;
    while (a->lines) {
        line *l = a->lines;
        if (l->kind == CONSUMER) free_consumer(consumer_of(l));
        else if (l->kind == PUBLISHER) free_publisher(publisher_of(l));
        else drop_line(l);
    }
    mx_timer_stop(timers(a), &a->limit);
    mx_timer_stop(timers(a), &a->beat);
    mx_link_detach(&a->base);
    if (ticket != UINT32_MAX) post_done(a, ticket);
    mx_conn_free(a->conn);
    for (size_t i = 0; i < sizeof a->secrets / sizeof *a->secrets; i++) {
        if (a->secrets[i]) explicit_bzero(a->secrets[i], strlen(a->secrets[i]));
        free(a->secrets[i]);
    }
    free(a->base.pub.error);
    free(a->in);
    free(a);
}

/* Also what lies beyond a gap: nobody will hear of it later. */
static void settle_all(amqp *a) {
    for (line *l = a->lines; l; l = l->next) {
        if (l->kind != CONSUMER) continue;
        consumer *c = consumer_of(l);
        settle_now(c);
        mx_inbox_settle_gaps(&c->base.inbox, UINT32_MAX, settles(c), l->chan);
    }
}

static void close_link(mx_link *link, uint32_t ticket) {
    amqp *a = (amqp *)link;
    if (a->close_ticket) return;
    a->close_ticket = ticket ? ticket : UINT32_MAX;
    wake(a);
    if (link->state == MX_CLOSED) return;
    settle_all(a);
    flush(link);
    link->state = MX_CLOSING;
    mx_timer_set(timers(a), &a->limit, mx_clock_us() + CLOSE_US);
    mx_conn_close(a->conn);
    if (a->stream) write_out(a);
}

static const mx_link_ops ops = {call,      start_consume, cancel, close_inbox, open_pub,  reopen_pub,
                                close_pub, publish,       fill,   flush,       close_link};

mx_link *mx_amqp_open(mx_runtime *r, const mx_link_options *o, uint32_t ticket) {
    amqp *a = mx_zalloc(sizeof *a);
    double heartbeat = o->heartbeat < UINT16_MAX ? o->heartbeat : UINT16_MAX;
    const mx_span kept[] = {o->user, o->password, o->vhost, o->name, o->host};
    for (size_t i = 0; i < 5; i++) a->secrets[i] = mx_strndup(kept[i].p, kept[i].n);
    mx_conn_options options = {{(uint8_t *)a->secrets[0], o->user.n},
                               {(uint8_t *)a->secrets[1], o->password.n},
                               {(uint8_t *)a->secrets[2], o->vhost.n},
                               {(uint8_t *)a->secrets[3], o->name.n},
                               (int)(heartbeat + 0.999),
                               o->max_body};
    char *port = mx_strndup(o->port.p, o->port.n);
    a->base.ops = &ops;
    a->base.pub.state = MX_OPENING;
    a->base.pub.rpc_timeout = o->rpc_timeout;
    a->open_ticket = ticket;
    a->limit.fire = on_limit;
    a->beat.fire = on_beat;
    a->limit.arg = a->beat.arg = a;
    resize(a, READ_ROOM);
    a->patience_ms = (int)(2 * heartbeat * 1000);
    mx_link_attach(r, &a->base);
    a->conn = mx_conn_new(&options, &conn_events, a);
    a->stream = mx_tcp_open(r->loop, a->secrets[4], port, a->patience_ms, &stream_events, a);
    mx_timer_set(timers(a), &a->limit, mx_clock_us() + mx_us_of(o->connect_timeout));
    free(port);
    return &a->base.pub;
}
