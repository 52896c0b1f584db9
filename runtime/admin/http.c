/* http.c - libmicrohttpd on our loop: its epoll descriptor is polled, its timeout is a timer. */
#include "admin/http.h"
#include <dlfcn.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "admin/address.h"
#include "base/secret.h"
#include "base/clock.h"

enum { CONNECTIONS = 64, HEAD_BYTES = 16384, IDLE_S = 10, ANSWER_US = 10000000, BACKLOG = 64 };

#define CALLS(X)                                                                                                                 \
    X(MHD_start_daemon)                                                                                                          \
    X(MHD_stop_daemon)                                                                                                           \
    X(MHD_add_connection)                                                                                                        \
    X(MHD_run)                                                                                                                   \
    X(MHD_get_timeout)                                                                                                           \
    X(MHD_get_daemon_info)                                                                                                       \
    X(MHD_lookup_connection_value)                                                                                               \
    X(MHD_suspend_connection)                                                                                                    \
    X(MHD_resume_connection)                                                                                                     \
    X(MHD_create_response_from_buffer)                                                                                           \
    X(MHD_add_response_header)                                                                                                   \
    X(MHD_queue_response)                                                                                                        \
    X(MHD_destroy_response)

static struct {
#define X(name) __typeof__(&name) name;
    CALLS(X)
#undef X
} mhd;

enum { NEW, HEARD, WAITING, TAKEN, ANSWERED }; /* WAITING: for Lua to take it; it is suspended then, and while TAKEN */

typedef struct request {
    struct request *next;
    struct mx_http *http;
    struct MHD_Connection *connection;
    struct MHD_Response *answer;
    mx_timer deadline;
    uint32_t id;
    int state, status;
    char *path, *query, *accept; /* ours */
} request;

struct mx_http {
    mx_runtime *runtime;
    mx_http_hear *hear; /* NULL: Lua is asked */
    void *hear_arg;
    struct MHD_Daemon *daemon;
    request *requests; /* those whose head has come */
    uint32_t latest;   /* id given out */
    uint32_t ticket;   /* of whoever waits for a request, 0: nobody */
    char *token;
    char address[MX_ADDRESS];
    uv_poll_t poll;
    uv_timer_t timer;
    int resumed; /* connections, since the last run */
    int open_handles;
};

static void run(mx_http *h);
static void on_timer(uv_timer_t *t) { run(t->data); }

static void on_poll(uv_poll_t *p, int status, int events) {
    (void)status, (void)events;
    run(p->data);
}

static int is_full(const mx_http *h) {
    return mhd.MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS)->num_connections >= CONNECTIONS;
}

/* While it is full it does not listen; that it is not full any more it notices when it is run the next time. */
static void run(mx_http *h) {
    MHD_UNSIGNED_LONG_LONG ms;
    int was_full = is_full(h);
    do {
        h->resumed = 0;
        mhd.MHD_run(h->daemon);
    } while (h->resumed); /* some were answered at once */
    if (was_full && !is_full(h)) mhd.MHD_run(h->daemon);
    if (mhd.MHD_get_timeout(h->daemon, &ms) == MHD_YES) uv_timer_start(&h->timer, on_timer, ms, 0);
    else uv_timer_stop(&h->timer);
}

/* Requests ------------------------------------------------------------------------------------------------- */

static void *on_uri(void *arg, const char *uri, struct MHD_Connection *c) {
    mx_http *h = arg;
    request *q = mx_zalloc(sizeof *q);
    size_t n = strcspn(uri, "?");
    q->http = h;
    q->connection = c;
    q->path = mx_strndup(uri, n);
    q->query = mx_strndup(uri + n + (uri[n] == '?'), strlen(uri + n + (uri[n] == '?')));
    q->next = h->requests;
    return h->requests = q;
}

static void on_completed(void *arg, struct MHD_Connection *c, void **at, enum MHD_RequestTerminationCode why) {
    mx_http *h = arg;
    request *q = *at;
    (void)c, (void)why;
    if (!q) return;
    for (request **p = &h->requests; *p; p = &(*p)->next)
        if (*p == q) {
            *p = q->next;
            break;
        }
    mx_timer_stop(&h->runtime->timers, &q->deadline);
    if (q->answer) mhd.MHD_destroy_response(q->answer);
    free(q->path);
    free(q->query);
    free(q->accept);
    free(q);
    *at = NULL;
}

static struct MHD_Response *response(const char *type, const void *body, size_t n) {
    struct MHD_Response *r = mhd.MHD_create_response_from_buffer(n, (void *)(uintptr_t)body, MHD_RESPMEM_MUST_COPY);
    if (!r) return NULL;
    mhd.MHD_add_response_header(r, "Content-Type", type);
    mhd.MHD_add_response_header(r, "Cache-Control", "no-store");
    return r;
}

