/* embedded.c - the broker behind mem://: the same link, answered in this process. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "link/link.h"
#include "link/store.h"
#include "message/props.h"

enum { PROPS_MAX = 131052, SLICE_MAX = 1024, STAMP_EVERY = 64, REPLY_TEXT_MAX = 1024 };
typedef struct embedded embedded;

typedef struct mx_reader {    /* a consumer */
    mx_consumer base;         /* first */
    struct mx_reader *next;   /* of its link */
    struct mx_reader *beside; /* of its queue */
    mx_queue *queue;          /* where unsettled ones go back; NULL: it is gone */
    mx_held *held;            /* what each slot of the inbox holds, by position */
    uint64_t tag;
    uint32_t prefetch, slice;
    uint32_t out;    /* delivered and not settled: what prefetch limits */
    uint32_t budget; /* of the fill under way */
    int subscribed, no_ack, exclusive;
} reader;

typedef struct writer { /* a publisher */
    mx_publisher base;  /* first */
    struct writer *next;
    uint64_t now_us;  /* when it published lately: a clock read a message would cost too much */
    uint32_t stamped; /* publishes since then; 0: look again */
} writer;

struct embedded {
    mx_link_base base; /* first */
    mx_store *store;
    reader *readers;
    writer *writers;
    size_t max_body;
};

static uint32_t rounds; /* counts fills of any link */

static mx_waits *waits(embedded *e) { return &e->base.runtime->waits.pub; }
static void wake(embedded *e) {
    e->base.runtime->news = 1;
    e->base.runtime->wake(e->base.runtime);
}

static void post(embedded *e, uint32_t ticket, mx_reply *r) {
    mx_wait_post(waits(e), ticket, 0, r);
    wake(e);
}

/* ---- what the broker says: RabbitMQ's codes and words ----------------------------------------------------------- */

#define TEXT(s) (int)(s).n, (const char *)(s).p

static int is(mx_span s, const char *word) { return s.n == strlen(word) && !memcmp(s.p, word, s.n); }
static mx_reply *done(void) { return mx_reply_new(0, 0, NULL, 0); }

static mx_reply *refused(int reply_code, const char *format, ...) __attribute__((format(printf, 2, 3)));
static mx_reply *refused(int reply_code, const char *format, ...) {
    char text[REPLY_TEXT_MAX];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    int code = reply_code == 403 ? MX_EACCESS : reply_code ? MX_ECHANNEL : MX_ECONFIG;
    return mx_reply_new(code, reply_code, text, strlen(text));
}

static mx_reply *no_queue(mx_span name) { return refused(404, "NOT_FOUND - no queue '%.*s' in vhost '/'", TEXT(name)); }
static mx_reply *no_exchange(mx_span name) { return refused(404, "NOT_FOUND - no exchange '%.*s' in vhost '/'", TEXT(name)); }
static mx_reply *is_default(void) { return refused(403, "ACCESS_REFUSED - operation not permitted on the default exchange"); }

static mx_reply *unequal(const char *what, const char *kind, mx_span name, const char *got, const char *current) {
    return refused(406,
                   "PRECONDITION_FAILED - inequivalent arg '%s' for %s '%.*s' in vhost '/': received '%s' but current "
                   "is '%s'",
                   what, kind, TEXT(name), got, current);
}

/* NULL when a flag is as it was declared. */
static mx_reply *flag_differs(const char *what, const char *kind, mx_span name, int got, int current) {
    static const char *const words[] = {"false", "true"};
    return got == current ? NULL : unequal(what, kind, name, words[got], words[current]);
}

/* ---- arguments -------------------------------------------------------------------------------------------------- */

typedef struct given { /* an argument on the wire */
    mx_span key;
    mx_span text; /* of a string */
    int64_t number;
    int type;
} given;

static const char *const known[MX_ARGS] = {"x-message-ttl", "x-expires", "x-dead-letter-exchange", "x-dead-letter-routing-key"};

static int64_t number(const uint8_t *p, size_t n) {
    uint64_t v = 0;
    while (n--) v = v << 8 | *p++;
    return (int64_t)v;
}

