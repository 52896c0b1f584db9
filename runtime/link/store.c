/* store.c - exchanges, bindings and queues of the embedded broker. */
#include "link/store.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "message/props.h"

static mx_store *stores;

static int same(const char *a, mx_span b) { return !strncmp(a, (const char *)b.p, b.n) && !a[b.n]; }

mx_queue *mx_store_queue(mx_store *s, mx_span name) {
    mx_queue *q = s->queues;
    while (q && !same(q->name, name)) q = q->next;
    return q;
}

mx_exchange *mx_store_exchange(mx_store *s, mx_span name) {
    mx_exchange *x = s->exchanges;
    while (x && !same(x->name, name)) x = x->next;
    return x;
}

mx_store *mx_store_get(const char *name, mx_timers *timers) {
    static const struct { const char *name; int type; } predeclared[] = {{"amq.direct", MX_EX_DIRECT}, {"amq.fanout", MX_EX_FANOUT}, {"amq.topic", MX_EX_TOPIC}};
    for (mx_store *s = stores; s; s = s->next)
        if (!strcmp(s->name, name)) return s;
    mx_store *s = mx_zalloc(sizeof *s);
    s->name = mx_strndup(name, strlen(name));
    s->timers = timers;
    s->generation = 1;
    s->next = stores;
    stores = s;
    for (size_t i = 0; i < sizeof predeclared / sizeof *predeclared; i++)
        mx_exchange_new(s, mx_span_of(predeclared[i].name), predeclared[i].type)->durable = 1;
    return s;
}

