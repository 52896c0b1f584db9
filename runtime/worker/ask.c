/* ask.c - passing connections, and one request on each. */
#include "worker/ask.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ANSWER_BYTES = 64 << 20 };

typedef struct ask {
    uv_pipe_t pipe;
    uv_timer_t timer;
    uv_write_t write;
    mx_ask_answer *answer;
    void *arg;
    uint32_t number;
    int open; /* handles */
    size_t n, room;
    char *bytes, *request;
} ask;

int mx_ask_pair(int fd[2]) { return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd); }

/* Passing a descriptor needs one byte beside it -------------------------------------------------------------------- */

typedef union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
} control;

static struct msghdr message(control *c, struct iovec *byte) {
    return (struct msghdr){.msg_iov = byte, .msg_iovlen = 1, .msg_control = c->bytes, .msg_controllen = sizeof c->bytes};
}

static int pass(int over, int fd) {
    control c = {0};
    struct iovec byte = {"", 1};
    struct msghdr m = message(&c, &byte);
    struct cmsghdr *head = CMSG_FIRSTHDR(&m);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(head), &fd, sizeof fd);
    return sendmsg(over, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == 1 ? 0 : -1;
}

/* -1: there is none, -2: nor will there be. */
static int next_connection(void) {
    control c = {0};
    char room;
    struct iovec byte = {&room, 1};
    struct msghdr m = message(&c, &byte);
    ssize_t n = recvmsg(MX_ASK_FD, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n <= 0) return n < 0 && (errno == EAGAIN || errno == EINTR) ? -1 : -2;
    struct cmsghdr *head = CMSG_FIRSTHDR(&m);
    int fd;
    if (!head || head->cmsg_type != SCM_RIGHTS) return -1;
    memcpy(&fd, CMSG_DATA(head), sizeof fd);
    return fd;
}

/* Being asked ---------------------------------------------------------------------------------------------------------- */

static void on_connection(uv_poll_t *p, int status, int events) {
    int fd;
    (void)status, (void)events;
    while ((fd = next_connection()) >= 0) mx_http_serve(p->data, fd);
    if (fd == -2) uv_poll_stop(p); /* the supervisor is gone */
}

int mx_ask_serve(mx_runtime *r, char why[MX_HTTP_WHY]) {
    static uv_poll_t poll; /* one a process; it ends with the loop */
    int code = mx_http_open(r, NULL, NULL, NULL, NULL, why);
    if (code) return code;
    uv_poll_init(r->loop, &poll, MX_ASK_FD);
    poll.data = r;
    return uv_poll_start(&poll, UV_READABLE, on_connection);
}

/* Asking --------------------------------------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *h) {
    ask *a = h->data;
    if (--a->open) return;
    free(a->bytes);
    free(a->request);
    free(a);
}

static void finish(ask *a, int came) {
    if (uv_is_closing((uv_handle_t *)&a->timer)) return;
    uv_close((uv_handle_t *)&a->timer, on_closed);
    uv_close((uv_handle_t *)&a->pipe, on_closed);
    a->answer(a->arg, a->number, a->bytes, came ? a->n : 0);
}

static void on_late(uv_timer_t *t) { finish(t->data, 0); }

static void on_room(uv_handle_t *h, size_t wanted, uv_buf_t *buffer) {
    ask *a = h->data;
    (void)wanted;
    if (a->room - a->n < 4096) a->bytes = mx_realloc(a->bytes, a->room = 2 * a->room + 65536);
    *buffer = uv_buf_init(a->bytes + a->n, (unsigned)(a->room - a->n));
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buffer) {
    ask *a = s->data;
    (void)buffer;
    if (n < 0) return finish(a, n == UV_EOF);
    a->n += (size_t)n;
    if (a->n > ANSWER_BYTES) finish(a, 0);
}

static void on_written(uv_write_t *w, int status) {
    if (status && status != UV_ECANCELED) finish(w->data, 0);
}

static int connect_to(ask *a, int over) {
    int fd[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd)) return -1;
    int failed = over < 0 || pass(over, fd[1]);
    close(fd[1]);
    if (!failed && !uv_pipe_open(&a->pipe, fd[0])) return 0;
    close(fd[0]);
    return -1;
}

void mx_ask(uv_loop_t *loop, int fd, uint32_t number, const char *target, uint64_t timeout_ms, mx_ask_answer *answer, void *arg) {
    ask *a = mx_zalloc(sizeof *a);
    a->answer = answer;
    a->arg = arg;
    a->number = number;
    a->open = 2;
    uv_pipe_init(loop, &a->pipe, 0);
    uv_timer_init(loop, &a->timer);
    a->pipe.data = a->timer.data = a->write.data = a;
    if (connect_to(a, fd)) {
        uv_timer_start(&a->timer, on_late, 0, 0);
        return;
    }
    uv_timer_start(&a->timer, on_late, timeout_ms, 0);
    size_t room = strlen(target) + 64;
    a->request = mx_zalloc(room);
    uv_buf_t buffer = uv_buf_init(a->request, (unsigned)snprintf(a->request, room, "GET %s HTTP/1.0\r\n\r\n", target));
    uv_read_start((uv_stream_t *)&a->pipe, on_room, on_read);
    if (uv_write(&a->write, (uv_stream_t *)&a->pipe, &buffer, 1, on_written)) uv_timer_start(&a->timer, on_late, 0, 0);
}