/* The next entry of a checked table: bytes used; 0 for a type that no argument here has. */
static size_t next_given(const uint8_t *p, given *out) {
    size_t k = p[0];
    const uint8_t *v = p + 2 + k;
    *out = (given){.key = {p + 1, k}, .type = p[1 + k]};
    switch (out->type) {
    case 'S': out->text = (mx_span){v + 4, (size_t)number(v, 4)}; return k + 6 + out->text.n;
    case 'l':
    case 'L':
    case 'T': out->number = number(v, 8); return k + 10;
    case 'I': out->number = (int32_t)number(v, 4); return k + 6;
    case 'i': out->number = number(v, 4); return k + 6;
    case 's': out->number = (int16_t)number(v, 2); return k + 4;
    case 'u': out->number = number(v, 2); return k + 4;
    case 'b': out->number = (int8_t)*v; return k + 3;
    case 'B':
    case 't': out->number = *v; return k + 3;
    case 'V': return k + 2;
    case 'f': return k + 6;
    case 'd': return k + 10;
    }
    return 0;
}

static int is_text(int i) { return i == MX_ARG_DEAD_EXCHANGE || i == MX_ARG_DEAD_KEY; }
static int is_integer(int type) { return type && strchr("lLIisubB", type) != NULL; }

static mx_reply *invalid(mx_span queue, const char *key, const char *format, ...) __attribute__((format(printf, 3, 4)));
static mx_reply *invalid(mx_span queue, const char *key, const char *format, ...) {
    char why[80];
    va_list list;
    va_start(list, format);
    vsnprintf(why, sizeof why, format, list);
    va_end(list);
    return refused(406, "PRECONDITION_FAILED - invalid arg '%s' for queue '%.*s' in vhost '/': %s", key, TEXT(queue), why);
}

static mx_reply *keep(mx_span queue, int i, const given *g, mx_arg *arg) {
    if (is_text(i) ? g->type != 'S' : !is_integer(g->type)) return invalid(queue, known[i], "unacceptable_type");
    if (g->number < 0) return invalid(queue, known[i], "{value_negative,%lld}", (long long)g->number);
    if (i == MX_ARG_EXPIRES && !g->number) return invalid(queue, known[i], "{value_zero,0}");
    if (!is_text(i) && g->number > UINT32_MAX) return invalid(queue, known[i], "{value_too_big,%lld}", (long long)g->number);
    if (is_text(i) && g->text.n > 255) return invalid(queue, known[i], "longer than 255 bytes");
    free(arg->text);
    *arg = (mx_arg){g->type, g->number, g->type == 'S' ? mx_strndup(g->text.p, g->text.n) : NULL};
    return NULL;
}

static int is_harmless(const given *g) {
    if (is(g->key, "x-queue-type")) return g->type == 'S' && (is(g->text, "classic") || is(g->text, "quorum"));
    return is(g->key, "x-queue-mode") || g->key.n < 2 || memcmp(g->key.p, "x-", 2);
}

static mx_reply *unknown(mx_span key) { return refused(0, "mem:// does not know %.*s", TEXT(key)); }

static mx_reply *read_arg(mx_span queue, const given *g, mx_arg *args) {
    for (int i = 0; i < MX_ARGS; i++)
        if (is(g->key, known[i])) return keep(queue, i, g, &args[i]);
    return is_harmless(g) ? NULL : unknown(g->key);
}

/* NULL, or why not: nothing that changes what a queue does is passed over in silence. */
static mx_reply *read_args(mx_span queue, mx_span table, mx_arg *args) {
    given g;
    mx_reply *bad = NULL;
    for (size_t used; table.n && !bad; table.p += used, table.n -= used) {
        if (!(used = next_given(table.p, &g))) return unknown(g.key);
        bad = read_arg(queue, &g, args);
    }
    return bad;
}

static int equal(const mx_arg *a, const mx_arg *b) {
    if (!a->type || !b->type) return a->type == b->type;
    return a->number == b->number && (!a->text || !strcmp(a->text, b->text));
}

