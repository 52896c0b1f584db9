/* sendq.h - bytes on their way to a peer: written in order, and kept for as long as somebody holds them.
 *
 * They lie in chunks. A chunk begins at a multiple of MX_CHUNK, so that an address in it leads to it; one that is written
 * and not held is used again. */
#ifndef MX_SENDQ_H
#define MX_SENDQ_H
#include "base/mx.h"

enum { MX_CHUNK = 256 * 1024 };

typedef struct mx_sendq mx_sendq;
typedef struct mx_chunk {
    struct mx_chunk *next;
    size_t len, room;
    uint32_t holds;
    uint32_t queued; /* it is in the list below */
    uint8_t bytes[];
} mx_chunk;

/* Zeroed memory is an empty one. What is held of it may outlive it. */
struct mx_sendq {
    mx_chunk *first, *last; /* what is not written yet: from off in first */
    size_t off, pending;    /* pending: bytes not written */
};

size_t mx_sendq_room(void);                    /* bytes of all chunks of the process that are in use */
uint8_t *mx_sendq_more(mx_sendq *o, size_t n); /* reserve, when the last chunk has no room */

/* Where the next n bytes go, in one piece; then add what was used. */
static inline uint8_t *mx_sendq_reserve(mx_sendq *o, size_t n) {
    mx_chunk *c = o->last;
    if (c && !o->pending && !c->holds) o->off = c->len = 0;
    if (!c || c->room - c->len < n || c->len >= MX_CHUNK - sizeof *c) return mx_sendq_more(o, n);
    return c->bytes + c->len;
}

static inline void mx_sendq_add(mx_sendq *o, size_t n) {
    o->last->len += n;
    o->pending += n;
}

/* What is to be written next; empty: nothing. It stays where it is until wrote. */
static inline mx_span mx_sendq_front(const mx_sendq *o) {
    return o->pending ? (mx_span){o->first->bytes + o->off, o->first->len - o->off} : (mx_span){0};
}
void mx_sendq_wrote(mx_sendq *o, size_t n);
void mx_sendq_move(mx_sendq *o, mx_sendq *from); /* all of from, of which nothing was written, behind what is in o */
void mx_sendq_clear(mx_sendq *o);                /* what is not written is dropped, what is held stays */
void mx_sendq_wipe(mx_sendq *o); /* what was written and lies there still, a password maybe; nothing of it may be held */

static inline mx_chunk *mx_chunk_of(const uint8_t *p) { return (mx_chunk *)((uintptr_t)p & ~(uintptr_t)(MX_CHUNK - 1)); }
void mx_chunk_free(mx_chunk *c);
/* p: where a reserve began. Each hold is released once. */
static inline void mx_sendq_hold(const uint8_t *p) { mx_chunk_of(p)->holds++; }
static inline void mx_sendq_release(const uint8_t *p) {
    mx_chunk *c = mx_chunk_of(p);
    if (!--c->holds && !c->queued) mx_chunk_free(c);
}
#endif
