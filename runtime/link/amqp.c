/* amqp.c - a link over a real broker: a stream, a connection on it, and its life from the handshake to the close. */
#include "link/amqp.h"
#include <stdio.h>
#include <stdlib.h>
#include "base/clock.h"
#include "base/secret.h"
#include "measure/account.h"
#include "message/props.h"

enum { TEXTS = 4, READ_ROOM = 256 * 1024, CLOSE_US = 2000000, LATE_US = 200000 };

void mx_amqp_post(mx_amqp *a, uint32_t ticket, int code, int reply_code, const char *text) {
    mx_wait_post(mx_amqp_waits(a), ticket, code, mx_reply_new(code, reply_code, text, text ? strlen(text) : 0));
    mx_amqp_wake(a);
}

void mx_amqp_done(mx_amqp *a, uint32_t ticket) { mx_amqp_post(a, ticket, 0, 0, NULL); }

void mx_amqp_write(mx_amqp *a) {
    if (!a->out.pending || !a->stream) return;
    mx_stream_write_out(a->stream, &a->out);
    a->said_us = mx_clock_us();
}

/* ---- events of the connection --------------------------------------------------------------------------------------- */

static void on_open(void *arg) {
    mx_amqp *a = arg;
    a->base.pub.state = MX_OPEN;
    a->base.pub.channel_max = a->conn->channel_max;
    a->base.pub.rabbit = a->conn->rabbit;
    mx_timer_stop(mx_amqp_timers(a), &a->limit);
    if (a->conn->heartbeat) mx_timer_set(mx_amqp_timers(a), &a->beat, mx_clock_us() + a->conn->heartbeat * 500000ull);
    mx_amqp_done(a, a->open_ticket);
}

/* Those whose channel was closed already, or never was: nobody told them. */
static void lose_publishers(mx_amqp *a, const char *text) {
    for (mx_line *l = a->lines, *next; l; l = next) {
        next = l->next;
        if (l->kind == MX_PUBLISHER) mx_amqp_lose_publisher(mx_publisher_of(l), 0, text);
    }
}

/* A login that failed: what it said does not stay in memory. */
static void forget_login(mx_amqp *a) {
    mx_sendq_wrote(&a->out, a->out.pending);
    mx_sendq_wipe(&a->out);
}

static void on_closed(void *arg, int code, int reply_code, const char *text) {
    mx_amqp *a = arg;
    mx_link *link = &a->base.pub;
    int opening = link->state == MX_OPENING;
    mx_amqp_write(a);
    link->state = MX_CLOSED;
    if (!link->error) link->error = mx_strndup(text, strlen(text));
    link->error_code = code ? code : MX_ECLOSED;
    link->reply_code = (uint16_t)reply_code;
    mx_timer_stop(mx_amqp_timers(a), &a->beat);
    mx_timer_stop(mx_amqp_timers(a), &a->limit);
    mx_amqp_post(a, a->open_ticket, code ? code : MX_ECLOSED, reply_code, text);
    lose_publishers(a, text);
    if (a->stream) mx_stream_close(a->stream);
    if (opening) forget_login(a);
    mx_amqp_wake(a);
}

static void on_blocked(void *arg, int on) {
    mx_amqp *a = arg;
    /* a blocked broker reads nothing, but its heartbeats come: only they may decide now */
    mx_stream_patience(a->stream, on ? 0 : a->patience_ms);
    a->base.pub.blocked = (uint32_t)on;
    mx_amqp_wake(a);
}

static void begin_deliveries(mx_line *l) {
    mx_amqp_consumer *c = l->kind == MX_CONSUMER ? mx_consumer_of(l) : mx_publisher_of(l)->replies;
    if (c && c->base.inbox.state == MX_OPENING) c->base.inbox.state = MX_OPEN; /* it may be cancelled already */
}

static void on_reply(mx_chan *h, uint32_t method, void *decoded) {
    mx_line *l = h->arg;
    if (method == AMQP_CHANNEL_CLOSE_OK_METHOD) {
        if (l->kind == MX_CONSUMER) mx_amqp_free_consumer(mx_consumer_of(l));
        else if (l->kind == MX_PUBLISHER) mx_amqp_closed_publisher(mx_publisher_of(l));
        return;
    }
    if (method == AMQP_CHANNEL_OPEN_OK_METHOD) {
        mx_timer_stop(mx_amqp_timers(l->link), &l->limit);
    } else {
        /* each answer's number follows its request's: any other would be taken for a consumer's or a publisher's */
        if (!l->waiting || method != l->first->method + 1) {
            mx_conn_break(l->link->conn, 503, "COMMAND_INVALID - an answer that nobody asked for");
            return;
        }
        mx_request *r = mx_line_take(l);
        l->link->base.pub.round_trip = (double)(mx_clock_us() - l->sent_us) / 1e6;
        if (method == AMQP_BASIC_CONSUME_OK_METHOD) begin_deliveries(l);
        if (method == AMQP_CONFIRM_SELECT_OK_METHOD) mx_amqp_pub_opened(mx_publisher_of(l));
        mx_line_answer(l, r, method, decoded);
        free(r);
    }
    mx_line_send(l);
}

