/* store.c - the embedded brokers of a process by name; exchanges and bindings. */
#include "broker/store.h"
#include <stdlib.h>
#include <string.h>

static const size_t BYTES_MAX = (size_t)1 << 30;
static mx_store *stores;

mx_queue *mx_store_queue(mx_store *s, mx_span name) { return (mx_queue *)mx_names_find(&s->queues, name); }
mx_exchange *mx_store_exchange(mx_store *s, mx_span name) { return (mx_exchange *)mx_names_find(&s->exchanges, name); }

/* ---- stores ----------------------------------------------------------------------------------------------------- */

static mx_store *make(mx_span name) {
    static const struct {
        const char *name;
        int type;
    } predeclared[] = {{"amq.direct", MX_EX_DIRECT},
                       {"amq.fanout", MX_EX_FANOUT},
                       {"amq.topic", MX_EX_TOPIC},
                       {"amq.headers", MX_EX_HEADERS},
                       {"amq.match", MX_EX_HEADERS}};
    mx_store *s = mx_zalloc(sizeof *s);
    s->name = mx_strndup(name.n ? name.p : (const uint8_t *)"", name.n);
    s->bytes_max = BYTES_MAX;
    s->generation = 1;
    s->last_letter = &s->letters;
    s->next = stores;
    stores = s;
    for (size_t i = 0; i < sizeof predeclared / sizeof *predeclared; i++)
        mx_exchange_new(s, mx_span_of(predeclared[i].name), predeclared[i].type)->durable = 1;
    return s;
}

mx_store *mx_store_get(mx_span name, mx_timers *timers) {
    mx_store *s = stores;
    while (s && !mx_same(mx_span_of(s->name), name)) s = s->next;
    if (!s) s = make(name);
    if (s->users++) return s;
    s->timers = timers;
    mx_queue *q = (mx_queue *)mx_names_after(&s->queues, NULL);
    for (mx_queue *next; q; q = next) {
        next = (mx_queue *)mx_names_after(&s->queues, &q->named);
        mx_queue_wake(q);
    }
    return s;
}

void mx_store_put(mx_store *s) {
    if (--s->users) return;
    for (mx_queue *q = NULL; (q = (mx_queue *)mx_names_after(&s->queues, q ? &q->named : NULL));) mx_queue_sleep(q);
    s->timers = NULL;
}

void mx_store_forget(mx_store *s) {
    mx_store **at = &stores;
    while (s->queues.count) mx_queue_delete((mx_queue *)mx_names_after(&s->queues, NULL));
    while (s->exchanges.count) mx_exchange_delete(s, (mx_exchange *)mx_names_after(&s->exchanges, NULL));
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    for (int i = 0; i < MX_ROUTES; i++) free(s->route[i].queue);
    free(s->special.queue);
    free(s->keys);
    mx_names_fini(&s->queues);
    mx_names_fini(&s->exchanges);
    free(s->name);
    free(s);
}

/* ---- exchanges and bindings ------------------------------------------------------------------------------------- */

mx_exchange *mx_exchange_new(mx_store *s, mx_span name, int type) {
    mx_exchange *x = mx_zalloc(sizeof *x);
    x->type = type;
    mx_names_enter(&s->exchanges, &x->named, name);
    s->generation++;
    return x;
}

static void drop(mx_store *s, mx_exchange *from, mx_binding *b) {
    mx_names_leave(&from->bindings, &b->named);
    free((void *)b->args.p);
    free(b);
    s->generation++;
    if (from->bindings.count || !from->auto_delete || from->spent) return;
    from->spent = 1;
    s->spent++;
}

/* Drops every binding to the queue or to the target. */
static void unbind_all(mx_store *s, const mx_queue *queue, const mx_exchange *target) {
    for (mx_exchange *x = NULL; (x = (mx_exchange *)mx_names_after(&s->exchanges, x ? &x->named : NULL));) {
        mx_binding *b = (mx_binding *)mx_names_after(&x->bindings, NULL);
        for (mx_binding *next; b; b = next) {
            next = (mx_binding *)mx_names_after(&x->bindings, &b->named);
            if (b->queue == queue && b->target == target) drop(s, x, b);
        }
    }
}

static void discard(mx_store *s, mx_exchange *x) {
    for (mx_binding *b; (b = (mx_binding *)mx_names_after(&x->bindings, NULL));) drop(s, x, b);
    s->spent -= (uint32_t)x->spent;
    mx_names_leave(&s->exchanges, &x->named);
    s->generation++;
    unbind_all(s, NULL, x);
    mx_names_fini(&x->bindings);
    free(x->alternate);
    free(x);
}

/* An auto-delete exchange goes with its last binding, which may have been another's last target. */
static void sweep(mx_store *s) {
    while (s->spent) {
        mx_exchange *x = (mx_exchange *)mx_names_after(&s->exchanges, NULL);
        while (!x->spent) x = (mx_exchange *)mx_names_after(&s->exchanges, &x->named);
        discard(s, x);
    }
}

void mx_exchange_delete(mx_store *s, mx_exchange *x) {
    discard(s, x);
    sweep(s);
}

static mx_binding *binding(const mx_ends *e, mx_span sorted) {
    mx_named *n = mx_names_find(&e->from->bindings, e->key);
    for (; n; n = n->next) {
        mx_binding *b = (mx_binding *)n;
        if (b->queue == e->queue && b->target == e->target && mx_same(mx_name_of(n), e->key) && mx_same(b->args, sorted))
            return b;
    }
    return NULL;
}

void mx_store_bind(mx_store *s, const mx_ends *e) {
    mx_span sorted = mx_table_sorted(e->args);
    if (binding(e, sorted)) {
        free((void *)sorted.p);
        return;
    }
    mx_binding *b = mx_zalloc(sizeof *b);
    b->queue = e->queue;
    b->target = e->target;
    b->args = sorted;
    b->match = mx_match_of(sorted);
    mx_names_enter(&e->from->bindings, &b->named, e->key);
    s->generation++;
}

void mx_store_unbind(mx_store *s, const mx_ends *e) {
    mx_span sorted = mx_table_sorted(e->args);
    mx_binding *b = binding(e, sorted);
    free((void *)sorted.p);
    if (!b) return;
    drop(s, e->from, b);
    sweep(s);
}

void mx_store_unbind_queue(mx_store *s, const mx_queue *q) {
    unbind_all(s, q, NULL);
    sweep(s);
}
