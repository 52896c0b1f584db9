/* amqp.h - the parts of a link over a real broker: channels and calls (line.c), consumers (consumer.c), publishers
 * (publisher.c), the rest (amqp.c). */
#ifndef MX_AMQP_H
#define MX_AMQP_H
#include <amqp.h>
#include <amqp_framing.h>
#include "link/link.h"
#include "wire/chan.h"
#include "wire/stream.h"

typedef struct mx_request mx_request;
typedef struct mx_amqp mx_amqp;

/* A method that waits for its answer. */
struct mx_request {
    mx_request *next;
    uint32_t ticket, method; /* the method as sent */
    size_t size;
    uint8_t frame[]; /* its payload, encoded; channel 0 until it is sent */
};

enum { MX_CONTROL, MX_CONSUMER, MX_PUBLISHER };
typedef struct mx_line { /* a channel and what runs on it, one request after the other */
    int kind;
    mx_amqp *link;
    mx_chan *chan;
    mx_request *first, *last; /* first is sent when waiting */
    int waiting, counted;     /* counted: among the channels of the link */
    uint64_t sent_us;
    mx_timer limit; /* of the request under way */
    struct mx_line *next;
} mx_line;

typedef struct mx_amqp_consumer {
    mx_consumer base; /* first */
    mx_line line;
    uint32_t close_ticket, prefetch;
    uint32_t spare; /* slots beyond the prefetch: as many may be settled beyond a gap */
    int closing, no_ack, stream;
    char refusal[96];    /* inbox.refusal */
    char error[256];     /* inbox.error */
    mx_timer acks, gaps; /* of what is settled in order; of what lies beyond a gap */
} mx_amqp_consumer;

typedef struct mx_amqp_publisher {
    mx_publisher base; /* first */
    mx_line line;
    uint32_t close_ticket, unflushed, window;
    int closing, held, once; /* held: the window reads 0 until the output has drained */
    mx_timer silence;        /* when to look again whether the broker confirms anything */
    uint32_t heard, silent;  /* confirm.heard at the last look; how many looks in a row found nothing new */
    size_t max_body;
    mx_sendq gathered;         /* what is kept for the batch */
    mx_amqp_consumer *replies; /* of direct reply-to; its line has no channel of its own */
} mx_amqp_publisher;

typedef struct mx_arrivals { /* coalesce.c's: deliveries and confirms, and publishes, at the last look */
    uint64_t from_us, moved, published;
    double each_us; /* between two deliveries or confirms in the last period; 0: there were none */
} mx_arrivals;

struct mx_amqp {
    mx_link_base base; /* first */
    mx_stream *stream;
    mx_conn *conn;
    mx_sendq out;
    mx_line control, *lines;
    mx_timer limit, beat; /* handshake or close; heartbeats */
    uint64_t heard_us, said_us;
    mx_arrivals arrivals;
    uint32_t open_ticket, close_ticket;
    uint8_t *in;
    size_t in_off, in_len, in_room;
    int again; /* in may hold whole frames */
    int lost;  /* it was closed before anybody asked for that */
    int local; /* the broker is on this machine */
    int patience_ms;
    char *texts[4]; /* what the connection's options point at */
    char *password; /* mx_secret's */
};

static inline mx_waits *mx_amqp_waits(mx_amqp *a) { return &a->base.runtime->waits.pub; }
static inline mx_timers *mx_amqp_timers(mx_amqp *a) { return &a->base.runtime->timers; }
/* A slice is due; wake: and Lua is to look at what has changed. */
static inline void mx_amqp_stir(mx_amqp *a) { a->base.runtime->wake(a->base.runtime); }
static inline void mx_amqp_wake(mx_amqp *a) {
    a->base.runtime->news = 1;
    mx_amqp_stir(a);
}
static inline mx_amqp_consumer *mx_consumer_of(mx_line *l) {
    return (mx_amqp_consumer *)((char *)l - offsetof(mx_amqp_consumer, line));
}
static inline mx_amqp_publisher *mx_publisher_of(mx_line *l) {
    return (mx_amqp_publisher *)((char *)l - offsetof(mx_amqp_publisher, line));
}

