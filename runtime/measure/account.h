/* account.h - who holds which bytes of the process.
 *
 * Whoever allocates much says so as it does; the sum is cheap to ask for at any time. What malloc and the kernel know is asked
 * for only when somebody wants the whole picture. */
#ifndef MX_ACCOUNT_H
#define MX_ACCOUNT_H
#include "measure/sampler.h"

enum {
    MX_OF_MESSAGES,   /* deliveries that are not settled, and what lies in queues of the embedded broker */
    MX_OF_OUTPUT,     /* what goes out, until it is confirmed */
    MX_OF_BUFFERS,    /* what sockets read into */
    MX_OF_DELIVERIES, /* slots of inboxes */
    MX_OF_RECEIPTS,
    MX_OF_BROKER, /* what the embedded broker's queues are made of */
    MX_OF_TLS,
    MX_OF_PROFILER,
    MX_OF_POOLS, /* kept for the next message */
    MX_OF_ALL
};

extern size_t mx_held_by[MX_OF_ALL];
#ifdef MX_UNMEASURED
static inline void mx_hold(int owner, size_t n) { (void)owner, (void)n; }
static inline void mx_let_go(int owner, size_t n) { (void)owner, (void)n; }
#else
static inline void mx_hold(int owner, size_t n) { mx_held_by[owner] += n; }
static inline void mx_let_go(int owner, size_t n) { mx_held_by[owner] -= n; }
#endif

/* The same of one block, which a profile of the heap may pick; let go before it is freed. */
static inline void mx_hold_block(int owner, void *p, size_t n) {
    mx_hold(owner, n);
    mx_sampler_took(p, n, 1);
}
static inline void mx_let_go_block(int owner, void *p, size_t n) {
    mx_let_go(owner, n);
    mx_sampler_gave(p);
}

size_t mx_held_in_all(void);    /* without what Lua has */
int mx_memory_is_refused(void); /* publishing is to be refused now */

/* What the binding to Lua tells of the VM's heap; its numbers are kept there. */
typedef struct mx_heap {
    size_t live, peak, blocks; /* peak: to 64 KiB */
    size_t allow;              /* live may grow to this; SIZE_MAX: without limit */
} mx_heap;
extern mx_heap mx_heap_of_lua;
void mx_memory_allow(void); /* sets allow from the limit and from what C holds now */

/* Free lists that are bounded, and how often they had what was asked for. */
typedef struct mx_freelist {
    size_t live, kept; /* blocks in use, and waiting for use */
    size_t hits, misses;
    void (*shrink)(void);
    struct mx_freelist *next;
    const char *name;
} mx_freelist;
void mx_freelist_join(mx_freelist *f); /* once */
size_t mx_freelists_kept(void);
int mx_freelists_rest(void); /* whether nobody has asked them for anything since the last call */
#endif
