/* stream.h - bytes to and from a peer; tcp and tls fill it. The owner gets events on the loop, never from within a call; only
 * gone may come from within mx_stream_close. */
#ifndef MX_STREAM_H
#define MX_STREAM_H
#include <uv.h>
#include "wire/sendq.h"

typedef struct mx_stream mx_stream;
typedef struct mx_stream_kind { /* see the functions below */
    size_t (*write)(mx_stream *s, const uint8_t *p, size_t n);
    size_t (*pending)(const mx_stream *s);
    int (*finish)(mx_stream *s);
    void (*resume)(mx_stream *s);
    void (*patience)(mx_stream *s, int timeout_ms);
    int (*is_local)(const mx_stream *s);
    void (*close)(mx_stream *s);
} mx_stream_kind;
struct mx_stream { /* first in a filling's own struct */
    const mx_stream_kind *kind;
};

typedef struct mx_stream_events {
    void (*up)(void *arg);
    void (*room)(void *arg, uint8_t **p, size_t *n); /* where to read to; n = 0: not now, mx_stream_resume later */
    void (*data)(void *arg, size_t n);
    void (*drained)(void *arg, size_t n);     /* so many bytes of the last write left later; write may be called again */
    void (*down)(void *arg, const char *why); /* once; also when connecting failed */
    void (*gone)(void *arg);                  /* after mx_stream_close: nothing of it is left */
} mx_stream_events;
extern const char mx_stream_end[]; /* the why of down, by its address, when the peer closed in order */

/* host and port as in mx_dial_start. timeout_ms: of unacknowledged bytes (TCP_USER_TIMEOUT). No child of the process inherits the
 * socket. */
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

/* Encrypts a stream of mx_tcp_open that is up, from now on: it belongs to the new one. What came on it has been taken. NULL: as
 * above, and it stays as it was. */
mx_stream *mx_tls_over(uv_loop_t *loop, mx_stream *tcp, const mx_tls_options *o, char why[MX_TLS_WHY], const mx_stream_events *e,
                       void *arg);
/* From now on its events go to another owner. */
void mx_tcp_pass(mx_stream *tcp, const mx_stream_events *e, void *arg);

/* What OpenSSL holds is counted from now on; to be called before anything else of it. */
void mx_tls_count_memory(void);

/* How many of the n bytes left at once. The others leave later and stay where they are until drained tells of them, or until
 * mx_stream_close; meanwhile, and before up and after down, nothing more is taken: 0. */
static inline size_t mx_stream_write(mx_stream *s, const uint8_t *p, size_t n) { return s->kind->write(s, p, n); }
static inline void mx_stream_write_out(mx_stream *s, mx_sendq *o) {
    for (mx_span b; (b = mx_sendq_front(o)).n;) {
        size_t n = mx_stream_write(s, b.p, b.n);
        mx_sendq_wrote(o, n);
        if (n < b.n) return;
    }
}
/* How many bytes that write took the kernel has not: a TLS stream keeps what it encrypted; drained tells when it is 0. */
static inline size_t mx_stream_pending(const mx_stream *s) { return s->kind->pending(s); }
/* Tells the peer that no more will be written. 0: it has all of it. Else to close now might lose some: what the peer says to a
 * socket that is gone makes the kernel drop what it still holds. Better go on reading until down, for as long as one cares. */
static inline int mx_stream_finish(mx_stream *s) { return s->kind->finish(s); }
static inline void mx_stream_resume(mx_stream *s) { s->kind->resume(s); }
/* As in open; 0: the system's own. */
static inline void mx_stream_patience(mx_stream *s, int timeout_ms) { s->kind->patience(s, timeout_ms); }
/* Whether the peer is on this machine; to be asked once it is up. */
static inline int mx_stream_is_local(const mx_stream *s) { return s->kind->is_local(s); }
static inline void mx_stream_close(mx_stream *s) { s->kind->close(s); }
#endif