/* RabbitMQ names the type only when the other side has no value. */
static void describe(const mx_arg *a, const mx_arg *other, char *to, size_t size) {
    const char *type = a->type == 'S' ? "longstr" : a->type == 'l' ? "long" : "signedint";
    char value[260];
    if (a->text) snprintf(value, sizeof value, "%s", a->text);
    else snprintf(value, sizeof value, "%lld", (long long)a->number);
    if (!a->type) snprintf(to, size, "none");
    else if (other->type) snprintf(to, size, "'%s'", value);
    else snprintf(to, size, "the value '%s' of type '%s'", value, type);
}

static mx_reply *args_differ(const mx_queue *q, const mx_arg *args) {
    char got[320], current[320];
    int i = 0;
    while (i < MX_ARGS && equal(&args[i], &q->arg[i])) i++;
    if (i == MX_ARGS) return NULL;
    describe(&args[i], &q->arg[i], got, sizeof got);
    describe(&q->arg[i], &args[i], current, sizeof current);
    return refused(406,
                   "PRECONDITION_FAILED - inequivalent arg '%s' for queue '%s' in vhost '/': received %s but current "
                   "is %s",
                   known[i], q->named.name, got, current);
}

/* Exchanges and consumers know no arguments here. */
static mx_reply *no_args(mx_span table) {
    given g;
    for (size_t used; table.n; table.p += used, table.n -= used) {
        if (!(used = next_given(table.p, &g))) return unknown(g.key);
        if (is(g.key, "x-priority") && !g.number) continue;
        if (is(g.key, "alternate-exchange") || (g.key.n > 1 && !memcmp(g.key.p, "x-", 2))) return unknown(g.key);
    }
    return NULL;
}

/* ---- queues ----------------------------------------------------------------------------------------------------- */

static mx_reply *counts(const mx_queue *q) {
    mx_reply *r = mx_reply_new(0, 0, q->named.name, q->named.size);
    r->messages = q->count;
    r->consumers = q->consumers;
    return r;
}

static int is_reserved(mx_span name) { return name.n >= 4 && !memcmp(name.p, "amq.", 4); }

static mx_reply *locked(const mx_queue *q) {
    return refused(405,
                   "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '%s' in vhost '/'. It could be "
                   "originally declared on another connection or the exclusive property value does not match that of "
                   "the original declaration.",
                   q->named.name);
}

static int is_locked(const embedded *e, const mx_queue *q) { return q->owner && q->owner != e; }

/* The queue, or NULL and why not: the part of every operation that works on one. */
static mx_queue *open_queue(embedded *e, mx_span name, mx_reply **why) {
    mx_queue *q = mx_store_queue(e->store, name);
    if (!q) *why = no_queue(name);
    else if (is_locked(e, q)) *why = locked(q);
    else return q;
    return NULL;
}

static mx_reply *declare_again(embedded *e, mx_queue *q, const mx_call *c, const mx_arg *args) {
    int durable = !!(c->flags & MX_F_DURABLE), auto_delete = !!(c->flags & MX_F_AUTO_DELETE);
    if (is_locked(e, q)) return locked(q);
    if (c->flags & MX_F_PASSIVE) return counts(q);
    mx_reply *bad = flag_differs("durable", "queue", c->name, durable, q->durable);
    if (!bad && !!(c->flags & MX_F_EXCLUSIVE) != !!q->owner) bad = locked(q);
    if (!bad) bad = flag_differs("auto_delete", "queue", c->name, auto_delete, q->auto_delete);
    if (!bad) bad = args_differ(q, args);
    if (bad) return bad;
    mx_queue_used(q);
    return counts(q);
}

static mx_reply *declare_first(embedded *e, const mx_call *c, const mx_arg *args) {
    if (c->flags & MX_F_PASSIVE) return no_queue(c->name);
    if (is_reserved(c->name))
        return refused(403, "ACCESS_REFUSED - queue name '%.*s' contains reserved prefix 'amq.*'", TEXT(c->name));
    if (args[MX_ARG_DEAD_KEY].type && !args[MX_ARG_DEAD_EXCHANGE].type)
        return invalid(c->name, known[MX_ARG_DEAD_KEY], "routing_key_but_no_dlx_defined");
    mx_queue *q = mx_queue_new(e->store, c->name, args);
    q->durable = !!(c->flags & MX_F_DURABLE);
    q->auto_delete = !!(c->flags & MX_F_AUTO_DELETE);
    q->owner = c->flags & MX_F_EXCLUSIVE ? e : NULL;
    return counts(q);
}

