/* socket.c - a stream for scripts: what comes in stays in a bounded buffer until Lua takes it, what goes out is copied. */
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "measure/account.h"
#include "link/link.h"

enum { ROOM_FIRST = 4096, AHEAD = 64 * 1024, LINGER_US = 2000000 }; /* AHEAD: how much is read that nobody asked for yet */

typedef struct mx_socket {
    mx_sock pub; /* first */
    mx_runtime *runtime;
    mx_stream *stream; /* NULL: gone */
    struct mx_socket *next;
    uint8_t *in; /* pub.data points into it */
    size_t room, need;
    uint8_t *out; /* of the send under way */
    size_t out_size, out_off;
    uint32_t open_ticket, read_ticket, write_ticket;
    mx_timer linger; /* how long the peer may take what was sent after Lua closed */
    int paused;      /* the stream was told that there is no room */
    int encrypted;
    int released; /* by Lua */
} mx_socket;

static void post(mx_socket *s, uint32_t *ticket) {
    if (!*ticket) return;
    mx_wait_post(&s->runtime->waits.pub, *ticket, 0, NULL);
    *ticket = 0;
    s->runtime->wake(s->runtime);
}

static void end(mx_socket *s, int code, const char *why) {
    if (s->pub.state != MX_CLOSED) {
        s->pub.state = MX_CLOSED;
        s->pub.code = code;
        s->pub.error = mx_strndup(why, strlen(why));
    }
    post(s, &s->open_ticket);
    post(s, &s->read_ticket);
    post(s, &s->write_ticket);
}

static void destroy(mx_socket *s) {
    mx_socket **at = &s->runtime->sockets;
    mx_timer_stop(&s->runtime->timers, &s->linger);
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    mx_let_go(MX_OF_BUFFERS, s->room);
    free(s->in);
    free(s->out);
    free(s->pub.error);
    free(s);
}

/* ---- in ------------------------------------------------------------------------------------------------------------ */

static void move_to(mx_socket *s, uint8_t *to) {
    if (s->pub.size) memmove(to, s->pub.data, s->pub.size);
    s->pub.data = to;
}

static void grow(mx_socket *s) {
    size_t room = s->room ? 2 * s->room : ROOM_FIRST;
    uint8_t *bigger = mx_realloc(NULL, room);
    move_to(s, bigger);
    free(s->in);
    s->in = bigger;
    mx_hold(MX_OF_BUFFERS, room - s->room);
    s->room = room;
}

/* Where to read to. What is there moves only when that is little or somebody waits for the rest of it, so that no byte moves
 * often. */
static void on_room(void *arg, uint8_t **p, size_t *n) {
    mx_socket *s = arg;
    const size_t size = s->pub.size, most = s->need + AHEAD;
    size_t tail = s->in ? (size_t)(s->pub.data - s->in) + size : 0;
    if (tail == s->room) {
        if (tail > size && (size <= s->room / 2 || size < s->need)) move_to(s, s->in);
        else if (s->room < most) grow(s);
        tail = (size_t)(s->pub.data - s->in) + size;
    }
    size_t ahead = size < most ? most - size : 0, free_room = s->room - tail;
    *p = s->in + tail;
    *n = ahead < free_room ? ahead : free_room;
    s->paused = !*n;
}

static void on_data(void *arg, size_t n) {
    mx_socket *s = arg;
    if (s->released) return; /* nobody takes it any more */
    s->pub.size += n;
    if (s->pub.size >= s->need) post(s, &s->read_ticket);
}

static void resume(mx_socket *s) {
    if (!s->paused || !s->stream || s->pub.state != MX_OPEN) return;
    if (s->pub.size > AHEAD / 2 && s->pub.size >= s->need) return;
    s->paused = 0;
    mx_stream_resume(s->stream);
}

MX_EXPORT void mx_sock_wait(mx_sock *pub, size_t size, uint32_t ticket) {
    mx_socket *s = (mx_socket *)pub;
    s->need = size;
    s->read_ticket = ticket;
    if (pub->size >= size || pub->state == MX_CLOSED) post(s, &s->read_ticket);
    else resume(s);
}

MX_EXPORT void mx_sock_take(mx_sock *pub, size_t n) {
    mx_socket *s = (mx_socket *)pub;
    s->need = 0;
    s->read_ticket = 0;
    pub->data += n;
    pub->size -= n;
    if (!pub->size) {
        if (s->room > AHEAD) {
            free(s->in);
            s->in = NULL;
            mx_let_go(MX_OF_BUFFERS, s->room);
            s->room = 0;
        }
        pub->data = s->in;
    }
    resume(s);
}