static void on_chan_closed(mx_chan *h, int reply_code, const char *text) {
    mx_line *l = h->arg;
    mx_amqp *a = l->link;
    int code = reply_code == 403 ? MX_EACCESS : reply_code ? MX_ECHANNEL : MX_ECONNECTION;
    if (l->kind != MX_CONTROL) mx_line_fail(l, code, reply_code, text);
    if (l->kind == MX_CONTROL) {
        mx_line_renew(l, code, reply_code, text);
    } else if (l->kind == MX_CONSUMER) {
        mx_amqp_consumer *c = mx_consumer_of(l);
        c->base.inbox.state = MX_CLOSED;
        if (reply_code) {
            snprintf(c->error, sizeof c->error, "%s", text);
            c->base.inbox.error = c->error;
        }
        if (c->closing) mx_amqp_free_consumer(c);
    } else {
        mx_amqp_lose_publisher(mx_publisher_of(l), reply_code, text);
    }
    mx_amqp_wake(a);
}

static void on_confirm(mx_chan *h, uint64_t tag, int multiple, int nack) {
    mx_line *l = h->arg;
    mx_amqp *a = l->link;
    if (l->kind != MX_PUBLISHER || mx_confirm_settle(&mx_publisher_of(l)->base.confirm, tag, multiple, nack))
        mx_conn_break(a->conn, 503, "COMMAND_INVALID - a confirm for what was not published");
    else if (mx_publisher_of(l)->base.confirm.pub.seq == mx_publisher_of(l)->base.confirm.pub.settled)
        mx_amqp_wake(a); /* the process may be done */
}

static void on_returned(mx_chan *h, mx_span id, mx_span exchange, mx_span key) {
    mx_line *l = h->arg;
    if (l->kind == MX_PUBLISHER) mx_confirm_return(&mx_publisher_of(l)->base.confirm, id, exchange, key);
}

static void on_cancelled(mx_chan *h) {
    mx_line *l = h->arg;
    if (l->kind != MX_CONSUMER) return;
    mx_consumer_of(l)->base.inbox.cancelled = 1;
    mx_consumer_of(l)->base.inbox.state = MX_CLOSED;
    mx_amqp_wake(l->link);
}

static void on_refused(mx_chan *h, const char *what, uint64_t size, uint64_t limit) {
    mx_line *l = h->arg;
    if (l->kind != MX_CONSUMER) return;
    mx_amqp_consumer *c = mx_consumer_of(l);
    snprintf(c->refusal, sizeof c->refusal, "%s of %llu bytes, at most %llu are taken", what, (unsigned long long)size,
             (unsigned long long)limit);
    c->base.inbox.refused++;
    c->base.inbox.refusal = c->refusal;
    mx_amqp_wake(l->link);
}

static const mx_conn_events conn_events = {on_open,    on_closed,   on_blocked,   on_reply,  on_chan_closed,
                                           on_confirm, on_returned, on_cancelled, on_refused};

/* ---- the read buffer: deliveries point into it until it moves or is written over ---- */

static int can_make_room(const mx_amqp *a) {
    return a->in_off == a->in_len || a->in_off > a->in_room / 2 || (a->in_len == a->in_room && !a->again);
}

static int has_room(const mx_amqp *a) { return a->in_len < a->in_room || can_make_room(a); }

static void resize(mx_amqp *a, size_t room) {
    mx_let_go(MX_OF_BUFFERS, a->in_room);
    mx_hold(MX_OF_BUFFERS, room);
    a->in = mx_realloc(a->in, a->in_room = room);
}

