/* chan.h - a channel of a connection: its state, and the content (4.2.6) that it assembles. No I/O, no policy. */
#ifndef MX_CHAN_H
#define MX_CHAN_H
#include "wire/conn.h"

enum { MX_CHAN_CLOSED, MX_CHAN_OPENING, MX_CHAN_OPEN, MX_CHAN_CLOSING };

struct mx_chan {
    mx_conn *conn;
    void *arg; /* the owner's */
    uint16_t number;
    uint8_t state;
    uint8_t content; /* what is coming in; 0: nothing */
    uint64_t left;   /* body bytes still to come */
    uint8_t wants_header;
    uint8_t no_ack; /* its consumer does not ack: nothing can be given back */
    uint8_t redelivered;
    uint64_t tag;
    uint8_t exchange[256], key[256], consumer_tag[256]; /* [0] is the length; consumer_tag: of the inbox */
    mx_message *message;                                /* in assembly */
    mx_inbox *inbox;                                    /* where deliveries go; NULL: they are refused */
    uint8_t paused;                                     /* channel.flow (1.5.2.3): the broker wants no publishes */
    uint32_t slice;                                     /* deliveries to take in one feed; 0: no limit */
    uint32_t taken, fed;                                /* deliveries taken in the feed of that number */
};

/* NULL: no number is free. The broker's answer comes as reply(channel.open-ok). */
mx_chan *mx_chan_new(mx_conn *c, void *arg);
/* channel.close (1.5.2.5), also before open-ok came; reply(channel.close-ok); then mx_chan_free. */
void mx_chan_close(mx_chan *c);
void mx_chan_free(mx_chan *c);
int mx_chan_method(mx_chan *c, uint32_t method, void *decoded); /* 0 or MX_EVALIDATION */

/* The connection's side: 0, or a negative code when the connection has ended. rest: the n bytes behind the method;
 * more: how many of them belonged to it, when a delivery lay whole in the buffer and its slot points there. */
int mx_chan_on_method(mx_chan *c, uint32_t method, void *decoded, const uint8_t *rest, size_t n, size_t *more);
int mx_chan_on_content(mx_chan *c, const mx_frame *f); /* a header or body frame */
#endif