static mx_reply *declare_queue(embedded *e, const mx_call *c) {
    mx_arg args[MX_ARGS] = {{0}};
    mx_queue *q = c->name.n ? mx_store_queue(e->store, c->name) : NULL;
    mx_reply *r = c->flags & MX_F_PASSIVE ? NULL : read_args(c->name, c->args, args);
    if (!r) r = q ? declare_again(e, q, c, args) : declare_first(e, c, args);
    for (int i = 0; i < MX_ARGS; i++) free(args[i].text);
    return r;
}

static mx_reply *delete_queue(embedded *e, const mx_call *c) {
    mx_queue *q = mx_store_queue(e->store, c->name);
    if (!q) return done();
    if (is_locked(e, q)) return locked(q);
    mx_reply *r = counts(q);
    mx_queue_delete(q);
    return r;
}

static mx_reply *purge(embedded *e, const mx_call *c) {
    mx_reply *r = NULL;
    mx_queue *q = open_queue(e, c->name, &r);
    if (!q) return r;
    r = done();
    r->messages = mx_queue_purge(q);
    return r;
}

/* ---- exchanges -------------------------------------------------------------------------------------------------- */

static const char *const types[] = {"direct", "fanout", "topic", "headers"};

static int type_of(mx_span name) {
    for (int i = MX_EX_DIRECT; i <= MX_EX_HEADERS; i++)
        if (is(name, types[i])) return i;
    return -1;
}

static mx_reply *exchange_again(const mx_exchange *x, const mx_call *c, int type) {
    mx_reply *bad = NULL;
    if (x->type != type) return unequal("type", "exchange", c->name, types[type], types[x->type]);
    bad = flag_differs("durable", "exchange", c->name, !!(c->flags & MX_F_DURABLE), x->durable);
    if (!bad) bad = flag_differs("auto_delete", "exchange", c->name, !!(c->flags & MX_F_AUTO_DELETE), x->auto_delete);
    if (!bad) bad = flag_differs("internal", "exchange", c->name, !!(c->flags & MX_F_INTERNAL), x->internal);
    return bad ? bad : done();
}

static mx_reply *declare_exchange(embedded *e, const mx_call *c) {
    mx_exchange *x = mx_store_exchange(e->store, c->name);
    mx_reply *bad;
    int type = type_of(c->source);
    if (!c->name.n) return is_default();
    if (c->flags & MX_F_PASSIVE) return x ? done() : no_exchange(c->name);
    if (type < 0) return refused(503, "COMMAND_INVALID - unknown exchange type '%.*s'", TEXT(c->source));
    if ((bad = no_args(c->args))) return bad;
    if (x) return exchange_again(x, c, type);
    if (type == MX_EX_HEADERS) return refused(0, "mem:// does not know headers exchanges");
    if (is_reserved(c->name))
        return refused(403, "ACCESS_REFUSED - exchange name '%.*s' contains reserved prefix 'amq.*'", TEXT(c->name));
    x = mx_exchange_new(e->store, c->name, type);
    x->durable = !!(c->flags & MX_F_DURABLE);
    x->auto_delete = !!(c->flags & MX_F_AUTO_DELETE);
    x->internal = !!(c->flags & MX_F_INTERNAL);
    return done();
}

static mx_reply *delete_exchange(embedded *e, const mx_call *c) {
    mx_exchange *x = mx_store_exchange(e->store, c->name);
    if (!c->name.n) return is_default();
    if (x && is_reserved(c->name))
        return refused(403, "ACCESS_REFUSED - deletion of system exchange '%.*s' in vhost '/' not allowed", TEXT(c->name));
    if (x) mx_exchange_delete(e->store, x);
    return done();
}

