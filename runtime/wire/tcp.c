/* tcp.c - a stream over one TCP connection, or over a local socket. */
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include "base/mx.h"
#include "wire/dial.h"
#include "wire/stream.h"

enum { KEEPALIVE_S = 60 }; /* of silence: where no heartbeats go, this finds a dead peer and keeps the ways between open */

const char mx_stream_end[] = "the broker closed the connection";

typedef struct tcp {
    mx_stream base;    /* first */
    mx_dial *dial;     /* until there is a handle */
    uv_stream_t *peer; /* NULL: not connected, or closed again */
    uv_write_t write;
    uv_shutdown_t shutdown;
    size_t rest; /* how much is being written */
    const mx_stream_events *events;
    void *arg;
    int timeout_ms, writing, reading, down, closing;
} tcp;

static int is_open(const tcp *s) { return s->peer && !s->down && !s->closing; }

static void tell_down(tcp *s, const char *why) {
    if (s->down || s->closing) return;
    s->down = 1;
    s->events->down(s->arg, why);
}

static void finish(tcp *s) {
    s->events->gone(s->arg);
    free(s);
}

static void on_closed(uv_handle_t *h) {
    tcp *s = h->data;
    free(h);
    finish(s);
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *out) {
    tcp *s = h->data;
    uint8_t *p = NULL;
    size_t n = 0;
    (void)suggested;
    s->events->room(s->arg, &p, &n);
    *out = uv_buf_init((char *)p, (unsigned)n);
}

static void on_read(uv_stream_t *h, ssize_t n, const uv_buf_t *buffer) {
    tcp *s = h->data;
    (void)buffer;
    if (n == UV_ENOBUFS) { /* the owner had no room */
        uv_read_stop(h);
        s->reading = 0;
    } else if (n > 0) {
        s->events->data(s->arg, (size_t)n);
    } else if (n < 0) {
        uv_read_stop(h);
        tell_down(s, n == UV_EOF ? mx_stream_end : uv_strerror((int)n));
    }
}

static void resume(mx_stream *stream) {
    tcp *s = (tcp *)stream;
    if (s->reading || !is_open(s)) return;
    s->reading = 1;
    uv_read_start(s->peer, on_alloc, on_read);
}

static void set_patience(const tcp *s) {
    int fd;
    if (s->peer->type != UV_TCP || uv_fileno((uv_handle_t *)s->peer, &fd)) return;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &s->timeout_ms, sizeof s->timeout_ms);
}

static void be_patient(mx_stream *stream, int timeout_ms) {
    tcp *s = (tcp *)stream;
    s->timeout_ms = timeout_ms;
    if (is_open(s)) set_patience(s);
}

static void on_dialled(void *arg, uv_stream_t *peer, const char *why) {
    tcp *s = arg;
    s->dial = NULL;
    if (!peer) {
        tell_down(s, why);
        return;
    }
    s->peer = peer;
    peer->data = s;
    if (peer->type == UV_TCP) {
        uv_tcp_nodelay((uv_tcp_t *)peer, 1);
        uv_tcp_keepalive((uv_tcp_t *)peer, 1, KEEPALIVE_S);
    }
    set_patience(s);
    resume(&s->base);
    s->events->up(s->arg);
}

static void on_written(uv_write_t *r, int status) {
    tcp *s = r->data;
    s->writing = 0;
    if (s->closing) return;
    /* what the peer said before it closed still comes, its reason among it; then reading ends too */
    if ((status == UV_EPIPE || status == UV_ECONNRESET) && s->reading) return;
    if (status) tell_down(s, uv_strerror(status));
    else s->events->drained(s->arg, s->rest);
}

static size_t write_out(mx_stream *stream, const uint8_t *p, size_t n) {
    tcp *s = (tcp *)stream;
    if (s->writing || !is_open(s) || !n) return 0;
    uv_buf_t bytes = uv_buf_init((char *)p, (unsigned)n);
    int taken = uv_try_write(s->peer, &bytes, 1);
    size_t left = taken > 0 ? (size_t)taken : 0;
    if (left == n) return n;
    s->rest = n - left;
    bytes = uv_buf_init((char *)p + left, (unsigned)s->rest);
    s->write.data = s;
    s->writing = !uv_write(&s->write, s->peer, &bytes, 1, on_written);
    return left;
}

static size_t pending(const mx_stream *stream) {
    const tcp *s = (const tcp *)stream;
    return s->writing ? s->rest : 0;
}

static void on_shutdown(uv_shutdown_t *r, int status) { (void)r, (void)status; }

static int finish_writing(mx_stream *stream) {
    tcp *s = (tcp *)stream;
    int fd, left = 0;
    if (!is_open(s) || uv_fileno((uv_handle_t *)s->peer, &fd)) return 0;
    if (!s->writing && !ioctl(fd, SIOCOUTQ, &left) && !left) return 0;
    return !uv_shutdown(&s->shutdown, s->peer, on_shutdown);
}

/* Both ends have one address: a loopback one, or the machine's own. */
static int is_local(const mx_stream *stream) {
    const tcp *s = (const tcp *)stream;
    struct sockaddr_storage here = {0}, there = {0};
    int n = sizeof here, m = sizeof there;
    if (!is_open(s) || s->peer->type != UV_TCP) return is_open(s);
    if (uv_tcp_getsockname((uv_tcp_t *)s->peer, (struct sockaddr *)&here, &n)) return 0;
    if (uv_tcp_getpeername((uv_tcp_t *)s->peer, (struct sockaddr *)&there, &m)) return 0;
    if (here.ss_family == AF_INET6)
        return !memcmp(&((struct sockaddr_in6 *)&here)->sin6_addr, &((struct sockaddr_in6 *)&there)->sin6_addr, 16);
    return ((struct sockaddr_in *)&here)->sin_addr.s_addr == ((struct sockaddr_in *)&there)->sin_addr.s_addr;
}

static void close_down(mx_stream *stream) {
    tcp *s = (tcp *)stream;
    if (s->closing) return;
    s->closing = 1;
    if (s->dial) mx_dial_stop(s->dial);
    if (s->peer) uv_close((uv_handle_t *)s->peer, on_closed);
    else finish(s);
}

static const mx_stream_kind tcp_kind = {write_out, pending, finish_writing, resume, be_patient, is_local, close_down};

mx_stream *mx_tcp_open(uv_loop_t *loop, const char *host, const char *port, int timeout_ms, const mx_stream_events *e,
                       void *arg) {
    tcp *s = mx_zalloc(sizeof *s);
    s->base.kind = &tcp_kind;
    s->events = e;
    s->arg = arg;
    s->timeout_ms = timeout_ms;
    s->dial = mx_dial_start(loop, host, port, on_dialled, s);
    return &s->base;
}

void mx_tcp_pass(mx_stream *stream, const mx_stream_events *e, void *arg) {
    tcp *s = (tcp *)stream;
    s->events = e;
    s->arg = arg;
}
