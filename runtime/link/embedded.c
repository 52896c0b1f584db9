/* embedded.c - the broker behind mem://: the same link, answered in this process. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "link/link.h"
#include "link/store.h"
#include "message/props.h"

typedef struct embedded embedded;

typedef struct mx_reader {              /* a consumer */
    mx_consumer base;                   /* first */
    struct mx_reader *next;             /* of its link */
    struct mx_reader *beside;           /* of its queue */
    mx_queue *queue;
    mx_held *held;                      /* what each slot of the inbox holds, by position */
    uint64_t tag;
    uint32_t slice, prefetch;
    int no_ack, exclusive;
    char name[256];                     /* of the queue: it may be deleted under the consumer */
} reader;

typedef struct writer {                 /* a publisher */
    mx_publisher base;                  /* first */
    struct writer *next;
} writer;

struct embedded {
    mx_link_base base;                  /* first */
    mx_store *store;
    reader *readers;
    writer *writers;
    size_t max_body;
};

static mx_waits *waits(embedded *e) { return &e->base.runtime->waits.pub; }
static void wake(embedded *e) { e->base.runtime->wake(e->base.runtime); }

static void post(embedded *e, uint32_t ticket, mx_reply *r) {
    mx_wait_post(waits(e), ticket, 0, r);
    wake(e);
}

static mx_reply *done(void) { return mx_reply_new(0, 0, NULL, 0); }

static mx_reply *refused(int reply_code, const char *format, ...) __attribute__((format(printf, 2, 3)));
static mx_reply *refused(int reply_code, const char *format, ...) {
    char text[600];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    int code = reply_code == 403 ? MX_EACCESS : reply_code ? MX_ECHANNEL : MX_ECONFIG;
    return mx_reply_new(code, reply_code, text, strlen(text));
}

#define TEXT(s) (int)(s).n, (const char *)(s).p

static mx_reply *no_queue(mx_span name) { return refused(404, "NOT_FOUND - no queue '%.*s' in vhost '/'", TEXT(name)); }
static mx_reply *no_exchange(mx_span name) { return refused(404, "NOT_FOUND - no exchange '%.*s' in vhost '/'", TEXT(name)); }

static mx_reply *unequal(const char *what, const char *kind, mx_span name, int got, int is) {
    static const char *const words[] = {"false", "true"};
    return refused(406, "PRECONDITION_FAILED - inequivalent arg '%s' for %s '%.*s' in vhost '/': received '%s' but current is '%s'",
                   what, kind, TEXT(name), words[!!got], words[!!is]);
}

/* ---- arguments ---------------------------------------------------------------------------------------------------- */

typedef struct argument {
    mx_span key;
    mx_span text;                       /* of a string */
    int64_t number;
} argument;

static uint64_t number(const uint8_t *p, size_t n) {
    uint64_t v = 0;
    while (n--) v = v << 8 | *p++;
    return v;
}

/* The next entry of a checked table: bytes used, 0 at the end or at a type that no argument has. */
static size_t next_argument(const uint8_t *p, size_t n, argument *out) {
    if (n < 2) return 0;
    size_t k = p[0];
    const uint8_t *v = p + 2 + k;
    *out = (argument){.key = {p + 1, k}};
    switch (p[1 + k]) {
    case 'S': out->text = (mx_span){v + 4, number(v, 4)}; return k + 6 + out->text.n;
    case 'l': case 'L': case 'T': out->number = (int64_t)number(v, 8); return k + 10;
    case 'I': out->number = (int32_t)number(v, 4); return k + 6;
    case 'i': out->number = (int64_t)number(v, 4); return k + 6;
    case 's': out->number = (int16_t)number(v, 2); return k + 4;
    case 'u': out->number = (int64_t)number(v, 2); return k + 4;
    case 'b': case 'B': case 't': out->number = *v; return k + 3;
    }
    return 0;
}

static int is(mx_span s, const char *word) { return s.n == strlen(word) && !memcmp(s.p, word, s.n); }

typedef struct settings {
    int64_t ttl_ms, expires_ms;
    mx_span dead_exchange, dead_key;
} settings;

