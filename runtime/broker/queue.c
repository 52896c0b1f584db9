/* queue.c - a queue of the embedded broker. */
#include "broker/queue.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/clock.h"
#include "measure/account.h"
#include "broker/death.h"

enum { ROOM = 16 };

/* ---- shelves ---------------------------------------------------------------------------------------------------- */

static inline mx_held *at(const mx_shelf *h, uint32_t i) { return &h->held[(h->head + i) & h->mask]; }

static void grow(mx_shelf *h) {
    uint32_t room = h->held ? 2 * (h->mask + 1) : ROOM;
    mx_held *bigger = mx_realloc(NULL, room * sizeof *bigger);
    mx_hold(MX_OF_BROKER, (room - (h->held ? h->mask + 1 : 0)) * sizeof *bigger);
    for (uint32_t i = 0; i < h->count; i++) bigger[i] = *at(h, i);
    free(h->held);
    h->held = bigger;
    h->mask = room - 1;
    h->head = 0;
}

static inline int is_full(const mx_shelf *h) { return h->count > h->mask || !h->held; }

/* Room for one more at the end, to be filled in. */
static inline mx_held *append(mx_queue *q, mx_shelf *h) {
    if (is_full(h)) grow(h);
    q->count++;
    return at(h, h->count++);
}

/* In the place it had before. */
static void insert(mx_queue *q, mx_shelf *h, const mx_held *held) {
    uint32_t i = 0;
    if (is_full(h)) grow(h);
    h->head = (h->head - 1) & h->mask;
    h->count++;
    q->count++;
    for (; i + 1 < h->count && at(h, i + 1)->place < held->place; i++) *at(h, i) = *at(h, i + 1);
    *at(h, i) = *held;
}

/* The one that holds the head of the queue. */
static inline mx_shelf *front(mx_queue *q) {
    while (q->top && !q->shelf[q->top].count) q->top--;
    return &q->shelf[q->top];
}

static mx_shelf *open_shelf(mx_queue *q, uint32_t i) {
    if (i > q->top) q->top = i;
    return &q->shelf[i];
}

static uint64_t head_due(mx_queue *q) { return q->count ? at(front(q), 0)->due_us : 0; }

/* Takes the head off; there is one. */
static inline void pop(mx_queue *q, mx_shelf *h, mx_held *out) {
    *out = *at(h, 0);
    h->head = (h->head + 1) & h->mask;
    h->count--;
    q->count--;
    if (q->special & MX_Q_LIMIT) q->bytes -= out->message->size;
}

static mx_message *pop_message(mx_queue *q) {
    mx_held held;
    pop(q, front(q), &held);
    return held.message;
}

/* ---- time ------------------------------------------------------------------------------------------------------- */

/* The timer guards the head only, as messages expire at RabbitMQ; one that is early just looks again. */
static void arm(mx_queue *q) {
    uint64_t due = head_due(q);
    if (!due || !q->store->timers || (q->ttl.place && q->ttl.due_us <= due)) return;
    mx_timer_set(q->store->timers, &q->ttl, due);
}

/* No more than were there at the start: a queue may be its own dead-letter target. */
static void drop_expired(mx_queue *q, uint64_t now, uint32_t *expired) {
    mx_letters_hold(q->store);
    for (uint64_t due; (due = head_due(q)) && due <= now; ++*expired) mx_queue_bury(q, pop_message(q), "expired");
    mx_letters_release(q->store);
}

static void on_ttl(mx_timer *t, void *arg) {
    uint64_t now = mx_clock_us();
    uint32_t expired = 0;
    drop_expired(arg, now > t->due_us ? now : t->due_us, &expired);
    arm(arg);
}

static void on_unused(mx_timer *t, void *arg) {
    mx_queue *q = arg;
    (void)t;
    if (q->consumers) mx_queue_used(q);
    else mx_queue_delete(q);
}

int64_t mx_expiration_ms(mx_span text) {
    int64_t ms = 0;
    if (!text.n || text.n > 17) return -1;
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] < '0' || text.p[i] > '9') return -1;
        ms = 10 * ms + text.p[i] - '0';
    }
    return ms;
}

static int has_expiration(mx_message *m) { return m->props_size >= 2 && mx_message_props(m)[0] & MX_P_EXPIRATION >> 8; }

