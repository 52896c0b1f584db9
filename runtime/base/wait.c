/* wait.c - tickets and the ring of posts. */
#include "base/wait.h"
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"

enum { GENERATION_BITS = 10, MAX_SEATS = 1 << (32 - GENERATION_BITS), NOBODY = UINT32_MAX };

struct mx_waiting {
    mx_timer timer;
    mx_waitroom *room;
    uint32_t seat, generation;
    uint32_t next_free;
    int taken;
};

static uint32_t number(const mx_waiting *s) { return s->seat << GENERATION_BITS | s->generation; }

static mx_waiting *find(mx_waitroom *w, uint32_t ticket) {
    uint32_t seat = ticket >> GENERATION_BITS;
    if (!ticket || seat >= w->seats) return NULL;
    mx_waiting *s = w->seat[seat];
    return s->taken && number(s) == ticket ? s : NULL;
}

static void leave(mx_waitroom *w, mx_waiting *s) {
    mx_timer_stop(w->timers, &s->timer);
    s->taken = 0;
    /* generation 0 is skipped so that no ticket is 0 */
    s->generation = s->generation + 1 == 1u << GENERATION_BITS ? 1 : s->generation + 1;
    s->next_free = w->free_seat;
    w->free_seat = s->seat;
    w->pub.live--;
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
    mx_wait_post(&s->room->pub, number(s), MX_ETIMEOUT, NULL);
}

static mx_waiting *sit(mx_waitroom *w) {
    if (w->free_seat != NOBODY) {
        mx_waiting *s = w->seat[w->free_seat];
        w->free_seat = s->next_free;
        return s;
    }
    if (w->seats == MAX_SEATS) abort(); /* four million waits at once: memory ends long before */
    if ((w->seats & (w->seats - 1)) == 0) w->seat = mx_realloc(w->seat, (w->seats ? 2 * w->seats : 1) * sizeof *w->seat);
    mx_waiting *s = mx_zalloc(sizeof *s);
    s->room = w;
    s->seat = w->seats;
    s->generation = 1;
    s->timer.fire = on_deadline;
    s->timer.arg = s;
    w->seat[w->seats++] = s;
    return s;
}

void mx_waits_init(mx_waitroom *w, mx_timers *timers) {
    *w = (mx_waitroom){.timers = timers, .free_seat = NOBODY};
    w->pub.mask = 63;
    w->pub.post = mx_zalloc(64 * sizeof *w->pub.post);
}

void mx_waits_fini(mx_waitroom *w) {
    for (; w->pub.head != w->pub.tail; w->pub.head++) mx_reply_free(w->pub.post[w->pub.head & w->pub.mask].reply);
    for (uint32_t i = 0; i < w->seats; i++) {
        mx_timer_stop(w->timers, &w->seat[i]->timer);
        free(w->seat[i]);
    }
    free(w->seat);
    free(w->pub.post);
}

MX_EXPORT uint32_t mx_wait_new(mx_waits *pub, double timeout) {
    mx_waitroom *w = (mx_waitroom *)pub;
    mx_waiting *s = sit(w);
    s->taken = 1;
    pub->live++;
    if (timeout >= 0) mx_timer_set(w->timers, &s->timer, mx_clock_us() + (uint64_t)(timeout < 1e9 ? timeout * 1e6 : 1e15));
    return number(s);
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
