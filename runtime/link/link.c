/* link.c - Lua's calls, passed to the filling that the scheme chose. */
#include "link/link.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "link/faults.h"
#include "measure/account.h"
#include "message/table.h"

static char refusal[320];

int mx_refuse(int code, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(refusal, sizeof refusal, format, list);
    va_end(list);
    return code;
}

static int is_utf8(mx_span s) {
    for (size_t i = 0; i < s.n;) {
        uint8_t c = s.p[i];
        size_t more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : (c & 0xf0) == 0xe0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : 4;
        if (more == 4 || s.n - i <= more) return 0;
        uint32_t v = more ? c & (0x3fu >> more) : c;
        for (size_t k = 1; k <= more; k++) {
            if ((s.p[i + k] & 0xc0) != 0x80) return 0;
            v = v << 6 | (s.p[i + k] & 0x3fu);
        }
        if (more == 2 && (v < 0x800 || (v >= 0xd800 && v < 0xe000))) return 0;
        if (more == 3 && (v < 0x10000 || v > 0x10ffff)) return 0;
        i += more + 1;
    }
    return 1;
}

int mx_check_name(const char *what, mx_span name) {
    if (name.n > 255) return mx_refuse(MX_EVALIDATION, "%s is %zu bytes, at most 255", what, name.n);
    if (!is_utf8(name)) return mx_refuse(MX_EVALIDATION, "%s is not UTF-8", what);
    return 0;
}

MX_EXPORT const char *mx_refusal(void) { return refusal; }

void mx_link_attach(mx_runtime *r, mx_link_base *l) {
    l->runtime = r;
    l->pub.channel_max = UINT16_MAX;
    l->pub.opened_at = l->pub.idle_since = mx_now();
    l->next = r->links;
    r->links = l;
}

void mx_link_detach(mx_link_base *l) {
    mx_link_base **at = &l->runtime->links;
    mx_pool_remove(l);
    while (*at && *at != l) at = &(*at)->next;
    if (*at) *at = l->next;
}

void mx_link_take_channel(mx_link_base *l) { l->pub.channels++; }

void mx_link_give_channel(mx_link_base *l) {
    if (!--l->pub.channels) l->pub.idle_since = mx_now();
    if (l->pool) mx_pool_given(l->pool);
}

static mx_stream *encrypted(mx_runtime *r, mx_stream *over, const char *host, const char *port, int timeout_ms,
                            const mx_link_tls *t, char why[MX_TLS_WHY], const mx_stream_events *e, void *arg) {
    const mx_span given[] = {t->ca, t->cert, t->key, t->crl, t->name.n ? t->name : mx_span_of(host)};
    char *text[5];
    for (size_t i = 0; i < 5; i++) text[i] = mx_strndup(given[i].p, given[i].n);
    mx_tls_options tls = {text[0], text[1], text[2], text[3], text[4], (int)t->min_version, (int)t->unverified};
    mx_stream *s =
        over ? mx_tls_over(r->loop, over, &tls, why, e, arg) : mx_tls_open(r->loop, host, port, timeout_ms, &tls, why, e, arg);
    for (size_t i = 0; i < 5; i++) free(text[i]);
    return s;
}

mx_stream *mx_link_stream(mx_runtime *r, const char *host, const char *port, int timeout_ms, const mx_link_tls *t,
                          char why[MX_TLS_WHY], const mx_stream_events *e, void *arg) {
    if (!t) return mx_tcp_open(r->loop, host, port, timeout_ms, e, arg);
    return encrypted(r, NULL, host, port, timeout_ms, t, why, e, arg);
}

mx_stream *mx_link_encrypt(mx_runtime *r, mx_stream *over, const char *host, const mx_link_tls *t, char why[MX_TLS_WHY],
                           const mx_stream_events *e, void *arg) {
    return encrypted(r, over, host, NULL, 0, t, why, e, arg);
}

static const mx_link_ops *ops(mx_link *l) { return ((mx_link_base *)l)->ops; }
static const mx_link_ops *inbox_ops(mx_inbox *ib) { return ((mx_consumer *)ib)->link->ops; }
static const mx_link_ops *pub_ops(mx_pub *p) { return ((mx_publisher *)p)->link->ops; }
static mx_span span(const void *p, size_t n) { return (mx_span){p, n}; }

MX_EXPORT mx_link *mx_link_open(mx_runtime *r, const mx_link_options *o, uint32_t ticket) {
    if (mx_is(o->scheme, "mem")) return mx_faults_watch(mx_embedded_open(r, o, ticket), o->host);
    return mx_amqp_open(r, o, ticket);
}

MX_EXPORT void mx_link_close(mx_link *l, uint32_t ticket) { ops(l)->close(l, ticket); }
MX_EXPORT int mx_link_call(mx_link *l, const mx_call *c, uint32_t ticket) {
    int code = mx_check_name("name", c->name);
    if (!code) code = mx_check_name("source", c->source);
    if (!code) code = mx_check_name("key", c->key);
    if (!code && mx_table_check(c->args.p, c->args.n)) code = mx_refuse(MX_EVALIDATION, "broken arguments");
    return code ? code : ops(l)->call(l, c, ticket);
}

static int check_consume(const mx_consume *o) {
    if (mx_check_name("queue name", o->queue)) return MX_EVALIDATION;
    if (o->tag.n < 1 || o->tag.n > 255) return mx_refuse(MX_EVALIDATION, "consumer tag is %zu bytes, 1 to 255", o->tag.n);
    if (o->prefetch > UINT16_MAX) return mx_refuse(MX_EVALIDATION, "prefetch is %u, at most 65535", o->prefetch);
    if (mx_table_check(o->args.p, o->args.n)) return mx_refuse(MX_EVALIDATION, "broken arguments");
    return 0;
}

MX_EXPORT mx_inbox *mx_link_consume(mx_link *l, const mx_consume *c, uint32_t ticket) {
    return check_consume(c) ? NULL : ops(l)->consume(l, c, ticket);
}

MX_EXPORT void mx_inbox_cancel(mx_inbox *ib, uint32_t ticket) { inbox_ops(ib)->inbox_cancel(ib, ticket); }
MX_EXPORT void mx_inbox_close(mx_inbox *ib, uint32_t ticket) { inbox_ops(ib)->inbox_close(ib, ticket); }

MX_EXPORT mx_pub *mx_pub_open(mx_link *l, uint32_t window, int mode, double timeout, uint32_t ticket) {
    return ops(l)->pub_open(l, window, mode, timeout, ticket);
}

MX_EXPORT int mx_pub_reopen(mx_pub *p, mx_link *l, uint32_t t) { return pub_ops(p)->pub_reopen(p, l, t); }
MX_EXPORT mx_inbox *mx_pub_replies(mx_pub *p, uint32_t ticket) {
    return pub_ops(p)->replies ? pub_ops(p)->replies(p, ticket) : NULL;
}

MX_EXPORT void mx_pub_close(mx_pub *p, uint32_t ticket) { pub_ops(p)->pub_close(p, ticket); }

MX_EXPORT double mx_publish(mx_pub *p, const char *exchange, size_t exchange_size, const char *key, size_t key_size,
                            const void *body, size_t size, const mx_props *props, int flags, double timeout) {
    if (mx_memory_is_refused())
        return mx_refuse(MX_EMEMORY, "the memory limit is near, publishing is refused until there is room");
    double seq =
        pub_ops(p)->publish(p, span(exchange, exchange_size), span(key, key_size), span(body, size), props, flags, timeout);
    return ((mx_publisher *)p)->batch ? mx_gather_more(p, seq, size) : seq;
}