static uint64_t due_of(const mx_queue *q, mx_message *m) {
    int64_t ms = q->arg[MX_ARG_TTL].type ? q->arg[MX_ARG_TTL].number : -1, own;
    mx_props p;
    if (has_expiration(m) && !mx_props_decode(mx_message_props(m), m->props_size, &p) &&
        (own = mx_expiration_ms(p.expiration)) >= 0 && (ms < 0 || own < ms))
        ms = own;
    return ms < 0 ? 0 : mx_clock_us() + (uint64_t)ms * 1000;
}

/* ---- in --------------------------------------------------------------------------------------------------------- */

static uint32_t shelf_of(const mx_queue *q, mx_message *m) {
    mx_props p;
    if (!(q->special & MX_Q_PRIORITY) || mx_props_decode(mx_message_props(m), m->props_size, &p)) return 0;
    uint32_t priority = p.flags & MX_P_PRIORITY ? p.priority : 0;
    return priority < q->shelves ? priority : q->shelves - 1;
}

static int is_over(const mx_queue *q, uint64_t count, uint64_t bytes) {
    const mx_arg *length = &q->arg[MX_ARG_MAX_LENGTH], *size = &q->arg[MX_ARG_MAX_BYTES];
    return (length->type && count > (uint64_t)length->number) || (size->type && bytes > (uint64_t)size->number);
}

/* A consumer with room takes what RabbitMQ would have handed to it at once: that does not count. */
static void offer(mx_queue *q) {
    if (q->count && q->store->offer) q->store->offer(q);
}

static void trim(mx_queue *q) {
    if (!(q->special & MX_Q_LIMIT) || q->special & MX_Q_REFUSES || !is_over(q, q->count, q->bytes)) return;
    offer(q);
    mx_letters_hold(q->store);
    while (q->count && is_over(q, q->count, q->bytes)) mx_queue_bury(q, pop_message(q), "maxlen");
    mx_letters_release(q->store);
}

static int refuse(mx_queue *q, mx_message *m) {
    const char *overflow = q->arg[MX_ARG_OVERFLOW].text;
    if (!strcmp(overflow, "reject-publish-dlx")) mx_queue_bury(q, m, "maxlen");
    else mx_message_unref(m);
    return 1;
}

/* What is due at once reaches a consumer that waits for it, or nobody. */
static void hand_over(mx_queue *q, uint64_t now) {
    uint32_t expired = 0;
    q->fresh = 1;
    offer(q);
    q->fresh = 0;
    drop_expired(q, now, &expired);
}

static void put_in_stream(mx_queue *q, mx_message *m);

static int put_special(mx_queue *q, mx_message *m) {
    if (q->special & MX_Q_STREAM) {
        put_in_stream(q, m);
        return 0;
    }
    uint64_t due = due_of(q, m), now = due ? mx_clock_us() : 0;
    if (q->special & MX_Q_REFUSES || (due && due <= now)) offer(q);
    if (q->special & MX_Q_REFUSES && is_over(q, q->count + 1ull, q->bytes + m->size)) return refuse(q, m);
    *append(q, open_shelf(q, shelf_of(q, m))) = (mx_held){.message = m, .place = q->place++, .due_us = due};
    if (q->special & MX_Q_LIMIT) q->bytes += m->size;
    trim(q);
    if (due && due <= now) hand_over(q, now);
    arm(q);
    return 0;
}

int mx_queue_put(mx_queue *q, mx_message *m) {
    if (q->special || has_expiration(m)) return put_special(q, m);
    *append(q, q->shelf) = (mx_held){.message = m, .place = q->place++};
    return 0;
}

/* What a consumer requeues goes to the end when there is no delivery limit, as RabbitMQ 3.10 writes it anew then. */
static void return_to_quorum(mx_queue *q, mx_held h, int by_hand) {
    const mx_arg *limit = &q->arg[MX_ARG_DELIVERY_LIMIT];
    int limited = limit->type && limit->type != 'S';
    h.returns++;
    if (limited && (limit->number < 0 || h.returns > limit->number)) mx_queue_bury(q, h.message, "delivery_limit");
    else *append(q, open_shelf(q, limited || !by_hand)) = h;
}