static mx_reply *bind_to(embedded *e, const mx_call *c) {
    mx_exchange *from = mx_store_exchange(e->store, c->source), *target = NULL;
    mx_queue *q = NULL;
    mx_reply *bad = NULL;
    if (!c->source.n || (c->op == MX_BIND_EXCHANGE && !c->name.n)) return is_default();
    if (c->op == MX_BIND_EXCHANGE && !(target = mx_store_exchange(e->store, c->name))) return no_exchange(c->name);
    if (c->op == MX_BIND && !(q = open_queue(e, c->name, &bad))) return bad;
    if (!from) return no_exchange(c->source);
    if (from->type == MX_EX_HEADERS) return refused(0, "mem:// does not know headers exchanges");
    mx_store_bind(e->store, from, q, target, c->key);
    return done();
}

static mx_reply *unbind(embedded *e, const mx_call *c) {
    mx_exchange *from = mx_store_exchange(e->store, c->source);
    mx_queue *q = mx_store_queue(e->store, c->name);
    if (!c->source.n) return is_default();
    if (q && is_locked(e, q)) return locked(q);
    if (from && q) mx_store_unbind(e->store, from, q, NULL, c->key);
    return done();
}

static mx_reply *answer(embedded *e, const mx_call *c) {
    switch (c->op) {
    case MX_DECLARE_QUEUE: return declare_queue(e, c);
    case MX_DECLARE_EXCHANGE: return declare_exchange(e, c);
    case MX_BIND:
    case MX_BIND_EXCHANGE: return bind_to(e, c);
    case MX_UNBIND: return unbind(e, c);
    case MX_PURGE: return purge(e, c);
    case MX_DELETE_QUEUE: return delete_queue(e, c);
    case MX_DELETE_EXCHANGE: return delete_exchange(e, c);
    }
    return NULL;
}

static int call(mx_link *link, const mx_call *c, uint32_t ticket) {
    embedded *e = (embedded *)link;
    if (c->name.n > 255 || c->source.n > 255 || c->key.n > 255)
        return mx_refuse(MX_EVALIDATION, "a name or an argument is too long for AMQP");
    if (mx_table_check(c->args.p, c->args.n)) return mx_refuse(MX_EVALIDATION, "broken arguments");
    mx_reply *r = answer(e, c);
    if (!r) return mx_refuse(MX_EINTERNAL, "unknown operation %u", c->op);
    post(e, ticket, r);
    return 0;
}

/* ---- consuming -------------------------------------------------------------------------------------------------- */

/* A parked handler holds its slot but not the prefetch: twice the room lets what is behind it go on. */
static uint32_t ring_of(uint32_t prefetch) { return prefetch > UINT32_MAX / 2 ? prefetch : 2 * prefetch; }

static reader *new_reader(embedded *e, const mx_consume *o) {
    reader *r = mx_zalloc(sizeof *r);
    mx_inbox_init(&r->base.inbox, ring_of(o->prefetch));
    r->base.link = &e->base;
    r->held = mx_zalloc((r->base.inbox.mask + 1) * sizeof *r->held);
    r->prefetch = o->prefetch && o->prefetch <= r->base.inbox.mask ? o->prefetch : r->base.inbox.mask + 1;
    r->slice = o->prefetch ? o->prefetch : SLICE_MAX;
    if (r->slice > SLICE_MAX) r->slice = SLICE_MAX;
    r->no_ack = !!(o->flags & MX_F_NO_ACK);
    r->exclusive = !!(o->flags & MX_F_EXCLUSIVE);
    r->next = e->readers;
    e->readers = r;
    return r;
}

static int in_exclusive_use(const mx_queue *q) {
    for (const reader *r = q->readers; r; r = r->beside)
        if (r->subscribed && r->exclusive) return 1;
    return 0;
}

static mx_reply *subscribe(embedded *e, reader *r, const mx_consume *o) {
    mx_reply *bad = NULL;
    mx_queue *q = open_queue(e, o->queue, &bad);
    if (!bad) bad = mx_table_check(o->args.p, o->args.n) ? refused(0, "broken arguments") : no_args(o->args);
    if (!bad && ((r->exclusive && q->consumers) || in_exclusive_use(q)))
        bad = refused(403, "ACCESS_REFUSED - queue '%s' in vhost '/' in exclusive use", q->named.name);
    if (bad) return bad;
    reader **last = &q->readers;
    while (*last) last = &(*last)->beside;
    *last = r;
    r->queue = q;
    r->subscribed = 1;
    q->consumers++;
    return NULL;
}