MX_EXPORT double mx_sock_find(const mx_sock *pub, size_t from, const char *what, size_t n) {
    if (from >= pub->size) return -1;
    const uint8_t *at = memmem(pub->data + from, pub->size - from, what, n);
    return at ? (double)(at - pub->data) : -1;
}

/* ---- out ----------------------------------------------------------------------------------------------------------- */

/* 1: the kernel has it all. */
static int push(mx_socket *s) {
    if (s->out_off < s->out_size) s->out_off += mx_stream_write(s->stream, s->out + s->out_off, s->out_size - s->out_off);
    if (s->pub.state != MX_OPEN || s->out_off < s->out_size || mx_stream_pending(s->stream)) return 0;
    free(s->out);
    s->out = NULL;
    return 1;
}

static void on_drained(void *arg, size_t n) {
    mx_socket *s = arg;
    s->out_off += n;
    if (s->out && push(s)) post(s, &s->write_ticket);
}

MX_EXPORT int mx_sock_send(mx_sock *pub, const void *p, size_t n, uint32_t ticket) {
    mx_socket *s = (mx_socket *)pub;
    if (pub->state != MX_OPEN) return pub->code ? pub->code : MX_ECLOSED;
    if (!n) return 0;
    s->out = mx_realloc(NULL, n);
    memcpy(s->out, p, n);
    s->out_size = n;
    s->out_off = 0;
    if (push(s)) return 0;
    if (pub->state != MX_OPEN) return pub->code;
    s->write_ticket = ticket;
    return MX_EAGAIN;
}

/* ---- its life ------------------------------------------------------------------------------------------------------- */

static void on_up(void *arg) {
    mx_socket *s = arg;
    s->pub.state = MX_OPEN;
    post(s, &s->open_ticket);
}

static void on_down(void *arg, const char *why) {
    mx_socket *s = arg;
    end(s, why == mx_stream_end ? MX_ECLOSED : MX_ECONNECTION, why);
    if (s->stream) mx_stream_close(s->stream);
}

static void on_gone(void *arg) {
    mx_socket *s = arg;
    s->stream = NULL;
    if (s->released) destroy(s);
}

static void on_lingered(mx_timer *t, void *arg) {
    (void)t;
    mx_stream_close(((mx_socket *)arg)->stream);
}

static const mx_stream_events events = {on_up, on_room, on_data, on_drained, on_down, on_gone};

MX_EXPORT mx_sock *mx_sock_open(mx_runtime *r, const char *host, const char *port, const mx_link_tls *tls, uint32_t ticket) {
    mx_socket *s = mx_zalloc(sizeof *s);
    char why[MX_TLS_WHY] = "";
    s->runtime = r;
    s->next = r->sockets;
    r->sockets = s;
    s->pub.state = MX_OPENING;
    s->open_ticket = ticket;
    s->linger.fire = on_lingered;
    s->linger.arg = s;
    s->encrypted = tls != NULL;
    s->stream = mx_link_stream(r, host, port, 0, tls, why, &events, s);
    if (!s->stream) end(s, MX_ECONFIG, why);
    return &s->pub;
}

MX_EXPORT int mx_sock_encrypt(mx_sock *pub, const char *host, const mx_link_tls *tls, uint32_t ticket) {
    mx_socket *s = (mx_socket *)pub;
    char why[MX_TLS_WHY] = "";
    if (pub->state != MX_OPEN) return pub->code ? pub->code : MX_ECLOSED;
    if (s->encrypted) return mx_refuse(MX_EVALIDATION, "it is encrypted already");
    if (pub->size || s->out) return mx_refuse(MX_EVALIDATION, "something is still to be received or sent");
    mx_stream *stream = mx_link_encrypt(s->runtime, s->stream, host, tls, why, &events, s);
    if (!stream) return mx_refuse(MX_ECONFIG, "%s", why);
    s->stream = stream;
    s->paused = 0;
    s->encrypted = 1;
    pub->state = MX_OPENING;
    s->open_ticket = ticket;
    return 0;
}

MX_EXPORT void mx_sock_close(mx_sock *pub) {
    mx_socket *s = (mx_socket *)pub;
    if (s->released) return;
    int whole = pub->state == MX_OPEN && !s->out;
    s->released = 1;
    end(s, MX_ECLOSED, "closed");
    if (!s->stream) {
        destroy(s);
    } else if (whole && mx_stream_finish(s->stream)) {
        pub->size = 0;
        pub->data = s->in;
        mx_timer_set(&s->runtime->timers, &s->linger, mx_clock_us() + LINGER_US);
        mx_stream_resume(s->stream);
    } else {
        mx_stream_close(s->stream);
    }
}

void mx_sockets_close(mx_runtime *r) {
    for (mx_socket *s = r->sockets, *next; s; s = next) {
        next = s->next;
        mx_sock_close(&s->pub);
    }
}
