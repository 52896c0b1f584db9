/* store.c - exchanges, bindings and queues of the embedded broker. */
#include "link/store.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include "base/clock.h"
#include "message/props.h"

enum { BUCKETS = 16, ROOM = 16 };
static const size_t BYTES_MAX = (size_t)1 << 30;
static mx_store *stores;

static mx_span span(const char *s, size_t n) { return (mx_span){(const uint8_t *)s, n}; }
static mx_span name_of(const mx_named *n) { return span(n->name, n->size); }
static int same(mx_span a, mx_span b) { return a.n == b.n && (!a.n || !memcmp(a.p, b.p, a.n)); }

/* ---- names ------------------------------------------------------------------------------------------------------ */

static uint32_t hash_of(mx_span s) {
    uint64_t h = s.n, v;
    for (; s.n >= 8; s.p += 8, s.n -= 8) {
        memcpy(&v, s.p, 8);
        h = (h ^ v) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
    }
    v = 0;
    if (s.n) memcpy(&v, s.p, s.n);
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32);
}

static mx_named **bucket(const mx_names *t, uint32_t hash) { return &t->bucket[hash & (t->buckets - 1)]; }

static mx_named *find(const mx_names *t, mx_span name) {
    uint32_t hash = hash_of(name);
    mx_named *n = t->buckets ? *bucket(t, hash) : NULL;
    while (n && !(n->hash == hash && same(name_of(n), name))) n = n->next;
    return n;
}

static void link_in(mx_names *t, mx_named *n) {
    mx_named **at = bucket(t, n->hash);
    n->next = *at;
    *at = n;
}

static void widen(mx_names *t) {
    mx_names wider = {mx_zalloc(2 * (t->buckets ? t->buckets : BUCKETS / 2) * sizeof *wider.bucket), 0, t->count};
    wider.buckets = 2 * (t->buckets ? t->buckets : BUCKETS / 2);
    for (uint32_t i = 0; i < t->buckets; i++)
        for (mx_named *n = t->bucket[i], *next; n; n = next) {
            next = n->next;
            link_in(&wider, n);
        }
    free(t->bucket);
    *t = wider;
}

static void enter(mx_names *t, mx_named *n, mx_span name) {
    n->name = mx_strndup(name.n ? name.p : (const uint8_t *)"", name.n);
    n->size = (uint32_t)name.n;
    n->hash = hash_of(name);
    if (t->count >= t->buckets) widen(t);
    link_in(t, n);
    t->count++;
}

static void leave(mx_names *t, mx_named *n) {
    mx_named **at = bucket(t, n->hash);
    while (*at != n) at = &(*at)->next;
    *at = n->next;
    t->count--;
    free(n->name);
}

/* Walks a table in no order: the first for NULL. What is held must stay until the next was asked for. */
static mx_named *after(const mx_names *t, const mx_named *n) {
    uint32_t i = n ? (n->hash & (t->buckets - 1)) + 1 : 0;
    if (n && n->next) return n->next;
    for (; i < t->buckets; i++)
        if (t->bucket[i]) return t->bucket[i];
    return NULL;
}

mx_queue *mx_store_queue(mx_store *s, mx_span name) { return (mx_queue *)find(&s->queues, name); }
mx_exchange *mx_store_exchange(mx_store *s, mx_span name) { return (mx_exchange *)find(&s->exchanges, name); }

/* ---- stores ----------------------------------------------------------------------------------------------------- */

static void arm(mx_queue *q);
static void drop_expired(mx_queue *q, uint64_t now, uint32_t *expired);

static mx_store *make(mx_span name) {
    static const char *const predeclared[] = {"amq.direct", "amq.fanout", "amq.topic", "amq.headers"};
    mx_store *s = mx_zalloc(sizeof *s);
    s->name = mx_strndup(name.n ? name.p : (const uint8_t *)"", name.n);
    s->bytes_max = BYTES_MAX;
    s->generation = 1;
    s->next = stores;
    stores = s;
    for (int type = MX_EX_DIRECT; type <= MX_EX_HEADERS; type++)
        mx_exchange_new(s, mx_span_of(predeclared[type]), type)->durable = 1;
    return s;
}

