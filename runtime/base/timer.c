/* timer.c - a binary heap of deadlines; each timer knows its place. (beanstalkd heap.c) */
#include "base/timer.h"
#include <stdlib.h>
#include "base/mx.h"

static void put(mx_timers *h, size_t place, mx_timer *t) {
    h->heap[place] = t;
    t->place = place;
}

static void up(mx_timers *h, mx_timer *t) {
    size_t i = t->place;
    for (; i > 1 && h->heap[i / 2]->due_us > t->due_us; i /= 2) put(h, i, h->heap[i / 2]);
    put(h, i, t);
}

static size_t earlier_child(const mx_timers *h, size_t i) {
    size_t k = 2 * i;
    return k + 1 <= h->count && h->heap[k + 1]->due_us < h->heap[k]->due_us ? k + 1 : k;
}

static void down(mx_timers *h, mx_timer *t) {
    size_t i = t->place;
    while (2 * i <= h->count) {
        size_t k = earlier_child(h, i);
        if (h->heap[k]->due_us >= t->due_us) break;
        put(h, i, h->heap[k]);
        i = k;
    }
    put(h, i, t);
}

void mx_timers_fini(mx_timers *h) {
    free(h->heap);
    *h = (mx_timers){0};
}

void mx_timer_set(mx_timers *h, mx_timer *t, uint64_t due_us) {
    t->due_us = due_us;
    if (!t->place) {
        if (h->count + 2 > h->room) h->heap = mx_realloc(h->heap, (h->room = h->room ? 2 * h->room : 64) * sizeof *h->heap);
        put(h, ++h->count, t);
    }
    up(h, t);
    down(h, t);
}

void mx_timer_stop(mx_timers *h, mx_timer *t) {
    if (!t->place) return;
    mx_timer *last = h->heap[h->count--];
    if (last != t) {
        put(h, t->place, last);
        up(h, last);
        down(h, last);
    }
    t->place = 0;
}

uint64_t mx_timers_next(const mx_timers *h) { return h->count ? h->heap[1]->due_us : UINT64_MAX; }

size_t mx_timers_run(mx_timers *h, uint64_t now_us) {
    size_t n = 0;
    for (; h->count && h->heap[1]->due_us <= now_us; n++) {
        mx_timer *t = h->heap[1];
        mx_timer_stop(h, t);
        t->fire(t, t->arg);
    }
    return n;
}