/* With a header of its own, name NULL: none. */
static enum MHD_Result say(struct MHD_Connection *c, int status, const char *text, const char *name, const char *value) {
    struct MHD_Response *r = response("text/plain; charset=utf-8", text, strlen(text));
    if (!r) return MHD_NO;
    if (name) mhd.MHD_add_response_header(r, name, value);
    enum MHD_Result result = mhd.MHD_queue_response(c, (unsigned)status, r);
    mhd.MHD_destroy_response(r);
    return result;
}

/* Takes as long whatever is wrong. */
static int is_token(const char *want, const char *got) {
    size_t n = strlen(want), m = strlen(got);
    unsigned char differs = n != m;
    for (size_t i = 0; i < n; i++) differs |= (unsigned char)(want[i] ^ (i < m ? got[i] : 0));
    return !differs;
}

static int is_allowed(const mx_http *h, struct MHD_Connection *c) {
    static const char bearer[] = "Bearer ";
    if (!h->token) return 1;
    const char *said = mhd.MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Authorization");
    return said && !strncmp(said, bearer, sizeof bearer - 1) && is_token(h->token, said + sizeof bearer - 1);
}

/* From now on it is answered by whoever knows its number. */
static void suspend(request *q, int state) {
    mx_http *h = q->http;
    const char *accept = mhd.MHD_lookup_connection_value(q->connection, MHD_HEADER_KIND, "Accept");
    q->accept = mx_strndup(accept ? accept : "", accept ? strlen(accept) : 0);
    if (!++h->latest) h->latest = 1;
    q->id = h->latest;
    q->state = state;
    mhd.MHD_suspend_connection(q->connection);
}

static enum MHD_Result ask_function(request *q) {
    suspend(q, TAKEN);
    mx_http_request to = {q->id, q->path, q->query, q->accept};
    mx_http_said said = q->http->hear(q->http->hear_arg, &to);
    if (said.status == MX_HTTP_LATER) return MHD_YES;
    mx_http_answer(q->http->runtime, to.id, said.status, said.type, said.text, said.size);
    free(said.text);
    return MHD_YES;
}

static void settle(request *q, int status, const char *type, const void *body, size_t n) {
    mx_timer_stop(&q->http->runtime->timers, &q->deadline);
    q->answer = response(type, body, n);
    q->status = status;
    q->state = ANSWERED;
    mhd.MHD_resume_connection(q->connection);
    q->http->resumed = 1;
    uv_timer_start(&q->http->timer, on_timer, 0, 0); /* it is MHD_run that goes on with it */
}

static void on_deadline(mx_timer *t, void *arg) {
    static const char late[] = "no answer in time\n";
    (void)t;
    settle(arg, 503, "text/plain; charset=utf-8", late, sizeof late - 1);
}

static void call_lua(mx_http *h) {
    mx_wait_post(&h->runtime->waits.pub, h->ticket, 0, NULL);
    h->ticket = 0;
    h->runtime->wake(h->runtime);
}

static enum MHD_Result ask_lua(mx_http *h, request *q) {
    suspend(q, WAITING);
    q->deadline.fire = on_deadline;
    q->deadline.arg = q;
    mx_timer_set(&h->runtime->timers, &q->deadline, mx_clock_us() + ANSWER_US);
    if (h->ticket) call_lua(h);
    return MHD_YES;
}

/* libmicrohttpd calls this when the head has come, for each piece of a body, at the end of it, and once it is resumed. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *path, const char *method, const char *version,
                                  const char *body, size_t *body_size, void **at) {
    mx_http *h = arg;
    request *q = *at;
    (void)path, (void)version, (void)body;
    if (q->state == NEW) {
        q->state = HEARD;
        if (!is_allowed(h, c)) return say(c, 401, "a token is needed\n", "WWW-Authenticate", "Bearer");
        if (strcmp(method, "GET") && strcmp(method, "HEAD")) return say(c, 405, "GET or HEAD\n", "Allow", "GET, HEAD");
        return MHD_YES;
    }
    if (*body_size) {
        *body_size = 0;
        return MHD_YES;
    }
    if (q->state == ANSWERED) return q->answer ? mhd.MHD_queue_response(c, (unsigned)q->status, q->answer) : MHD_NO;
    if (h->hear) return ask_function(q);
    if (!strcmp(q->path, "/live")) return say(c, 200, "ok\n", NULL, NULL);
    return ask_lua(h, q);
}

/* Opening and closing -------------------------------------------------------------------------------------- */

