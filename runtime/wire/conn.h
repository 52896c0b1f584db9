/* conn.h - an AMQP 0-9-1 connection as bytes in, bytes out, events: no I/O, no clock, no policy.
 *
 * Events are called from mx_conn_feed; they may write (channels, methods) but not free the connection. After closed was
 * called nothing more is fed or called. */
#ifndef MX_CONN_H
#define MX_CONN_H
#include "message/inbox.h"
#include "wire/frame.h"
#include "wire/sendq.h"

typedef struct mx_conn mx_conn;
typedef struct mx_chan mx_chan;

typedef struct mx_conn_events {
    void (*open)(void *arg);
    void (*closed)(void *arg, int code, int reply_code, const char *text); /* code 0: by our own close */
    void (*blocked)(void *arg, int on);
    void (*reply)(mx_chan *c, uint32_t method, void *decoded); /* the answer to the channel's method; valid during the call */
    void (*chan_closed)(mx_chan *c, int reply_code, const char *text); /* by the broker; 0: with the connection */
    void (*confirm)(mx_chan *c, uint64_t tag, int multiple, int nack);
    void (*returned)(mx_chan *c, mx_span id, mx_span exchange, mx_span key);
    void (*cancelled)(mx_chan *c);
    /* a delivery with more than we take: it is read past and rejected; what: of which size is given */
    void (*refused)(mx_chan *c, const char *what, uint64_t size, uint64_t limit);
} mx_conn_events;

typedef struct mx_conn_options {
    mx_span user, password, vhost, name;
    int heartbeat; /* seconds; 0: none unless the broker wants one */
    size_t max_body;
    int external; /* SASL EXTERNAL: the certificate of the stream says who we are */
} mx_conn_options;

struct mx_conn {
    mx_sendq *out;
    uint32_t frame_max;
    uint16_t channel_max, heartbeat;
    uint32_t rabbit; /* RabbitMQ's major version; 0: it is not that */
    int state;
    const mx_conn_events *events;
    void *arg;
    mx_conn_options options;
    mx_chan **channel; /* by number */
    uint32_t channels, next_number;
    uint32_t fed, sliced; /* number of the feed; 1: a channel has taken its slice */
    int stalled;          /* an inbox is full: the rest of the input waits */
    uint64_t skip;        /* bytes of a header too large to be kept that are still to come */
};

/* Writes the protocol header, as all that follows, to out. */
mx_conn *mx_conn_new(const mx_conn_options *o, mx_sendq *out, const mx_conn_events *events, void *arg);
void mx_conn_free(mx_conn *c);
/* Bytes consumed; stops early after a slice of deliveries or at a full inbox (again: more frames may be at hand).
 * Deliveries may point into p until mx_inbox_detach. */
size_t mx_conn_feed(mx_conn *c, const uint8_t *p, size_t n, int *again);
void mx_conn_close(mx_conn *c);                            /* connection.close (1.4.2.8); closed is called when it is answered */
void mx_conn_fail(mx_conn *c, int code, const char *text); /* the stream is gone, or a deadline passed */
/* The broker broke the protocol: it is told (connection.close), then as fail. */
int mx_conn_break(mx_conn *c, int reply_code, const char *text); /* MX_ECONNECTION */
void mx_conn_heartbeat(mx_conn *c);
int mx_conn_is_open(const mx_conn *c);

/* For channels. */
int mx_conn_write(mx_conn *c, uint16_t channel, uint32_t method, void *decoded); /* into out; 0 or MX_EVALIDATION */
const char *mx_conn_printable(mx_conn *c, mx_span text); /* of the broker, fit for a log; valid until the next call */
#endif