static void wake_up(mx_store *s) {
    uint64_t now = mx_clock_us();
    uint32_t expired;
    mx_queue *q = (mx_queue *)after(&s->queues, NULL);
    for (mx_queue *next; q; q = next) {
        next = (mx_queue *)after(&s->queues, &q->named);
        if (q->unused_due_us && q->unused_due_us <= now) {
            mx_queue_delete(q);
            continue;
        }
        if (q->unused_due_us) mx_timer_set(s->timers, &q->expires, q->unused_due_us);
        drop_expired(q, now, &expired);
        arm(q);
    }
}

mx_store *mx_store_get(mx_span name, mx_timers *timers, void (*gone)(mx_queue *q)) {
    mx_store *s = stores;
    while (s && !same(mx_span_of(s->name), name)) s = s->next;
    if (!s) s = make(name);
    if (s->users++) return s;
    s->timers = timers;
    s->gone = gone;
    wake_up(s);
    return s;
}

void mx_store_put(mx_store *s) {
    if (--s->users) return;
    for (mx_queue *q = NULL; (q = (mx_queue *)after(&s->queues, q ? &q->named : NULL));) {
        mx_timer_stop(s->timers, &q->ttl);
        mx_timer_stop(s->timers, &q->expires);
    }
    s->timers = NULL;
}

void mx_store_forget(mx_store *s) {
    mx_store **at = &stores;
    while (s->queues.count) mx_queue_delete((mx_queue *)after(&s->queues, NULL));
    while (s->exchanges.count) mx_exchange_delete(s, (mx_exchange *)after(&s->exchanges, NULL));
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    for (int i = 0; i < MX_ROUTES; i++) free(s->route[i].queue);
    free(s->queues.bucket);
    free(s->exchanges.bucket);
    free(s->name);
    free(s);
}

/* ---- exchanges and bindings ------------------------------------------------------------------------------------- */

mx_exchange *mx_exchange_new(mx_store *s, mx_span name, int type) {
    mx_exchange *x = mx_zalloc(sizeof *x);
    x->type = type;
    enter(&s->exchanges, &x->named, name);
    s->generation++;
    return x;
}

static void drop(mx_store *s, mx_exchange *from, mx_binding *b) {
    leave(&from->bindings, &b->named);
    free(b);
    s->generation++;
    if (from->bindings.count || !from->auto_delete || from->spent) return;
    from->spent = 1;
    s->spent++;
}

/* Drops every binding to the queue or to the target. */
static void unbind_all(mx_store *s, const mx_queue *queue, const mx_exchange *target) {
    for (mx_exchange *x = NULL; (x = (mx_exchange *)after(&s->exchanges, x ? &x->named : NULL));) {
        mx_binding *b = (mx_binding *)after(&x->bindings, NULL);
        for (mx_binding *next; b; b = next) {
            next = (mx_binding *)after(&x->bindings, &b->named);
            if (b->queue == queue && b->target == target) drop(s, x, b);
        }
    }
}

static void discard(mx_store *s, mx_exchange *x) {
    for (mx_binding *b; (b = (mx_binding *)after(&x->bindings, NULL));) drop(s, x, b);
    s->spent -= (uint32_t)x->spent;
    leave(&s->exchanges, &x->named);
    s->generation++;
    unbind_all(s, NULL, x);
    free(x->bindings.bucket);
    free(x);
}

/* An auto-delete exchange goes with its last binding, which may have been another's last target. */
static void sweep(mx_store *s) {
    while (s->spent) {
        mx_exchange *x = (mx_exchange *)after(&s->exchanges, NULL);
        while (!x->spent) x = (mx_exchange *)after(&s->exchanges, &x->named);
        discard(s, x);
    }
}

