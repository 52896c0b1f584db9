/* reader.c - the consumers of a mem:// broker: who gets what, and what their verdicts do. */
#include <stdlib.h>
#include <string.h>
#include "broker/answer.h"
#include "broker/death.h"
#include "link/embedded.h"
#include "measure/account.h"
#include "message/props.h"

enum { SLICE_MAX = 1024, HEADERS_MAX = 131072 };
typedef mx_reader reader;
typedef mx_embedded embedded;

static uint32_t rounds;     /* counts fills of any link */
static uint64_t deliveries; /* counts deliveries where readers have priorities */

/* ---- subscribing ------------------------------------------------------------------------------------------------ */

/* A parked handler holds its slot but not the prefetch: twice the room lets what is behind it go on. */
static uint32_t ring_of(uint32_t prefetch) { return prefetch > UINT32_MAX / 2 ? prefetch : 2 * prefetch; }

static reader *new_reader(embedded *e, const mx_consume *o) {
    reader *r = mx_zalloc(sizeof *r);
    mx_inbox_init(&r->base.inbox, ring_of(o->prefetch));
    r->base.link = &e->base;
    r->held = mx_zalloc((r->base.inbox.mask + 1) * sizeof *r->held);
    mx_hold(MX_OF_BROKER, (r->base.inbox.mask + 1) * sizeof *r->held);
    r->prefetch = o->prefetch && o->prefetch <= r->base.inbox.mask ? o->prefetch : r->base.inbox.mask + 1;
    r->slice = o->prefetch ? o->prefetch : SLICE_MAX;
    if (r->slice > SLICE_MAX) r->slice = SLICE_MAX;
    r->no_ack = !!(o->flags & MX_F_NO_ACK);
    r->exclusive = !!(o->flags & MX_F_EXCLUSIVE);
    r->next = e->readers;
    e->readers = r;
    mx_link_take_channel(&e->base);
    return r;
}

static int in_exclusive_use(const mx_queue *q) {
    for (const reader *r = q->readers; r; r = r->beside)
        if (r->subscribed && r->exclusive) return 1;
    return 0;
}

static mx_reply *read_priority(reader *r, const mx_consume *o) {
    mx_entry f;
    if (!mx_entry_find(o->args, mx_span_of("x-priority"), &f)) return NULL;
    if (!mx_entry_is_integer(&f))
        return mx_bad_arg(o->queue, "x-priority", ": \"expected integer, got %s\"", mx_entry_type_name(f.type));
    r->priority = f.number;
    return NULL;
}

/* Quorum queues and streams know no exclusive consumers. */
static mx_reply *check_exclusive(const mx_queue *q, const reader *r) {
    if (q->special & (MX_Q_QUORUM | MX_Q_STREAM)) return NULL;
    if (in_exclusive_use(q) || (r->exclusive && (q->consumers || q->special & MX_Q_SINGLE)))
        return mx_in_use(mx_name_of(&q->named));
    return NULL;
}

static mx_reply *check_stream(const mx_queue *q, reader *r, const mx_consume *o) {
    mx_entry f;
    if (!(q->special & MX_Q_STREAM)) return NULL;
    if (!o->prefetch)
        return mx_refused(406, "PRECONDITION_FAILED - consumer prefetch count is not set for 'queue '%.*s' in vhost '/''",
                          MX_TEXT(o->queue));
    if (mx_entry_find(o->args, mx_span_of("x-priority"), &f))
        return mx_bad_arg(o->queue, "x-priority", " of queue type rabbit_stream_queue");
    mx_entry_find(o->args, mx_span_of("x-stream-offset"), &f);
    if (mx_stream_offset(q, &f, &r->offset)) return mx_bad_arg(o->queue, "x-stream-offset", ": there is no such offset");
    return NULL;
}

static mx_reply *check(embedded *e, reader *r, const mx_consume *o, mx_queue *q) {
    if (!q) return mx_no_queue(o->queue);
    if (q->owner && q->owner != e) return mx_is_locked(o->queue);
    mx_reply *bad = read_priority(r, o);
    if (!bad) bad = check_stream(q, r, o);
    return bad ? bad : check_exclusive(q, r);
}

static reader *active(const mx_queue *q) {
    reader *r = q->readers;
    while (r && (!r->subscribed || r->standby)) r = r->beside;
    return r;
}

/* Of a queue with a single active consumer only age counts. */
static void join(reader *r, mx_queue *q) {
    reader **at = &q->readers;
    r->standby = q->special & MX_Q_SINGLE && active(q);
    while (*at && (q->special & MX_Q_SINGLE || (*at)->priority >= r->priority)) at = &(*at)->beside;
    r->beside = *at;
    *at = r;
    r->queue = q;
    r->subscribed = 1;
    q->consumers++;
    if (r->priority) q->ranked = 1;
}

