/* link.c - Lua's calls, passed to the filling that the scheme chose. */
#include "link/link.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "link/faults.h"

static char refusal[320];

int mx_refuse(int code, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(refusal, sizeof refusal, format, list);
    va_end(list);
    return code;
}

MX_EXPORT const char *mx_refusal(void) { return refusal; }

void mx_link_attach(mx_runtime *r, mx_link_base *l) {
    l->runtime = r;
    l->next = r->links;
    r->links = l;
}

void mx_link_detach(mx_link_base *l) {
    mx_link_base **at = &l->runtime->links;
    while (*at && *at != l) at = &(*at)->next;
    if (*at) *at = l->next;
}

static int is(mx_span s, const char *word) { return s.n == strlen(word) && !memcmp(s.p, word, s.n); }
static const mx_link_ops *ops(mx_link *l) { return ((mx_link_base *)l)->ops; }
static const mx_link_ops *inbox_ops(mx_inbox *ib) { return ((mx_consumer *)ib)->link->ops; }
static const mx_link_ops *pub_ops(mx_pub *p) { return ((mx_publisher *)p)->link->ops; }
static mx_span span(const void *p, size_t n) { return (mx_span){p, n}; }

MX_EXPORT mx_link *mx_link_open(mx_runtime *r, const mx_link_options *o, uint32_t ticket) {
    if (is(o->scheme, "mem")) return mx_faults_watch(mx_embedded_open(r, o, ticket), o->host);
    return mx_amqp_open(r, o, ticket);
}

MX_EXPORT void mx_link_close(mx_link *l, uint32_t ticket) { ops(l)->close(l, ticket); }
MX_EXPORT int mx_link_call(mx_link *l, const mx_call *c, uint32_t ticket) { return ops(l)->call(l, c, ticket); }
MX_EXPORT mx_inbox *mx_link_consume(mx_link *l, const mx_consume *c, uint32_t t) { return ops(l)->consume(l, c, t); }
MX_EXPORT void mx_inbox_cancel(mx_inbox *ib, uint32_t ticket) { inbox_ops(ib)->inbox_cancel(ib, ticket); }
MX_EXPORT void mx_inbox_close(mx_inbox *ib, uint32_t ticket) { inbox_ops(ib)->inbox_close(ib, ticket); }

MX_EXPORT mx_pub *mx_pub_open(mx_link *l, uint32_t window, int confirm, double timeout, uint32_t ticket) {
    return ops(l)->pub_open(l, window, confirm, timeout, ticket);
}

MX_EXPORT int mx_pub_reopen(mx_pub *p, uint32_t ticket) { return pub_ops(p)->pub_reopen(p, ticket); }
MX_EXPORT mx_inbox *mx_pub_replies(mx_pub *p, uint32_t ticket) {
    return pub_ops(p)->replies ? pub_ops(p)->replies(p, ticket) : NULL;
}

MX_EXPORT void mx_pub_close(mx_pub *p, uint32_t ticket) { pub_ops(p)->pub_close(p, ticket); }

MX_EXPORT double mx_publish(mx_pub *p, const char *exchange, size_t exchange_size, const char *key, size_t key_size,
                            const void *body, size_t size, const mx_props *props, int flags, double timeout) {
    return pub_ops(p)->publish(p, span(exchange, exchange_size), span(key, key_size), span(body, size), props, flags, timeout);
}
