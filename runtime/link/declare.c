/* declare.c - the calls that build and change what a mem:// broker holds. */
#include <stdio.h>
#include "broker/answer.h"
#include "link/embedded.h"
#include "message/props.h"

static int is_reserved(mx_span name) { return name.n >= 4 && !memcmp(name.p, "amq.", 4); }
static mx_reply *reserved(const char *kind, mx_span name) {
    return mx_refused(403, "ACCESS_REFUSED - %s name '%.*s' contains reserved prefix 'amq.*'", kind, MX_TEXT(name));
}

/* ---- queues ----------------------------------------------------------------------------------------------------- */

static mx_reply *counts(const mx_queue *q) {
    mx_reply *r = mx_reply_new(0, 0, q->named.name, q->named.size);
    r->messages = q->count;
    r->consumers = q->consumers;
    return r;
}

static int is_locked(const mx_embedded *e, const mx_queue *q) { return q->owner && q->owner != e; }

/* The queue, or NULL and why not: the part of every operation that works on one. */
static mx_queue *open_queue(mx_embedded *e, mx_span name, mx_reply **why) {
    mx_queue *q = mx_store_queue(e->store, name);
    if (!q) *why = mx_no_queue(name);
    else if (is_locked(e, q)) *why = mx_is_locked(name);
    else return q;
    return NULL;
}

static mx_reply *look_at_queue(mx_embedded *e, const mx_call *c) {
    mx_reply *bad = NULL;
    mx_queue *q = open_queue(e, c->name, &bad);
    if (!q) return bad;
    mx_queue_used(q);
    return counts(q);
}

static mx_reply *declare_again(mx_embedded *e, mx_queue *q, const mx_call *c, const mx_entry *args) {
    int durable = !!(c->flags & MX_F_DURABLE), auto_delete = !!(c->flags & MX_F_AUTO_DELETE);
    if (is_locked(e, q) || !!(c->flags & MX_F_EXCLUSIVE) != !!q->owner) return mx_is_locked(c->name);
    mx_reply *bad = mx_unequal_flag("durable", "queue", c->name, durable, q->durable);
    if (!bad) bad = mx_unequal_flag("auto_delete", "queue", c->name, auto_delete, q->auto_delete);
    if (!bad) bad = mx_args_differ(q, args);
    if (bad) return bad;
    mx_queue_used(q);
    return counts(q);
}

static mx_reply *declare_queue(mx_embedded *e, const mx_call *c) {
    mx_entry args[MX_ARGS];
    mx_queue *q = c->name.n ? mx_store_queue(e->store, c->name) : NULL;
    mx_args_collect(c->args, args);
    if (c->flags & MX_F_PASSIVE) return look_at_queue(e, c);
    if (is_reserved(c->name)) return reserved("queue", c->name);
    if (q) return declare_again(e, q, c, args);
    mx_reply *bad = mx_args_check(c->name, args, c->flags);
    if (bad) return bad;
    q = mx_queue_new(e->store, c->name, args);
    q->durable = !!(c->flags & MX_F_DURABLE);
    q->auto_delete = !!(c->flags & MX_F_AUTO_DELETE);
    q->owner = c->flags & MX_F_EXCLUSIVE ? e : NULL;
    return counts(q);
}

static mx_reply *delete_queue(mx_embedded *e, const mx_call *c) {
    mx_queue *q = mx_store_queue(e->store, c->name);
    if (!q) return mx_done();
    if (is_locked(e, q)) return mx_is_locked(c->name);
    mx_reply *r = counts(q);
    mx_queue_delete(q);
    return r;
}

static mx_reply *purge(mx_embedded *e, const mx_call *c) {
    mx_reply *r = NULL;
    mx_queue *q = open_queue(e, c->name, &r);
    if (!q) return r;
    if (q->special & MX_Q_STREAM)
        return mx_refused(540, "NOT_IMPLEMENTED - queue.purge not supported by stream queues queue '%.*s' in vhost '/'",
                          MX_TEXT(c->name));
    r = mx_done();
    r->messages = mx_queue_purge(q);
    return r;
}

/* ---- exchanges -------------------------------------------------------------------------------------------------- */

static const char *const types[] = {"direct", "fanout", "topic", "headers"};

static int type_of(mx_span name) {
    for (int i = MX_EX_DIRECT; i <= MX_EX_HEADERS; i++)
        if (mx_is(name, types[i])) return i;
    return -1;
}

static mx_reply *unequal_type(mx_span name, int got, int current) {
    char a[16], b[16];
    snprintf(a, sizeof a, "'%s'", types[got]);
    snprintf(b, sizeof b, "'%s'", types[current]);
    return mx_unequal("type", "exchange", name, a, b);
}

static mx_reply *unequal_alternate(const mx_exchange *x, const mx_entry *f) {
    char got[320], current[320];
    mx_entry mine = {.type = x->alternate ? 'S' : 0, .text = mx_span_of(x->alternate)};
    if (f->type == mine.type && mx_same(f->text, mine.text)) return NULL;
    mx_arg_words(f, mine.type, got, sizeof got);
    mx_arg_words(&mine, f->type, current, sizeof current);
    return mx_unequal("alternate-exchange", "exchange", mx_name_of(&x->named), got, current);
}

