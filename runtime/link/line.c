/* line.c - a channel of a link and what is asked on it: one request at a time, each with its answer. */
#include <stdlib.h>
#include "base/clock.h"
#include "link/amqp.h"
#include "message/props.h"

static void set_limit(mx_line *l);

static void on_request_limit(mx_timer *t, void *arg) {
    mx_line *l = arg;
    (void)t;
    mx_request *r = l->first;
    if (l->link->conn->stalled) { /* it is us who do not read: the answer may lie behind a full inbox */
        set_limit(l);
        return;
    }
    if (r) mx_amqp_post(l->link, r->ticket, MX_ETIMEOUT, 0, "the broker did not answer");
    /* what the broker made of it is unknown: only a new connection is in a known state */
    mx_conn_fail(l->link->conn, MX_ECONNECTION, "the broker did not answer a request in time");
}

static void set_limit(mx_line *l) {
    l->limit.fire = on_request_limit;
    l->limit.arg = l;
    mx_timer_set(mx_amqp_timers(l->link), &l->limit, mx_clock_us() + mx_us_of(l->link->base.pub.rpc_timeout));
}

void mx_line_send(mx_line *l) {
    mx_amqp *a = l->link;
    mx_request *r = l->first;
    if (!r || l->waiting || !l->chan || l->chan->state != MX_CHAN_OPEN) return;
    uint8_t *p = mx_sendq_reserve(&a->out, r->size + MX_FRAME_OVERHEAD);
    mx_frame_head(p, MX_FRAME_METHOD, l->chan->number, r->size);
    memcpy(p + 7, r->frame, r->size);
    p[7 + r->size] = MX_FRAME_END;
    mx_sendq_add(&a->out, r->size + MX_FRAME_OVERHEAD);
    l->waiting = 1;
    l->sent_us = mx_clock_us();
    set_limit(l);
    mx_amqp_wake(a);
}

/* 0 or MX_EVALIDATION when it cannot be encoded. */
int mx_line_ask(mx_line *l, uint32_t method, void *decoded, uint32_t ticket) {
    static uint8_t scratch[MX_FRAME_MAX];
    int n = mx_frame_method(scratch, l->link->conn->frame_max, 0, method, decoded);
    if (n < 0) return mx_refuse(MX_EVALIDATION, "a name or an argument is too long for AMQP");
    mx_request *r = mx_zalloc(sizeof *r + (size_t)n);
    r->ticket = ticket;
    r->method = method;
    r->size = (size_t)n - MX_FRAME_OVERHEAD;
    memcpy(r->frame, scratch + 7, r->size);
    if (l->first) l->last->next = r;
    else l->first = r;
    l->last = r;
    mx_line_send(l);
    return 0;
}

mx_request *mx_line_take(mx_line *l) {
    mx_request *r = l->first;
    mx_timer_stop(mx_amqp_timers(l->link), &l->limit);
    l->waiting = 0;
    if (r) l->first = r->next;
    return r;
}

void mx_line_fail(mx_line *l, int code, int reply_code, const char *text) {
    for (mx_request *r; (r = mx_line_take(l)); free(r)) mx_amqp_post(l->link, r->ticket, code, reply_code, text);
}

void mx_line_open(mx_line *l) {
    l->chan = mx_chan_new(l->link->conn, l);
    if (l->chan) set_limit(l);
    if (l->chan && l->kind == MX_CONTROL) {
        l->link->base.pub.channel_max = l->link->conn->channel_max - 1u;
    } else if (l->chan) {
        l->counted = 1;
        mx_link_take_channel(&l->link->base);
    }
    mx_amqp_wake(l->link);
}

void mx_line_close(mx_line *l) {
    mx_chan_close(l->chan);
    set_limit(l);
    mx_amqp_wake(l->link);
}

void mx_line_add(mx_line *l, int kind, mx_amqp *a) {
    *l = (mx_line){.kind = kind, .link = a, .next = a->lines};
    a->lines = l;
}

const char *mx_line_refusal(mx_amqp *a) {
    return a->base.pub.state == MX_OPEN ? "no channel is free" : "the connection is not open";
}

void mx_line_drop(mx_line *l) {
    mx_amqp *a = l->link;
    mx_timer_stop(mx_amqp_timers(a), &l->limit);
    mx_line_fail(l, MX_ECLOSED, 0, "closed");
    if (l->chan) mx_chan_free(l->chan);
    l->chan = NULL;
    if (l->counted) mx_link_give_channel(&a->base);
    l->counted = 0;
    for (mx_line **at = &a->lines; *at; at = &(*at)->next)
        if (*at == l) {
            *at = l->next;
            break;
        }
}

