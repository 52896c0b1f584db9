/* wait.c - tickets and the ring of posts. */
#include "base/wait.h"
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"

enum { SEATS_MIN = 64, SEATS_MAX = 1 << 30 };

struct mx_waiting {
    mx_timer timer;
    mx_waitroom *room;
    mx_waiting *next; /* free ones */
    uint32_t ticket;
};

static mx_waiting **seat(const mx_waitroom *w, uint32_t ticket) { return &w->seat[ticket & (w->seats - 1)]; }

static mx_waiting *find(const mx_waitroom *w, uint32_t ticket) {
    mx_waiting *s = *seat(w, ticket);
    return s && s->ticket == ticket ? s : NULL;
}

static void leave(mx_waitroom *w, mx_waiting *s) {
    mx_timer_stop(w->timers, &s->timer);
    *seat(w, s->ticket) = NULL;
    s->next = w->free;
    w->free = s;
    w->live--;
}

static void post(mx_waits *w, mx_post p) {
    if (w->tail - w->head > w->mask) {
        uint32_t n = w->tail - w->head, room = 2 * (w->mask + 1);
        mx_post *bigger = mx_zalloc(room * sizeof *bigger);
        for (uint32_t i = 0; i < n; i++) bigger[i] = w->post[(w->head + i) & w->mask];
        free(w->post);
        w->post = bigger;
        w->mask = room - 1;
        w->head = 0;
        w->tail = n;
    }
    w->post[w->tail++ & w->mask] = p;
}

static void on_deadline(mx_timer *t, void *arg) {
    mx_waiting *s = arg;
    (void)t;
    mx_wait_post(&s->room->pub, s->ticket, MX_ETIMEOUT, NULL);
}

/* Tickets with seats of their own among few have seats of their own among many. */
static void grow(mx_waitroom *w) {
    uint32_t n = w->seats;
    mx_waiting **few = w->seat;
    if (n == SEATS_MAX) abort(); /* memory ends long before */
    w->seats = 2 * n;
    w->seat = mx_zalloc(w->seats * sizeof *w->seat);
    for (uint32_t i = 0; i < n; i++)
        if (few[i]) *seat(w, few[i]->ticket) = few[i];
    free(few);
}

static mx_waiting *new_waiting(mx_waitroom *w) {
    mx_waiting *s = w->free;
    if (s) {
        w->free = s->next;
        return s;
    }
    s = mx_zalloc(sizeof *s);
    s->room = w;
    s->timer.fire = on_deadline;
    s->timer.arg = s;
    return s;
}

void mx_waits_init(mx_waitroom *w, mx_timers *timers) {
    *w = (mx_waitroom){.timers = timers, .seats = SEATS_MIN, .seat = mx_zalloc(SEATS_MIN * sizeof *w->seat)};
    w->pub.mask = 63;
    w->pub.post = mx_zalloc(64 * sizeof *w->pub.post);
}

void mx_waits_fini(mx_waitroom *w) {
    for (; w->pub.head != w->pub.tail; w->pub.head++) mx_reply_free(w->pub.post[w->pub.head & w->pub.mask].reply);
    for (uint32_t i = 0; i < w->seats; i++)
        if (w->seat[i]) leave(w, w->seat[i]);
    for (mx_waiting *s; (s = w->free); free(s)) w->free = s->next;
    free(w->seat);
    free(w->pub.post);
}

MX_EXPORT uint32_t mx_wait_new(mx_waits *pub, double timeout) {
    mx_waitroom *w = (mx_waitroom *)pub;
    if (w->live >= w->seats / 4 * 3) grow(w);
    do w->latest++;
    while (!w->latest || *seat(w, w->latest));
    mx_waiting *s = *seat(w, w->latest) = new_waiting(w);
    s->ticket = w->latest;
    w->live++;
    if (timeout >= 0) mx_timer_set(w->timers, &s->timer, mx_clock_us() + mx_us_of(timeout));
    return s->ticket;
}

MX_EXPORT void mx_wait_drop(mx_waits *pub, uint32_t ticket) {
    mx_waitroom *w = (mx_waitroom *)pub;
    mx_waiting *s = find(w, ticket);
    if (s) leave(w, s);
}

void mx_wait_post(mx_waits *pub, uint32_t ticket, int code, mx_reply *reply) {
    mx_waitroom *w = (mx_waitroom *)pub;
    mx_waiting *s = find(w, ticket);
    if (!s) {
        mx_reply_free(reply);
        return;
    }
    leave(w, s);
    post(pub, (mx_post){ticket, code, reply});
}

mx_reply *mx_reply_new(int code, int reply_code, const void *text, size_t size) {
    mx_reply *r = mx_zalloc(sizeof *r + size + 1);
    r->code = code;
    r->reply_code = (uint16_t)reply_code;
    r->text_size = size;
    if (size) memcpy(r->text, text, size);
    return r;
}

MX_EXPORT void mx_reply_free(mx_reply *r) { free(r); }
