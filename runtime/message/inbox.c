/* inbox.c - a ring of deliveries; settles its front in one pass, a run of acks as one. */
#include "message/inbox.h"
#include <stdlib.h>
#include "base/clock.h"
#include "measure/account.h"
#include "measure/hist.h"

enum { ROOM_DEFAULT = 4096, ROOM_MAX = 1 << 20, STEP_US = 64, STEPS = 16 };

static uint64_t turn_us;

static uint32_t power_of_two(uint32_t n) { return n < 2 ? 1 : 1u << (32 - __builtin_clz(n - 1)); }

static void drop(mx_msg *m) {
    if (!m->own) return;
    mx_message_unref(m->own);
    m->own = NULL;
}

void mx_inbox_init(mx_inbox *ib, uint32_t room) {
    if (!room) room = ROOM_DEFAULT;
    room = power_of_two(room < ROOM_MAX ? room : ROOM_MAX);
    *ib = (mx_inbox){.mask = room - 1, .slot = mx_zalloc(room * sizeof *ib->slot)};
    mx_hold_block(MX_OF_DELIVERIES, ib->slot, room * sizeof *ib->slot);
}

void mx_inbox_fini(mx_inbox *ib) {
    for (uint32_t i = ib->settled; ib->slot && i != ib->tail; i++) drop(mx_inbox_at(ib, i));
    if (ib->slot) mx_let_go_block(MX_OF_DELIVERIES, ib->slot, (ib->mask + (size_t)1) * sizeof *ib->slot);
    free(ib->slot);
    *ib = (mx_inbox){.state = MX_CLOSED};
}

mx_msg *mx_inbox_slot(mx_inbox *ib) {
    mx_msg *m = mx_inbox_at(ib, ib->tail);
    m->seq = ib->tail;
    m->own = NULL;
    m->verdict = MX_UNSETTLED;
    m->sent = 0;
    m->came_us = mx_clock_latest_us;
    return m;
}

void mx_inbox_turn(uint64_t now_us) { turn_us = now_us; }

/* Nobody looked at the clock for each: one began after the other, evenly. */
void mx_inbox_began(mx_inbox *ib) {
    uint32_t n = ib->head - ib->begun, first = ib->begun;
    ib->begun = ib->head;
    if (!n || !ib->wait) return;
    uint64_t took = mx_clock_us() - turn_us;
    uint32_t steps = took < STEP_US ? 1 : STEPS;
    for (uint32_t k = 0, run; k < n; k += run) {
        uint64_t at = turn_us + took * k / n, came = mx_inbox_at(ib, first + k)->came_us;
        uint32_t most = n / steps + 1;
        if (most > n - k) most = n - k;
        for (run = most; mx_inbox_at(ib, first + k + run - 1)->came_us != came;) run = (run + 1) / 2;
        mx_hist_add(ib->wait, at > came ? at - came : 0, run);
    }
}

void mx_inbox_point(mx_msg *m, mx_message *owned) {
    m->exchange = owned->bytes;
    m->exchange_size = owned->exchange_size;
    m->key = mx_message_key(owned);
    m->key_size = owned->key_size;
    m->props = mx_message_props(owned);
    m->props_size = owned->props_size;
    m->body = mx_message_body(owned);
    m->size = owned->size;
    m->own = owned;
}

static void own(mx_msg *m) {
    mx_message *copy = mx_message_new((mx_span){m->exchange, m->exchange_size}, (mx_span){m->key, m->key_size},
                                      (mx_span){m->props, m->props_size}, m->size);
    copy->redelivered = m->redelivered;
    mx_inbox_point(m, mx_message_append(copy, m->body, m->size));
}

void mx_inbox_detach(mx_inbox *ib) {
    for (uint32_t i = ib->settled; i != ib->tail; i++) {
        mx_msg *m = mx_inbox_at(ib, i);
        if (!m->own && !m->verdict) own(m);
    }
}

MX_EXPORT void mx_msg_keep(mx_msg *m, mx_msg *copy) {
    if (!m->own) own(m);
    mx_message_ref(m->own);
    *copy = *m;
}

MX_EXPORT void mx_msg_drop(mx_msg *copy) { drop(copy); }

MX_EXPORT double mx_inbox_bytes(const mx_inbox *ib) {
    double sum = 0;
    for (uint32_t i = ib->settled; i != ib->tail; i++) {
        const mx_msg *m = mx_inbox_at(ib, i);
        if (!m->verdict) sum += (double)(m->size + m->props_size);
    }
    return sum;
}

static void send(mx_inbox *ib, const mx_msg *m, const mx_settle *to, void *arg) {
    if (m->verdict == MX_ACK) {
        ib->acked++;
        to->ack(arg, m->tag, 0);
    } else if (m->verdict == MX_REJECT) {
        ib->rejected++;
        to->reject(arg, m->tag, 0);
    } else {
        ib->requeued++;
        to->reject(arg, m->tag, 1);
    }
}

uint32_t mx_inbox_settle(mx_inbox *ib, const mx_settle *to, void *arg) {
    uint32_t i = ib->settled, head = ib->head, run = 0, acked = 0;
    uint64_t last = 0; /* the tag the run's ack will name */
    for (; i != head; i++) {
        mx_msg *m = mx_inbox_at(ib, i);
        if (!m->verdict) break;
        if (m->verdict == MX_ACK) {
            /* one that was sent out of order may stand in a run, but never be named again */
            if (!m->sent) last = m->tag, run++;
        } else if (!m->sent) {
            if (run) to->ack(arg, last, run > 1);
            acked += run;
            run = 0;
            send(ib, m, to, arg);
        }
        drop(m);
    }
    if (run) to->ack(arg, last, run > 1);
    ib->acked += acked + run;
    uint32_t n = i - ib->settled;
    ib->settled = i;
    return n;
}

static uint32_t count_sent(const mx_inbox *ib) {
    uint32_t n = 0;
    for (uint32_t i = ib->settled; i != ib->head; i++) n += mx_inbox_at(ib, i)->sent;
    return n;
}

uint32_t mx_inbox_settle_gaps(mx_inbox *ib, uint32_t most, const mx_settle *to, void *arg) {
    uint32_t unsettled = 0, sent = count_sent(ib);
    for (uint32_t i = ib->settled; i != ib->head; i++) {
        mx_msg *m = mx_inbox_at(ib, i);
        if (!m->verdict) unsettled++;
        else if (!m->sent && sent < most) {
            m->sent = 1;
            sent++;
            send(ib, m, to, arg);
            drop(m);
        }
    }
    return unsettled;
}