static mx_reply *exchange_again(const mx_exchange *x, const mx_call *c, int type, const mx_entry *alternate) {
    if (x->type != type) return unequal_type(c->name, type, x->type);
    mx_reply *bad = mx_unequal_flag("durable", "exchange", c->name, !!(c->flags & MX_F_DURABLE), x->durable);
    if (!bad) bad = mx_unequal_flag("auto_delete", "exchange", c->name, !!(c->flags & MX_F_AUTO_DELETE), x->auto_delete);
    if (!bad) bad = mx_unequal_flag("internal", "exchange", c->name, !!(c->flags & MX_F_INTERNAL), x->internal);
    if (!bad) bad = unequal_alternate(x, alternate);
    return bad ? bad : mx_done();
}

static mx_reply *exchange_first(mx_embedded *e, const mx_call *c, int type, const mx_entry *alternate) {
    if (is_reserved(c->name)) return reserved("exchange", c->name);
    if (alternate->type && alternate->type != 'S')
        return mx_refused(406,
                          "PRECONDITION_FAILED - invalid type '%s' for arg 'alternate-exchange' in exchange '%.*s' in vhost '/'",
                          mx_entry_type_name(alternate->type), MX_TEXT(c->name));
    mx_exchange *x = mx_exchange_new(e->store, c->name, type);
    x->durable = !!(c->flags & MX_F_DURABLE);
    x->auto_delete = !!(c->flags & MX_F_AUTO_DELETE);
    x->internal = !!(c->flags & MX_F_INTERNAL);
    x->alternate = alternate->type ? mx_strndup(alternate->text.p, alternate->text.n) : NULL;
    return mx_done();
}

static mx_reply *declare_exchange(mx_embedded *e, const mx_call *c) {
    mx_exchange *x = mx_store_exchange(e->store, c->name);
    mx_entry alternate;
    int type = type_of(c->source);
    mx_entry_find(c->args, mx_span_of("alternate-exchange"), &alternate);
    if (!c->name.n) return mx_is_default();
    if (c->flags & MX_F_PASSIVE) return x ? mx_done() : mx_no_exchange(c->name);
    if (type < 0) return mx_refused(503, "COMMAND_INVALID - unknown exchange type '%.*s'", MX_TEXT(c->source));
    return x ? exchange_again(x, c, type, &alternate) : exchange_first(e, c, type, &alternate);
}

static mx_reply *delete_exchange(mx_embedded *e, const mx_call *c) {
    mx_exchange *x = mx_store_exchange(e->store, c->name);
    if (!c->name.n) return mx_is_default();
    if (is_reserved(c->name))
        return mx_refused(403, "ACCESS_REFUSED - deletion of system exchange '%.*s' in vhost '/' not allowed", MX_TEXT(c->name));
    if (x) mx_exchange_delete(e->store, x);
    return mx_done();
}

/* ---- bindings --------------------------------------------------------------------------------------------------- */

static mx_reply *bad_match(mx_span args) {
    mx_entry f;
    if (mx_match_of(args) >= 0) return NULL;
    mx_entry_find(args, mx_span_of("x-match"), &f);
    if (f.type == 'S')
        return mx_refused(406,
                          "PRECONDITION_FAILED - Invalid x-match field value <<\"%.*s\">>; expected all, any, all-with-x, or "
                          "any-with-x",
                          MX_TEXT(f.text));
    if (f.type == 't')
        return mx_refused(406, "PRECONDITION_FAILED - Invalid x-match field type bool (value %s); expected longstr",
                          f.number ? "true" : "false");
    return mx_refused(406, "PRECONDITION_FAILED - Invalid x-match field type %s (value %lld); expected longstr",
                      mx_entry_type_name(f.type), (long long)f.number);
}

static mx_reply *bind_to(mx_embedded *e, const mx_call *c) {
    mx_ends b = {.from = mx_store_exchange(e->store, c->source), .key = c->key, .args = c->args};
    mx_reply *bad = NULL;
    if (!c->source.n || (c->op == MX_BIND_EXCHANGE && !c->name.n)) return mx_is_default();
    if (!b.from) return mx_no_exchange(c->source);
    if (c->op == MX_BIND_EXCHANGE && !(b.target = mx_store_exchange(e->store, c->name))) return mx_no_exchange(c->name);
    if (c->op == MX_BIND && !(b.queue = open_queue(e, c->name, &bad))) return bad;
    if (b.from->type == MX_EX_HEADERS && (bad = bad_match(c->args))) return bad;
    mx_store_bind(e->store, &b);
    return mx_done();
}

static mx_reply *unbind(mx_embedded *e, const mx_call *c) {
    mx_ends b = {mx_store_exchange(e->store, c->source), mx_store_queue(e->store, c->name), NULL, c->key, c->args};
    if (!c->source.n) return mx_is_default();
    if (b.from && b.queue) mx_store_unbind(e->store, &b);
    return mx_done();
}

static mx_reply *answer(mx_embedded *e, const mx_call *c) {
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

int mx_embedded_call(mx_link *link, const mx_call *c, uint32_t ticket) {
    mx_embedded *e = (mx_embedded *)link;
    mx_reply *r = answer(e, c);
    if (!r) return mx_refuse(MX_EINTERNAL, "unknown operation %u", c->op);
    mx_embedded_post(e, ticket, r);
    return 0;
}