void mx_exchange_delete(mx_store *s, mx_exchange *x) {
    discard(s, x);
    sweep(s);
}

static mx_binding *binding(const mx_exchange *from, const mx_queue *queue, const mx_exchange *target, mx_span key) {
    mx_named *n = find(&from->bindings, key);
    for (; n; n = n->next) {
        mx_binding *b = (mx_binding *)n;
        if (b->queue == queue && b->target == target && same(name_of(n), key)) return b;
    }
    return NULL;
}

void mx_store_bind(mx_store *s, mx_exchange *from, mx_queue *queue, mx_exchange *target, mx_span key) {
    if (binding(from, queue, target, key)) return;
    mx_binding *b = mx_zalloc(sizeof *b);
    b->queue = queue;
    b->target = target;
    enter(&from->bindings, &b->named, key);
    s->generation++;
}

void mx_store_unbind(mx_store *s, mx_exchange *from, mx_queue *queue, mx_exchange *target, mx_span key) {
    mx_binding *b = binding(from, queue, target, key);
    if (!b) return;
    drop(s, from, b);
    sweep(s);
}

/* ---- routes ----------------------------------------------------------------------------------------------------- */

typedef struct words { /* what is left of a pattern or key; p NULL: no word is left */
    const uint8_t *p, *end;
} words;

static words words_of(mx_span s) {
    static const uint8_t none[1];
    return (words){s.n ? s.p : none, s.n ? s.p + s.n : none};
}

static mx_span first(words w) {
    const uint8_t *dot = memchr(w.p, '.', (size_t)(w.end - w.p));
    return (mx_span){w.p, (size_t)((dot ? dot : w.end) - w.p)};
}

static words rest(words w) {
    const uint8_t *end = w.p + first(w).n;
    return (words){end < w.end ? end + 1 : NULL, w.end};
}

/* As with a file name's *: on a mismatch the last # takes one word more, so that no pattern needs exponential time. */
int mx_topic_matches(mx_span pattern, mx_span key) {
    words p = words_of(pattern), k = words_of(key), after_hash = {0}, taken = {0};
    int hash = 0;
    if (!key.n) k.p = NULL; /* RabbitMQ splits "" into no words */
    if (!pattern.n) p.p = NULL;
    while (k.p || p.p) {
        mx_span word = p.p ? first(p) : (mx_span){0};
        if (p.p && word.n == 1 && *word.p == '#') {
            hash = 1;
            p = after_hash = rest(p);
            taken = k;
        } else if (p.p && k.p && ((word.n == 1 && *word.p == '*') || same(word, first(k)))) {
            p = rest(p);
            k = rest(k);
        } else if (hash && taken.p) {
            p = after_hash;
            k = taken = rest(taken);
        } else return 0;
    }
    return 1;
}

static void add(mx_route *r, mx_queue *q) {
    for (uint32_t i = 0; i < r->count; i++)
        if (r->queue[i] == q) return;
    if (r->count == r->room) r->queue = mx_realloc(r->queue, (r->room = r->room ? 2 * r->room : 4) * sizeof *r->queue);
    r->queue[r->count++] = q;
}

static void follow(mx_store *s, mx_route *r, mx_exchange *x, mx_span key);

static void take_binding(mx_store *s, mx_route *r, const mx_binding *b, mx_span key) {
    if (b->queue) add(r, b->queue);
    else follow(s, r, b->target, key);
}

static void follow(mx_store *s, mx_route *r, mx_exchange *x, mx_span key) {
    if (x->mark == s->mark) return;
    x->mark = s->mark;
    if (x->type == MX_EX_DIRECT) {
        for (mx_named *n = find(&x->bindings, key); n; n = n->next)
            if (same(name_of(n), key)) take_binding(s, r, (mx_binding *)n, key);
        return;
    }
    for (mx_named *n = NULL; (n = after(&x->bindings, n));)
        if (x->type == MX_EX_FANOUT || (x->type == MX_EX_TOPIC && mx_topic_matches(name_of(n), key)))
            take_binding(s, r, (mx_binding *)n, key);
}