void mx_queue_return(mx_queue *q, const mx_held *held, int by_hand) {
    mx_held h = *held;
    h.redelivered = 1;
    if (q->special & MX_Q_LIMIT) q->bytes += h.message->size;
    if (q->special & MX_Q_QUORUM) return_to_quorum(q, h, by_hand);
    else insert(q, open_shelf(q, shelf_of(q, h.message)), &h);
    trim(q);
    arm(q);
}

/* ---- out -------------------------------------------------------------------------------------------------------- */

int mx_queue_take(mx_queue *q, mx_held *out, uint32_t *expired) {
    mx_shelf *h = front(q);
    if (!q->count) return 0;
    if (at(h, 0)->due_us && !q->fresh) {
        drop_expired(q, mx_clock_us(), expired);
        h = front(q);
        if (!q->count) return 0;
    }
    pop(q, h, out);
    if (h->count ? at(h, 0)->due_us != 0 : q->top != 0) arm(q);
    return 1;
}

uint32_t mx_queue_purge(mx_queue *q) {
    uint32_t n = q->count;
    while (q->count) mx_message_unref(pop_message(q));
    return n;
}

/* ---- streams ---------------------------------------------------------------------------------------------------- */

int64_t mx_stream_age_s(mx_span text) {
    static const char units[] = "smhDMY";
    static const int64_t seconds[] = {1, 60, 3600, 86400, 30 * 86400, 365 * 86400};
    const char *unit = text.n > 1 ? memchr(units, text.p[text.n - 1], 6) : NULL;
    int64_t n = unit ? mx_expiration_ms((mx_span){text.p, text.n - 1}) : -1;
    return n < 0 || n > UINT32_MAX ? -1 : n * seconds[unit - units];
}

/* RabbitMQ drops whole segments; here it is to the message. */
static void forget_old(mx_queue *q, uint32_t now) {
    const mx_arg *age = &q->arg[MX_ARG_MAX_AGE];
    int64_t oldest = age->type ? (int64_t)now - mx_stream_age_s(mx_span_of(age->text)) : 0;
    while (q->count > 1 && (is_over(q, 0, q->bytes) || at(q->shelf, 0)->returns < oldest)) mx_message_unref(pop_message(q));
}

static void put_in_stream(mx_queue *q, mx_message *m) {
    uint32_t now = (uint32_t)time(NULL);
    *append(q, q->shelf) = (mx_held){.message = m, .place = q->place++, .returns = now};
    if (q->special & MX_Q_LIMIT) q->bytes += m->size;
    forget_old(q, now);
}

uint64_t mx_stream_first(const mx_queue *q) { return q->place - q->count; }
const mx_held *mx_stream_at(const mx_queue *q, uint64_t offset) { return at(q->shelf, (uint32_t)(offset - mx_stream_first(q))); }

static uint64_t offset_at(const mx_queue *q, int64_t since) {
    uint64_t i = mx_stream_first(q);
    while (i < q->place && mx_stream_at(q, i)->returns < since) i++;
    return i;
}

static int offset_by_word(const mx_queue *q, mx_span word, uint64_t *offset) {
    int64_t age = mx_stream_age_s(word);
    if (mx_is(word, "first")) *offset = mx_stream_first(q);
    else if (mx_is(word, "next")) *offset = q->place;
    else if (mx_is(word, "last")) *offset = q->count ? q->place - 1 : q->place;
    else if (age >= 0) *offset = offset_at(q, time(NULL) - age);
    else return MX_EVALIDATION;
    return 0;
}

