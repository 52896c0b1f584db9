/* sampler.h - picks allocations to look at: about one for each so many bytes, and follows them until they are freed.
 *
 * Design: whether a byte is picked is drawn (the gaps are exponential: a regular program would fall in step with regular ones),
 * so that a block of n bytes stands for n / (1 - exp(-n / mean)) bytes, as in Go. Not being picked costs a subtraction; a free
 * costs a look into a table of counters that says of nearly each block that it was not picked. */
#ifndef MX_SAMPLER_H
#define MX_SAMPLER_H
#include "base/mx.h"

enum { MX_SAMPLER_FILTER = 16384 };

typedef struct mx_picked {
    void *block;            /* NULL: freed before anybody said whose it is */
    int64_t objects, bytes; /* what it stands for */
    uint32_t row;           /* of the profile */
} mx_picked;

extern struct mx_sampler {
    size_t left; /* bytes until the next is picked; huge: none is */
    size_t live; /* how many were and are not freed */
    uint8_t filter[MX_SAMPLER_FILTER];
} mx_sampler;

static inline size_t mx_sampler_slot(const void *p) { return ((uintptr_t)p >> 4) * 0x9E3779B97F4A7C15u >> 50; }

void mx_sampler_pick(void *p, size_t n, int is_new);
void mx_sampler_forget(void *p);
void mx_sampler_moved(void *from, void *to);

/* A block of n bytes is there, or one has grown by n. */
static inline void mx_sampler_took(void *p, size_t n, int is_new) {
    if (n < mx_sampler.left) mx_sampler.left -= n;
    else mx_sampler_pick(p, n, is_new);
}
static inline void mx_sampler_gave(void *p) {
    if (mx_sampler.live && mx_sampler.filter[mx_sampler_slot(p)]) mx_sampler_forget(p);
}
/* After it was resized, before mx_sampler_took says that it grew. */
static inline void mx_sampler_resized(void *from, void *to) {
    if (mx_sampler.live && mx_sampler.filter[mx_sampler_slot(from)]) mx_sampler_moved(from, to);
}

/* mean 0: nothing is picked, and what was is forgotten. on_pick: whose block it is is to be told by mx_sampler_place, at once or
 * later; it may be called in an allocator. on_free: its row holds it no more. */
void mx_sampler_set(double mean, void (*on_pick)(void), void (*on_free)(const mx_picked *x));
double mx_sampler_mean(void);
/* Those that nobody has placed, in their order: says their row to the first n of them. */
size_t mx_sampler_waiting(mx_picked **first);
void mx_sampler_place(size_t n);
size_t mx_sampler_bytes(void); /* what it holds of memory itself */
#endif
