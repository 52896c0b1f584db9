/* embedded.c - the broker behind mem://: the same link, answered in this process. */
#include "link/embedded.h"
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "broker/answer.h"
#include "broker/death.h"
#include "message/props.h"

enum { PROPS_MAX = 131052, STAMP_EVERY = 64 };
typedef mx_embedded embedded;
typedef mx_writer writer;

static mx_waits *waits(embedded *e) { return &e->base.runtime->waits.pub; }

void mx_embedded_wake(embedded *e) {
    e->base.runtime->news = 1;
    e->base.runtime->wake(e->base.runtime);
}

void mx_embedded_post(embedded *e, uint32_t ticket, mx_reply *r) {
    mx_wait_post(waits(e), ticket, 0, r);
    mx_embedded_wake(e);
}

/* ---- publishing ------------------------------------------------------------------------------------------------- */

static mx_pub *open_pub(mx_link *link, uint32_t window, int mode, double timeout, uint32_t ticket) {
    embedded *e = (embedded *)link;
    writer *w = mx_zalloc(sizeof *w);
    mx_runtime *r = e->base.runtime;
    mx_confirm_init(&w->base.confirm, window, timeout, waits(e), &r->timers, r->turn.confirm);
    w->base.confirm.pub.confirm = mode & MX_PUB_CONFIRM;
    w->base.confirm.pub.state = MX_OPEN;
    w->base.link = &e->base;
    w->next = e->writers;
    e->writers = w;
    mx_link_take_channel(&e->base);
    mx_embedded_post(e, ticket, mx_done());
    return &w->base.confirm.pub;
}

static int reopen_pub(mx_pub *pub, mx_link *l, uint32_t ticket) {
    (void)l;
    pub->state = MX_OPEN;
    mx_embedded_post((embedded *)((writer *)pub)->base.link, ticket, mx_done());
    return 0;
}

typedef struct mx_kept {
    mx_message *m;
    double seq;
    int flags;
} kept;

static void drop_kept(writer *w) {
    while (w->kept_count) mx_message_unref(w->kept[--w->kept_count].m);
}

static void close_pub(mx_pub *pub, uint32_t ticket) {
    writer *w = (writer *)pub;
    embedded *e = (embedded *)w->base.link;
    writer **at = &e->writers;
    while (*at != w) at = &(*at)->next;
    *at = w->next;
    mx_link_give_channel(&e->base);
    drop_kept(w);
    free(w->kept);
    mx_gather_fini(&w->base);
    mx_confirm_lose(&w->base.confirm);
    mx_confirm_fini(&w->base.confirm);
    free(pub->error);
    free(w);
    mx_embedded_post(e, ticket, mx_done());
}

static int check(const embedded *e, mx_span exchange, mx_span key, mx_span body, const mx_props *props) {
    if (exchange.n > 255) return mx_refuse(MX_EVALIDATION, "exchange is %zu bytes, at most 255", exchange.n);
    if (key.n > 255) return mx_refuse(MX_EVALIDATION, "routing key is %zu bytes, at most 255", key.n);
    if (body.n > e->max_body) return mx_refuse(MX_EVALIDATION, "body is %zu bytes, at most %zu", body.n, e->max_body);
    if (props && mx_props_bound(props) > PROPS_MAX)
        return mx_refuse(MX_EVALIDATION, "properties and headers are %zu bytes, at most %d", mx_props_bound(props), PROPS_MAX);
    return 0;
}

/* What most messages have, written straight down: flags, delivery mode, id. */
static mx_span plain_props(const mx_confirm *c, int flags, uint8_t *to) {
    to[0] = (MX_P_DELIVERY_MODE | MX_P_MESSAGE_ID) >> 8;
    to[1] = (MX_P_DELIVERY_MODE | MX_P_MESSAGE_ID) & 0xff;
    to[2] = flags & MX_TRANSIENT ? 1 : 2;
    to[3] = MX_ID_SIZE;
    mx_confirm_id(c, to + 4);
    return (mx_span){to, 4 + MX_ID_SIZE};
}

/* Who else gets it is nobody's business: RabbitMQ takes BCC out. */
static mx_span without_bcc(mx_span headers) {
    static uint8_t room[PROPS_MAX];
    mx_out o = {room, room + sizeof room};
    mx_entry f;
    if (!mx_entry_find(headers, mx_span_of("BCC"), &f)) return headers;
    for (const uint8_t *p = headers.p, *end = p + headers.n; p < end;) {
        p += mx_entry_read(p, 1, &f);
        if (!mx_is(f.key, "BCC")) mx_out_entry(&o, &f);
    }
    return (mx_span){room, (size_t)(o.at - room)};
}

static int encode(const mx_props *props, uint8_t *to, size_t cap) {
    mx_props p = *props;
    if (!(p.flags & MX_P_HEADERS)) return mx_props_encode(&p, to, cap);
    if (mx_table_check(p.headers.p, p.headers.n)) return MX_EVALIDATION;
    p.headers = without_bcc(p.headers);
    return mx_props_encode(&p, to, cap);
}