static int is_route(const mx_store *s, const mx_route *r, mx_span exchange, mx_span key) {
    return r->generation == s->generation && r->exchange_size == exchange.n && r->key_size == key.n &&
           (!exchange.n || !memcmp(r->text, exchange.p, exchange.n)) && (!key.n || !memcmp(r->text + exchange.n, key.p, key.n));
}

static void search(mx_store *s, mx_route *r, mx_span exchange, mx_span key) {
    r->count = 0;
    r->exchange = exchange.n ? mx_store_exchange(s, exchange) : NULL;
    r->missing = exchange.n && !r->exchange;
    r->generation = s->generation;
    r->exchange_size = (uint16_t)exchange.n;
    r->key_size = (uint16_t)key.n;
    if (exchange.n) memcpy(r->text, exchange.p, exchange.n);
    if (key.n) memcpy(r->text + exchange.n, key.p, key.n);
    s->mark++;
    if (r->exchange) follow(s, r, r->exchange, key);
    mx_queue *q = exchange.n ? NULL : mx_store_queue(s, key);
    if (q) add(r, q);
}

const mx_route *mx_store_route(mx_store *s, mx_span exchange, mx_span key) {
    if (s->recent && is_route(s, s->recent, exchange, key)) return s->recent;
    mx_route *r = &s->route[(hash_of(key) + 31 * hash_of(exchange)) % MX_ROUTES];
    if (!is_route(s, r, exchange, key)) search(s, r, exchange, key);
    return s->recent = r;
}

/* ---- queues ----------------------------------------------------------------------------------------------------- */

static mx_held *at(const mx_queue *q, uint32_t i) { return &q->held[(q->head + i) & q->mask]; }

/* The timer guards the head only, as messages expire at RabbitMQ; one that is early just looks again. */
static void arm(mx_queue *q) {
    uint64_t due = q->count ? at(q, 0)->due_us : 0;
    if (!due || !q->store->timers || (q->ttl.place && q->ttl.due_us <= due)) return;
    mx_timer_set(q->store->timers, &q->ttl, due);
}

static mx_held pop(mx_queue *q) {
    mx_held h = *at(q, 0);
    q->head = (q->head + 1) & q->mask;
    q->count--;
    return h;
}

/* No more than were there at the start: a queue may be its own dead-letter target. */
static void drop_expired(mx_queue *q, uint64_t now, uint32_t *expired) {
    for (uint32_t n = q->count; n && at(q, 0)->due_us && at(q, 0)->due_us <= now; n--) {
        mx_queue_bury(q, pop(q).message, "expired");
        ++*expired;
    }
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

static mx_span own_name(mx_store *s, char text[static 48]) {
    uint64_t random;
    do {
        if (getrandom(&random, sizeof random, 0) != sizeof random) abort();
        snprintf(text, 48, "amq.gen-%016llx", (unsigned long long)random);
    } while (mx_store_queue(s, mx_span_of(text)));
    return mx_span_of(text);
}

mx_queue *mx_queue_new(mx_store *s, mx_span name, const mx_arg *args) {
    char own[48];
    mx_queue *q = mx_zalloc(sizeof *q);
    enter(&s->queues, &q->named, name.n ? name : own_name(s, own));
    q->store = s;
    q->mask = ROOM - 1;
    q->held = mx_zalloc(ROOM * sizeof *q->held);
    q->place = 1;
    for (int i = 0; args && i < MX_ARGS; i++) {
        q->arg[i] = args[i];
        if (args[i].text) q->arg[i].text = mx_strndup(args[i].text, strlen(args[i].text));
    }
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

uint32_t mx_queue_purge(mx_queue *q) {
    uint32_t n = q->count;
    while (q->count) mx_message_unref(pop(q).message);
    return n;
}

void mx_queue_delete(mx_queue *q) {
    mx_store *s = q->store;
    if (s->gone) s->gone(q);
    mx_queue_purge(q);
    if (q->ttl.place) mx_timer_stop(s->timers, &q->ttl);
    if (q->expires.place) mx_timer_stop(s->timers, &q->expires);
    leave(&s->queues, &q->named);
    unbind_all(s, q, NULL);
    sweep(s);
    s->generation++;
    for (int i = 0; i < MX_ARGS; i++) free(q->arg[i].text);
    free(q->held);
    free(q);
}

static void grow(mx_queue *q) {
    uint32_t room = 2 * (q->mask + 1);
    mx_held *bigger = mx_realloc(NULL, room * sizeof *bigger);
    for (uint32_t i = 0; i < q->count; i++) bigger[i] = *at(q, i);
    free(q->held);
    q->held = bigger;
    q->mask = room - 1;
    q->head = 0;
}

int64_t mx_expiration_ms(mx_span text) {
    int64_t ms = 0;
    if (!text.n || text.n > 10) return -1;
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] < '0' || text.p[i] > '9') return -1;
        ms = 10 * ms + text.p[i] - '0';
    }
    return ms <= UINT32_MAX ? ms : -1;
}

