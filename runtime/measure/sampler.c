/* sampler.c - what was picked, by address. */
#include "measure/sampler.h"
#include <math.h>
#include <stdlib.h>

_Static_assert(MX_SAMPLER_FILTER == 1 << 14, "mx_sampler_slot takes 14 bits");
struct mx_sampler mx_sampler = {.left = SIZE_MAX};

static struct {
    double mean;
    void (*on_pick)(void);
    void (*on_free)(const mx_picked *x);
    mx_picked *waiting;
    size_t waiting_count, waiting_room;
    mx_picked *slot; /* open addressing; a block that grew may be there more than once */
    size_t count, mask;
    uint64_t random;
} own;

/* xorshift64*: the kernel's would be a system call each. */
static double draw(void) {
    if (!own.random) own.random = mx_random() | 1;
    own.random ^= own.random >> 12;
    own.random ^= own.random << 25;
    own.random ^= own.random >> 27;
    return (double)((own.random * 0x2545F4914F6CDD1Du >> 11) + 1) / 9007199254740993.0;
}

static size_t gap(void) { return (size_t)(-log(draw()) * own.mean) + 1; }

static void filter(const void *p, int by) {
    uint8_t *count = &mx_sampler.filter[mx_sampler_slot(p)];
    mx_sampler.live += (size_t)(ptrdiff_t)by;
    if (*count < UINT8_MAX) *count = (uint8_t)(*count + by); /* what is full stays so */
}

/* The live ones ------------------------------------------------------------------------------------------------------- */

static size_t home(const void *p) { return ((uintptr_t)p >> 4) * 0x9E3779B97F4A7C15u >> 20 & own.mask; }

static void put(mx_picked x) {
    size_t i = home(x.block);
    while (own.slot[i].block) i = (i + 1) & own.mask;
    own.slot[i] = x;
    own.count++;
}

static void make_room(void) {
    if (own.slot && own.count * 2 <= own.mask) return;
    mx_picked *old = own.slot;
    size_t n = old ? own.mask + 1 : 0, room = n ? n * 2 : 256;
    own.slot = mx_zalloc(room * sizeof *old);
    own.mask = room - 1;
    own.count = 0;
    for (size_t i = 0; i < n; i++)
        if (old[i].block) put(old[i]);
    free(old);
}

/* Takes one of the block's out; 0: there is none. */
static int take(void *p, mx_picked *to) {
    if (!own.slot) return 0;
    size_t i = home(p);
    while (own.slot[i].block != p) {
        if (!own.slot[i].block) return 0;
        i = (i + 1) & own.mask;
    }
    *to = own.slot[i];
    own.count--;
    for (size_t j = (i + 1) & own.mask; own.slot[j].block; j = (j + 1) & own.mask) /* what was pushed on moves back */
        if (((j - home(own.slot[j].block)) & own.mask) >= ((j - i) & own.mask)) {
            own.slot[i] = own.slot[j];
            i = j;
        }
    own.slot[i].block = NULL;
    return 1;
}

/* Picking --------------------------------------------------------------------------------------------------------------- */

void mx_sampler_pick(void *p, size_t n, int is_new) {
    double share = -expm1(-(double)n / own.mean);
    if (own.waiting_count == own.waiting_room) {
        own.waiting_room = own.waiting_room ? own.waiting_room * 2 : 64;
        own.waiting = mx_realloc(own.waiting, own.waiting_room * sizeof *own.waiting);
    }
    own.waiting[own.waiting_count++] = (mx_picked){p, is_new ? llround(1 / share) : 0, llround((double)n / share), 0};
    filter(p, 1);
    mx_sampler.left = gap();
    own.on_pick();
}

size_t mx_sampler_waiting(mx_picked **first) {
    *first = own.waiting;
    return own.waiting_count;
}

void mx_sampler_place(size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!own.waiting[i].block) continue;
        make_room();
        put(own.waiting[i]);
    }
    memmove(own.waiting, own.waiting + n, (own.waiting_count - n) * sizeof *own.waiting);
    own.waiting_count -= n;
}

void mx_sampler_forget(void *p) {
    mx_picked x;
    for (size_t i = 0; i < own.waiting_count; i++)
        if (own.waiting[i].block == p) {
            own.waiting[i].block = NULL;
            filter(p, -1);
        }
    while (take(p, &x)) {
        filter(p, -1);
        own.on_free(&x);
    }
}

void mx_sampler_moved(void *from, void *to) {
    mx_picked x;
    for (size_t i = 0; i < own.waiting_count; i++)
        if (own.waiting[i].block == from) {
            own.waiting[i].block = to;
            filter(from, -1);
            filter(to, 1);
        }
    while (from != to && take(from, &x)) {
        filter(from, -1);
        filter(to, 1);
        x.block = to;
        put(x);
    }
}

void mx_sampler_set(double mean, void (*on_pick)(void), void (*on_free)(const mx_picked *x)) {
    own.mean = mean;
    own.on_pick = on_pick;
    own.on_free = on_free;
    mx_sampler.left = mean > 0 ? gap() : SIZE_MAX;
    if (mean > 0) return;
    free(own.waiting);
    free(own.slot);
    own.waiting = own.slot = NULL;
    own.waiting_count = own.waiting_room = own.count = own.mask = 0;
    memset(mx_sampler.filter, 0, sizeof mx_sampler.filter);
    mx_sampler.live = 0;
}

double mx_sampler_mean(void) { return own.mean; }
size_t mx_sampler_bytes(void) { return (own.waiting_room + (own.slot ? own.mask + 1 : 0)) * sizeof *own.slot; }
