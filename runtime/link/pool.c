/* pool.c - links of one purpose: which of them the next channel is opened on, and who waits for one. */
#include <stdlib.h>
#include "link/link.h"

struct mx_pool {
    mx_runtime *runtime;
    mx_link_base *links;
    uint32_t channels;
    uint32_t *ticket, waiting, room;
};

MX_EXPORT mx_pool *mx_pool_new(mx_runtime *r, uint32_t channels) {
    mx_pool *p = mx_zalloc(sizeof *p);
    p->runtime = r;
    p->channels = channels;
    return p;
}

MX_EXPORT void mx_pool_free(mx_pool *p) {
    for (mx_link_base *l = p->links; l; l = l->pooled) l->pool = NULL;
    free(p->ticket);
    free(p);
}

MX_EXPORT void mx_pool_add(mx_pool *p, mx_link *link) {
    mx_link_base *l = (mx_link_base *)link;
    l->pool = p;
    l->pooled = p->links;
    p->links = l;
    mx_pool_given(p);
}

void mx_pool_remove(mx_link_base *l) {
    if (!l->pool) return;
    mx_link_base **at = &l->pool->links;
    while (*at != l) at = &(*at)->pooled;
    *at = l->pooled;
    l->pool = NULL;
}

static int has_room(const mx_pool *p, const mx_link *l) { return l->channels < p->channels && l->channels < l->channel_max; }

MX_EXPORT mx_link *mx_pool_least_used(const mx_pool *p, int room) {
    mx_link *best = NULL;
    for (mx_link_base *l = p->links; l; l = l->pooled) {
        if (l->pub.state != MX_OPEN || (room && !has_room(p, &l->pub))) continue;
        if (!best || l->pub.channels < best->channels) best = &l->pub;
    }
    return best;
}

MX_EXPORT void mx_pool_wait(mx_pool *p, uint32_t ticket) {
    if (p->waiting == p->room) p->ticket = mx_realloc(p->ticket, (p->room = p->room ? 2 * p->room : 8) * sizeof *p->ticket);
    p->ticket[p->waiting++] = ticket;
}

/* All of them: some may have given up, and those who find it taken wait again. */
void mx_pool_given(mx_pool *p) {
    for (uint32_t i = 0; i < p->waiting; i++) mx_wait_post(&p->runtime->waits.pub, p->ticket[i], 0, NULL);
    if (p->waiting) p->runtime->wake(p->runtime);
    p->waiting = 0;
}