static void make_room(mx_amqp *a) {
    for (mx_line *l = a->lines; l; l = l->next)
        if (l->kind == MX_CONSUMER) mx_inbox_detach(&mx_consumer_of(l)->base.inbox);
    memmove(a->in, a->in + a->in_off, a->in_len - a->in_off);
    a->in_len -= a->in_off;
    a->in_off = 0;
    if (!a->in_len && a->in_room > READ_ROOM) resize(a, READ_ROOM);
    /* the parser has seen all of it and wants more: a header frame, which may be longer than frame_max */
    if (a->in_len == a->in_room && a->in_room < MX_HEADER_CAP + READ_ROOM) resize(a, 2 * a->in_room);
}

/* ---- events of the stream -------------------------------------------------------------------------------------------- */

static void on_up(void *arg) {
    mx_amqp *a = arg;
    a->local = mx_stream_is_local(a->stream);
    mx_amqp_write(a);
}

static void on_room(void *arg, uint8_t **p, size_t *n) {
    mx_amqp *a = arg;
    if (can_make_room(a)) make_room(a);
    *p = a->in + a->in_len;
    *n = a->in_room - a->in_len;
}

static void on_data(void *arg, size_t n) {
    mx_amqp *a = arg;
    a->in_len += n;
    a->heard_us = mx_clock_us();
    a->again = 1;
    mx_amqp_stir(a);
}

static void on_drained(void *arg, size_t n) {
    mx_amqp *a = arg;
    mx_sendq_wrote(&a->out, n);
    mx_amqp_write(a);
    mx_amqp_stir(a); /* flush lets the publishers go on */
}

static void on_down(void *arg, const char *why) { mx_conn_fail(((mx_amqp *)arg)->conn, MX_ECONNECTION, why); }

static void on_gone(void *arg) {
    mx_amqp *a = arg;
    a->stream = NULL;
    mx_amqp_wake(a);
}

static const mx_stream_events stream_events = {on_up, on_room, on_data, on_drained, on_down, on_gone};

/* ---- the worker's side -------------------------------------------------------------------------------------------------- */

static int fill(mx_link *link) {
    mx_amqp *a = (mx_amqp *)link;
    if (!a->again || link->state == MX_CLOSED) return 0;
    a->in_off += mx_conn_feed(a->conn, a->in + a->in_off, a->in_len - a->in_off, &a->again);
    if (a->conn->stalled) a->again = 1;
    for (mx_line *l = a->lines; l; l = l->next)
        if (l->kind == MX_CONSUMER && mx_consumer_of(l)->base.inbox.head != mx_consumer_of(l)->base.inbox.tail)
            a->base.runtime->news = 1;
    if (!a->stream || link->state == MX_CLOSED) return 0;
    if (has_room(a)) mx_stream_resume(a->stream);
    return a->again && !a->conn->stalled;
}

static void release(mx_amqp *a);

/* Of one that was lost the inboxes may still be read; whoever reads them closes them. */
static int may_go(const mx_amqp *a) {
    for (const mx_line *l = a->lines; a->lost && l; l = l->next)
        if (l->kind == MX_CONSUMER) return 0;
    return 1;
}

static void flush(mx_link *link) {
    mx_amqp *a = (mx_amqp *)link;
    for (mx_line *l = a->lines, *next; l; l = next) {
        next = l->next;
        if (l->kind == MX_CONSUMER) mx_amqp_settle(mx_consumer_of(l));
        else if (l->kind == MX_PUBLISHER) mx_amqp_flush_pub(mx_publisher_of(l));
    }
    if (a->stream) mx_amqp_write(a);
    else if (a->close_ticket && may_go(a)) release(a);
}

/* Heartbeats (4.2.7): a frame each half interval when nothing else was sent; two intervals of silence are the end. */
static void on_beat(mx_timer *t, void *arg) {
    mx_amqp *a = arg;
    uint64_t now = mx_clock_us(), half = a->conn->heartbeat * 500000ull, next = now + half, end;
    int late = now > t->due_us + LATE_US;
    /* while a full inbox keeps us from reading, or the loop was busy, silence says nothing about the broker */
    if (!has_room(a)) a->heard_us = now;
    end = a->heard_us + 4 * half;
    if (now >= end && !late) {
        mx_conn_fail(a->conn, MX_ECONNECTION, "no heartbeat from the broker");
        return;
    }
    if (now - a->said_us >= half) {
        mx_conn_heartbeat(a->conn);
        mx_amqp_write(a);
    }
    if (now >= end) next = now + LATE_US;
    else if (end < next) next = end;
    mx_timer_set(mx_amqp_timers(a), t, next);
}

static void on_limit(mx_timer *t, void *arg) {
    mx_amqp *a = arg;
    (void)t;
    int connecting = a->base.pub.state == MX_OPENING;
    mx_conn_fail(a->conn, MX_ECONNECTION, connecting ? "no answer while connecting; is it an AMQP broker?" : "closed");
}

