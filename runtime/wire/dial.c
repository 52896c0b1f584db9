/* dial.c - a connection to a name: the next address has its turn while the one before is still silent, the first to answer
 * wins. */
#include "wire/dial.h"
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/mx.h"

enum { LOOKUP_MS = 5000, ADDRESS_MS = 3000, STEP_MS = 250 };

typedef struct lookup { /* lives until the resolver has answered, also when nobody waits for it any more */
    uv_getaddrinfo_t request;
    mx_dial *dial; /* NULL: nobody */
} lookup;

typedef struct attempt { /* at one address */
    union {              /* first: whoever won is passed on as this */
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t local;
    };
    uv_connect_t connect;
    mx_dial *dial;
    struct attempt *next;
    uint64_t due_ms;
} attempt;

struct mx_dial {
    uv_loop_t *loop;
    uv_timer_t clock;
    lookup *lookup;
    struct addrinfo *addresses, *rest[2]; /* not tried yet: those of the first one's family, those of the other */
    int turn;                             /* which of rest is next */
    attempt *attempts;                    /* under way */
    int failure;                          /* the last one */
    mx_dialled done;
    void *arg;
};

static void on_closed(uv_handle_t *h) { free(h->data); }

static void drop(attempt *a) {
    attempt **at = &a->dial->attempts;
    while (*at != a) at = &(*at)->next;
    *at = a->next;
    uv_close(&a->handle, on_closed);
}

static void on_clock_closed(uv_handle_t *h) {
    mx_dial *d = h->data;
    uv_freeaddrinfo(d->addresses);
    free(d);
}

void mx_dial_stop(mx_dial *d) {
    while (d->attempts) drop(d->attempts);
    if (d->lookup) {
        d->lookup->dial = NULL;
        uv_cancel((uv_req_t *)&d->lookup->request);
    }
    uv_close((uv_handle_t *)&d->clock, on_clock_closed);
}

static void end(mx_dial *d, uv_stream_t *won, const char *why) {
    mx_dialled done = d->done;
    void *arg = d->arg;
    mx_dial_stop(d);
    done(arg, won, why);
}

static struct addrinfo *next_of(struct addrinfo *a, int family, int other) {
    while (a && (a->ai_family != family) != other) a = a->ai_next;
    return a;
}

/* By turns of the two families, beginning with the one that the resolver prefers. */
static struct addrinfo *next_address(mx_dial *d) {
    int which = d->rest[d->turn] ? d->turn : !d->turn;
    struct addrinfo *a = d->rest[which];
    if (a) d->rest[which] = next_of(a->ai_next, d->addresses->ai_family, which);
    d->turn = !which;
    return a;
}

static void go_on(mx_dial *d);

static void on_connect(uv_connect_t *r, int status) {
    attempt *a = r->data, **at;
    mx_dial *d = a->dial;
    if (uv_is_closing(&a->handle)) return;
    if (status) {
        drop(a);
        d->failure = status;
        go_on(d);
        return;
    }
    for (at = &d->attempts; *at != a;) at = &(*at)->next;
    *at = a->next;
    end(d, &a->stream, NULL);
}

static void add(mx_dial *d, attempt *a) {
    a->dial = d;
    a->handle.data = a->connect.data = a;
    a->due_ms = uv_now(d->loop) + ADDRESS_MS;
    a->next = d->attempts;
    d->attempts = a;
}

/* 0, or why not even an attempt can be made: no socket of that family, none left, no way there. */
static int try_address(mx_dial *d, const struct addrinfo *address) {
    attempt *a = mx_zalloc(sizeof *a);
    int status = uv_tcp_init_ex(d->loop, &a->tcp, (unsigned)address->ai_family);
    if (status) { /* the handle needs no close then */
        free(a);
        return status;
    }
    add(d, a);
    status = uv_tcp_connect(&a->connect, &a->tcp, address->ai_addr, on_connect);
    if (status) drop(a);
    return status;
}

static void go_on(mx_dial *d) {
    for (struct addrinfo *a; (a = next_address(d));) {
        int status = try_address(d, a);
        if (!status) {
            uv_timer_again(&d->clock);
            return;
        }
        d->failure = status;
    }
    if (!d->attempts) end(d, NULL, uv_strerror(d->failure));
}

static void on_step(uv_timer_t *t) {
    mx_dial *d = t->data;
    uv_update_time(d->loop); /* it might have been this loop that was late, not the peer */
    for (attempt *a = d->attempts, *next; a; a = next) {
        next = a->next;
        if (a->due_ms > uv_now(d->loop)) continue;
        drop(a);
        d->failure = UV_ETIMEDOUT;
    }
    go_on(d);
}

/* A resolver that is short of descriptors says that the name is unknown. */
static int reason_of(int status) {
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return uv_translate_sys_error(errno);
    close(fd);
    return status;
}

static void on_start(uv_timer_t *t) {
    uv_timer_start(t, on_step, STEP_MS, STEP_MS);
    go_on(t->data);
}

static void keep(mx_dial *d, struct addrinfo *list) {
    d->addresses = d->rest[0] = list;
    if (list) d->rest[1] = next_of(list, list->ai_family, 1);
}

static void on_resolved(uv_getaddrinfo_t *r, int status, struct addrinfo *list) {
    lookup *l = r->data;
    mx_dial *d = l->dial;
    free(l);
    if (!d) {
        uv_freeaddrinfo(list);
        return;
    }
    d->lookup = NULL;
    d->failure = status ? reason_of(status) : 0;
    keep(d, list);
    on_start(&d->clock);
}

static void on_late(uv_timer_t *t) { end(t->data, NULL, "its name was not looked up within 5 s"); }

static int look_up(mx_dial *d, const char *host, const char *port) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_protocol = IPPROTO_TCP, .ai_flags = AI_NUMERICHOST}, *list;
    if (!getaddrinfo(host, port, &hints, &list)) { /* an address: no resolver, which may hang with others, is asked */
        keep(d, list);
        uv_timer_start(&d->clock, on_start, 0, 0);
        return 0;
    }
    hints.ai_flags = 0;
    lookup *l = mx_zalloc(sizeof *l);
    l->request.data = l;
    l->dial = d;
    int status = uv_getaddrinfo(d->loop, &l->request, on_resolved, host, port, &hints);
    if (status) {
        free(l);
        return status;
    }
    d->lookup = l;
    uv_timer_start(&d->clock, on_late, LOOKUP_MS, 0);
    return 0;
}

static int to_path(mx_dial *d, const char *path) {
    if (strlen(path) >= sizeof((struct sockaddr_un *)0)->sun_path) return UV_ENAMETOOLONG;
    attempt *a = mx_zalloc(sizeof *a);
    uv_pipe_init(d->loop, &a->local, 0);
    add(d, a);
    uv_pipe_connect(&a->connect, &a->local, path, on_connect);
    return 0;
}

mx_dial *mx_dial_start(uv_loop_t *loop, const char *host, const char *port, mx_dialled done, void *arg) {
    mx_dial *d = mx_zalloc(sizeof *d);
    d->loop = loop;
    d->done = done;
    d->arg = arg;
    uv_timer_init(loop, &d->clock);
    d->clock.data = d;
    d->failure = !strncmp(host, "unix:", 5) ? to_path(d, host + 5) : look_up(d, host, port);
    if (d->failure) uv_timer_start(&d->clock, on_start, 0, 0); /* the owner is told from the loop, as of every end */
    return d;
}
