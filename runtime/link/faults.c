/* faults.c - a mem:// broker that is slow, refuses, blocks or closes, as a test tells it to. */
#include "link/faults.h"
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"

typedef struct faults { /* of one broker */
    mx_faults told;     /* first: what Lua writes */
    char *broker;
    struct faults *next;
} faults;

typedef struct publisher {
    mx_confirm *confirm;
    uint32_t window; /* its own, while the broker is blocked */
    struct publisher *next;
} publisher;

typedef struct layer { /* over one link */
    mx_link_base *link;
    const mx_link_ops *under;
    faults *faults;
    publisher *publishers;
    uint32_t blocked, closed; /* what of faults was acted upon */
    uint64_t hold_us;         /* nothing is flushed before; 0: nothing is held */
    mx_timer timer;
    struct layer *next;
} layer;

static faults *brokers;
static layer *layers;

static faults *find(mx_span broker) {
    faults *f = brokers;
    while (f && !(strlen(f->broker) == broker.n && !memcmp(f->broker, broker.p, broker.n))) f = f->next;
    return f;
}

static layer *over(const void *link) {
    layer *y = layers;
    while (y->link != link) y = y->next;
    return y;
}

static layer *over_pub(mx_pub *p) { return over(((mx_publisher *)p)->link); }

static void wake(layer *y) {
    y->link->runtime->news = 1;
    y->link->runtime->wake(y->link->runtime);
}

static void block(layer *y, uint32_t on) {
    y->blocked = y->link->pub.blocked = on;
    for (publisher *p = y->publishers; p; p = p->next) {
        if (on) p->window = p->confirm->pub.window;
        p->confirm->pub.window = on ? 0 : p->window;
        if (!on) mx_confirm_post_room(p->confirm);
    }
    wake(y);
}

static void close_channel(mx_confirm *c) {
    static const char why[] = "INTERNAL_ERROR - closed by the test";
    if (c->pub.state != MX_OPEN) return;
    free(c->pub.error);
    c->pub.error = mx_strndup(why, sizeof why - 1);
    c->pub.reply_code = 541;
    c->pub.state = MX_CLOSED;
    mx_confirm_lose(c);
}

static void obey(layer *y) {
    const mx_faults *told = &y->faults->told;
    if (!!told->blocked != y->blocked) block(y, !!told->blocked);
    if (told->close_channels == y->closed) return;
    y->closed = told->close_channels;
    for (publisher *p = y->publishers; p; p = p->next) close_channel(p->confirm);
    wake(y);
}

/* A publish that the broker refuses, or cannot route. */
static double fail(layer *y, mx_confirm *c, double timeout, int nack) {
    double seq = mx_confirm_add(c, mx_clock_us(), timeout, 0, NULL);
    if (nack) mx_confirm_settle(c, (uint64_t)(seq - c->base), 0, 1);
    else mx_confirm_returned(c, seq);
    wake(y);
    return seq;
}

static void on_held(mx_timer *t, void *arg) {
    (void)t;
    wake(arg);
}

static double publish(mx_pub *pub, mx_span exchange, mx_span key, mx_span body, const mx_props *props, int flags,
                      double timeout) {
    layer *y = over_pub(pub);
    mx_faults *told = &y->faults->told;
    obey(y);
    if (pub->state == MX_OPEN && !mx_confirm_full((mx_confirm *)pub)) {
        if (told->nack && pub->confirm) return told->nack--, fail(y, (mx_confirm *)pub, timeout, 1);
        if (told->give_back && flags & MX_MANDATORY) return told->give_back--, fail(y, (mx_confirm *)pub, timeout, 0);
    }
    if (told->delay > 0 && !y->hold_us) {
        y->hold_us = mx_clock_us() + mx_us_of(told->delay);
        mx_timer_set(&y->link->runtime->timers, &y->timer, y->hold_us);
    }
    return y->under->publish(pub, exchange, key, body, props, flags, timeout);
}

static void flush(mx_link *l) {
    layer *y = over(l);
    obey(y);
    if (y->hold_us > mx_clock_us()) return;
    y->hold_us = 0;
    y->under->flush(l);
}

static mx_pub *pub_open(mx_link *l, uint32_t window, int confirm, double timeout, uint32_t ticket) {
    layer *y = over(l);
    publisher *p = mx_zalloc(sizeof *p);
    mx_pub *pub = y->under->pub_open(l, window, confirm, timeout, ticket);
    *p = (publisher){(mx_confirm *)pub, pub->window, y->publishers};
    y->publishers = p;
    if (y->blocked) pub->window = 0;
    return pub;
}

static void forget(layer *y, const mx_pub *pub) {
    publisher **at = &y->publishers, *p;
    while (&(*at)->confirm->pub != pub) at = &(*at)->next;
    p = *at;
    *at = p->next;
    free(p);
}

static void pub_close(mx_pub *pub, uint32_t ticket) {
    layer *y = over_pub(pub);
    forget(y, pub);
    y->under->pub_close(pub, ticket);
}

static void close_link(mx_link *l, uint32_t ticket) {
    layer *y = over(l), **at = &layers;
    while (*at != y) at = &(*at)->next;
    *at = y->next;
    while (y->publishers) forget(y, &y->publishers->confirm->pub);
    mx_timer_stop(&y->link->runtime->timers, &y->timer);
    y->link->ops = y->under;
    y->under->close(l, ticket);
    free(y);
}

mx_link *mx_faults_watch(mx_link *l, mx_span broker) {
    static mx_link_ops ops; /* those of the link below, but for what is done here */
    faults *f = find(broker);
    if (!f) return l;
    layer *y = mx_zalloc(sizeof *y);
    *y = (layer){.link = (mx_link_base *)l, .faults = f, .closed = f->told.close_channels, .next = layers};
    y->timer.fire = on_held;
    y->timer.arg = y;
    layers = y;
    y->under = y->link->ops;
    ops = *y->under;
    ops.publish = publish;
    ops.flush = flush;
    ops.pub_open = pub_open;
    ops.pub_close = pub_close;
    ops.close = close_link;
    y->link->ops = &ops;
    obey(y);
    return l;
}

MX_EXPORT mx_faults *mx_faults_of(const char *broker) {
    faults *f = find(mx_span_of(broker));
    if (f) return &f->told;
    f = mx_zalloc(sizeof *f);
    f->broker = mx_strndup(broker, strlen(broker));
    f->next = brokers;
    brokers = f;
    return &f->told;
}
