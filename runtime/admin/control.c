/* control.c - a local socket on the loop: lines in, lines out, both bounded. */
#include "admin/control.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 2 * MX_CONTROL_CLIENTS };

typedef struct client {
    uv_pipe_t pipe; /* first */
    struct client *next;
    mx_control *control;
    uint32_t id, uid;
    int32_t pid;
    int known; /* Lua took a line of it, and is to be told when it goes */
    int gone, closed, reading;
    size_t from, size; /* of in: where what was not taken starts, where it ends */
    char in[MX_CONTROL_LINE];
} client;

struct mx_control {
    mx_runtime *runtime;
    uv_pipe_t listener;
    client *clients;
    uint32_t count, latest; /* of those that are not gone; id given out */
    uint32_t ticket;        /* of whoever waits for a line, 0: nobody */
    uint32_t handles;       /* that are not closed yet */
    int closing;
    ino_t inode;
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
};

/* Clients ---------------------------------------------------------------------------------------------------- */

static void forget(client *c) {
    client **at = &c->control->clients;
    while (*at != c) at = &(*at)->next;
    *at = c->next;
    free(c);
}

static void one_less(mx_control *k) {
    if (!--k->handles) free(k);
}

static char *end_of_line(client *c) { return c->gone ? NULL : memchr(c->in + c->from, '\n', c->size - c->from); }

static void call_lua(mx_control *k) {
    if (!k->ticket) return;
    mx_wait_post(&k->runtime->waits.pub, k->ticket, 0, NULL);
    k->ticket = 0;
    k->runtime->wake(k->runtime);
}

static void on_closed(uv_handle_t *handle) {
    client *c = (client *)handle;
    mx_control *k = c->control;
    c->closed = 1;
    if (!c->known || k->closing) forget(c);
    else call_lua(k);
    one_less(k);
}

static void drop(client *c) {
    if (c->gone) return;
    c->gone = 1;
    c->control->count--;
    uv_close((uv_handle_t *)&c->pipe, on_closed);
}

static void say(client *c, const char *text) {
    uv_buf_t piece = uv_buf_init((char *)(uintptr_t)text, (unsigned)strlen(text));
    uv_try_write((uv_stream_t *)&c->pipe, &piece, 1);
}

static void on_room(uv_handle_t *handle, size_t want, uv_buf_t *to) {
    client *c = (client *)handle;
    (void)want;
    if (c->from) memmove(c->in, c->in + c->from, c->size - c->from);
    c->size -= c->from;
    c->from = 0;
    *to = uv_buf_init(c->in + c->size, (unsigned)(sizeof c->in - c->size));
}

static void on_data(uv_stream_t *stream, ssize_t n, const uv_buf_t *piece) {
    client *c = (client *)stream;
    (void)piece;
    if (n < 0) {
        drop(c);
        return;
    }
    c->size += (size_t)n;
    if (end_of_line(c)) {
        uv_read_stop(stream);
        c->reading = 0;
        call_lua(c->control);
    } else if (c->size == sizeof c->in) {
        say(c, "{\"error\":\"a line is at most 65536 bytes\",\"done\":true}\n");
        drop(c);
    }
}

static void read_on(client *c) {
    if (c->reading || c->gone || end_of_line(c)) return;
    c->reading = 1;
    if (uv_read_start((uv_stream_t *)&c->pipe, on_room, on_data)) drop(c);
}

static int is_allowed(client *c) {
    struct ucred who;
    socklen_t n = sizeof who;
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *)&c->pipe, &fd) || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n)) return 0;
    c->pid = who.pid;
    c->uid = who.uid;
    return who.uid == geteuid() || who.uid == 0;
}

static void on_connection(uv_stream_t *listener, int status) {
    mx_control *k = listener->data;
    if (status) return;
    client *c = mx_zalloc(sizeof *c);
    c->control = k;
    uv_pipe_init(k->runtime->loop, &c->pipe, 0);
    c->next = k->clients;
    k->clients = c;
    k->count++;
    k->handles++;
    if (!++k->latest) k->latest = 1;
    c->id = k->latest;
    if (uv_accept(listener, (uv_stream_t *)&c->pipe) || !is_allowed(c)) {
        drop(c);
    } else if (k->count > MX_CONTROL_CLIENTS) {
        say(c, "{\"error\":\"too many are connected already\",\"done\":true}\n");
        drop(c);
    } else read_on(c);
}

/* Lua's side -------------------------------------------------------------------------------------------------- */

static client *find(const mx_runtime *r, uint32_t id) {
    client *c = r->control ? r->control->clients : NULL;
    while (c && c->id != id) c = c->next;
    return c;
}

MX_EXPORT const char *mx_control_path(mx_runtime *r) { return r->control ? r->control->path : NULL; }

static int has_news(client *c) { return end_of_line(c) || (c->closed && c->known); }

MX_EXPORT void mx_control_wait(mx_runtime *r, uint32_t ticket) {
    mx_control *k = r->control;
    if (!k) return;
    k->ticket = ticket;
    for (client *c = k->clients; c; c = c->next)
        if (has_news(c)) {
            call_lua(k);
            return;
        }
}

MX_EXPORT int mx_control_take(mx_runtime *r, mx_control_line *to) {
    client *c = r->control ? r->control->clients : NULL;
    for (; c; c = c->next) read_on(c); /* what was taken may have been the last that waited */
    for (c = r->control ? r->control->clients : NULL; c && !has_news(c);) c = c->next;
    if (!c) return 0;
    *to = (mx_control_line){.client = c->id, .pid = c->pid, .uid = c->uid};
    if (c->closed) {
        forget(c);
        return 1;
    }
    char *start = c->in + c->from, *end = end_of_line(c);
    c->known = 1;
    c->from += (size_t)(end - start) + 1;
    to->text = start;
    to->size = (size_t)(end - start);
    return 1;
}

