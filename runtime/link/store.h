/* store.h - what an embedded broker holds: exchanges, bindings, queues of messages. No tickets and no links in it.
 *
 * Design: names and bindings stand in hash tables; a publish finds its queues in a small cache of routes, which every
 * change of the topology empties by counting generation up. A message lies in each of its queues by reference; what
 * differs from queue to queue (place, expiry, redelivered) is kept beside the reference. */
#ifndef MX_STORE_H
#define MX_STORE_H
#include "base/timer.h"
#include "message/message.h"

typedef struct mx_queue mx_queue;
typedef struct mx_exchange mx_exchange;
typedef struct mx_store mx_store;

typedef struct mx_named { /* what a table finds by its name; several may have the same */
    struct mx_named *next;
    char *name; /* NUL-terminated as well */
    uint32_t hash, size;
} mx_named;

typedef struct mx_names {
    mx_named **bucket;
    uint32_t buckets, count;
} mx_names;

typedef struct mx_held { /* a message in a queue, or delivered from it */
    mx_message *message;
    uint64_t place;       /* its order in the queue: a requeued one goes back there */
    uint64_t due_us : 63; /* when it expires; 0: never */
    uint64_t redelivered : 1;
} mx_held;

/* The arguments of queue.declare that change something here. */
enum { MX_ARG_TTL, MX_ARG_EXPIRES, MX_ARG_DEAD_EXCHANGE, MX_ARG_DEAD_KEY, MX_ARGS };
typedef struct mx_arg {
    int type; /* as on the wire, 'S' or one of the integers; 0: not given */
    int64_t number;
    char *text; /* of 'S'; the queue's own */
} mx_arg;

struct mx_queue {
    mx_named named; /* first */
    mx_store *store;
    int durable, auto_delete;
    void *owner; /* the link of an exclusive queue */
    mx_arg arg[MX_ARGS];
    mx_held *held; /* a ring ordered by place */
    uint32_t head, count, mask;
    uint64_t place;                   /* of the next one put */
    struct mx_reader *readers, *turn; /* who gets or still holds deliveries, and who is next; the embedded link's */
    uint32_t consumers;               /* readers that are subscribed */
    uint32_t round;                   /* the fill that served it last */
    uint64_t unused_due_us;           /* x-expires: deleted then; 0: never */
    mx_timer ttl, expires;
};

enum { MX_EX_DIRECT, MX_EX_FANOUT, MX_EX_TOPIC, MX_EX_HEADERS };
typedef struct mx_binding {
    mx_named named;  /* first; its name is the binding key */
    mx_queue *queue; /* one of the two */
    mx_exchange *target;
} mx_binding;

struct mx_exchange {
    mx_named named; /* first */
    int type, durable, auto_delete, internal;
    int spent; /* auto_delete, and its last binding is gone */
    mx_names bindings;
    uint32_t mark; /* the search that visited it last */
};

typedef struct mx_route {  /* where a message goes; valid until the next change or search */
    mx_exchange *exchange; /* NULL: the default one, or there is none */
    int missing;           /* there is no such exchange */
    uint32_t count, room;
    mx_queue **queue;
    uint32_t generation; /* of the topology it was found in */
    uint16_t exchange_size, key_size;
    uint8_t text[510]; /* exchange, key */
} mx_route;

enum { MX_ROUTES = 64 };
struct mx_store {
    mx_store *next;
    char *name;
    mx_names queues, exchanges;
    mx_timers *timers;         /* NULL while nobody uses the store: it sleeps */
    void (*gone)(mx_queue *q); /* called before a queue is freed; may be NULL */
    uint32_t users;
    uint32_t generation;  /* changes with the topology */
    uint32_t mark, spent; /* spent: exchanges that are to go */
    size_t bytes_max;     /* no message is taken in beyond it */
    mx_route *recent;     /* the last route asked for */
    mx_route route[MX_ROUTES];
};

/* The store of that name, made with the predeclared exchanges when new. After the last put it sleeps with all it
 * holds, and what came due meanwhile is done when it is got again. */
mx_store *mx_store_get(mx_span name, mx_timers *timers, void (*gone)(mx_queue *q));
void mx_store_put(mx_store *s);
void mx_store_forget(mx_store *s); /* with everything in it */

mx_queue *mx_store_queue(mx_store *s, mx_span name); /* NULL: none */
mx_exchange *mx_store_exchange(mx_store *s, mx_span name);
/* "": a name of the broker's. The texts of args are copied; x-expires runs from now. */
mx_queue *mx_queue_new(mx_store *s, mx_span name, const mx_arg *args);
void mx_queue_delete(mx_queue *q);
mx_exchange *mx_exchange_new(mx_store *s, mx_span name, int type);
void mx_exchange_delete(mx_store *s, mx_exchange *x);
void mx_store_bind(mx_store *s, mx_exchange *from, mx_queue *queue, mx_exchange *target, mx_span key);
void mx_store_unbind(mx_store *s, mx_exchange *from, mx_queue *queue, mx_exchange *target, mx_span key);

const mx_route *mx_store_route(mx_store *s, mx_span exchange, mx_span key); /* names of at most 255 bytes */
int mx_topic_matches(mx_span pattern, mx_span key);                         /* words by dots; * one word, # any number */

int64_t mx_expiration_ms(mx_span text);        /* the property's; -1: RabbitMQ would not take it */
void mx_queue_put(mx_queue *q, mx_message *m); /* its reference passes to the queue */
/* The first that has not expired; 0: empty. The reference passes to the caller; expired ones are buried and counted. */
int mx_queue_take(mx_queue *q, mx_held *out, uint32_t *expired);
void mx_queue_return(mx_queue *q, const mx_held *h); /* in its old place, redelivered */
/* To the dead-letter exchange, or dropped; the reference passes. reason: "rejected", "expired". */
void mx_queue_bury(mx_queue *q, mx_message *m, const char *reason);
uint32_t mx_queue_purge(mx_queue *q);
void mx_queue_used(mx_queue *q); /* restarts x-expires */
#endif