static int load(char why[MX_HTTP_WHY]) {
    void *library = dlopen("libmicrohttpd.so.12", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(why, MX_HTTP_WHY, "%s", dlerror());
        return MX_EINTERNAL;
    }
#define X(name)                                                                                                                  \
    if (!(mhd.name = (__typeof__(&name))dlsym(library, #name))) {                                                                \
        snprintf(why, MX_HTTP_WHY, "libmicrohttpd has no " #name);                                                               \
        return MX_EINTERNAL;                                                                                                     \
    }
    CALLS(X)
#undef X
    return 0;
}

static int start(mx_http *h, int fd, char why[MX_HTTP_WHY]) {
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | (fd < 0 ? (unsigned)MHD_USE_NO_LISTEN_SOCKET : 0);
    int e = load(why);
    if (e) return e;
    h->daemon = mhd.MHD_start_daemon(flags, 0, NULL, NULL, on_request, h, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS,
                                     MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                                     (size_t)HEAD_BYTES, MHD_OPTION_URI_LOG_CALLBACK, on_uri, h, MHD_OPTION_NOTIFY_COMPLETED,
                                     on_completed, h, fd < 0 ? MHD_OPTION_END : MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_END);
    if (h->daemon) return 0;
    snprintf(why, MX_HTTP_WHY, "libmicrohttpd does not start");
    return MX_EINTERNAL;
}

int mx_http_open(mx_runtime *r, mx_http_hear *hear, void *arg, const char *address, const char *token, char why[MX_HTTP_WHY]) {
    char text[MX_ADDRESS] = "";
    int fd = address ? mx_address_listen(address, token != NULL, BACKLOG, text, why, MX_HTTP_WHY) : -1;
    if (address && fd < 0) return fd;
    mx_http *h = mx_zalloc(sizeof *h);
    int e = start(h, fd, why);
    if (e) {
        if (fd >= 0) close(fd);
        free(h);
        return e;
    }
    h->runtime = r;
    h->hear = hear;
    h->hear_arg = arg;
    h->token = token ? mx_secret(token, strlen(token)) : NULL;
    memcpy(h->address, text, sizeof text);
    uv_poll_init(r->loop, &h->poll, mhd.MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd);
    uv_timer_init(r->loop, &h->timer);
    h->open_handles = 2;
    h->poll.data = h->timer.data = h;
    uv_poll_start(&h->poll, UV_READABLE, on_poll);
    r->http = h;
    return 0;
}

void mx_http_serve(mx_runtime *r, int fd) {
    struct sockaddr_storage from = {.ss_family = AF_UNIX};
    if (!r->http || mhd.MHD_add_connection(r->http->daemon, fd, (struct sockaddr *)&from, sizeof from.ss_family) != MHD_YES)
        return r->http ? (void)0 : (void)close(fd); /* else libmicrohttpd has closed it */
    run(r->http);
}

static void on_closed(uv_handle_t *handle) {
    mx_http *h = handle->data;
    if (--h->open_handles) return;
    mx_secret_free(h->token);
    free(h);
}

void mx_http_close(mx_runtime *r) {
    static const char ending[] = "mxrun is ending\n";
    mx_http *h = r->http;
    if (!h) return;
    r->http = NULL;
    for (request *q = h->requests; q; q = q->next)
        if (q->state == WAITING || q->state == TAKEN) settle(q, 503, "text/plain; charset=utf-8", ending, sizeof ending - 1);
    mhd.MHD_run(h->daemon); /* what was just answered leaves, as far as the sockets take it */
    uv_poll_stop(&h->poll);
    mhd.MHD_stop_daemon(h->daemon);
    uv_close((uv_handle_t *)&h->poll, on_closed);
    uv_close((uv_handle_t *)&h->timer, on_closed);
}

/* Lua's side ----------------------------------------------------------------------------------------------- */

static request *with_state(const mx_http *h, int state, uint32_t id) {
    request *oldest = NULL; /* the list has the latest first */
    for (request *q = h->requests; q; q = q->next)
        if (q->state == state && (!id || q->id == id)) oldest = q;
    return oldest;
}

MX_EXPORT const char *mx_http_address(mx_runtime *r) { return r->http ? r->http->address : NULL; }

MX_EXPORT void mx_http_wait(mx_runtime *r, uint32_t ticket) {
    mx_http *h = r->http;
    if (!h) return;
    h->ticket = ticket;
    if (with_state(h, WAITING, 0)) call_lua(h);
}

MX_EXPORT int mx_http_take(mx_runtime *r, mx_http_request *to) {
    request *q = r->http ? with_state(r->http, WAITING, 0) : NULL;
    if (!q) return 0;
    q->state = TAKEN;
    *to = (mx_http_request){q->id, q->path, q->query, q->accept};
    return 1;
}

MX_EXPORT void mx_http_patience(mx_runtime *r, uint32_t id, double seconds) {
    request *q = r->http ? with_state(r->http, TAKEN, id) : NULL;
    if (q) mx_timer_set(&r->timers, &q->deadline, mx_clock_us() + mx_us_of(seconds));
}

MX_EXPORT void mx_http_answer(mx_runtime *r, uint32_t id, int status, const char *type, const void *body, size_t n) {
    request *q = r->http ? with_state(r->http, TAKEN, id) : NULL;
    if (q) settle(q, status, type, body, n);
}