/* The ticket's post, with what came of it. */
void mx_amqp_post(mx_amqp *a, uint32_t ticket, int code, int reply_code, const char *text);
void mx_amqp_done(mx_amqp *a, uint32_t ticket);
void mx_amqp_write(mx_amqp *a); /* what the kernel takes now */

/* ---- line.c: requests, one at a time on each channel ---- */

void mx_line_add(mx_line *l, int kind, mx_amqp *a);
void mx_line_drop(mx_line *l); /* with its channel; what it waits for ends as closed */
void mx_line_open(mx_line *l); /* l->chan stays NULL when that cannot be: mx_line_refusal says why */
void mx_line_close(mx_line *l);
const char *mx_line_refusal(mx_amqp *a);
int mx_line_ask(mx_line *l, uint32_t method, void *decoded, uint32_t ticket); /* 0 or MX_EVALIDATION: it cannot be encoded */
void mx_line_send(mx_line *l);                                                /* the first request, if it can go */
mx_request *mx_line_take(mx_line *l);                                         /* the one under way, from the line */
/* Posts the ticket of r with what the method says; r is still the caller's. */
void mx_line_answer(mx_line *l, mx_request *r, uint32_t method, void *decoded);
void mx_line_fail(mx_line *l, int code, int reply_code, const char *text); /* all of its requests */
/* The broker closed the channel of calls: the one under way is to blame, the others go to a new one. */
void mx_line_renew(mx_line *l, int code, int reply_code, const char *text);
int mx_amqp_call(mx_link *link, const mx_call *q, uint32_t ticket);

/* A method's table as librabbitmq wants it; the table was checked before, for its decoder recurses without a limit. */
typedef struct mx_arguments {
    amqp_pool_t pool;
    amqp_table_t table;
    uint8_t *raw;
} mx_arguments;

mx_arguments mx_arguments_read(mx_span s);
void mx_arguments_drop(mx_arguments *x);
static inline amqp_bytes_t mx_bytes(mx_span s) { return (amqp_bytes_t){s.n, (void *)s.p}; }

/* ---- consumer.c ---- */

mx_inbox *mx_amqp_consume(mx_link *link, const mx_consume *o, uint32_t ticket);
void mx_amqp_cancel(mx_inbox *ib, uint32_t ticket);
void mx_amqp_close_inbox(mx_inbox *ib, uint32_t ticket);
void mx_amqp_settle(mx_amqp_consumer *c);     /* what is worth an ack by now */
void mx_amqp_settle_all(mx_amqp_consumer *c); /* also what lies beyond a gap: nobody will hear of it later */
void mx_amqp_free_consumer(mx_amqp_consumer *c);
mx_inbox *mx_amqp_replies(mx_pub *pub, uint32_t ticket);
void mx_amqp_lose_replies(mx_amqp_publisher *p); /* before the publisher's channel goes */

/* ---- coalesce.c ---- */

uint64_t mx_amqp_coalesce(mx_link *link, uint64_t now_us);

/* ---- publisher.c ---- */

mx_pub *mx_amqp_open_pub(mx_link *link, uint32_t window, int mode, double timeout, uint32_t ticket);
int mx_amqp_reopen_pub(mx_pub *pub, mx_link *link, uint32_t ticket);
void mx_amqp_pub_opened(mx_amqp_publisher *p); /* confirm.select-ok: what is pending goes out */
void mx_amqp_close_pub(mx_pub *pub, uint32_t ticket);
double mx_amqp_publish(mx_pub *pub, mx_span exchange, mx_span key, mx_span body, const mx_props *props, int flags,
                       double timeout);
void mx_amqp_release_pub(mx_pub *pub);
void mx_amqp_flush_pub(mx_amqp_publisher *p);
void mx_amqp_lose_publisher(mx_amqp_publisher *p, int reply_code, const char *text); /* its channel is gone */
void mx_amqp_closed_publisher(mx_amqp_publisher *p);                                 /* channel.close-ok */
void mx_amqp_free_publisher(mx_amqp_publisher *p);
#endif
