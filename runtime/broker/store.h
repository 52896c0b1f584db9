/* store.h - what an embedded broker holds: exchanges, bindings and queues. No tickets and no links in it.
 *
 * Design: names and bindings stand in hash tables; a publish finds its queues in a small cache of routes, which every
 * change of the topology empties by counting generation up. A message lies in each of its queues by reference; what
 * differs from queue to queue (place, expiry, redelivered) is kept beside the reference. */
#ifndef MX_STORE_H
#define MX_STORE_H
#include "base/timer.h"
#include "message/entry.h"
#include "broker/names.h"
#include "broker/queue.h"

enum { MX_EX_DIRECT, MX_EX_FANOUT, MX_EX_TOPIC, MX_EX_HEADERS };
enum { MX_MATCH_ALL, MX_MATCH_ANY, MX_MATCH_ALL_WITH_X, MX_MATCH_ANY_WITH_X };
typedef struct mx_binding {
    mx_named named;  /* first; its name is the binding key */
    mx_queue *queue; /* one of the two */
    mx_exchange *target;
    mx_span args; /* sorted; the binding's own */
    int match;    /* of a headers exchange */
} mx_binding;

struct mx_exchange {
    mx_named named; /* first */
    int type, durable, auto_delete, internal;
    char *alternate; /* where what no binding takes goes on; NULL: nowhere */
    int spent;       /* auto_delete, and its last binding is gone */
    mx_names bindings;
    uint32_t mark; /* the search that visited it last */
};

typedef struct mx_ends { /* of a binding: from an exchange to a queue or to an exchange */
    mx_exchange *from;
    mx_queue *queue;
    mx_exchange *target;
    mx_span key, args;
} mx_ends;

typedef struct mx_route {  /* where a message goes; valid until the next change or search */
    mx_exchange *exchange; /* NULL: the default one, or there is none */
    int missing;           /* there is no such exchange */
    uint32_t count, room;
    mx_queue **queue;
    uint32_t generation; /* of the topology it was found in; 0: it depends on more than exchange and key */
    uint16_t exchange_size, key_size;
    uint8_t text[510]; /* exchange, key */
} mx_route;

enum { MX_ROUTES = 64 };
struct mx_store {
    mx_store *next;
    char *name;
    mx_names queues, exchanges;
    mx_timers *timers;          /* NULL while nobody uses the store: it sleeps */
    void (*gone)(mx_queue *q);  /* called before a queue is freed; may be NULL */
    void (*offer)(mx_queue *q); /* hands out at once what its consumers have room for; may be NULL */
    uint32_t users;
    uint32_t generation;  /* changes with the topology */
    uint32_t mark, spent; /* spent: exchanges that are to go */
    uint64_t delivered;   /* to any consumer */
    size_t bytes_max;     /* no message is taken in beyond it */
    mx_route *recent;     /* the last route asked for */
    mx_route route[MX_ROUTES];
    mx_route special; /* of a message whose headers have a say */
    mx_span *keys;    /* of the search under way */
    uint32_t key_room;
    struct mx_letter *letters, **last_letter; /* dead ones on their way; last_letter: where the next one goes */
    uint32_t holding;                         /* they wait while it is not 0 */
    uint32_t hops;                            /* of the one under way */
};

/* The store of that name, made with the predeclared exchanges when new. After the last put it sleeps with all it
 * holds, and what came due meanwhile is done when it is got again. */
mx_store *mx_store_get(mx_span name, mx_timers *timers);
void mx_store_put(mx_store *s);
void mx_store_forget(mx_store *s); /* with everything in it */

mx_queue *mx_store_queue(mx_store *s, mx_span name); /* NULL: none */
mx_exchange *mx_store_exchange(mx_store *s, mx_span name);
mx_exchange *mx_exchange_new(mx_store *s, mx_span name, int type);
void mx_exchange_delete(mx_store *s, mx_exchange *x);
void mx_store_bind(mx_store *s, const mx_ends *b); /* once, however often it is asked for */
void mx_store_unbind(mx_store *s, const mx_ends *b);
void mx_store_unbind_queue(mx_store *s, const mx_queue *q); /* before it goes */

/* Names of at most 255 bytes. headers: the message's; what CC and BCC in them name are further routing keys. */
const mx_route *mx_store_route(mx_store *s, mx_span exchange, mx_span key, mx_span headers);
int mx_topic_matches(mx_span pattern, mx_span key); /* words by dots; * one word, # any number */
int mx_match_of(mx_span args);                      /* MX_MATCH_ALL ... of a headers binding; negative: x-match is none of them */
#endif
