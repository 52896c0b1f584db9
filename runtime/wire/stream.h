/* stream.h - bytes to and from a broker; tcp fills it. The owner gets events on the loop, never from within a call; only
 * gone may come from within mx_stream_close. */
#ifndef MX_STREAM_H
#define MX_STREAM_H
#include <uv.h>
#include "wire/frame.h"

typedef struct mx_stream mx_stream;

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
/* Writes what the kernel takes and queues the rest (at most one rest at a time); takes all of b, or nothing while a rest waits.
 */
void mx_stream_write(mx_stream *s, mx_buffer *b);
void mx_stream_resume(mx_stream *s);
void mx_stream_patience(mx_stream *s, int timeout_ms); /* as in open; 0: the system's own */
void mx_stream_close(mx_stream *s);
#endif
