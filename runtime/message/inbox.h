/* inbox.h - the deliveries of one consumer between the wire and Lua.
 *
 * settled <= head <= tail, all free-running positions. [settled, head) is taken by Lua and not yet all known to the
 * broker, [head, tail) waits for Lua. A slot's bytes may lie in the read buffer (own == NULL); mx_inbox_detach moves
 * them out before that buffer is overwritten. */
#ifndef MX_INBOX_H
#define MX_INBOX_H
#include "message/message.h"

void mx_inbox_init(mx_inbox *ib, uint32_t room); /* at least room slots (0: 4096) */
void mx_inbox_fini(mx_inbox *ib);                /* drops every message still held */
static inline int mx_inbox_full(const mx_inbox *ib) { return ib->tail - ib->settled > ib->mask; }
/* The slot at tail with seq, verdict, own and sent reset; filled in by the caller, who then adds 1 to tail. */
mx_msg *mx_inbox_slot(mx_inbox *ib);
void mx_inbox_point(mx_msg *m, mx_message *owned); /* all spans of m into owned, whose reference passes to m */
void mx_inbox_detach(mx_inbox *ib);                /* copies what is unsettled and borrowed into messages */
/* Tells ib->wait of what Lua has taken since the last time, which it did in the turn that began last. */
void mx_inbox_began(mx_inbox *ib);
void mx_inbox_turn(uint64_t now_us); /* a turn begins */
static inline mx_msg *mx_inbox_at(const mx_inbox *ib, uint32_t i) { return &ib->slot[i & ib->mask]; }

/* Where settlements go: the AMQP channel, or a spec. */
typedef struct mx_settle {
    void (*ack)(void *arg, uint64_t tag, int multiple);
    void (*reject)(void *arg, uint64_t tag, int requeue);
} mx_settle;
/* Passes the contiguous settled prefix on, a run of acks as one multiple, and frees its messages. Returns how many. */
uint32_t mx_inbox_settle(mx_inbox *ib, const mx_settle *to, void *arg);
/* What was settled beyond the first unsettled delivery, each singly. The broker replaces what it hears of, while the slot
 * stays taken until all in front of it is settled: so at most `most` slots in all are let go this way, and the rest waits.
 * Returns how many are still unsettled. */
uint32_t mx_inbox_settle_gaps(mx_inbox *ib, uint32_t most, const mx_settle *to, void *arg);
#endif