static uint64_t due_of(const mx_queue *q, mx_message *m) {
    int64_t ms = q->arg[MX_ARG_TTL].type ? q->arg[MX_ARG_TTL].number : -1, own;
    mx_props p;
    if (m->props_size >= 2 && mx_message_props(m)[0] & MX_P_EXPIRATION >> 8 &&
        !mx_props_decode(mx_message_props(m), m->props_size, &p) && (own = mx_expiration_ms(p.expiration)) >= 0 &&
        (ms < 0 || own < ms))
        ms = own;
    return ms < 0 ? 0 : mx_clock_us() + (uint64_t)ms * 1000;
}

void mx_queue_put(mx_queue *q, mx_message *m) {
    if (q->count > q->mask) grow(q);
    uint64_t due = due_of(q, m);
    *at(q, q->count++) = (mx_held){m, q->place++, due, 0};
    if (due && q->count == 1) arm(q);
}

int mx_queue_take(mx_queue *q, mx_held *out, uint32_t *expired) {
    if (q->count && at(q, 0)->due_us) drop_expired(q, mx_clock_us(), expired);
    if (!q->count) return 0;
    *out = pop(q);
    if (q->count && at(q, 0)->due_us) arm(q);
    return 1;
}

void mx_queue_return(mx_queue *q, const mx_held *h) {
    uint32_t i = 0;
    if (q->count > q->mask) grow(q);
    q->head = (q->head - 1) & q->mask;
    q->count++;
    for (; i + 1 < q->count && at(q, i + 1)->place < h->place; i++) *at(q, i) = *at(q, i + 1);
    *at(q, i) = *h;
    at(q, i)->redelivered = 1;
    arm(q);
}

/* ---- dead letters ----------------------------------------------------------------------------------------------- */

enum { DEATH_ROOM = 131072 };
typedef struct out { /* a table being written; too long a one loses its x-death, not the message */
    uint8_t *p, *end;
} out;

static void put_bytes(out *o, const void *p, size_t n) {
    if ((size_t)(o->end - o->p) < n) {
        o->end = o->p;
        return;
    }
    if (n) memcpy(o->p, p, n);
    o->p += n;
}

static void put_number(out *o, uint64_t v, size_t n) {
    v = __builtin_bswap64(v << 8 * (8 - n));
    put_bytes(o, &v, n);
}

static void put_key(out *o, const char *key, char type) {
    put_number(o, strlen(key), 1);
    put_bytes(o, key, strlen(key));
    put_bytes(o, &type, 1);
}

static void put_text(out *o, const char *key, mx_span s) {
    put_key(o, key, 'S');
    put_number(o, s.n, 4);
    put_bytes(o, s.p, s.n);
}

static uint64_t number_at(const uint8_t *p, size_t n) {
    uint64_t v = 0;
    while (n--) v = v << 8 | *p++;
    return v;
}