static void release(mx_amqp *a) {
    uint32_t ticket = a->close_ticket;
    while (a->lines) {
        mx_line *l = a->lines;
        if (l->kind == MX_CONSUMER) mx_amqp_free_consumer(mx_consumer_of(l));
        else if (l->kind == MX_PUBLISHER) mx_amqp_free_publisher(mx_publisher_of(l));
        else mx_line_drop(l);
    }
    mx_timer_stop(mx_amqp_timers(a), &a->limit);
    mx_timer_stop(mx_amqp_timers(a), &a->beat);
    mx_link_detach(&a->base);
    if (ticket != UINT32_MAX) mx_amqp_done(a, ticket);
    mx_conn_free(a->conn);
    mx_sendq_clear(&a->out);
    for (size_t i = 0; i < TEXTS; i++) free(a->texts[i]);
    mx_secret_free(a->password);
    free(a->base.pub.error);
    mx_let_go(MX_OF_BUFFERS, a->in_room);
    free(a->in);
    free(a);
}

static void settle_all(mx_amqp *a) {
    for (mx_line *l = a->lines; l; l = l->next)
        if (l->kind == MX_CONSUMER) mx_amqp_settle_all(mx_consumer_of(l));
}

static void close_link(mx_link *link, uint32_t ticket) {
    mx_amqp *a = (mx_amqp *)link;
    if (a->close_ticket) return;
    a->close_ticket = ticket ? ticket : UINT32_MAX;
    a->lost = link->state == MX_CLOSED;
    mx_amqp_wake(a);
    if (a->lost) return;
    settle_all(a);
    flush(link);
    link->state = MX_CLOSING;
    mx_timer_set(mx_amqp_timers(a), &a->limit, mx_clock_us() + CLOSE_US);
    mx_conn_close(a->conn);
    if (a->stream) mx_amqp_write(a);
}

static const mx_link_ops ops = {mx_amqp_call,
                                mx_amqp_consume,
                                mx_amqp_cancel,
                                mx_amqp_close_inbox,
                                mx_amqp_open_pub,
                                mx_amqp_reopen_pub,
                                mx_amqp_close_pub,
                                mx_amqp_publish,
                                mx_amqp_release_pub,
                                fill,
                                flush,
                                mx_amqp_coalesce,
                                close_link,
                                mx_amqp_replies};

mx_link *mx_amqp_open(mx_runtime *r, const mx_link_options *o, uint32_t ticket) {
    mx_amqp *a = mx_zalloc(sizeof *a);
    double heartbeat = o->heartbeat < UINT16_MAX ? o->heartbeat : UINT16_MAX;
    const mx_span kept[TEXTS] = {o->user, o->vhost, o->name, o->host};
    for (size_t i = 0; i < TEXTS; i++) a->texts[i] = mx_strndup(kept[i].p, kept[i].n);
    a->password = mx_secret(o->password.p, o->password.n);
    mx_conn_options options = {{(uint8_t *)a->texts[0], o->user.n},
                               {(uint8_t *)a->password, o->password.n},
                               {(uint8_t *)a->texts[1], o->vhost.n},
                               {(uint8_t *)a->texts[2], o->name.n},
                               (int)(heartbeat + 0.999),
                               o->max_body,
                               o->tls.external != 0};
    char why[MX_TLS_WHY];
    a->base.ops = &ops;
    a->base.pub.state = MX_OPENING;
    a->base.pub.rpc_timeout = o->rpc_timeout;
    a->open_ticket = ticket;
    a->limit.fire = on_limit;
    a->beat.fire = on_beat;
    a->limit.arg = a->beat.arg = a;
    resize(a, READ_ROOM);
    a->patience_ms = (int)(2 * heartbeat * 1000);
    mx_link_attach(r, &a->base);
    a->conn = mx_conn_new(&options, &a->out, &conn_events, a);
    char *port = mx_strndup(o->port.p, o->port.n);
    a->stream =
        mx_link_stream(r, a->texts[3], port, a->patience_ms, mx_is(o->scheme, "amqps") ? &o->tls : NULL, why, &stream_events, a);
    free(port);
    mx_timer_set(mx_amqp_timers(a), &a->limit, mx_clock_us() + mx_us_of(o->connect_timeout));
    if (!a->stream) mx_conn_fail(a->conn, MX_ECONFIG, why);
    return &a->base.pub;
}