void mx_line_answer(mx_line *l, mx_request *r, uint32_t method, void *decoded) {
    mx_reply *reply = mx_reply_new(0, 0, NULL, 0);
    if (method == AMQP_QUEUE_DECLARE_OK_METHOD) {
        amqp_queue_declare_ok_t *m = decoded;
        free(reply);
        reply = mx_reply_new(0, 0, m->queue.bytes, m->queue.len);
        reply->messages = m->message_count;
        reply->consumers = m->consumer_count;
    } else if (method == AMQP_QUEUE_PURGE_OK_METHOD || method == AMQP_QUEUE_DELETE_OK_METHOD) {
        reply->messages = ((amqp_queue_purge_ok_t *)decoded)->message_count;
    }
    mx_wait_post(mx_amqp_waits(l->link), r->ticket, 0, reply);
    mx_amqp_wake(l->link);
}

/* Only the call that was under way is to blame; those behind it go to a new channel. */
void mx_line_renew(mx_line *l, int code, int reply_code, const char *text) {
    mx_request *r = l->waiting ? mx_line_take(l) : NULL;
    if (r) mx_amqp_post(l->link, r->ticket, code, reply_code, text);
    free(r);
    mx_timer_stop(mx_amqp_timers(l->link), &l->limit);
    mx_chan_free(l->chan);
    l->chan = NULL;
    if (r && l->first && reply_code) mx_line_open(l);
    if (!l->chan) mx_line_fail(l, code, reply_code, text);
}

mx_arguments mx_arguments_read(mx_span s) {
    mx_arguments x = {.raw = mx_zalloc(s.n + 4)};
    size_t at = 0;
    init_amqp_pool(&x.pool, 4096);
    mx_put32(x.raw, (uint32_t)s.n);
    if (s.n) memcpy(x.raw + 4, s.p, s.n);
    if (amqp_decode_table((amqp_bytes_t){s.n + 4, x.raw}, &x.pool, &x.table, &at) < 0) x.table = (amqp_table_t){0};
    return x;
}

void mx_arguments_drop(mx_arguments *x) {
    empty_amqp_pool(&x->pool);
    free(x->raw);
}

static int ask_for(mx_line *l, const mx_call *q, amqp_table_t args, uint32_t ticket) {
    amqp_bytes_t name = mx_bytes(q->name), source = mx_bytes(q->source), key = mx_bytes(q->key);
    uint32_t f = q->flags;
    switch (q->op) {
    case MX_DECLARE_QUEUE: {
        amqp_queue_declare_t m = {
            0, name, !!(f & MX_F_PASSIVE), !!(f & MX_F_DURABLE), !!(f & MX_F_EXCLUSIVE), !!(f & MX_F_AUTO_DELETE), 0, args};
        return mx_line_ask(l, AMQP_QUEUE_DECLARE_METHOD, &m, ticket);
    }
    case MX_DECLARE_EXCHANGE: {
        amqp_exchange_declare_t m = {
            0, name, source, !!(f & MX_F_PASSIVE), !!(f & MX_F_DURABLE), !!(f & MX_F_AUTO_DELETE), !!(f & MX_F_INTERNAL),
            0, args};
        return mx_line_ask(l, AMQP_EXCHANGE_DECLARE_METHOD, &m, ticket);
    }
    case MX_BIND: {
        amqp_queue_bind_t m = {0, name, source, key, 0, args};
        return mx_line_ask(l, AMQP_QUEUE_BIND_METHOD, &m, ticket);
    }
    case MX_UNBIND: {
        amqp_queue_unbind_t m = {0, name, source, key, args};
        return mx_line_ask(l, AMQP_QUEUE_UNBIND_METHOD, &m, ticket);
    }
    case MX_BIND_EXCHANGE: {
        amqp_exchange_bind_t m = {0, name, source, key, 0, args};
        return mx_line_ask(l, AMQP_EXCHANGE_BIND_METHOD, &m, ticket);
    }
    case MX_PURGE: {
        amqp_queue_purge_t m = {0, name, 0};
        return mx_line_ask(l, AMQP_QUEUE_PURGE_METHOD, &m, ticket);
    }
    case MX_DELETE_QUEUE: {
        amqp_queue_delete_t m = {0, name, 0, 0, 0};
        return mx_line_ask(l, AMQP_QUEUE_DELETE_METHOD, &m, ticket);
    }
    case MX_DELETE_EXCHANGE: {
        amqp_exchange_delete_t m = {0, name, 0, 0};
        return mx_line_ask(l, AMQP_EXCHANGE_DELETE_METHOD, &m, ticket);
    }
    }
    return mx_refuse(MX_EINTERNAL, "unknown operation %u", q->op);
}

int mx_amqp_call(mx_link *link, const mx_call *q, uint32_t ticket) {
    mx_amqp *a = (mx_amqp *)link;
    mx_line *l = &a->control;
    if (link->state != MX_OPEN) return mx_refuse(MX_ECLOSED, "the connection is not open");
    if (!l->chan) {
        if (l->link) mx_line_drop(l);
        mx_line_add(l, MX_CONTROL, a);
        mx_line_open(l);
        if (!l->chan) return mx_refuse(MX_ECHANNEL, "no channel is free");
    }
    mx_arguments args = mx_arguments_read(q->args);
    int code = ask_for(l, q, args.table, ticket);
    mx_arguments_drop(&args);
    mx_amqp_wake(a);
    return code;
}
