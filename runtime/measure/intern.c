/* intern.c - runs of bytes as numbers, by an open hash table. */
#include "measure/intern.h"
#include <stdlib.h>

static uint64_t mix(uint64_t a, uint64_t b) {
    unsigned __int128 m = (unsigned __int128)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static uint32_t hash_of(const uint8_t *p, size_t n) {
    static uint64_t key;
    while (!key) key = mx_random();
    uint64_t h = key ^ n, word = 0;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&word, p, 8);
        h = mix(h ^ word, 0x9e3779b97f4a7c15);
    }
    word = 0;
    if (n) memcpy(&word, p, n);
    h = mix(h ^ word, key | 1);
    return (uint32_t)(h ^ h >> 32);
}

/* Where the number stands, or may be put. */
static uint32_t *slot_of(const mx_intern *t, const void *p, size_t n, uint32_t hash) {
    for (uint32_t i = hash;; i++) {
        uint32_t *slot = &t->slot[i & (t->slots - 1)];
        if (!*slot) return slot;
        const mx_interned *it = &t->item[*slot - 1];
        if (it->hash == hash && it->n == n && (!n || !memcmp(t->bytes + it->at, p, n))) return slot;
    }
}

static void grow_slots(mx_intern *t) {
    free(t->slot);
    t->slots = t->slots ? 2 * t->slots : 64;
    t->slot = mx_zalloc(t->slots * sizeof *t->slot);
    for (uint32_t number = 1; number <= t->count; number++) {
        uint32_t i = t->item[number - 1].hash;
        while (t->slot[i & (t->slots - 1)]) i++;
        t->slot[i & (t->slots - 1)] = number;
    }
}

static void copy(mx_intern *t, const void *p, size_t n) {
    size_t needs = (n + 1 + 7) & ~(size_t)7;
    if (t->used + needs > t->room) {
        t->room = 2 * t->room > t->used + needs ? 2 * t->room : t->used + needs + 512;
        t->bytes = mx_realloc(t->bytes, t->room);
    }
    if (n) memcpy(t->bytes + t->used, p, n);
    memset(t->bytes + t->used + n, 0, needs - n);
    t->used += needs;
}

void mx_intern_fini(mx_intern *t) {
    free(t->bytes);
    free(t->item);
    free(t->slot);
}

size_t mx_intern_bytes(const mx_intern *t) { return t->room + t->item_room * sizeof *t->item + t->slots * sizeof *t->slot; }

uint32_t mx_intern_put(mx_intern *t, const void *p, size_t n) {
    uint32_t hash = hash_of(p, n);
    if (t->count >= t->slots / 4 * 3) grow_slots(t);
    uint32_t *slot = slot_of(t, p, n, hash);
    if (*slot) return *slot;
    if (t->count == t->item_room) {
        t->item_room = t->item_room ? 2 * t->item_room : 32;
        t->item = mx_realloc(t->item, t->item_room * sizeof *t->item);
    }
    t->item[t->count] = (mx_interned){t->used, (uint32_t)n, hash};
    copy(t, p, n);
    return *slot = ++t->count;
}

uint32_t mx_intern_find(const mx_intern *t, const void *p, size_t n) { return t->count ? *slot_of(t, p, n, hash_of(p, n)) : 0; }

const void *mx_intern_at(const mx_intern *t, uint32_t number, size_t *n) {
    const mx_interned *it = &t->item[number - 1];
    if (n) *n = it->n;
    return t->bytes + it->at;
}