static mx_inbox *consume(mx_link *link, const mx_consume *o, uint32_t ticket) {
    embedded *e = (embedded *)link;
    reader *r = new_reader(e, o);
    mx_reply *bad = subscribe(e, r, o);
    r->base.inbox.state = bad ? MX_CLOSED : MX_OPEN;
    post(e, ticket, bad ? bad : done());
    return &r->base.inbox;
}

/* The queue dies: what is delivered may still be read, its verdicts lead nowhere. */
static void lose_readers(mx_queue *q) {
    for (reader *r = q->readers; r; r = r->beside) {
        r->queue = NULL;
        if (!r->subscribed) continue;
        r->subscribed = 0;
        r->base.inbox.cancelled = 1;
        r->base.inbox.state = MX_CLOSED;
        wake((embedded *)r->base.link);
    }
    q->readers = q->turn = NULL;
}

static void unsubscribe(reader *r) {
    mx_queue *q = r->queue;
    if (!r->subscribed) return;
    r->subscribed = 0;
    q->consumers--;
    mx_queue_used(q);
    if (q->auto_delete && !q->consumers) mx_queue_delete(q);
}

static void leave_queue(reader *r) {
    mx_queue *q = r->queue;
    if (!q) return;
    reader **at = &q->readers;
    while (*at != r) at = &(*at)->beside;
    *at = r->beside;
    if (q->turn == r) q->turn = r->beside;
    r->queue = NULL;
}

/* Ends what the reader held at a position: its message goes on to whom the verdict says. */
static void conclude(reader *r, uint32_t i, int verdict) {
    mx_msg *m = mx_inbox_at(&r->base.inbox, i);
    mx_held *h = &r->held[i & r->base.inbox.mask];
    m->own = NULL;
    r->out--;
    if (verdict == MX_ACK || !r->queue || r->no_ack) mx_message_unref(h->message);
    else if (verdict == MX_REJECT) mx_queue_bury(r->queue, h->message, "rejected");
    else mx_queue_return(r->queue, h); /* also MX_FORGET: the broker never heard of it */
}

/* A settled one, once; it stays in the ring until those before it are settled too. 1: the queue may have changed. */
static int pass_on(reader *r, uint32_t i) {
    mx_inbox *ib = &r->base.inbox;
    mx_msg *m = mx_inbox_at(ib, i);
    if (m->sent) return 0;
    m->sent = 1;
    conclude(r, i, m->verdict);
    if (m->verdict == MX_ACK) ib->acked++;
    else if (m->verdict == MX_REJECT) ib->rejected++;
    else if (m->verdict == MX_REQUEUE) ib->requeued++;
    return m->verdict != MX_ACK;
}

/* Passes on every verdict from settled to head. 1: messages moved to where somebody may want them. */
static int settle(reader *r) {
    mx_inbox *ib = &r->base.inbox;
    uint32_t i = ib->settled, head = ib->head;
    int moved = 0;
    for (; i != head && mx_inbox_at(ib, i)->verdict; i++) moved |= pass_on(r, i);
    ib->settled = i;
    for (; i != head; i++)
        if (mx_inbox_at(ib, i)->verdict) moved |= pass_on(r, i);
    return moved;
}

/* What was not taken goes back; what was delivered without acks is gone. */
static void give_back(reader *r) {
    mx_inbox *ib = &r->base.inbox;
    settle(r);
    while (ib->tail != ib->head) conclude(r, --ib->tail, MX_REQUEUE);
}

static void cancel(mx_inbox *ib, uint32_t ticket) {
    reader *r = (reader *)ib;
    give_back(r);
    unsubscribe(r);
    if (ib->state == MX_OPEN) ib->state = MX_CLOSING;
    post((embedded *)r->base.link, ticket, done());
}