static size_t value_size(const uint8_t *p) { /* with its type; the table was checked */
    switch (*p) {
    case 't':
    case 'b':
    case 'B': return 2;
    case 's':
    case 'u': return 3;
    case 'I':
    case 'i':
    case 'f': return 5;
    case 'D': return 6;
    case 'V': return 1;
    case 'S':
    case 'x':
    case 'A':
    case 'F': return 5 + number_at(p + 1, 4);
    }
    return 9;
}

/* The value of a key in a checked table, from its type on; NULL: none. */
static const uint8_t *value(mx_span table, const char *key) {
    for (const uint8_t *p = table.p, *end = table.p + table.n; p < end;) {
        const uint8_t *v = p + 1 + *p;
        if (same((mx_span){p + 1, *p}, mx_span_of(key))) return v;
        p = v + value_size(v);
    }
    return NULL;
}

static int text_is(const uint8_t *v, mx_span s) { return v && *v == 'S' && same((mx_span){v + 5, number_at(v + 1, 4)}, s); }

typedef struct deaths { /* what x-death said so far */
    mx_span all;        /* its entries */
    mx_span same;       /* the one of this queue and reason, with type and length */
    uint64_t count;     /* of that one */
} deaths;

static mx_span entries(mx_span headers) {
    const uint8_t *v = value(headers, "x-death");
    return v && *v == 'A' ? (mx_span){v + 5, number_at(v + 1, 4)} : (mx_span){0};
}

static int is_death(const uint8_t *p, const char *key, mx_span text) {
    return *p == 'F' && text_is(value((mx_span){p + 5, number_at(p + 1, 4)}, key), text);
}

static deaths read_deaths(mx_span headers, mx_span queue, mx_span reason) {
    deaths d = {.all = entries(headers)};
    for (const uint8_t *p = d.all.p, *end = p + d.all.n; p < end; p += value_size(p)) {
        if (!is_death(p, "queue", queue) || !is_death(p, "reason", reason)) continue;
        const uint8_t *count = value((mx_span){p + 5, number_at(p + 1, 4)}, "count");
        d.same = (mx_span){p, value_size(p)};
        d.count = count && *count == 'l' ? number_at(count + 1, 8) : 1;
    }
    return d;
}

/* It was in the target before and nobody rejected it since: RabbitMQ does not let it go round for ever. */
static int in_circles(mx_message *letter, const mx_queue *target) {
    mx_props p;
    if (mx_props_decode(mx_message_props(letter), letter->props_size, &p)) return 0;
    mx_span all = entries(p.headers);
    for (const uint8_t *e = all.p, *end = e + all.n; e < end; e += value_size(e)) {
        if (is_death(e, "reason", mx_span_of("rejected"))) return 0;
        if (is_death(e, "queue", name_of(&target->named))) return 1;
    }
    return 0;
}

/* Writes a length in front of what body wrote after at. */
static void close_length(const out *o, uint8_t *at) {
    uint32_t n = __builtin_bswap32((uint32_t)(o->p - at - 4));
    memcpy(at, &n, 4);
}

static void put_death(out *o, const mx_queue *q, mx_message *m, const mx_props *p, const char *reason, uint64_t count) {
    put_bytes(o, "F", 1);
    uint8_t *entry = o->p;
    put_number(o, 0, 4);
    put_key(o, "count", 'l');
    put_number(o, count, 8);
    put_text(o, "reason", mx_span_of(reason));
    put_text(o, "queue", name_of(&q->named));
    put_key(o, "time", 'T');
    put_number(o, (uint64_t)time(NULL), 8);
    put_text(o, "exchange", (mx_span){m->bytes, m->exchange_size});
    put_key(o, "routing-keys", 'A');
    put_number(o, 5u + m->key_size, 4);
    put_bytes(o, "S", 1);
    put_number(o, m->key_size, 4);
    put_bytes(o, mx_message_key(m), m->key_size);
    if (p->flags & MX_P_EXPIRATION) put_text(o, "original-expiration", p->expiration);
    if (o->p < o->end) close_length(o, entry);
}