/* NULL, or why not: nothing that changes what a queue does is passed over in silence. */
static mx_reply *read_settings(mx_span args, settings *s) {
    argument a;
    *s = (settings){-1, -1, {0}, {0}};
    for (size_t used; args.n; args.p += used, args.n -= used) {
        used = next_argument(args.p, args.n, &a);
        if (!used) return refused(0, "mem:// cannot read the type of an argument");
        if (is(a.key, "x-message-ttl")) s->ttl_ms = a.number;
        else if (is(a.key, "x-expires")) s->expires_ms = a.number;
        else if (is(a.key, "x-dead-letter-exchange")) s->dead_exchange = a.text.p ? a.text : (mx_span){(const uint8_t *)"", 0};
        else if (is(a.key, "x-dead-letter-routing-key")) s->dead_key = a.text;
        else if (!is(a.key, "x-queue-type") && !is(a.key, "x-queue-mode") && a.key.n > 1 && !memcmp(a.key.p, "x-", 2))
            return refused(0, "mem:// does not know %.*s", TEXT(a.key));
    }
    return NULL;
}

static int differs(const char *a, mx_span b) {
    if (!a || !b.p) return (a != NULL) != (b.p != NULL);
    return strlen(a) != b.n || memcmp(a, b.p, b.n);
}

static const char *differing(const mx_queue *q, const settings *s) {
    if (q->ttl_ms != s->ttl_ms) return "x-message-ttl";
    if (q->expires_ms != s->expires_ms) return "x-expires";
    if (differs(q->dead_exchange, s->dead_exchange)) return "x-dead-letter-exchange";
    if (differs(q->dead_key, s->dead_key)) return "x-dead-letter-routing-key";
    return NULL;
}

/* ---- calls -------------------------------------------------------------------------------------------------------- */

static mx_reply *counts(mx_queue *q) {
    mx_reply *r = mx_reply_new(0, 0, q->name, strlen(q->name));
    r->messages = q->count;
    r->consumers = q->consumers;
    return r;
}

static int is_reserved(mx_span name) { return name.n >= 4 && !memcmp(name.p, "amq.", 4); }

