/* route.c - which queues a message reaches: the walk over bindings, and the cache of what it found. */
#include <stdlib.h>
#include <string.h>
#include "broker/store.h"

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
        } else if (p.p && k.p && ((word.n == 1 && *word.p == '*') || mx_same(word, first(k)))) {
            p = rest(p);
            k = rest(k);
        } else if (hash && taken.p) {
            p = after_hash;
            k = taken = rest(taken);
        } else return 0;
    }
    return 1;
}

/* ---- headers ---------------------------------------------------------------------------------------------------- */

int mx_match_of(mx_span args) {
    static const char *const words[] = {"all", "any", "all-with-x", "any-with-x"};
    mx_entry f;
    if (!mx_entry_find(args, mx_span_of("x-match"), &f)) return MX_MATCH_ALL;
    for (int i = MX_MATCH_ALL; f.type == 'S' && i <= MX_MATCH_ANY_WITH_X; i++)
        if (mx_is(f.text, words[i])) return i;
    return -1;
}

static int has_a_say(const mx_binding *b, mx_span key) {
    if (mx_is(key, "x-match")) return 0;
    return b->match >= MX_MATCH_ALL_WITH_X || key.n < 2 || memcmp(key.p, "x-", 2);
}

/* A void asks for no more than that the header is there. */
static int headers_match(const mx_binding *b, mx_span headers) {
    int all = 1, any = 0;
    mx_entry wanted, got;
    for (const uint8_t *p = b->args.p, *end = p + b->args.n; p < end;) {
        p += mx_entry_read(p, 1, &wanted);
        if (!has_a_say(b, wanted.key)) continue;
        int hit = mx_entry_find(headers, wanted.key, &got) && (wanted.type == 'V' || mx_entry_equal(&wanted, &got));
        all &= hit;
        any |= hit;
    }
    return b->match == MX_MATCH_ANY || b->match == MX_MATCH_ANY_WITH_X ? any : all;
}

/* ---- the walk --------------------------------------------------------------------------------------------------- */

typedef struct walk {
    mx_store *store;
    mx_route *route;
    const mx_span *keys;
    uint32_t count; /* of keys */
    mx_span headers;
    int varies; /* the headers had a say */
} walk;

static void add(mx_route *r, mx_queue *q) {
    for (uint32_t i = 0; i < r->count; i++)
        if (r->queue[i] == q) return;
    if (r->count == r->room) r->queue = mx_realloc(r->queue, (r->room = r->room ? 2 * r->room : 4) * sizeof *r->queue);
    r->queue[r->count++] = q;
}

static void follow(walk *w, mx_exchange *x);

static uint32_t take_binding(walk *w, const mx_binding *b) {
    if (b->queue) add(w->route, b->queue);
    else follow(w, b->target);
    return 1;
}

static uint32_t take_equal(walk *w, const mx_exchange *x) {
    uint32_t taken = 0;
    for (uint32_t i = 0; i < w->count; i++)
        for (mx_named *n = mx_names_find(&x->bindings, w->keys[i]); n; n = n->next)
            if (mx_same(mx_name_of(n), w->keys[i])) taken += take_binding(w, (mx_binding *)n);
    return taken;
}

static int is_wanted(const walk *w, const mx_exchange *x, const mx_binding *b) {
    if (x->type == MX_EX_FANOUT) return 1;
    if (x->type == MX_EX_HEADERS) return headers_match(b, w->headers);
    for (uint32_t i = 0; i < w->count; i++)
        if (mx_topic_matches(mx_name_of(&b->named), w->keys[i])) return 1;
    return 0;
}

static uint32_t take_wanted(walk *w, const mx_exchange *x) {
    uint32_t taken = 0;
    for (mx_named *n = NULL; (n = mx_names_after(&x->bindings, n));)
        if (is_wanted(w, x, (mx_binding *)n)) taken += take_binding(w, (mx_binding *)n);
    return taken;
}

static void follow(walk *w, mx_exchange *x) {
    if (x->mark == w->store->mark) return;
    x->mark = w->store->mark;
    w->varies |= x->type == MX_EX_HEADERS;
    uint32_t taken = x->type == MX_EX_DIRECT ? take_equal(w, x) : take_wanted(w, x);
    mx_exchange *other = taken || !x->alternate ? NULL : mx_store_exchange(w->store, mx_span_of(x->alternate));
    if (other) follow(w, other);
}

static void go(walk *w, mx_span exchange) {
    mx_store *s = w->store;
    mx_route *r = w->route;
    mx_queue *q;
    r->count = 0;
    r->exchange = exchange.n ? mx_store_exchange(s, exchange) : NULL;
    r->missing = exchange.n && !r->exchange;
    s->mark++;
    if (r->exchange) follow(w, r->exchange);
    for (uint32_t i = 0; !exchange.n && i < w->count; i++)
        if ((q = mx_store_queue(s, w->keys[i]))) add(r, q);
}

/* ---- routes ----------------------------------------------------------------------------------------------------- */

static int is_route(const mx_store *s, const mx_route *r, mx_span exchange, mx_span key) {
    return r->generation == s->generation && r->exchange_size == exchange.n && r->key_size == key.n &&
           (!exchange.n || !memcmp(r->text, exchange.p, exchange.n)) && (!key.n || !memcmp(r->text + exchange.n, key.p, key.n));
}

static void search(mx_store *s, mx_route *r, mx_span exchange, mx_span key, mx_span headers) {
    walk w = {s, r, &key, 1, headers, 0};
    go(&w, exchange);
    r->generation = w.varies ? 0 : s->generation;
    r->exchange_size = (uint16_t)exchange.n;
    r->key_size = (uint16_t)key.n;
    if (exchange.n) memcpy(r->text, exchange.p, exchange.n);
    if (key.n) memcpy(r->text + exchange.n, key.p, key.n);
}

static uint32_t add_key(mx_store *s, uint32_t n, mx_span key) {
    if (n == s->key_room) s->keys = mx_realloc(s->keys, (s->key_room = n ? 2 * n : 8) * sizeof *s->keys);
    s->keys[n] = key;
    return n + 1;
}

static uint32_t add_keys(mx_store *s, uint32_t n, mx_span headers, const char *name) {
    mx_entry list, key;
    mx_entry_find(headers, mx_span_of(name), &list);
    if (list.type != 'A') return n;
    for (const uint8_t *p = list.text.p, *end = p + list.text.n; p < end;) {
        p += mx_entry_read(p, 0, &key);
        if (key.type == 'S') n = add_key(s, n, key.text);
    }
    return n;
}

/* The message's keys when it has more than one; else 0. */
static uint32_t keys_of(mx_store *s, mx_span key, mx_span headers) {
    uint32_t n = add_key(s, 0, key);
    n = add_keys(s, add_keys(s, n, headers, "CC"), headers, "BCC");
    return n > 1 ? n : 0;
}

const mx_route *mx_store_route(mx_store *s, mx_span exchange, mx_span key, mx_span headers) {
    uint32_t keys = headers.n ? keys_of(s, key, headers) : 0;
    if (keys) {
        walk w = {s, &s->special, s->keys, keys, headers, 0};
        go(&w, exchange);
        return &s->special;
    }
    if (s->recent && is_route(s, s->recent, exchange, key)) return s->recent;
    mx_route *r = &s->route[(mx_hash(key) + 31 * mx_hash(exchange)) % MX_ROUTES];
    if (!is_route(s, r, exchange, key)) search(s, r, exchange, key, headers);
    return s->recent = r;
}