void mx_store_forget(mx_store *s) {
    while (s->queues) mx_queue_delete(s->queues);
    while (s->exchanges) mx_exchange_delete(s, s->exchanges);
    for (mx_store **at = &stores; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    free(s->found);
    free(s->name);
    free(s);
}

/* ---- exchanges and bindings ------------------------------------------------------------------------------------ */

mx_exchange *mx_exchange_new(mx_store *s, mx_span name, int type) {
    mx_exchange *x = mx_zalloc(sizeof *x);
    x->name = mx_strndup(name.p, name.n);
    x->type = type;
    x->next = s->exchanges;
    s->exchanges = x;
    s->generation++;
    return x;
}

static void drop(mx_binding **at) {
    mx_binding *b = *at;
    *at = b->next;
    free(b->key);
    free(b);
}

/* Bindings of the exchange for which only queue or target matter; an auto-delete one goes with its last. */
static void unbind_all(mx_store *s, mx_queue *queue, mx_exchange *target) {
    for (mx_exchange *x = s->exchanges, *next; x; x = next) {
        next = x->next;
        int dropped = 0;
        for (mx_binding **at = &x->bindings; *at;)
            if ((*at)->queue == queue && (*at)->target == target) drop(at), dropped = 1;
            else at = &(*at)->next;
        if (dropped && !x->bindings && x->auto_delete) mx_exchange_delete(s, x);
    }
}

void mx_exchange_delete(mx_store *s, mx_exchange *x) {
    for (mx_exchange **at = &s->exchanges; *at; at = &(*at)->next)
        if (*at == x) {
            *at = x->next;
            break;
        }
    while (x->bindings) drop(&x->bindings);
    unbind_all(s, NULL, x);
    s->generation++;
    free(x->name);
    free(x);
}

void mx_store_bind(mx_store *s, mx_exchange *from, mx_queue *queue, mx_exchange *target, mx_span key) {
    for (mx_binding *b = from->bindings; b; b = b->next)
        if (b->queue == queue && b->target == target && same(b->key, key)) return;
    mx_binding *b = mx_zalloc(sizeof *b);
    b->queue = queue;
    b->target = target;
    b->key = mx_strndup(key.p, key.n);
    b->next = from->bindings;
    from->bindings = b;
    s->generation++;
}

void mx_store_unbind(mx_store *s, mx_exchange *from, mx_queue *queue, mx_span key) {
    for (mx_binding **at = &from->bindings; *at; at = &(*at)->next)
        if ((*at)->queue == queue && same((*at)->key, key)) {
            drop(at);
            break;
        }
    s->generation++;
    if (from->auto_delete && !from->bindings) mx_exchange_delete(s, from);
}

static size_t word(const char *p, size_t n) {
    size_t i = 0;
    while (i < n && p[i] != '.') i++;
    return i;
}

static int matches(const char *p, size_t pn, const char *k, size_t kn, int at_end) {
    /* at_end: the key's words are used up */
    size_t w = word(p, pn);
    int last = w == pn;
    const char *rest = last ? p + pn : p + w + 1;
    size_t rest_n = last ? 0 : pn - w - 1;
    if (w == 1 && *p == '#') {
        if (last) return 1;
        for (;;) {
            if (matches(rest, rest_n, k, kn, at_end)) return 1;
            if (at_end) return 0;
            size_t kw = word(k, kn);
            at_end = kw == kn;
            k += at_end ? kn : kw + 1;
            kn -= at_end ? kn : kw + 1;
        }
    }
    if (at_end) return 0;
    size_t kw = word(k, kn);
    if (!(w == 1 && *p == '*') && (w != kw || memcmp(p, k, w))) return 0;
    int key_last = kw == kn;
    if (last) return key_last;
    return matches(rest, rest_n, key_last ? k + kn : k + kw + 1, key_last ? 0 : kn - kw - 1, key_last);
}

int mx_topic_matches(const char *pattern, mx_span key) {
    return matches(pattern, strlen(pattern), (const char *)key.p, key.n, 0);
}

static void found(mx_store *s, mx_queue *q) {
    for (size_t i = 0; i < s->found_count; i++)
        if (s->found[i] == q) return;
    if (s->found_count == s->found_room)
        s->found = mx_realloc(s->found, (s->found_room = s->found_room ? 2 * s->found_room : 8) * sizeof *s->found);
    s->found[s->found_count++] = q;
}

static int applies(const mx_exchange *x, const mx_binding *b, mx_span key) {
    if (x->type == MX_EX_FANOUT) return 1;
    if (x->type == MX_EX_TOPIC) return mx_topic_matches(b->key, key);
    return same(b->key, key);
}

static void follow(mx_store *s, mx_exchange *x, mx_span key) {
    if (x->mark == s->mark) return;
    x->mark = s->mark;
    for (mx_binding *b = x->bindings; b; b = b->next) {
        if (!applies(x, b, key)) continue;
        if (b->queue) found(s, b->queue);
        else follow(s, b->target, key);
    }
}

static int remembers(const mx_store *s, mx_span exchange, mx_span key) {
    return s->last.generation == s->generation && s->last.exchange[0] == exchange.n && s->last.key[0] == key.n &&
           !memcmp(s->last.exchange + 1, exchange.p, exchange.n) && !memcmp(s->last.key + 1, key.p, key.n);
}

int mx_store_route(mx_store *s, mx_span exchange, mx_span key) {
    if (remembers(s, exchange, key)) return s->last.code;
    s->found_count = 0;
    s->last.code = 0;
    if (!exchange.n) {
        mx_queue *q = mx_store_queue(s, key);
        if (q) found(s, q);
    } else {
        mx_exchange *x = mx_store_exchange(s, exchange);
        s->mark++;
        if (x) follow(s, x, key);
        else s->last.code = -1;
    }
    s->last.generation = s->generation;
    s->last.exchange[0] = (uint8_t)exchange.n;
    s->last.key[0] = (uint8_t)key.n;
    memcpy(s->last.exchange + 1, exchange.p, exchange.n);
    memcpy(s->last.key + 1, key.p, key.n);
    return s->last.code;
}

/* ---- queues --------------------------------------------------------------------------------------------------------- */

static mx_held *at(mx_queue *q, uint32_t i) { return &q->held[(q->head + i) & q->mask]; }

static void on_ttl(mx_timer *t, void *arg) {
    mx_queue *q = arg;
    uint64_t now = mx_clock_us();
    mx_held held;
    (void)t;
    while (q->count && at(q, 0)->due_us && at(q, 0)->due_us <= now && mx_queue_take(q, &held)) mx_queue_bury(q, held.message, "expired");
    if (q->count && at(q, 0)->due_us) mx_timer_set(q->store->timers, &q->ttl, at(q, 0)->due_us);
}

static void on_expires(mx_timer *t, void *arg) {
    mx_queue *q = arg;
    (void)t;
    if (q->consumers) mx_queue_used(q);
    else mx_queue_delete(q);
}

mx_queue *mx_queue_new(mx_store *s, mx_span name) {
    char own[48];
    mx_queue *q = mx_zalloc(sizeof *q);
    if (!name.n) name = (mx_span){(uint8_t *)own, (size_t)snprintf(own, sizeof own, "amq.gen-%08x%08x", (unsigned)mx_clock_us(), ++s->names)};
    q->name = mx_strndup(name.p, name.n);
    q->store = s;
    q->mask = 15;
    q->held = mx_zalloc(16 * sizeof *q->held);
    q->place = UINT64_MAX / 2;
    q->ttl_ms = q->expires_ms = -1;
    q->ttl.fire = on_ttl;
    q->expires.fire = on_expires;
    q->ttl.arg = q->expires.arg = q;
    q->next = s->queues;
    s->queues = q;
    s->generation++;
    return q;
}

void mx_queue_used(mx_queue *q) {
    if (q->expires_ms >= 0) mx_timer_set(q->store->timers, &q->expires, mx_clock_us() + (uint64_t)q->expires_ms * 1000);
}

uint32_t mx_queue_purge(mx_queue *q) {
    uint32_t n = q->count;
    mx_held held;
    while (mx_queue_take(q, &held)) mx_message_unref(held.message);
    return n;
}

void mx_queue_delete(mx_queue *q) {
    mx_store *s = q->store;
    mx_queue_purge(q);
    mx_timer_stop(s->timers, &q->ttl);
    mx_timer_stop(s->timers, &q->expires);
    for (mx_queue **at = &s->queues; *at; at = &(*at)->next)
        if (*at == q) {
            *at = q->next;
            break;
        }
    unbind_all(s, q, NULL);
    s->generation++;
    free(q->name);
    free(q->held);
    free(q->dead_exchange);
    free(q->dead_key);
    free(q);
}

static void grow(mx_queue *q) {
    uint32_t room = 2 * (q->mask + 1);
    mx_held *bigger = mx_zalloc(room * sizeof *bigger);
    for (uint32_t i = 0; i < q->count; i++) bigger[i] = *at(q, i);
    free(q->held);
    q->held = bigger;
    q->mask = room - 1;
    q->head = 0;
}

/* The message's own expiration, in ms; -1: none. */
static int64_t expiration(mx_message *m) {
    mx_props p;
    if (m->props_size < 2 || !(mx_message_props(m)[0] & 1)) return -1;      /* MX_P_EXPIRATION's bit */
    if (mx_props_decode(mx_message_props(m), m->props_size, &p) || !(p.flags & MX_P_EXPIRATION)) return -1;
    char text[24] = {0};
    memcpy(text, p.expiration.p, p.expiration.n < 23 ? p.expiration.n : 23);
    return atoll(text);
}

static uint64_t due(mx_queue *q, mx_message *m) {
    int64_t ms = expiration(m);
    if (ms < 0 || (q->ttl_ms >= 0 && q->ttl_ms < ms)) ms = q->ttl_ms;
    return ms < 0 ? 0 : mx_clock_us() + (uint64_t)ms * 1000;
}

void mx_queue_put(mx_queue *q, mx_message *m) {
    if (q->count > q->mask) grow(q);
    mx_held *h = at(q, q->count++);
    *h = (mx_held){m, q->place++, due(q, m)};
    if (h->due_us && q->count == 1) mx_timer_set(q->store->timers, &q->ttl, h->due_us);
}

int mx_queue_take(mx_queue *q, mx_held *out) {
    if (!q->count) return 0;
    *out = *at(q, 0);
    q->head = (q->head + 1) & q->mask;
    q->count--;
    if (q->ttl.place && q->count && at(q, 0)->due_us) mx_timer_set(q->store->timers, &q->ttl, at(q, 0)->due_us);
    return 1;
}

void mx_queue_return(mx_queue *q, mx_message *m, uint64_t place) {
    if (q->count > q->mask) grow(q);
    q->head = (q->head - 1) & q->mask;
    q->count++;
    uint32_t i = 0;
    for (; i + 1 < q->count && at(q, i + 1)->place < place; i++) *at(q, i) = *at(q, i + 1);
    m->redelivered = 1;
    *at(q, i) = (mx_held){m, place, due(q, m)};
    if (at(q, 0)->due_us) mx_timer_set(q->store->timers, &q->ttl, at(q, 0)->due_us);
}

void mx_queue_bury(mx_queue *q, mx_message *m, const char *reason) {
    (void)reason;
    mx_store *s = q->store;
    mx_span key = q->dead_key ? mx_span_of(q->dead_key) : (mx_span){mx_message_key(m), m->key_size};
    if (!q->dead_exchange || mx_store_route(s, mx_span_of(q->dead_exchange), key)) {
        mx_message_unref(m);
        return;
    }
    /* what expired or was rejected is published anew: another exchange and key, and no expiration of its own */
    mx_props p;
    uint8_t scratch[65536];
    mx_span props = {mx_message_props(m), m->props_size};
    if (!mx_props_decode(props.p, props.n, &p) && p.flags & MX_P_EXPIRATION) {
        p.flags &= ~(uint32_t)MX_P_EXPIRATION;
        int n = mx_props_encode(&p, scratch, sizeof scratch);
        if (n > 0) props = (mx_span){scratch, (size_t)n};
    }
    mx_message *copy = mx_message_new(mx_span_of(q->dead_exchange), key, props, m->size);
    copy = mx_message_append(copy, mx_message_body(m), m->size);
    mx_message_unref(m);
    size_t count = s->found_count;
    for (size_t i = 0; i < count; i++) {
        mx_message_ref(copy);
        mx_queue_put(s->found[i], copy);
    }
    mx_message_unref(copy);
}
