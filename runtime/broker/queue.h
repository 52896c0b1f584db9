/* queue.h - a queue of the embedded broker: what lies in it, in which order, how long and how much.
 *
 * Design: messages lie on shelves, rings ordered by place. Most queues have one. One with priorities has a shelf for
 * each, a quorum queue a second one for what came back; the highest shelf with something on it is the front. A stream's
 * shelf is never taken from: its readers have places of their own. `special` says in one word whether a message needs
 * any care on its way in or out. */
#ifndef MX_QUEUE_H
#define MX_QUEUE_H
#include "base/timer.h"
#include "message/entry.h"
#include "broker/names.h"
#include "message/message.h"

typedef struct mx_queue mx_queue;
typedef struct mx_exchange mx_exchange;
typedef struct mx_store mx_store;

typedef struct mx_held { /* a message in a queue, or delivered from it */
    mx_message *message;
    uint64_t place;   /* its order on the shelf: a requeued one goes back there */
    uint64_t due_us;  /* when it expires; 0: never */
    uint32_t returns; /* how often it came back to a quorum queue; in a stream: when it came, in seconds since 1970 */
    uint32_t redelivered;
} mx_held;

typedef struct mx_shelf {
    mx_held *held;
    uint32_t head, count, mask;
} mx_shelf;

/* The arguments of queue.declare, in the order in which RabbitMQ compares them. */
enum {
    MX_ARG_EXPIRES,
    MX_ARG_TTL,
    MX_ARG_DEAD_EXCHANGE,
    MX_ARG_DEAD_KEY,
    MX_ARG_DEAD_STRATEGY,
    MX_ARG_MAX_LENGTH,
    MX_ARG_MAX_BYTES,
    MX_ARG_MEMORY_LENGTH,
    MX_ARG_MEMORY_BYTES,
    MX_ARG_MAX_PRIORITY,
    MX_ARG_OVERFLOW,
    MX_ARG_MODE,
    MX_ARG_VERSION,
    MX_ARG_SINGLE,
    MX_ARG_TYPE,
    MX_ARG_GROUP_SIZE,
    MX_ARG_LOCATOR,
    MX_ARG_MAX_AGE,
    MX_ARG_SEGMENT_SIZE,
    MX_ARG_CLUSTER_SIZE,
    MX_ARG_DELIVERY_LIMIT,
    MX_ARGS
};
typedef struct mx_arg {
    int type; /* the letter on the wire; 0: not given */
    int64_t number;
    char *text; /* of a string; the queue's own */
} mx_arg;

enum { MX_Q_TTL = 1, MX_Q_LIMIT = 2, MX_Q_REFUSES = 4, MX_Q_PRIORITY = 8, MX_Q_QUORUM = 16, MX_Q_SINGLE = 32, MX_Q_STREAM = 64 };

struct mx_queue {
    mx_named named; /* first */
    mx_store *store;
    int durable, auto_delete;
    void *owner; /* the link of an exclusive queue */
    mx_arg arg[MX_ARGS];
    uint32_t special; /* MX_Q_...: REFUSES, beyond its limits, what is published instead of dropping its head */
    uint32_t count;   /* on all shelves */
    uint32_t fresh;   /* what is due at once is on its way in: a consumer may have it */
    uint64_t place;   /* of the next one put */
    uint64_t bytes;   /* of the bodies on all shelves; kept with MX_Q_LIMIT only */
    mx_shelf *shelf;
    uint32_t shelves, top;            /* top: none above it holds anything */
    struct mx_reader *readers, *turn; /* who gets or still holds deliveries, and who is next; the embedded link's */
    uint32_t consumers;               /* readers that are subscribed */
    uint32_t ranked;                  /* one of them has a priority */
    uint32_t round;                   /* the fill that served it last */
    uint64_t unused_due_us;           /* x-expires: deleted then; 0: never */
    mx_timer ttl, expires;
};

/* "": a name of the broker's. args: MX_ARGS of them, checked, or NULL; copied. x-expires runs from now. */
mx_queue *mx_queue_new(mx_store *s, mx_span name, const mx_entry *args);
void mx_queue_delete(mx_queue *q);
void mx_queue_wake(mx_queue *q);  /* after the store slept; may delete it */
void mx_queue_sleep(mx_queue *q); /* stops its timers */
void mx_queue_used(mx_queue *q);  /* restarts x-expires */

int64_t mx_expiration_ms(mx_span text); /* the property's; -1: no number; may be more than MX_EXPIRY_MAX_MS */
#define MX_EXPIRY_MAX_MS INT64_C(315360000000)

/* Its reference passes to the queue. 1: it was refused for the queue's limits. */
int mx_queue_put(mx_queue *q, mx_message *m);
/* The first that has not expired; 0: empty. The reference passes to the caller; expired ones are buried and counted. */
int mx_queue_take(mx_queue *q, mx_held *out, uint32_t *expired);
/* Redelivered: in its old place, or where a quorum queue puts it, which buries it beyond its delivery limit.
 * by_hand: requeued by its consumer, which did not just go away. */
void mx_queue_return(mx_queue *q, const mx_held *h, int by_hand);
uint32_t mx_queue_purge(mx_queue *q);

/* Of a stream: what stands at an offset, which is at least mx_stream_first and below place; borrowed. */
const mx_held *mx_stream_at(const mx_queue *q, uint64_t offset);
uint64_t mx_stream_first(const mx_queue *q);
/* Where a consumer starts that asked for it in x-stream-offset (its type 0: it did not); MX_EVALIDATION: it is none. */
int mx_stream_offset(const mx_queue *q, const mx_entry *asked, uint64_t *offset);
int64_t mx_stream_age_s(mx_span text); /* "7D": seconds; -1: no such age */
#endif
