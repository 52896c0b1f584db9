/* stream.h - bytes to and from a broker; tcp and tls fill it. The owner gets events on the loop, never from within a call; only
 * gone may come from within mx_stream_close. */
#ifndef MX_STREAM_H
#define MX_STREAM_H
#include <uv.h>
#include "wire/frame.h"

typedef struct mx_stream mx_stream;
typedef struct mx_stream_kind { /* see the functions below */
    void (*write)(mx_stream *s, mx_buffer *b);
    void (*resume)(mx_stream *s);
    void (*patience)(mx_stream *s, int timeout_ms);
    void (*close)(mx_stream *s);
} mx_stream_kind;
struct mx_stream { /* first in a filling's own struct */
    const mx_stream_kind *kind;
};

typedef struct mx_stream_events {
    void (*up)(void *arg);
    void (*room)(void *arg, uint8_t **p, size_t *n); /* where to read to; n = 0: not now, mx_stream_resume later */
    void (*data)(void *arg, size_t n);
    void (*drained)(void *arg);               /* what write had to queue has left */
    void (*down)(void *arg, const char *why); /* once; also when connecting failed */
    void (*gone)(void *arg);                  /* after mx_stream_close: nothing of it is left */
} mx_stream_events;

/* host and port are copied; an address that does not answer is given up after 3 s.
 * timeout_ms: of unacknowledged bytes (TCP_USER_TIMEOUT). */
mx_stream *mx_tcp_open(uv_loop_t *loop, const char *host, const char *port, int timeout_ms, const mx_stream_events *e, void *arg);

/* What TLS asks for. Paths of PEM files; empty: ca the system's store, the rest not used. Borrowed until the call returns. */
typedef struct mx_tls_options {
    const char *ca, *cert, *key, *crl;
    const char *name; /* the broker's name or address in its certificate, and for SNI */
    int min_version;  /* 12 or 13 */
    int unverified;   /* whoever answers is trusted */
} mx_tls_options;

/* As mx_tcp_open, encrypted; up comes after the handshake. NULL: a file cannot be used, why says which. */
enum { MX_TLS_WHY = 512 };
mx_stream *mx_tls_open(uv_loop_t *loop, const char *host, const char *port, int timeout_ms, const mx_tls_options *o,
                       char why[MX_TLS_WHY], const mx_stream_events *e, void *arg);

/* Writes what the kernel takes and queues the rest (at most one rest at a time); takes all of b, or nothing while a rest waits.
 */
static inline void mx_stream_write(mx_stream *s, mx_buffer *b) { s->kind->write(s, b); }
static inline void mx_stream_resume(mx_stream *s) { s->kind->resume(s); }
/* As in open; 0: the system's own. */
static inline void mx_stream_patience(mx_stream *s, int timeout_ms) { s->kind->patience(s, timeout_ms); }
static inline void mx_stream_close(mx_stream *s) { s->kind->close(s); }
#endif