mx_inbox *mx_reader_open(mx_link *link, const mx_consume *o, uint32_t ticket) {
    embedded *e = (embedded *)link;
    reader *r = new_reader(e, o);
    mx_queue *q = mx_store_queue(e->store, o->queue);
    mx_reply *bad = check(e, r, o, q);
    if (!bad) join(r, q);
    r->base.inbox.state = bad ? MX_CLOSED : MX_OPEN;
    mx_embedded_post(e, ticket, bad ? bad : mx_done());
    return &r->base.inbox;
}

void mx_readers_lose(mx_queue *q) {
    for (reader *r = q->readers; r; r = r->beside) {
        r->queue = NULL;
        if (!r->subscribed) continue;
        r->subscribed = 0;
        r->base.inbox.cancelled = 1;
        r->base.inbox.state = MX_CLOSED;
        mx_embedded_wake((embedded *)r->base.link);
    }
    q->readers = q->turn = NULL;
}

static void promote(mx_queue *q) {
    if (!(q->special & MX_Q_SINGLE) || active(q)) return;
    for (reader *r = q->readers; r; r = r->beside) {
        if (!r->subscribed) continue;
        r->standby = 0;
        mx_embedded_wake((embedded *)r->base.link);
        return;
    }
}

static void unsubscribe(reader *r) {
    mx_queue *q = r->queue;
    if (!r->subscribed) return;
    r->subscribed = 0;
    q->consumers--;
    mx_queue_used(q);
    promote(q);
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

/* ---- verdicts --------------------------------------------------------------------------------------------------- */

/* Ends what the reader held at a position: its message goes on to whom the verdict says. MX_UNSETTLED: the reader
 * went. */
static void conclude(reader *r, uint32_t i, int verdict) {
    mx_msg *m = mx_inbox_at(&r->base.inbox, i);
    mx_held *h = &r->held[i & r->base.inbox.mask];
    if (m->own != h->message) mx_message_unref(m->own); /* a copy with x-delivery-count */
    m->own = NULL;
    r->out--;
    if (verdict == MX_ACK || !r->queue || r->no_ack || r->queue->special & MX_Q_STREAM) mx_message_unref(h->message);
    else if (verdict == MX_REJECT) mx_queue_bury(r->queue, h->message, "rejected");
    else mx_queue_return(r->queue, h, verdict == MX_REQUEUE);
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

/* Back to the queue, so that they stand there in their order. */
static void give_back(reader *r, uint32_t from, uint32_t to, int verdict) {
    mx_inbox *ib = &r->base.inbox;
    int forward = r->queue && r->queue->special & MX_Q_QUORUM;
    for (uint32_t n = to - from, k = 0; k < n; k++) {
        uint32_t i = forward ? from + k : to - 1 - k;
        if (i - ib->settled < ib->head - ib->settled && mx_inbox_at(ib, i)->sent) continue;
        conclude(r, i, verdict);
    }
}

/* What was not taken goes back; what was delivered without acks is gone. */
void mx_reader_cancel(mx_inbox *ib, uint32_t ticket) {
    reader *r = (reader *)ib;
    embedded *e = (embedded *)r->base.link;
    r->standby = 1;
    settle(r);
    give_back(r, ib->head, ib->tail, MX_REQUEUE);
    ib->tail = ib->head;
    unsubscribe(r);
    if (ib->state == MX_OPEN) ib->state = MX_CLOSING;
    mx_embedded_post(e, ticket, mx_done());
}

void mx_reader_close(mx_inbox *ib, uint32_t ticket) {
    reader *r = (reader *)ib;
    embedded *e = (embedded *)r->base.link;
    reader **at = &e->readers;
    r->standby = 1;
    settle(r);
    give_back(r, ib->settled, ib->tail, MX_UNSETTLED);
    unsubscribe(r);
    leave_queue(r);
    while (*at != r) at = &(*at)->next;
    *at = r->next;
    mx_link_give_channel(&e->base);
    ib->tail = ib->head = ib->settled; /* all is given back: nothing is left to drop */
    mx_let_go(MX_OF_BROKER, (ib->mask + 1) * sizeof *r->held);
    mx_inbox_fini(ib);
    free(r->held);
    free(r);
    mx_embedded_post(e, ticket, mx_done());
}

/* ---- deliveries ------------------------------------------------------------------------------------------------- */

/* How many more it may get now. */
static uint32_t room(const reader *r) {
    const mx_inbox *ib = &r->base.inbox;
    uint32_t free_slots = ib->mask + 1 - (ib->tail - ib->settled);
    if (!r->subscribed || r->standby || r->out >= r->prefetch) return 0;
    return r->prefetch - r->out < free_slots ? r->prefetch - r->out : free_slots;
}

/* A copy with a number among its headers; the message itself when it has no room for that. */
static mx_message *with_number(mx_message *m, const char *key, uint64_t number) {
    static uint8_t bytes[2 * HEADERS_MAX];
    int n = mx_props_with_number((mx_span){mx_message_props(m), m->props_size}, key, number, bytes, sizeof bytes);
    if (n < 0) return m;
    mx_message *copy = mx_message_new((mx_span){m->bytes, m->exchange_size}, (mx_span){mx_message_key(m), m->key_size},
                                      (mx_span){bytes, (size_t)n}, m->size);
    return mx_message_append(copy, mx_message_body(m), m->size);
}

/* What the consumer sees of it: of its queue as well, where it is not a plain one. */
static mx_message *shown(const reader *r, const mx_held *h) {
    if (r->queue->special & MX_Q_STREAM) return with_number(h->message, "x-stream-offset", h->place);
    return with_number(h->message, "x-delivery-count", h->returns);
}

static void deliver(reader *r, const mx_held *h) {
    mx_inbox *ib = &r->base.inbox;
    mx_msg *m = mx_inbox_slot(ib);
    mx_inbox_point(m, h->returns ? shown(r, h) : h->message);
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
        if (r->budget > r->slice && !q->ranked) r->budget = r->slice;
    }
}

/* The one with the highest priority that has some budget left; among equals the one that waited longest. */
static reader *first_by_rank(mx_queue *q) {
    reader *best = NULL;
    for (reader *r = q->readers; r && !(best && best->priority > r->priority); r = r->beside)
        if (r->budget && (!best || r->served < best->served)) best = r;
    if (best) best->served = ++deliveries;
    return best;
}

/* The next reader in turn that has some budget left. */
static reader *next_reader(mx_queue *q) {
    if (q->ranked) return first_by_rank(q);
    reader *start = q->turn ? q->turn : q->readers, *r = start;
    while (r && !r->budget) {
        r = r->beside ? r->beside : q->readers;
        if (r == start) return NULL;
    }
    return r;
}

static int has_more(const reader *r) {
    const mx_queue *q = r->queue;
    return q->special & MX_Q_STREAM ? r->offset < q->place : q->count != 0;
}

/* Each reader of a stream gets a slice of its own. */
static int serve_stream(mx_queue *q) {
    int more = 0;
    give_budgets(q);
    for (reader *r = q->readers; r; r = r->beside) {
        if (r->offset < mx_stream_first(q)) r->offset = mx_stream_first(q); /* what it had still to get is forgotten */
        for (; r->budget && has_more(r); r->budget--) {
            const mx_held *h = mx_stream_at(q, r->offset++);
            mx_message_ref(h->message);
            deliver(r, h);
            q->store->delivered++;
        }
        more |= has_more(r) && room(r);
    }
    return more;
}

/* One slice for each reader of the queue, one message each in turn. 1: somebody has room for more. */
static int serve(mx_queue *q, uint32_t *expired) {
    mx_held held;
    reader *r;
    mx_store *s = q->store;
    uint32_t n = 0;
    int more = 0;
    if (q->special & MX_Q_STREAM) return serve_stream(q);
    mx_letters_hold(s); /* a letter to this queue must not be served in the middle */
    give_budgets(q);
    while (q->count && (r = next_reader(q))) {
        if (!mx_queue_take(q, &held, expired)) break;
        deliver(r, &held);
        r->budget--;
        q->turn = r->beside;
        n++;
    }
    s->delivered += n;
    for (r = q->count ? q->readers : NULL; r; r = r->beside) more |= room(r) != 0;
    mx_letters_release(s);
    return more;
}

int mx_readers_fill(mx_link *link) {
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

void mx_readers_offer(mx_queue *q) {
    uint32_t expired = 0;
    if (!q->consumers) return;
    serve(q, &expired);
    for (const reader *r = q->readers; r; r = r->beside)
        if (r->base.inbox.tail != r->base.inbox.head) mx_embedded_wake((embedded *)r->base.link);
}

/* ---- the turn --------------------------------------------------------------------------------------------------- */

void mx_readers_settle(embedded *e) {
    for (reader *r = e->readers; r; r = r->next) {
        uint32_t before = r->out;
        mx_inbox_began(&r->base.inbox);
        if (r->base.inbox.settled == r->base.inbox.head) continue;
        if (settle(r) || (r->out != before && r->queue && has_more(r))) mx_embedded_wake(e);
    }
}

/* Also when its verdicts were not passed on yet: its link may be flushed after the publisher's. */
static int will_have_room(const reader *r) {
    const mx_inbox *ib = &r->base.inbox;
    return room(r) || (ib->settled != ib->head && mx_inbox_at(ib, ib->settled)->verdict);
}

uint64_t mx_reader_lag(const reader *r) {
    const mx_queue *q = r->queue;
    if (!r->subscribed || r->standby || !has_more(r) || !will_have_room(r)) return 0;
    return q->special & MX_Q_STREAM ? q->place - r->offset : q->count;
}