int mx_stream_offset(const mx_queue *q, const mx_entry *asked, uint64_t *offset) {
    uint64_t first = mx_stream_first(q);
    *offset = q->place;
    if (!asked->type) return 0;
    if (asked->type == 'S') return offset_by_word(q, asked->text, offset);
    if (asked->type == 'T') *offset = offset_at(q, asked->number);
    else if (!mx_entry_is_integer(asked)) return MX_EVALIDATION;
    else if (asked->number < (int64_t)first) *offset = first;
    else if (asked->number < (int64_t)q->place) *offset = (uint64_t)asked->number;
    return 0;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static mx_span own_name(mx_store *s, char text[static 48]) {
    do snprintf(text, 48, "amq.gen-%016llx", (unsigned long long)mx_random());
    while (mx_store_queue(s, mx_span_of(text)));
    return mx_span_of(text);
}

static uint32_t special_of(const mx_arg *arg) {
    const char *overflow = arg[MX_ARG_OVERFLOW].text, *type = arg[MX_ARG_TYPE].text;
    uint32_t special = arg[MX_ARG_TTL].type ? MX_Q_TTL : 0;
    if (type && !strcmp(type, "quorum")) special |= MX_Q_QUORUM;
    if (type && !strcmp(type, "stream")) special |= MX_Q_STREAM;
    if (arg[MX_ARG_MAX_LENGTH].type || arg[MX_ARG_MAX_BYTES].type) {
        special |= MX_Q_LIMIT;
        if (overflow && !strncmp(overflow, "reject-publish", 14)) special |= MX_Q_REFUSES;
    }
    if (arg[MX_ARG_MAX_PRIORITY].number > 0) special |= MX_Q_PRIORITY;
    if (arg[MX_ARG_SINGLE].number) special |= MX_Q_SINGLE;
    return special;
}

static void build_shelves(mx_queue *q) {
    q->shelves = q->special & MX_Q_QUORUM ? 2 : 1;
    if (q->special & MX_Q_PRIORITY) q->shelves = (uint32_t)q->arg[MX_ARG_MAX_PRIORITY].number + 1;
    q->shelf = mx_zalloc(q->shelves * sizeof *q->shelf);
}

mx_queue *mx_queue_new(mx_store *s, mx_span name, const mx_entry *args) {
    char own[48];
    mx_queue *q = mx_zalloc(sizeof *q);
    mx_names_enter(&s->queues, &q->named, name.n ? name : own_name(s, own));
    q->store = s;
    q->place = 1;
    for (int i = 0; args && i < MX_ARGS; i++)
        q->arg[i] =
            (mx_arg){args[i].type, args[i].number, args[i].type == 'S' ? mx_strndup(args[i].text.p, args[i].text.n) : NULL};
    q->special = special_of(q->arg);
    if (q->special & MX_Q_STREAM) q->place = 0;
    build_shelves(q);
    q->ttl.fire = on_ttl;
    q->expires.fire = on_unused;
    q->ttl.arg = q->expires.arg = q;
    s->generation++;
    mx_queue_used(q);
    return q;
}

void mx_queue_used(mx_queue *q) {
    if (!q->arg[MX_ARG_EXPIRES].type) return;
    q->unused_due_us = mx_clock_us() + (uint64_t)q->arg[MX_ARG_EXPIRES].number * 1000;
    if (q->store->timers) mx_timer_set(q->store->timers, &q->expires, q->unused_due_us);
}

void mx_queue_wake(mx_queue *q) {
    uint64_t now = mx_clock_us();
    uint32_t expired;
    if (q->unused_due_us && q->unused_due_us <= now) {
        mx_queue_delete(q);
        return;
    }
    if (q->unused_due_us) mx_timer_set(q->store->timers, &q->expires, q->unused_due_us);
    drop_expired(q, now, &expired);
    arm(q);
}

void mx_queue_sleep(mx_queue *q) {
    mx_timer_stop(q->store->timers, &q->ttl);
    mx_timer_stop(q->store->timers, &q->expires);
}

void mx_queue_delete(mx_queue *q) {
    mx_store *s = q->store;
    if (s->gone) s->gone(q);
    mx_queue_purge(q);
    if (q->ttl.place) mx_timer_stop(s->timers, &q->ttl);
    if (q->expires.place) mx_timer_stop(s->timers, &q->expires);
    mx_names_leave(&s->queues, &q->named);
    mx_store_unbind_queue(s, q);
    s->generation++;
    for (int i = 0; i < MX_ARGS; i++) free(q->arg[i].text);
    for (uint32_t i = 0; i < q->shelves; i++) {
        if (q->shelf[i].held) mx_let_go(MX_OF_BROKER, (q->shelf[i].mask + 1) * sizeof *q->shelf[i].held);
        free(q->shelf[i].held);
    }
    free(q->shelf);
    free(q);
}