static void close_inbox(mx_inbox *ib, uint32_t ticket) {
    reader *r = (reader *)ib;
    embedded *e = (embedded *)r->base.link;
    reader **at = &e->readers;
    give_back(r);
    for (uint32_t i = ib->head; i != ib->settled;)
        if (!mx_inbox_at(ib, --i)->sent) conclude(r, i, MX_REQUEUE);
    unsubscribe(r);
    leave_queue(r);
    while (*at != r) at = &(*at)->next;
    *at = r->next;
    ib->tail = ib->settled; /* all is given back: nothing is left to drop */
    mx_inbox_fini(ib);
    free(r->held);
    free(r);
    post(e, ticket, done());
}

/* How many more it may get now. */
static uint32_t room(const reader *r) {
    const mx_inbox *ib = &r->base.inbox;
    uint32_t free_slots = ib->mask + 1 - (ib->tail - ib->settled);
    if (!r->subscribed || r->out >= r->prefetch) return 0;
    return r->prefetch - r->out < free_slots ? r->prefetch - r->out : free_slots;
}

static void deliver(reader *r, const mx_held *h) {
    mx_inbox *ib = &r->base.inbox;
    mx_msg *m = mx_inbox_slot(ib);
    mx_inbox_point(m, h->message);
    m->redelivered = h->redelivered;
    m->tag = ++r->tag;
    r->held[ib->tail & ib->mask] = *h;
    r->out++;
    ib->tail++;
    ib->delivered++;
}

static void give_budgets(mx_queue *q) {
    for (reader *r = q->readers; r; r = r->beside) {
        r->budget = room(r);
        if (r->budget > r->slice) r->budget = r->slice;
    }
}

/* The next reader in turn that has some budget left. */
static reader *next_reader(mx_queue *q) {
    reader *start = q->turn ? q->turn : q->readers, *r = start;
    while (r && !r->budget) {
        r = r->beside ? r->beside : q->readers;
        if (r == start) return NULL;
    }
    return r;
}

/* One slice for each reader of the queue, one message each in turn. 1: somebody has room for more. */
static int serve(mx_queue *q, uint32_t *expired) {
    mx_held held;
    reader *r;
    give_budgets(q);
    while (q->count && (r = next_reader(q))) {
        if (!mx_queue_take(q, &held, expired)) break;
        deliver(r, &held);
        r->budget--;
        q->turn = r->beside;
    }
    for (r = q->count ? q->readers : NULL; r; r = r->beside)
        if (room(r)) return 1;
    return 0;
}

static int fill(mx_link *link) {
    embedded *e = (embedded *)link;
    int more = 0;
    uint32_t expired = 0;
    rounds++;
    for (reader *r = e->readers; r; r = r->next) {
        if (!r->subscribed || !r->queue->count || r->queue->round == rounds) continue;
        r->queue->round = rounds;
        more |= serve(r->queue, &expired);
    }
    return more || expired; /* a dead letter may lie where somebody was served already */
}

/* ---- publishing ------------------------------------------------------------------------------------------------- */