static mx_reply *locked(embedded *e, mx_queue *q) {
    if (!q->owner || q->owner == e) return NULL;
    return refused(405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '%s' in vhost '/'", q->name);
}

static mx_reply *existing_queue(embedded *e, mx_queue *q, const mx_call *c, const settings *s) {
    mx_reply *lock = locked(e, q);
    if (lock) return lock;
    if (c->flags & MX_F_PASSIVE) return counts(q);
    int durable = !!(c->flags & MX_F_DURABLE), auto_delete = !!(c->flags & MX_F_AUTO_DELETE), exclusive = !!(c->flags & MX_F_EXCLUSIVE);
    if (durable != q->durable) return unequal("durable", "queue", c->name, durable, q->durable);
    if (exclusive != !!q->owner) return unequal("exclusive", "queue", c->name, exclusive, !!q->owner);
    if (auto_delete != q->auto_delete) return unequal("auto_delete", "queue", c->name, auto_delete, q->auto_delete);
    const char *arg = differing(q, s);
    if (arg) return refused(406, "PRECONDITION_FAILED - inequivalent arg '%s' for queue '%s' in vhost '/'", arg, q->name);
    mx_queue_used(q);
    return counts(q);
}

static mx_reply *declare_queue(embedded *e, const mx_call *c) {
    settings s;
    mx_reply *bad = read_settings(c->args, &s);
    if (bad) return bad;
    mx_queue *q = c->name.n ? mx_store_queue(e->store, c->name) : NULL;
    if (q) return existing_queue(e, q, c, &s);
    if (c->flags & MX_F_PASSIVE) return no_queue(c->name);
    if (is_reserved(c->name))
        return refused(403, "ACCESS_REFUSED - queue name '%.*s' contains reserved prefix 'amq.*'", TEXT(c->name));
    q = mx_queue_new(e->store, c->name);
    q->durable = !!(c->flags & MX_F_DURABLE);
    q->auto_delete = !!(c->flags & MX_F_AUTO_DELETE);
    q->owner = c->flags & MX_F_EXCLUSIVE ? e : NULL;
    q->ttl_ms = s.ttl_ms;
    q->expires_ms = s.expires_ms;
    if (s.dead_exchange.p) q->dead_exchange = mx_strndup(s.dead_exchange.p, s.dead_exchange.n);
    if (s.dead_key.p) q->dead_key = mx_strndup(s.dead_key.p, s.dead_key.n);
    mx_queue_used(q);
    return counts(q);
}

static int type_of(mx_span name) {
    static const char *const names[] = {"direct", "fanout", "topic", "headers"};
    for (int i = 0; i < 4; i++)
        if (is(name, names[i])) return i;
    return -1;
}

static mx_reply *declare_exchange(embedded *e, const mx_call *c) {
    mx_exchange *x = mx_store_exchange(e->store, c->name);
    int type = type_of(c->source), durable = !!(c->flags & MX_F_DURABLE);
    if (!c->name.n) return refused(403, "ACCESS_REFUSED - operation not permitted on the default exchange");
    if (c->flags & MX_F_PASSIVE) return x ? done() : no_exchange(c->name);
    if (type < 0) return refused(503, "COMMAND_INVALID - invalid exchange type '%.*s'", TEXT(c->source));
    if (type == MX_EX_HEADERS || c->args.n) return refused(0, "mem:// does not know headers exchanges and exchange arguments");
    if (x && x->type != type)
        return refused(406, "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '%s' in vhost '/'", x->name);
    if (x && x->durable != durable) return unequal("durable", "exchange", c->name, durable, x->durable);
    if (x) return done();
    if (is_reserved(c->name))
        return refused(403, "ACCESS_REFUSED - exchange name '%.*s' contains reserved prefix 'amq.*'", TEXT(c->name));
    x = mx_exchange_new(e->store, c->name, type);
    x->durable = durable;
    x->auto_delete = !!(c->flags & MX_F_AUTO_DELETE);
    x->internal = !!(c->flags & MX_F_INTERNAL);
    return done();
}

static mx_reply *bind_to(embedded *e, const mx_call *c) {
    mx_exchange *from = mx_store_exchange(e->store, c->source), *target = NULL;
    mx_queue *q = NULL;
    if (!c->source.n) return refused(403, "ACCESS_REFUSED - operation not permitted on the default exchange");
    if (c->op == MX_BIND_EXCHANGE) {
        target = mx_store_exchange(e->store, c->name);
        if (!target) return no_exchange(c->name);
    } else {
        q = mx_store_queue(e->store, c->name);
        if (!q) return c->op == MX_UNBIND ? done() : no_queue(c->name);
    }
    if (!from) return c->op == MX_UNBIND ? done() : no_exchange(c->source);
    if (c->op == MX_UNBIND) mx_store_unbind(e->store, from, q, c->key);
    else mx_store_bind(e->store, from, q, target, c->key);
    return done();
}

static void lose_readers(mx_queue *q) {
    for (reader *r = q->readers; r; r = r->beside) {
        r->queue = NULL;
        r->base.inbox.cancelled = 1;
        r->base.inbox.state = MX_CLOSED;
    }
    q->readers = NULL;
}

static mx_reply *delete_queue(embedded *e, const mx_call *c) {
    mx_queue *q = mx_store_queue(e->store, c->name);
    if (!q) return done();
    mx_reply *lock = locked(e, q);
    if (lock) return lock;
    mx_reply *r = counts(q);
    lose_readers(q);
    mx_queue_delete(q);
    return r;
}

static mx_reply *answer(embedded *e, const mx_call *c) {
    mx_queue *q;
    mx_exchange *x;
    mx_reply *r;
    switch (c->op) {
    case MX_DECLARE_QUEUE: return declare_queue(e, c);
    case MX_DECLARE_EXCHANGE: return declare_exchange(e, c);
    case MX_BIND: case MX_UNBIND: case MX_BIND_EXCHANGE: return bind_to(e, c);
    case MX_DELETE_QUEUE: return delete_queue(e, c);
    case MX_DELETE_EXCHANGE:
        if (!c->name.n || is_reserved(c->name)) return refused(403, "ACCESS_REFUSED - operation not permitted on this exchange");
        x = mx_store_exchange(e->store, c->name);
        if (x) mx_exchange_delete(e->store, x);
        return done();
    case MX_PURGE:
        q = mx_store_queue(e->store, c->name);
        if (!q) return no_queue(c->name);
        r = done();
        r->messages = mx_queue_purge(q);
        return r;
    }
    return refused(503, "COMMAND_INVALID - unknown operation");
}

static int call(mx_link *link, const mx_call *c, uint32_t ticket) {
    embedded *e = (embedded *)link;
    if (mx_table_check(c->args.p, c->args.n)) return mx_refuse(MX_EVALIDATION, "broken arguments");
    post(e, ticket, answer(e, c));
    return 0;
}

/* ---- consuming ------------------------------------------------------------------------------------------------------ */

static mx_inbox *consume(mx_link *link, const mx_consume *o, uint32_t ticket) {
    embedded *e = (embedded *)link;
    reader *r = mx_zalloc(sizeof *r);
    mx_queue *q = mx_store_queue(e->store, o->queue);
    mx_inbox_init(&r->base.inbox, o->prefetch);
    r->base.link = &e->base;
    r->held = mx_zalloc((r->base.inbox.mask + 1) * sizeof *r->held);
    r->prefetch = o->prefetch;
    r->slice = o->prefetch ? o->prefetch : 1024;
    r->no_ack = !!(o->flags & MX_F_NO_ACK);
    r->next = e->readers;
    e->readers = r;
    mx_reply *bad = q ? locked(e, q) : no_queue(o->queue);
    if (!bad && ((o->flags & MX_F_EXCLUSIVE && q->consumers) || (q->readers && q->readers->exclusive)))
        bad = refused(403, "ACCESS_REFUSED - queue '%s' in vhost '/' in exclusive use", q->name);
    if (bad) {
        r->base.inbox.state = MX_CLOSED;
        post(e, ticket, bad);
        return &r->base.inbox;
    }
    r->queue = q;
    r->exclusive = !!(o->flags & MX_F_EXCLUSIVE);
    r->beside = q->readers;
    q->readers = r;
    q->consumers++;
    q->had_consumer = 1;
    r->base.inbox.state = MX_OPEN;
    post(e, ticket, done());
    return &r->base.inbox;
}

static void leave_queue(reader *r) {
    mx_queue *q = r->queue;
    if (!q) return;
    for (reader **at = &q->readers; *at; at = &(*at)->beside)
        if (*at == r) {
            *at = r->beside;
            break;
        }
    r->queue = NULL;
    q->consumers--;
    mx_queue_used(q);
    if (q->auto_delete && q->had_consumer && !q->consumers) mx_queue_delete(q);
}

static void take_back(reader *r, uint32_t i) {
    mx_msg *m = mx_inbox_at(&r->base.inbox, i);
    mx_message *message = m->own;
    m->own = NULL;
    if (r->queue) mx_queue_return(r->queue, message, r->held[i & r->base.inbox.mask].place);
    else mx_message_unref(message);
}

/* Passes on the verdicts from settled to head; out of order ones at once, and their slots are freed in order. */
static void settle(reader *r) {
    mx_inbox *ib = &r->base.inbox;
    for (uint32_t i = ib->settled; i != ib->head; i++) {
        mx_msg *m = mx_inbox_at(ib, i);
        if (!m->verdict) continue;
        if (!m->sent) {
            m->sent = 1;
            if (m->verdict == MX_REQUEUE && !r->no_ack) {
                take_back(r, i);
                ib->requeued++;
            } else if (m->verdict == MX_REJECT && r->queue && !r->no_ack) {
                mx_message *message = m->own;
                m->own = NULL;
                mx_queue_bury(r->queue, message, "rejected");
                ib->rejected++;
            } else {
                mx_message_unref(m->own);
                m->own = NULL;
                ib->acked++;
            }
        }
        if (i == ib->settled) ib->settled++;
    }
}

static void give_back(reader *r) {
    mx_inbox *ib = &r->base.inbox;
    settle(r);
    while (ib->tail != ib->head) take_back(r, --ib->tail);
}

static void cancel(mx_inbox *ib, uint32_t ticket) {
    reader *r = (reader *)ib;
    give_back(r);
    if (ib->state == MX_OPEN) ib->state = MX_CLOSING;
    post((embedded *)r->base.link, ticket, done());
}

static void close_inbox(mx_inbox *ib, uint32_t ticket) {
    reader *r = (reader *)ib;
    embedded *e = (embedded *)r->base.link;
    give_back(r);
    for (uint32_t i = ib->head; i != ib->settled;)
        if (mx_inbox_at(ib, --i)->own) take_back(r, i);
    leave_queue(r);
    for (reader **at = &e->readers; *at; at = &(*at)->next)
        if (*at == r) {
            *at = r->next;
            break;
        }
    mx_inbox_fini(ib);
    free(r->held);
    free(r);
    post(e, ticket, done());
}

static uint32_t room(const reader *r) {
    const mx_inbox *ib = &r->base.inbox;
    uint32_t used = ib->tail - ib->settled, most = r->prefetch ? r->prefetch : ib->mask + 1;
    return used < most ? most - used : 0;
}

/* Moves up to a slice into the inbox; 1: there is more that would fit. */
static int serve(reader *r) {
    mx_inbox *ib = &r->base.inbox;
    uint32_t n = room(r);
    mx_held held;
    if (n > r->slice) n = r->slice;
    if (r->queue->consumers > 1 && n > 1) n = 1;        /* in turn with the others */
    for (; n && mx_queue_take(r->queue, &held); n--) {
        if (held.due_us && held.due_us <= mx_clock_us()) {
            mx_queue_bury(r->queue, held.message, "expired");
            continue;
        }
        mx_msg *m = mx_inbox_slot(ib);
        mx_inbox_point(m, held.message);
        m->redelivered = held.message->redelivered;
        m->tag = ++r->tag;
        r->held[ib->tail & ib->mask] = held;
        ib->tail++;
        ib->delivered++;
    }
    return r->queue->count && room(r);
}

static int fill(mx_link *link) {
    embedded *e = (embedded *)link;
    int more = 0;
    for (reader *r = e->readers; r; r = r->next)
        if (r->queue && r->base.inbox.state == MX_OPEN && r->queue->count) more |= serve(r);
    return more;
}

/* ---- publishing ------------------------------------------------------------------------------------------------------- */

static mx_pub *open_pub(mx_link *link, uint32_t window, int confirm, double timeout, uint32_t ticket) {
    embedded *e = (embedded *)link;
    writer *w = mx_zalloc(sizeof *w);
    mx_confirm_init(&w->base.confirm, window, timeout, waits(e), &e->base.runtime->timers, e->base.runtime->turn.confirm);
    w->base.confirm.pub.confirm = (uint32_t)confirm;
    w->base.confirm.pub.state = MX_OPEN;
    w->base.link = &e->base;
    w->next = e->writers;
    e->writers = w;
    post(e, ticket, done());
    return &w->base.confirm.pub;
}

static int reopen_pub(mx_pub *pub, uint32_t ticket) {
    pub->state = MX_OPEN;
    post((embedded *)((writer *)pub)->base.link, ticket, done());
    return 0;
}

static void close_pub(mx_pub *pub, uint32_t ticket) {
    writer *w = (writer *)pub;
    embedded *e = (embedded *)w->base.link;
    for (writer **at = &e->writers; *at; at = &(*at)->next)
        if (*at == w) {
            *at = w->next;
            break;
        }
    mx_confirm_lose(&w->base.confirm);
    mx_confirm_fini(&w->base.confirm);
    free(pub->error);
    free(w);
    post(e, ticket, done());
}

static int check(embedded *e, mx_span exchange, mx_span key, mx_span body, const mx_props *props) {
    if (exchange.n > 255) return mx_refuse(MX_EVALIDATION, "exchange is %zu bytes, at most 255", exchange.n);
    if (key.n > 255) return mx_refuse(MX_EVALIDATION, "routing key is %zu bytes, at most 255", key.n);
    if (body.n > e->max_body) return mx_refuse(MX_EVALIDATION, "body is %zu bytes, at most %zu", body.n, e->max_body);
    if (props && mx_props_bound(props) > 131052) return mx_refuse(MX_EVALIDATION, "properties and headers are above 131052 bytes");
    return 0;
}

/* The broker closes the channel, as RabbitMQ does for an exchange that is not there. */
static void close_channel(writer *w, mx_span exchange) {
    mx_pub *pub = &w->base.confirm.pub;
    mx_reply *r = no_exchange(exchange);
    free(pub->error);
    pub->error = mx_strndup(r->text, r->text_size);
    pub->reply_code = 404;
    pub->state = MX_CLOSED;
    mx_reply_free(r);
    mx_confirm_lose(&w->base.confirm);
}

static mx_message *message_of(mx_confirm *c, mx_span exchange, mx_span key, mx_span body, const mx_props *props, int flags) {
    static uint8_t scratch[131072];
    uint8_t id[MX_ID_SIZE];
    mx_props plain;
    if (!props) {
        mx_confirm_id(c, id);
        plain.flags = MX_P_DELIVERY_MODE | MX_P_MESSAGE_ID;
        plain.delivery_mode = flags & MX_TRANSIENT ? 1 : 2;
        plain.message_id = (mx_span){id, sizeof id};
        props = &plain;
    }
    int n = mx_props_encode(props, scratch, sizeof scratch);
    if (n < 0) return NULL;
    return mx_message_append(mx_message_new(exchange, key, (mx_span){scratch, (size_t)n}, body.n), body.p, body.n);
}

static double publish(mx_pub *pub, mx_span exchange, mx_span key, mx_span body, const mx_props *props, int flags, double timeout) {
    writer *w = (writer *)pub;
    embedded *e = (embedded *)w->base.link;
    mx_confirm *c = &w->base.confirm;
    if (pub->state != MX_OPEN) return mx_refuse(MX_ECLOSED, "the channel is not open");
    if (mx_confirm_full(c)) return MX_EAGAIN;
    int code = check(e, exchange, key, body, props);
    if (code) return code;
    mx_message *m = message_of(c, exchange, key, body, props, flags);
    if (!m) return mx_refuse(MX_EVALIDATION, "a property is too long or its table is broken");
    double seq = mx_confirm_add(c, mx_clock_us(), timeout, 0);
    wake(e);
    if (mx_store_route(e->store, exchange, key)) {
        close_channel(w, exchange);
    } else if (!e->store->found_count) {
        if (flags & MX_MANDATORY) mx_confirm_returned(c, seq);
    } else {
        for (size_t i = 0; i < e->store->found_count; i++) {
            mx_message_ref(m);
            mx_queue_put(e->store->found[i], m);
        }
    }
    mx_message_unref(m);
    return seq;
}

/* Also when its verdicts were not passed on yet: its link may be flushed after the publisher's. */
static int will_have_room(const reader *r) {
    const mx_inbox *ib = &r->base.inbox;
    return room(r) || (ib->settled != ib->head && mx_inbox_at(ib, ib->settled)->verdict);
}

/* Confirms wait while a consumer is about to take more: a publisher that runs ahead of its consumers is held at its
 * window instead of filling the memory. A consumer without room holds nobody up. */
static int is_behind(const mx_store *s) {
    for (const mx_queue *q = s->queues; q; q = q->next)
        for (const reader *r = q->count ? q->readers : NULL; r; r = r->beside)
            if (r->base.inbox.state == MX_OPEN && will_have_room(r)) return 1;
    return 0;
}

static void flush(mx_link *link) {
    embedded *e = (embedded *)link;
    for (reader *r = e->readers; r; r = r->next) {
        mx_inbox *ib = &r->base.inbox;
        uint32_t before = ib->settled;
        double back = ib->requeued;
        settle(r);
        if (r->queue && (ib->settled != before || ib->requeued != back) && r->queue->count) wake(e);
    }
    if (is_behind(e->store)) {
        wake(e);
        return;
    }
    for (writer *w = e->writers; w; w = w->next) {
        mx_pub *pub = &w->base.confirm.pub;
        if (pub->settled == pub->seq || pub->state != MX_OPEN) continue;
        mx_confirm_up_to(&w->base.confirm, pub->seq);
        wake(e);
    }
}

static void close_link(mx_link *link, uint32_t ticket) {
    embedded *e = (embedded *)link;
    mx_store *store = e->store;
    flush(link);
    while (e->readers) close_inbox(&e->readers->base.inbox, 0);
    while (e->writers) close_pub(&e->writers->base.confirm.pub, 0);
    for (mx_queue *q = store->queues, *next; q; q = next) {
        next = q->next;
        if (q->owner == e) {
            lose_readers(q);
            mx_queue_delete(q);
        }
    }
    mx_link_detach(&e->base);
    post(e, ticket, done());
    int used = 0;
    for (mx_link_base *l = e->base.runtime->links; l; l = l->next)
        used |= l->ops == e->base.ops && ((embedded *)l)->store == store;
    if (!used) mx_store_forget(store);
    free(e);
}

static const mx_link_ops ops = {call, consume, cancel, close_inbox, open_pub, reopen_pub, close_pub, publish, fill, flush, close_link};

mx_link *mx_embedded_open(mx_runtime *r, const mx_link_options *o, uint32_t ticket) {
    embedded *e = mx_zalloc(sizeof *e);
    char *name = mx_strndup(o->host.p, o->host.n);
    e->base.ops = &ops;
    e->base.pub.state = MX_OPEN;
    e->max_body = o->max_body;
    e->store = mx_store_get(name, &r->timers);
    free(name);
    mx_link_attach(r, &e->base);
    post(e, ticket, done());
    return &e->base.pub;
}