static void put_deaths(out *o, const mx_queue *q, mx_message *m, const mx_props *p, const char *reason, const deaths *d) {
    const uint8_t *all_end = d->all.p + d->all.n, *same_end = d->same.p + d->same.n;
    put_key(o, "x-death", 'A');
    uint8_t *array = o->p;
    put_number(o, 0, 4);
    put_death(o, q, m, p, reason, d->count + 1);
    if (d->same.n) {
        put_bytes(o, d->all.p, (size_t)(d->same.p - d->all.p));
        put_bytes(o, same_end, (size_t)(all_end - same_end));
    } else put_bytes(o, d->all.p, d->all.n);
    if (o->p < o->end) close_length(o, array);
    if (value(p->headers, "x-first-death-reason")) return;
    put_text(o, "x-first-death-exchange", (mx_span){m->bytes, m->exchange_size});
    put_text(o, "x-first-death-queue", name_of(&q->named));
    put_text(o, "x-first-death-reason", mx_span_of(reason));
}

/* The message's headers with x-death brought up to date; the old ones when that would grow too long. */
static mx_span death_headers(const mx_queue *q, mx_message *m, const mx_props *p, const char *reason, const deaths *d) {
    static uint8_t room[DEATH_ROOM];
    out o = {room, room + sizeof room - 1};
    const uint8_t *old = value(p->headers, "x-death"), *end = p->headers.p + p->headers.n;
    const uint8_t *from = old ? old - 8 : end, *to = old ? old + value_size(old) : end;
    put_bytes(&o, p->headers.p, (size_t)(from - p->headers.p));
    put_bytes(&o, to, (size_t)(end - to));
    put_deaths(&o, q, m, p, reason, d);
    return o.p < o.end ? (mx_span){room, (size_t)(o.p - room)} : p->headers;
}

/* Published anew: another exchange and key, and no expiration of its own. */
static mx_message *dead_letter(const mx_queue *q, mx_message *m, mx_span exchange, mx_span key, const char *reason) {
    static uint8_t room[2 * DEATH_ROOM];
    mx_span props = {mx_message_props(m), m->props_size};
    mx_props p = {0};
    if (props.n && !mx_props_decode(props.p, props.n, &p)) {
        deaths d = read_deaths(p.headers, name_of(&q->named), mx_span_of(reason));
        p.headers = death_headers(q, m, &p, reason, &d);
        p.flags = (p.flags | (p.headers.n ? MX_P_HEADERS : 0)) & ~(uint32_t)MX_P_EXPIRATION;
        int n = mx_props_encode(&p, room, sizeof room);
        if (n > 0) props = (mx_span){room, (size_t)n};
    }
    mx_message *letter = mx_message_new(exchange, key, props, m->size);
    return mx_message_append(letter, mx_message_body(m), m->size);
}

static void send_letter(mx_queue *q, mx_message *m, mx_span exchange, mx_span key, const char *reason) {
    const mx_route *r = mx_store_route(q->store, exchange, key);
    mx_message *letter = r->count ? dead_letter(q, m, exchange, key, reason) : NULL;
    for (uint32_t i = 0; i < r->count; i++) {
        if (strcmp(reason, "rejected") && in_circles(letter, r->queue[i])) continue;
        mx_message_ref(letter);
        mx_queue_put(r->queue[i], letter);
    }
    mx_message_unref(letter);
}

void mx_queue_bury(mx_queue *q, mx_message *m, const char *reason) {
    const mx_arg *exchange = &q->arg[MX_ARG_DEAD_EXCHANGE], *key = &q->arg[MX_ARG_DEAD_KEY];
    mx_span own = {mx_message_key(m), m->key_size};
    if (exchange->type) send_letter(q, m, mx_span_of(exchange->text), key->type ? mx_span_of(key->text) : own, reason);
    mx_message_unref(m);
}
