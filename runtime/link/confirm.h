/* confirm.h - what became of each publish on one channel: a ring of pending ones, and a list of those that failed.
 *
 * A receipt is a number: below pub.settled it was confirmed unless the list of failures has it. The list keeps the
 * last 1,048,576 failures; of an older one the answer is MX_LOST. */
#ifndef MX_CONFIRM_H
#define MX_CONFIRM_H
#include "base/wait.h"
#include "measure/hist.h"
#include "measure/tally.h"

typedef struct mx_pending mx_pending;
typedef struct mx_failure mx_failure;
typedef struct mx_confirm {
    mx_pub pub; /* first */
    mx_waits *waits;
    mx_hist *latency; /* of confirmed ones; may be NULL */
    mx_probe *probe;  /* asked while latency is NULL; may be NULL */
    mx_pending *ring;
    uint32_t mask;
    uint32_t number;  /* of this publisher in the process: part of its message ids */
    double base;      /* sequence number of the channel's delivery tag 0 */
    uint64_t *resent; /* sequence numbers of the channel's first delivery tags, which were published on another before */
    size_t resends;
    uint64_t timeout_us;
    mx_failure *failure; /* ring, ordered by seq */
    size_t failures, failure_room, failure_first;
    double forgotten; /* failures up to this seq are no longer listed */
    uint32_t watcher; /* ticket posted when an eighth of the window is free */
    uint32_t early;   /* publishes above settled that have ended */
    uint32_t heard;   /* settlements that the broker sent */
    mx_timers *timers;
    mx_timer timer; /* for the oldest deadline */
} mx_confirm;

void mx_confirm_init(mx_confirm *c, uint32_t window, double timeout, mx_waits *waits, mx_timers *timers, mx_hist *latency);
void mx_confirm_fini(mx_confirm *c);
static inline int mx_confirm_full(const mx_confirm *c) { return c->pub.seq - c->pub.settled >= c->pub.window; }
void mx_confirm_post_room(mx_confirm *c); /* to whoever watches the window: look again */
/* The next sequence number. id_hash: mx_confirm_hash of the caller's own message id, exchange and key; 0 when the id is ours.
 * frames: where a reserve of an mx_sendq began, held until the publish has ended; NULL: there are none. */
double mx_confirm_add(mx_confirm *c, uint64_t now_us, double timeout, uint64_t id_hash, const uint8_t *frames);
/* basic.ack, basic.nack of the broker (RabbitMQ confirms). MX_EVALIDATION: a tag never published or already settled. */
int mx_confirm_settle(mx_confirm *c, uint64_t tag, int multiple, int nack);
void mx_confirm_up_to(mx_confirm *c, double seq); /* mem://: everything up to seq is confirmed */
/* basic.return: marks the pending publish it belongs to; the ack that follows ends it as returned. */
void mx_confirm_return(mx_confirm *c, mx_span id, mx_span exchange, mx_span key);
void mx_confirm_returned(mx_confirm *c, double seq); /* the same, by number */
void mx_confirm_lose(mx_confirm *c);                 /* the channel is gone: everything pending ends as lost */
/* Of what is pending, that which is_lost says of ends as lost. Returns how many. */
size_t mx_confirm_lose_some(mx_confirm *c, int (*is_lost)(void *arg, const uint8_t *frames), void *arg);
void mx_confirm_unsent(mx_confirm *c); /* the latest publish was not sent yet: there is no channel */
/* There is a new channel: what is pending goes out on it in its order, as its first delivery tags. again gets the frames as
 * they were written, and the how manieth sending this is; it returns those that it wrote. */
void mx_confirm_resend(mx_confirm *c, const uint8_t *(*again)(void *arg, const uint8_t *frames, unsigned attempt), void *arg);
uint64_t mx_confirm_hash(mx_span id, mx_span exchange, mx_span key);
/* Our message id for the next publish, of letters, digits, _ and -: 9 by chance for the process, 11 of the publisher's number
 * and the sequence number. With 32 characters RabbitMQ took a fifth fewer persistent messages of 64 bytes. */
enum { MX_ID_SIZE = 20 };
void mx_confirm_id(const mx_confirm *c, uint8_t id[MX_ID_SIZE]);
/* The given ones, or own: a copy with our id, which lies in id, when they have none. */
const mx_props *mx_confirm_props(const mx_confirm *c, const mx_props *given, mx_props *own, uint8_t id[MX_ID_SIZE]);
#endif