typedef struct rest {
    uv_write_t write; /* first */
    client *client;
    char text[];
} rest;

static void on_written(uv_write_t *w, int status) {
    rest *x = (rest *)w;
    if (status) drop(x->client);
    free(x);
}

static int write_later(client *c, const char *p, size_t n) {
    rest *x = mx_zalloc(sizeof *x + n);
    uv_buf_t piece = uv_buf_init(x->text, (unsigned)n);
    x->client = c;
    memcpy(x->text, p, n);
    if (!uv_write(&x->write, (uv_stream_t *)&c->pipe, &piece, 1, on_written)) return 0;
    free(x);
    drop(c);
    return MX_ECLOSED;
}

MX_EXPORT int mx_control_send(mx_runtime *r, uint32_t id, const char *p, size_t n) {
    client *c = find(r, id);
    if (!c || c->gone) return MX_ECLOSED;
    size_t pending = uv_stream_get_write_queue_size((uv_stream_t *)&c->pipe);
    if (pending + n > MX_CONTROL_PENDING) {
        drop(c);
        return MX_EBACKPRESSURE;
    }
    uv_buf_t piece = uv_buf_init((char *)(uintptr_t)p, (unsigned)n);
    int sent = pending ? UV_EAGAIN : uv_try_write((uv_stream_t *)&c->pipe, &piece, 1);
    size_t done = sent > 0 ? (size_t)sent : 0;
    return done < n ? write_later(c, p + done, n - done) : 0;
}

MX_EXPORT double mx_control_pending(mx_runtime *r, uint32_t id) {
    client *c = find(r, id);
    return c && !c->gone ? (double)uv_stream_get_write_queue_size((uv_stream_t *)&c->pipe) : -1;
}

MX_EXPORT void mx_control_drop(mx_runtime *r, uint32_t id) {
    client *c = find(r, id);
    if (c) drop(c);
}

/* Opening and closing ----------------------------------------------------------------------------------------- */

/* Whether somebody listens there; errno says more. */
static int lives(const struct sockaddr_un *at) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int answered = !connect(fd, (const struct sockaddr *)at, sizeof *at), e = errno;
    close(fd);
    return answered || e == EAGAIN;
}

static int is_socket(const char *path) {
    struct stat s;
    return !lstat(path, &s) && S_ISSOCK(s.st_mode);
}

static int bound(int fd, const struct sockaddr_un *at, char why[MX_CONTROL_WHY]) {
    fchmod(fd, 0600); /* the file gets it as it is made */
    if (!bind(fd, (const struct sockaddr *)at, sizeof *at)) return 0;
    int e = errno;
    if (e == EADDRINUSE && !is_socket(at->sun_path)) {
        snprintf(why, MX_CONTROL_WHY, "there is a file of that name, and it is no socket");
    } else if (e == EADDRINUSE && lives(at)) {
        snprintf(why, MX_CONTROL_WHY, "another process listens there");
    } else if (e == EADDRINUSE && !unlink(at->sun_path) && !bind(fd, (const struct sockaddr *)at, sizeof *at)) {
        return 0;
    } else snprintf(why, MX_CONTROL_WHY, "%s", strerror(errno));
    return MX_ECONNECTION;
}

/* A listening descriptor, or a negative code. */
static int listening(const char *path, char why[MX_CONTROL_WHY]) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    if (!*path || strlen(path) >= sizeof at.sun_path) {
        snprintf(why, MX_CONTROL_WHY, "the path of a socket has 1 to %zu bytes", sizeof at.sun_path - 1);
        return MX_ECONFIG;
    }
    strcpy(at.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        snprintf(why, MX_CONTROL_WHY, "%s", strerror(errno));
        return MX_ECONNECTION;
    }
    int e = bound(fd, &at, why);
    if (!e) return fd;
    close(fd);
    return e;
}

static ino_t inode_of(const char *path) {
    struct stat s;
    return lstat(path, &s) ? 0 : s.st_ino;
}

int mx_control_open(mx_runtime *r, const char *path, char why[MX_CONTROL_WHY]) {
    int fd = listening(path, why);
    if (fd < 0) return fd;
    mx_control *k = mx_zalloc(sizeof *k);
    k->runtime = r;
    k->handles = 1;
    k->inode = inode_of(path);
    strcpy(k->path, path);
    uv_pipe_init(r->loop, &k->listener, 0);
    k->listener.data = k;
    uv_pipe_open(&k->listener, fd);
    r->control = k;
    int e = uv_listen((uv_stream_t *)&k->listener, BACKLOG, on_connection);
    if (!e) return 0;
    snprintf(why, MX_CONTROL_WHY, "%s", uv_strerror(e));
    mx_control_close(r);
    return MX_ECONNECTION;
}

static void on_listener_closed(uv_handle_t *handle) { one_less(handle->data); }

void mx_control_close(mx_runtime *r) {
    mx_control *k = r->control;
    if (!k) return;
    r->control = NULL;
    k->closing = 1;
    if (inode_of(k->path) == k->inode) unlink(k->path); /* else another process has it by now */
    for (client *c = k->clients, *next; c; c = next) {
        next = c->next;
        if (c->closed) forget(c);
        else drop(c);
    }
    uv_close((uv_handle_t *)&k->listener, on_listener_closed);
}
