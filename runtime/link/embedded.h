/* embedded.h - the parts of the link behind mem://: calls (declare.c), consumers (reader.c), the rest (embedded.c).
 *
 * Beyond the store's bytes_max (1 GiB) a publish that would be kept is nacked; without confirms it is dropped. RabbitMQ
 * would block the connection instead: here the consumers that could free the memory may wait for the same script.
 * A stream keeps its messages in memory as well. What is rejected or requeued of it counts as settled; RabbitMQ would end
 * the connection. "last" is the last message, not the last chunk. */
#ifndef MX_EMBEDDED_H
#define MX_EMBEDDED_H
#include "link/link.h"
#include "broker/store.h"

typedef struct mx_embedded mx_embedded;
typedef struct mx_reader mx_reader;

typedef struct mx_writer { /* a publisher */
    mx_publisher base;     /* first */
    struct mx_writer *next;
    uint64_t now_us;      /* when it published lately: a clock read a message would cost too much */
    uint32_t stamped;     /* publishes since then; 0: look again */
    struct mx_kept *kept; /* for the batch, in their order */
    uint32_t kept_count, kept_room;
} mx_writer;

struct mx_embedded {
    mx_link_base base; /* first */
    mx_store *store;
    mx_reader *readers;
    mx_writer *writers;
    size_t max_body;
    uint64_t hold_end; /* confirms wait for consumers until the store has delivered so many; 0: they do not wait */
};

struct mx_reader {     /* a consumer */
    mx_consumer base;  /* first */
    mx_reader *next;   /* of its link */
    mx_reader *beside; /* of its queue: by priority, then by age */
    mx_queue *queue;   /* where unsettled ones go back; NULL: it is gone */
    mx_held *held;     /* what each slot of the inbox holds, by position */
    uint64_t tag;
    uint64_t served; /* when it got its last, among the readers of a queue with priorities */
    int64_t priority;
    uint64_t offset; /* of a stream: what it gets next */
    uint32_t prefetch, slice;
    uint32_t out;    /* delivered and not settled: what prefetch limits */
    uint32_t budget; /* of the fill under way */
    int subscribed, no_ack, exclusive;
    int standby; /* gets nothing: another is the single active one, or it is leaving */
};

void mx_embedded_wake(mx_embedded *e); /* a slice is due, and Lua is to look */
void mx_embedded_post(mx_embedded *e, uint32_t ticket, mx_reply *r);

int mx_embedded_call(mx_link *link, const mx_call *c, uint32_t ticket);

mx_inbox *mx_reader_open(mx_link *link, const mx_consume *o, uint32_t ticket);
void mx_reader_cancel(mx_inbox *ib, uint32_t ticket);
void mx_reader_close(mx_inbox *ib, uint32_t ticket);
int mx_readers_fill(mx_link *link);         /* 1: somebody has room for more */
void mx_readers_settle(mx_embedded *e);     /* passes the verdicts of all its readers on */
uint64_t mx_reader_lag(const mx_reader *r); /* how much there is for it, if it has room or will have */
void mx_readers_lose(mx_queue *q);          /* the queue dies: what is delivered may still be read, its verdicts lead nowhere */
void mx_readers_offer(mx_queue *q);         /* hands out at once what there is room for */
#endif
