/* gather.c - publishes that are kept until there are enough of them. */
#include "base/clock.h"
#include "link/link.h"
#include "message/batch.h"

MX_EXPORT void mx_pub_release(mx_pub *p) {
    mx_publisher *own = (mx_publisher *)p;
    if (!own->batch) return;
    mx_timer_stop(own->confirm.timers, &own->release);
    mx_batch_clear(own->batch);
    own->link->ops->pub_release(p);
}

static void on_time(mx_timer *t, void *arg) {
    (void)t;
    mx_pub_release(arg);
}

MX_EXPORT mx_batch *mx_pub_gather(mx_pub *p, uint32_t size, double bytes, double timeout, mx_batch_look *look) {
    mx_publisher *own = (mx_publisher *)p;
    own->batch = mx_batch_new(size, bytes, timeout, look);
    own->release.fire = on_time;
    own->release.arg = p;
    return own->batch;
}

void mx_gather_fini(mx_publisher *p) {
    if (!p->batch) return;
    mx_timer_stop(p->confirm.timers, &p->release);
    mx_batch_free(p->batch);
    p->batch = NULL;
}

double mx_gather_more(mx_pub *p, double seq, size_t size) {
    mx_publisher *own = (mx_publisher *)p;
    mx_batch *b = own->batch;
    if (seq > 0) {
        mx_batch_count(b, (double)size, mx_now());
        if (b->count == 1) mx_timer_set(own->confirm.timers, &own->release, mx_clock_us() + mx_us_of(b->timeout));
    }
    if (b->count && (b->due || seq == MX_EAGAIN)) mx_pub_release(p);
    return seq;
}
