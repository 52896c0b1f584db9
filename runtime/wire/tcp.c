/* tcp.c - a stream over one TCP connection, each address of the name in turn; or over a local socket. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <unistd.h>
#include "wire/stream.h"

enum { KEEPALIVE_S = 60 }; /* of silence: where no heartbeats go, this finds a dead peer and keeps the ways between open */

const char mx_stream_end[] = "the broker closed the connection";

typedef struct tcp {
    mx_stream base; /* first */
    union {
        uv_tcp_t tcp;
        uv_pipe_t local; /* as stream and as handle the same */
    };
    uv_getaddrinfo_t resolve;
    uv_connect_t connect;
    uv_write_t write;
    uv_shutdown_t shutdown;
    struct addrinfo *addresses, *address;
    size_t rest; /* how much is being written */
    const mx_stream_events *events;
    void *arg;
    int timeout_ms, refused; /* refused: why the name was not even looked up, 0: it was */
    int resolving, has_tcp, writing, reading, up, down, closing;
} tcp;

static void tell_down(tcp *s, const char *why) {
    if (s->down || s->closing) return;
    s->down = 1;
    s->events->down(s->arg, why);
}

static void finish(tcp *s) {
    if (s->resolving || s->has_tcp) return;
    uv_freeaddrinfo(s->addresses);
    s->events->gone(s->arg);
    free(s);
}

static void on_closed(uv_handle_t *h) {
    tcp *s = h->data;
    s->has_tcp = 0;
    if (s->closing) finish(s);
}

static void try_address(tcp *s);

static void on_next(uv_handle_t *h) {
    tcp *s = h->data;
    s->has_tcp = 0;
    if (s->closing) finish(s);
    else try_address(s);
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
    if (s->reading || !s->up || s->down || s->closing) return;
    s->reading = 1;
    uv_read_start((uv_stream_t *)&s->tcp, on_alloc, on_read);
}

static void set(tcp *s, int option, int value) {
    int fd;
    if (!uv_fileno((uv_handle_t *)&s->tcp, &fd)) setsockopt(fd, IPPROTO_TCP, option, &value, sizeof value);
}

static void be_patient(mx_stream *stream, int timeout_ms) {
    tcp *s = (tcp *)stream;
    s->timeout_ms = timeout_ms;
    if (s->address && s->up && !s->down && !s->closing) set(s, TCP_USER_TIMEOUT, timeout_ms);
}

static void on_connect(uv_connect_t *r, int status) {
    tcp *s = r->data;
    if (s->closing) return;
    if (status) {
        s->address = s->address ? s->address->ai_next : NULL;
        if (s->address) uv_close((uv_handle_t *)&s->tcp, on_next);
        else tell_down(s, uv_strerror(status));
        return;
    }
    if (s->address) {
        uv_tcp_nodelay(&s->tcp, 1);
        uv_tcp_keepalive(&s->tcp, 1, KEEPALIVE_S);
        set(s, TCP_USER_TIMEOUT, s->timeout_ms);
    }
    s->up = 1;
    resume(&s->base);
    s->events->up(s->arg);
}

static void try_address(tcp *s) {
    int status = uv_tcp_init_ex(s->resolve.loop, &s->tcp, (unsigned)s->address->ai_family);
    if (status) { /* no socket of that family, or none left; the handle needs no close then */
        s->address = s->address->ai_next;
        if (s->address) try_address(s);
        else tell_down(s, uv_strerror(status));
        return;
    }
    s->tcp.data = s->connect.data = s;
    s->has_tcp = 1;
    set(s, TCP_SYNCNT, 1); /* one repeat: after 1 + 2 s the next address has its turn */
    status = uv_tcp_connect(&s->connect, &s->tcp, s->address->ai_addr, on_connect);
    if (status) on_connect(&s->connect, status);
}

/* A resolver that is short of descriptors says that the name is unknown. */
static int reason_of(int status) {
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return uv_translate_sys_error(errno);
    close(fd);
    return status;
}

static void on_resolved(uv_getaddrinfo_t *r, int status, struct addrinfo *list) {
    tcp *s = r->data;
    s->resolving = 0;
    s->addresses = s->address = list;
    if (s->closing) finish(s);
    else if (status) tell_down(s, uv_strerror(reason_of(status)));
    else try_address(s);
}

/* The owner is told from the loop, as of every end. */
static void on_refused(uv_handle_t *h) {
    tcp *s = h->data;
    s->has_tcp = 0;
    if (s->closing) finish(s);
    else tell_down(s, uv_strerror(s->refused));
}

static void refuse(tcp *s, uv_loop_t *loop) {
    uv_tcp_init(loop, &s->tcp);
    s->tcp.data = s;
    s->has_tcp = 1;
    uv_close((uv_handle_t *)&s->tcp, on_refused);
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
    if (s->writing || !s->up || s->down || s->closing || !n) return 0;
    uv_buf_t bytes = uv_buf_init((char *)p, (unsigned)n);
    int taken = uv_try_write((uv_stream_t *)&s->tcp, &bytes, 1);
    size_t left = taken > 0 ? (size_t)taken : 0;
    if (left == n) return n;
    s->rest = n - left;
    bytes = uv_buf_init((char *)p + left, (unsigned)s->rest);
    s->write.data = s;
    s->writing = !uv_write(&s->write, (uv_stream_t *)&s->tcp, &bytes, 1, on_written);
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
    if (!s->up || s->down || s->closing || uv_fileno((uv_handle_t *)&s->tcp, &fd)) return 0;
    if (!s->writing && !ioctl(fd, SIOCOUTQ, &left) && !left) return 0;
    return !uv_shutdown(&s->shutdown, (uv_stream_t *)&s->tcp, on_shutdown);
}

static void close_down(mx_stream *stream) {
    tcp *s = (tcp *)stream;
    if (s->closing) return;
    s->closing = 1;
    if (s->resolving) uv_cancel((uv_req_t *)&s->resolve);
    if (s->has_tcp && !uv_is_closing((uv_handle_t *)&s->tcp)) uv_close((uv_handle_t *)&s->tcp, on_closed);
    else if (!s->has_tcp && !s->resolving) finish(s);
}

static void connect_to_path(tcp *s, uv_loop_t *loop, const char *path) {
    if (strlen(path) >= sizeof((struct sockaddr_un *)0)->sun_path) {
        s->refused = UV_ENAMETOOLONG;
        refuse(s, loop);
        return;
    }
    uv_pipe_init(loop, &s->local, 0);
    s->local.data = s->connect.data = s;
    s->has_tcp = 1;
    uv_pipe_connect(&s->connect, &s->local, path, on_connect);
}

static const mx_stream_kind tcp_kind = {write_out, pending, finish_writing, resume, be_patient, close_down};

mx_stream *mx_tcp_open(uv_loop_t *loop, const char *host, const char *port, int timeout_ms, const mx_stream_events *e,
                       void *arg) {
    tcp *s = mx_zalloc(sizeof *s);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_protocol = IPPROTO_TCP};
    s->base.kind = &tcp_kind;
    s->events = e;
    s->arg = arg;
    s->timeout_ms = timeout_ms;
    if (!strncmp(host, "unix:", 5)) {
        connect_to_path(s, loop, host + 5);
        return &s->base;
    }
    s->resolve.data = s;
    s->refused = uv_getaddrinfo(loop, &s->resolve, on_resolved, host, port, &hints);
    s->resolving = !s->refused;
    if (s->refused) refuse(s, loop);
    return &s->base;
}