static mx_pub *open_pub(mx_link *link, uint32_t window, int confirm, double timeout, uint32_t ticket) {
    embedded *e = (embedded *)link;
    writer *w = mx_zalloc(sizeof *w);
    mx_runtime *r = e->base.runtime;
    mx_confirm_init(&w->base.confirm, window, timeout, waits(e), &r->timers, r->turn.confirm);
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
    writer **at = &e->writers;
    while (*at != w) at = &(*at)->next;
    *at = w->next;
    mx_confirm_lose(&w->base.confirm);
    mx_confirm_fini(&w->base.confirm);
    free(pub->error);
    free(w);
    post(e, ticket, done());
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

static mx_message *message_of(const mx_confirm *c, mx_span exchange, mx_span key, mx_span body, const mx_props *props,
                              int flags) {
    static uint8_t scratch[PROPS_MAX];
    mx_span bytes = {scratch, 0};
    if (props) {
        mx_props own;
        uint8_t id[MX_ID_SIZE];
        int n = mx_props_encode(mx_confirm_props(c, props, &own, id), scratch, sizeof scratch);
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

/* Why RabbitMQ would close the channel over this publish; NULL: it would not. */
static mx_reply *offence(const mx_route *route, mx_span exchange, const mx_props *props) {
    if (route->missing) return no_exchange(exchange);
    if (route->exchange && route->exchange->internal)
        return refused(403, "ACCESS_REFUSED - cannot publish to internal exchange '%.*s' in vhost '/'", TEXT(exchange));
    if (props && props->flags & MX_P_EXPIRATION && mx_expiration_ms(props->expiration) < 0)
        return refused(406, "PRECONDITION_FAILED - invalid expiration '%.*s'", TEXT(props->expiration));
    return NULL;
}

static void distribute(const mx_route *route, mx_message *m) {
    for (uint32_t i = 0; i < route->count; i++) {
        mx_message_ref(m);
        mx_queue_put(route->queue[i], m);
    }
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
    double seq = mx_confirm_add(c, now_of(w), timeout, 0);
    const mx_route *route = mx_store_route(e->store, exchange, key);
    mx_reply *why = offence(route, exchange, props);
    int full = mx_message_bytes() > e->store->bytes_max;
    if (why) close_channel(w, seq, why);
    else if (!route->count && flags & MX_MANDATORY) mx_confirm_returned(c, seq);
    else if (!full) distribute(route, m);
    else if (route->count && pub->confirm) mx_confirm_settle(c, (uint64_t)(seq - c->base), 0, 1);
    mx_message_unref(m);
    wake(e);
    return seq;
}

/* ---- the turn --------------------------------------------------------------------------------------------------- */

static void settle_all(embedded *e) {
    for (reader *r = e->readers; r; r = r->next) {
        uint32_t before = r->out;
        if (r->base.inbox.settled == r->base.inbox.head) continue;
        if (settle(r) || (r->out != before && r->queue && r->queue->count)) wake(e);
    }
}

static void confirm_all(embedded *e) {
    for (writer *w = e->writers; w; w = w->next) {
        mx_pub *pub = &w->base.confirm.pub;
        w->stamped = 0;
        if (pub->settled == pub->seq || pub->state != MX_OPEN) continue;
        mx_confirm_up_to(&w->base.confirm, pub->seq);
        wake(e);
    }
}

/* Also when its verdicts were not passed on yet: its link may be flushed after the publisher's. */
static int will_have_room(const reader *r) {
    const mx_inbox *ib = &r->base.inbox;
    return room(r) || (r->subscribed && ib->settled != ib->head && mx_inbox_at(ib, ib->settled)->verdict);
}

/* Confirms wait while a consumer is about to take more: a publisher that runs ahead of its consumers is held at its
 * window instead of filling the memory. A consumer without room holds nobody up. */
static int is_behind(const embedded *e) {
    for (const mx_link_base *l = e->base.runtime->links; l; l = l->next) {
        const embedded *other = (const embedded *)l;
        if (l->ops != e->base.ops || other->store != e->store) continue;
        for (const reader *r = other->readers; r; r = r->next)
            if (r->queue && r->queue->count && will_have_room(r)) return 1;
    }
    return 0;
}

static void flush(mx_link *link) {
    embedded *e = (embedded *)link;
    settle_all(e);
    if (e->writers && is_behind(e)) wake(e);
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
    settle_all(e);
    confirm_all(e); /* held back or not, it is in its queues */
    while (e->readers) close_inbox(&e->readers->base.inbox, 0);
    while (e->writers) close_pub(&e->writers->base.confirm.pub, 0);
    delete_exclusive(e);
    mx_store_put(e->store);
    mx_link_detach(&e->base);
    post(e, ticket, done());
    free(e);
}

static const mx_link_ops ops = {call,      consume, cancel, close_inbox, open_pub,   reopen_pub,
                                close_pub, publish, fill,   flush,       close_link, NULL};

mx_link *mx_embedded_open(mx_runtime *r, const mx_link_options *o, uint32_t ticket) {
    embedded *e = mx_zalloc(sizeof *e);
    e->base.ops = &ops;
    e->base.pub.state = MX_OPEN;
    e->base.pub.rpc_timeout = o->rpc_timeout;
    e->max_body = o->max_body;
    e->store = mx_store_get(o->host, &r->timers, lose_readers);
    mx_link_attach(r, &e->base);
    post(e, ticket, done());
    return &e->base.pub;
}
