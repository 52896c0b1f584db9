/* link.h - one way to a broker: open, declare, publish, consume, settle, close. Two fillings: amqp, embedded.
 *
 * The worker calls fill, then lets Lua run, then flush, as often as there is something to do. */
#ifndef MX_LINK_H
#define MX_LINK_H
#include <uv.h>
#include "base/timer.h"
#include "base/wait.h"
#include "link/confirm.h"
#include "message/inbox.h"
#include "wire/stream.h"

typedef struct mx_link_base mx_link_base;

typedef struct mx_link_ops {
    int (*call)(mx_link *l, const mx_call *c, uint32_t ticket);
    mx_inbox *(*consume)(mx_link *l, const mx_consume *c, uint32_t ticket);
    void (*inbox_cancel)(mx_inbox *ib, uint32_t ticket);
    void (*inbox_close)(mx_inbox *ib, uint32_t ticket);
    mx_pub *(*pub_open)(mx_link *l, uint32_t window, int mode, double timeout, uint32_t ticket);
    int (*pub_reopen)(mx_pub *p, mx_link *l, uint32_t ticket);
    void (*pub_close)(mx_pub *p, uint32_t ticket);
    double (*publish)(mx_pub *p, mx_span exchange, mx_span key, mx_span body, const mx_props *props, int flags, double timeout);
    void (*pub_release)(mx_pub *p); /* what was published since there is a batch, and kept, goes out */
    int (*fill)(mx_link *l);        /* moves one slice of deliveries and events in; 1: there is more at hand */
    void (*flush)(mx_link *l);      /* settlements and everything buffered go out */
    /* For how many us it is well not to look at what comes; 0: look at once, UINT64_MAX: nothing comes. */
    uint64_t (*coalesce)(mx_link *l, uint64_t now_us);
    void (*close)(mx_link *l, uint32_t ticket);
    mx_inbox *(*replies)(mx_pub *p, uint32_t ticket); /* NULL: it has no direct reply-to */
} mx_link_ops;

/* What a link gets from the worker, which outlives it. */
struct mx_runtime {
    uv_loop_t *loop;
    mx_timers timers;
    mx_waitroom waits;
    mx_turn turn;
    mx_link_base *links;          /* open ones, for the turn */
    struct mx_socket *sockets;    /* open ones, and those that are not gone yet */
    struct mx_http *http;         /* NULL: none */
    struct mx_uploader *uploader; /* NULL: none */
    struct mx_control *control;   /* NULL: none */
    struct mx_editor *editor;     /* NULL: none */
    void (*wake)(mx_runtime *r);  /* a slice is needed although no I/O is due; may be called from fill, flush, publish, timers */
    int news;                     /* Lua is to look: deliveries, changed states; posts count without it */
};

/* Every filling starts with this; inboxes and publishers start with a pointer to it behind their public part. */
struct mx_link_base {
    mx_link pub; /* first: what Lua sees */
    const mx_link_ops *ops;
    mx_runtime *runtime;
    mx_link_base *next;
    mx_pool *pool; /* NULL: none */
    mx_link_base *pooled;
};

typedef struct mx_consumer { /* what both fillings' consumers start with */
    mx_inbox inbox;          /* first */
    mx_link_base *link;
} mx_consumer;

typedef struct mx_publisher { /* what both fillings' publishers start with */
    mx_confirm confirm;       /* first; its first is the mx_pub */
    mx_link_base *link;
    mx_batch *batch; /* what is published is kept together in it; NULL: goes out at once */
    mx_timer release;
} mx_publisher;

/* A stream of r's loop; tls NULL: a plain one. As mx_tls_open: NULL and why, when a file cannot be used. */
mx_stream *mx_link_stream(mx_runtime *r, const char *host, const char *port, int timeout_ms, const mx_link_tls *tls,
                          char why[MX_TLS_WHY], const mx_stream_events *e, void *arg);
/* The stream encrypted, as mx_tls_over. */
mx_stream *mx_link_encrypt(mx_runtime *r, mx_stream *over, const char *host, const mx_link_tls *tls, char why[MX_TLS_WHY],
                           const mx_stream_events *e, void *arg);
void mx_sockets_close(mx_runtime *r); /* each leaves runtime->sockets once it is gone */
mx_link *mx_amqp_open(mx_runtime *r, const mx_link_options *o, uint32_t ticket);
mx_link *mx_embedded_open(mx_runtime *r, const mx_link_options *o, uint32_t ticket);
void mx_link_attach(mx_runtime *r, mx_link_base *l); /* into runtime->links */
void mx_link_detach(mx_link_base *l);                /* before it is freed */
void mx_link_take_channel(mx_link_base *l);
void mx_link_give_channel(mx_link_base *l);
void mx_pool_remove(mx_link_base *l);
void mx_pool_given(mx_pool *p); /* a channel came back */
/* 0, or refused: what names exchanges, queues and bindings has at most 255 bytes (shortstr, 4.2.5.3) and is UTF-8, or RabbitMQ
 * ends the connection. */
int mx_check_name(const char *what, mx_span name);
/* Of a publisher with a batch: seq is what came of a publish of so many bytes, or that the window is full, perhaps with what
 * is kept itself. Returns seq. */
double mx_gather_more(mx_pub *p, double seq, size_t size);
void mx_gather_fini(mx_publisher *p);                                                   /* the batch, not what is kept */
int mx_refuse(int code, const char *format, ...) __attribute__((format(printf, 2, 3))); /* sets mx_refusal's text, returns code */
#endif
