/* store.h - what an embedded broker holds: exchanges, bindings, queues of messages. No tickets and no links in it. */
#ifndef MX_STORE_H
#define MX_STORE_H
#include "base/timer.h"
#include "message/message.h"

typedef struct mx_queue mx_queue;
typedef struct mx_exchange mx_exchange;
typedef struct mx_store mx_store;

typedef struct mx_held {                /* a message in a queue */
    mx_message *message;
    uint64_t place;                     /* its order in the queue: a requeued one goes back there */
    uint64_t due_us;                    /* when it expires; 0: never */
} mx_held;

struct mx_queue {
    mx_queue *next;
    mx_store *store;
    char *name;
    int durable, auto_delete, had_consumer;
    void *owner;                        /* the link of an exclusive queue */
    mx_held *held;                      /* a ring ordered by place */
    uint32_t head, count, mask;
    uint64_t place;
    int64_t ttl_ms, expires_ms;         /* -1: none */
    char *dead_exchange, *dead_key;     /* where rejected and expired messages go; NULL */
    struct mx_reader *readers;          /* consumers, served in turn; the embedded link's */
    uint32_t consumers;
    uint64_t used_us;                   /* when somebody last did something with it */
    mx_timer ttl, expires;
};

enum { MX_EX_DIRECT, MX_EX_FANOUT, MX_EX_TOPIC, MX_EX_HEADERS };
typedef struct mx_binding {
    struct mx_binding *next;
    mx_queue *queue;                    /* one of the two */
    mx_exchange *target;
    char *key;
} mx_binding;

struct mx_exchange {
    mx_exchange *next;
    char *name;
    int type, durable, auto_delete, internal;
    mx_binding *bindings;
    uint32_t mark;                      /* visited by the route under way */
};

enum { MX_ROUTES = 64 };
struct mx_store {
    mx_store *next;
    char *name;
    mx_queue *queues;
    mx_exchange *exchanges;
    mx_timers *timers;
    uint32_t generation;                /* changes with the topology */
    uint32_t mark, names;
    mx_queue **found;                   /* of the last route */
    size_t found_count, found_room;
    struct {                            /* the last route, by its texts */
        uint8_t exchange[256], key[256];
        uint32_t generation;
        int code;
    } last;
};

mx_store *mx_store_get(const char *name, mx_timers *timers);    /* made with the predeclared exchanges when new */
void mx_store_forget(mx_store *s);      /* with everything in it */

mx_queue *mx_store_queue(mx_store *s, mx_span name);            /* NULL: none */
mx_exchange *mx_store_exchange(mx_store *s, mx_span name);
mx_queue *mx_queue_new(mx_store *s, mx_span name);              /* "": a name of the broker's */
void mx_queue_delete(mx_queue *q);
mx_exchange *mx_exchange_new(mx_store *s, mx_span name, int type);
void mx_exchange_delete(mx_store *s, mx_exchange *x);
void mx_store_bind(mx_store *s, mx_exchange *from, mx_queue *queue, mx_exchange *target, mx_span key);
void mx_store_unbind(mx_store *s, mx_exchange *from, mx_queue *queue, mx_span key);

/* Fills s->found; 0, or -1 when there is no such exchange. */
int mx_store_route(mx_store *s, mx_span exchange, mx_span key);
int mx_topic_matches(const char *pattern, mx_span key);         /* words by dots; * one word, # any number */

void mx_queue_put(mx_queue *q, mx_message *m);                  /* its reference passes to the queue */
int mx_queue_take(mx_queue *q, mx_held *out);                   /* 0: empty; the reference passes to the caller */
void mx_queue_return(mx_queue *q, mx_message *m, uint64_t place);   /* in its old place, redelivered */
void mx_queue_bury(mx_queue *q, mx_message *m, const char *reason); /* to the dead-letter exchange, or dropped */
uint32_t mx_queue_purge(mx_queue *q);
void mx_queue_used(mx_queue *q);        /* restarts x-expires */
#endif