static inline mx_message *message_of(const mx_confirm *c, mx_span exchange, mx_span key, mx_span body, const mx_props *props,
                                     int flags) {
    static uint8_t scratch[PROPS_MAX];
    mx_span bytes = {scratch, 0};
    if (props) {
        mx_props own;
        uint8_t id[MX_ID_SIZE];
        int n = encode(mx_confirm_props(c, props, &own, id), scratch, sizeof scratch);
        if (n < 0) return NULL;
        bytes.n = (size_t)n;
    } else bytes = plain_props(c, flags, scratch);
    return mx_message_append(mx_message_new(exchange, key, bytes, body.n), body.p, body.n);
}

static uint64_t now_of(writer *w) {
    if (!w->stamped) w->now_us = mx_clock_us();
    w->stamped = (w->stamped + 1) % STAMP_EVERY;
    return w->now_us;
}

/* The broker closes the channel, as RabbitMQ does; what came before was routed and is confirmed. */
static void close_channel(writer *w, double seq, mx_reply *why) {
    mx_pub *pub = &w->base.confirm.pub;
    free(pub->error);
    pub->error = mx_strndup(why->text, why->text_size);
    pub->reply_code = why->reply_code;
    pub->state = MX_CLOSED;
    mx_reply_free(why);
    mx_confirm_up_to(&w->base.confirm, seq - 1);
    mx_confirm_lose(&w->base.confirm);
}

static mx_reply *bad_expiration(mx_span text) {
    int64_t ms = mx_expiration_ms(text);
    if (ms < 0) return mx_refused(406, "PRECONDITION_FAILED - invalid expiration '%.*s'", MX_TEXT(text));
    if (ms <= MX_EXPIRY_MAX_MS) return NULL;
    return mx_refused(406, "PRECONDITION_FAILED - invalid expiration '%.*s': {value_too_large,%lld}", MX_TEXT(text),
                      (long long)ms);
}

static mx_reply *bad_keys(mx_span headers) {
    static const char *const names[] = {"CC", "BCC"};
    mx_entry f;
    for (int i = 0; i < 2; i++)
        if (mx_entry_find(headers, mx_span_of(names[i]), &f) && f.type != 'A')
            return mx_refused(406, "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"%s\",%s}", names[i],
                              mx_entry_type_name(f.type));
    return NULL;
}

/* Why RabbitMQ would close the channel over this publish; NULL: it would not. */
static mx_reply *offence(const mx_route *route, mx_span exchange, const mx_props *props) {
    mx_reply *bad = NULL;
    if (route->missing) return mx_no_exchange(exchange);
    if (route->exchange && route->exchange->internal)
        return mx_refused(403, "ACCESS_REFUSED - cannot publish to internal exchange '%.*s' in vhost '/'", MX_TEXT(exchange));
    if (props && props->flags & MX_P_EXPIRATION) bad = bad_expiration(props->expiration);
    if (!bad && props && props->flags & MX_P_HEADERS) bad = bad_keys(props->headers);
    return bad;
}

/* 1: a queue refused it for its limits. Letters that it causes would find the route in use by the next queue. */
static int distribute(mx_store *s, const mx_route *route, mx_message *m) {
    int refused = 0;
    mx_letters_hold(s);
    for (uint32_t i = 0; i < route->count; i++) {
        mx_message_ref(m);
        refused |= mx_queue_put(route->queue[i], m);
    }
    mx_letters_release(s);
    return refused;
}

/* To the queues; m is the caller's. */
static void put(writer *w, double seq, mx_message *m, mx_span exchange, mx_span key, const mx_props *props, int flags) {
    embedded *e = (embedded *)w->base.link;
    mx_confirm *c = &w->base.confirm;
    mx_span headers = props && props->flags & MX_P_HEADERS ? props->headers : (mx_span){0};
    const mx_route *route = mx_store_route(e->store, exchange, key, headers);
    mx_reply *why = offence(route, exchange, props);
    int refused = route->count && mx_message_bytes() > e->store->bytes_max;
    if (why) close_channel(w, seq, why);
    else if (!route->count && flags & MX_MANDATORY) mx_confirm_returned(c, seq);
    else if (!refused) refused = distribute(e->store, route, m);
    if (refused && c->pub.confirm && !why) mx_confirm_settle(c, (uint64_t)(seq - c->base), 0, 1);
}

static void keep(writer *w, double seq, mx_message *m, int flags) {
    if (w->kept_count == w->kept_room) {
        w->kept_room = w->kept_room ? 2 * w->kept_room : 64;
        w->kept = mx_realloc(w->kept, w->kept_room * sizeof *w->kept);
    }
    w->kept[w->kept_count++] = (kept){m, seq, flags};
}

/* Those that have ended meanwhile, in time or with their channel, reach nobody. */
static void release(mx_pub *pub) {
    writer *w = (writer *)pub;
    uint32_t n = w->kept_count;
    w->kept_count = 0;
    for (uint32_t i = 0; i < n; i++) {
        mx_message *m = w->kept[i].m;
        mx_props props;
        mx_span exchange = {m->bytes, m->exchange_size}, key = {mx_message_key(m), m->key_size};
        mx_props_decode(mx_message_props(m), m->props_size, &props);
        if (pub->state == MX_OPEN && (!pub->confirm || mx_receipt_state(pub, w->kept[i].seq) == MX_PENDING))
            put(w, w->kept[i].seq, m, exchange, key, &props, w->kept[i].flags);
        mx_message_unref(m);
    }
    mx_embedded_wake((embedded *)w->base.link);
}

