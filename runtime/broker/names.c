/* names.c - a hash table of what has a name. */
#include "broker/names.h"
#include <stdlib.h>

enum { BUCKETS = 16 };

uint32_t mx_hash(mx_span s) {
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

mx_named *mx_names_find(const mx_names *t, mx_span name) {
    uint32_t hash = mx_hash(name);
    mx_named *n = t->buckets ? *bucket(t, hash) : NULL;
    while (n && !(n->hash == hash && mx_same(mx_name_of(n), name))) n = n->next;
    return n;
}

static void link_in(mx_names *t, mx_named *n) {
    mx_named **at = bucket(t, n->hash);
    n->next = *at;
    *at = n;
}

static void widen(mx_names *t) {
    uint32_t buckets = t->buckets ? 2 * t->buckets : BUCKETS;
    mx_names wider = {mx_zalloc(buckets * sizeof *wider.bucket), buckets, t->count};
    for (uint32_t i = 0; i < t->buckets; i++)
        for (mx_named *n = t->bucket[i], *next; n; n = next) {
            next = n->next;
            link_in(&wider, n);
        }
    free(t->bucket);
    *t = wider;
}

void mx_names_enter(mx_names *t, mx_named *n, mx_span name) {
    n->name = mx_strndup(name.n ? name.p : (const uint8_t *)"", name.n);
    n->size = (uint32_t)name.n;
    n->hash = mx_hash(name);
    if (t->count >= t->buckets) widen(t);
    link_in(t, n);
    t->count++;
}

void mx_names_leave(mx_names *t, mx_named *n) {
    mx_named **at = bucket(t, n->hash);
    while (*at != n) at = &(*at)->next;
    *at = n->next;
    t->count--;
    free(n->name);
}

mx_named *mx_names_after(const mx_names *t, const mx_named *n) {
    uint32_t i = n ? (n->hash & (t->buckets - 1)) + 1 : 0;
    if (n && n->next) return n->next;
    for (; i < t->buckets; i++)
        if (t->bucket[i]) return t->bucket[i];
    return NULL;
}

void mx_names_fini(mx_names *t) {
    free(t->bucket);
    *t = (mx_names){0};
}
