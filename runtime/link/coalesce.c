/* coalesce.c - how long a connection may leave unread what comes, so that much comes at once.
 *
 * A broker on this machine that writes to a socket whose reader waits for it also wakes the reader: that takes more of its
 * processor time than a small message does. A reader that sleeps instead, and looks then, is not woken. It may where messages
 * come faster than it can tell, into a prefetch or a window that has room for those that come meanwhile, and where nobody waits
 * for the next one. */
#include "link/amqp.h"

enum {
    PERIOD_US = 1000,  /* of measuring the rate */
    CONSUME_US = 500,  /* at most: it is the latency of a delivery */
    PUBLISH_US = 1000, /* at most: with a full window each message waits many times as long */
    LEAST_US = 100,    /* a shorter sleep takes much longer than it says */
    ENOUGH = 8,        /* so many in the longest sleep, or it gains nothing */
    PREFETCH_MIN = 64  /* and of the window */
};

typedef struct look {
    uint64_t moved, published; /* deliveries and confirms; publishes */
    uint32_t want, most_us;    /* so many at once, within that */
    int full;                  /* a publisher waits for room in its window */
    int busy;                  /* somebody may wait for what comes next */
} look;

static void want(look *k, uint32_t n, uint32_t most_us) {
    if (n < k->want) k->want = n;
    if (most_us < k->most_us) k->most_us = most_us;
}

static void look_at_consumer(look *k, const mx_amqp_consumer *c) {
    k->moved += c->base.inbox.tail;
    if (c->prefetch < PREFETCH_MIN || c->base.inbox.state != MX_OPEN) k->busy = 1;
    else want(k, c->prefetch / 8, CONSUME_US);
}

static void look_at_publisher(look *k, const mx_amqp_publisher *p) {
    const mx_pub *pub = &p->base.confirm.pub;
    double pending = pub->seq - pub->settled;
    k->moved += (uint64_t)pub->settled;
    k->published += (uint64_t)pub->seq;
    if (p->replies || (pending && (pub->window < PREFETCH_MIN || 4 * pending < 3.0 * pub->window))) k->busy = 1;
    else if (pending) {
        k->full = 1;
        want(k, pub->window / 8, PUBLISH_US);
    }
}

static void measure(mx_arrivals *p, const look *k, uint64_t now_us) {
    uint64_t took = now_us - p->from_us, n = k->moved - p->moved;
    if (took < PERIOD_US) return;
    p->each_us = n ? (double)took / (double)n : 0;
    p->from_us = now_us;
    p->moved = k->moved;
}

uint64_t mx_amqp_coalesce(mx_link *link, uint64_t now_us) {
    mx_amqp *a = (mx_amqp *)link;
    look k = {.want = UINT32_MAX, .most_us = UINT32_MAX};
    if (!a->local || link->state != MX_OPEN || a->out.pending) return 0;
    for (mx_line *l = a->lines; l; l = l->next) {
        if (l->waiting) return 0;
        if (l->kind == MX_CONSUMER) look_at_consumer(&k, mx_consumer_of(l));
        else if (l->kind == MX_PUBLISHER) look_at_publisher(&k, mx_publisher_of(l));
    }
    int published = k.published != a->arrivals.published;
    a->arrivals.published = k.published;
    measure(&a->arrivals, &k, now_us);
    if (k.busy || (published && !k.full)) return 0;
    if (k.want == UINT32_MAX || !a->arrivals.each_us) return UINT64_MAX;
    if (a->arrivals.each_us * ENOUGH > k.most_us) return 0;
    double us = a->arrivals.each_us * k.want;
    return us < LEAST_US ? 0 : us < k.most_us ? (uint64_t)us : k.most_us;
}