static double publish(mx_pub *pub, mx_span exchange, mx_span key, mx_span body, const mx_props *props, int flags,
                      double timeout) {
    writer *w = (writer *)pub;
    embedded *e = (embedded *)w->base.link;
    mx_confirm *c = &w->base.confirm;
    if (pub->state != MX_OPEN) return mx_refuse(MX_ECLOSED, "the channel is not open");
    if (mx_confirm_full(c)) return MX_EAGAIN;
    int code = check(e, exchange, key, body, props);
    if (code) return code;
    mx_message *m = message_of(c, exchange, key, body, props, flags);
    if (!m) return mx_refuse(MX_EVALIDATION, "a property is too long or its table is broken");
    double seq = mx_confirm_add(c, now_of(w), timeout, 0, NULL);
    if (w->base.batch) {
        keep(w, seq, m, flags);
        return seq;
    }
    put(w, seq, m, exchange, key, props, flags);
    mx_message_unref(m);
    mx_embedded_wake(e);
    return seq;
}

/* ---- the turn --------------------------------------------------------------------------------------------------- */

static void confirm_all(embedded *e) {
    for (writer *w = e->writers; w; w = w->next) {
        mx_pub *pub = &w->base.confirm.pub;
        double last = w->kept_count ? w->kept[0].seq - 1 : pub->seq;
        w->stamped = 0;
        if (pub->settled >= last || pub->state != MX_OPEN) continue;
        mx_confirm_up_to(&w->base.confirm, last);
        mx_embedded_wake(e);
    }
}

/* What lies before all consumers that are about to take more; 0: there is none. */
static uint64_t lag_of(const embedded *e) {
    uint64_t lag = 0;
    for (const mx_link_base *l = e->base.runtime->links; l; l = l->next) {
        const embedded *other = (const embedded *)l;
        if (l->ops != e->base.ops || other->store != e->store) continue;
        for (const mx_reader *r = other->readers; r; r = r->next) lag += mx_reader_lag(r);
    }
    return lag;
}

/* Confirms wait while a consumer is about to take more: a publisher that runs ahead of its consumers is held at its
 * window instead of filling the memory. A consumer without room holds nobody up, nor does one that never gets to an end,
 * since what it rejects comes back to it: they wait for no more than what lay there when they began to. */
static int is_behind(embedded *e) {
    uint64_t lag = lag_of(e);
    if (lag && !e->hold_end) e->hold_end = e->store->delivered + lag;
    if (lag && e->store->delivered < e->hold_end) return 1;
    e->hold_end = 0;
    return 0;
}

static void flush(mx_link *link) {
    embedded *e = (embedded *)link;
    mx_readers_settle(e);
    if (e->writers && is_behind(e)) mx_embedded_wake(e);
    else confirm_all(e);
}

static void delete_exclusive(embedded *e) {
    const mx_names *queues = &e->store->queues;
    for (uint32_t i = 0; i < queues->buckets; i++)
        for (mx_queue *q = (mx_queue *)queues->bucket[i], *next; q; q = next) {
            next = (mx_queue *)q->named.next;
            if (q->owner == e) mx_queue_delete(q);
        }
}

static void close_link(mx_link *link, uint32_t ticket) {
    embedded *e = (embedded *)link;
    mx_readers_settle(e);
    confirm_all(e); /* held back or not, it is in its queues */
    while (e->readers) mx_reader_close(&e->readers->base.inbox, 0);
    while (e->writers) close_pub(&e->writers->base.confirm.pub, 0);
    delete_exclusive(e);
    mx_store_put(e->store);
    mx_link_detach(&e->base);
    mx_embedded_post(e, ticket, mx_done());
    free(e);
}

static uint64_t coalesce(mx_link *link, uint64_t now_us) {
    (void)link, (void)now_us;
    return UINT64_MAX;
}

static const mx_link_ops ops = {
    mx_embedded_call, mx_reader_open, mx_reader_cancel, mx_reader_close, open_pub, reopen_pub, close_pub,
    publish,          release,        mx_readers_fill,  flush,           coalesce, close_link, NULL};

mx_link *mx_embedded_open(mx_runtime *r, const mx_link_options *o, uint32_t ticket) {
    embedded *e = mx_zalloc(sizeof *e);
    e->base.ops = &ops;
    e->base.pub.state = MX_OPEN;
    e->base.pub.rpc_timeout = o->rpc_timeout;
    e->max_body = o->max_body;
    e->store = mx_store_get(o->host, &r->timers);
    e->store->gone = mx_readers_lose;
    e->store->offer = mx_readers_offer;
    mx_link_attach(r, &e->base);
    mx_embedded_post(e, ticket, mx_done());
    return &e->base.pub;
}
