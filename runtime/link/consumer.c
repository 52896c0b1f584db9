/* consumer.c - a consumer on its channel: its inbox, and when what it settled is told to the broker. */
#include <stdlib.h>
#include "base/clock.h"
#include "link/amqp.h"
#include "message/props.h"

enum { ACK_US = 5000, GAP_US = 50000, NO_PREFETCH_SLICE = 1024, ROOM_MIN = 64, SPARE_MAX = 4096 };

static void send_ack(void *arg, uint64_t tag, int multiple) {
    amqp_basic_ack_t m = {tag, multiple};
    mx_chan_method(arg, AMQP_BASIC_ACK_METHOD, &m);
}

static void send_reject(void *arg, uint64_t tag, int requeue) {
    amqp_basic_nack_t m = {tag, 0, requeue};
    mx_chan_method(arg, AMQP_BASIC_NACK_METHOD, &m);
}

/* A stream keeps its messages and knows no basic.reject: an ack is credit for more. */
static void ack_instead(void *arg, uint64_t tag, int requeue) {
    (void)requeue;
    send_ack(arg, tag, 0);
}

static void no_ack(void *arg, uint64_t tag, int multiple) { (void)arg, (void)tag, (void)multiple; }

static const mx_settle to_broker = {send_ack, send_reject}, to_stream = {send_ack, ack_instead}, to_nobody = {no_ack, no_ack};

static const mx_settle *settles(mx_amqp_consumer *c) {
    if (c->no_ack || !c->line.chan || c->line.chan->state != MX_CHAN_OPEN) return &to_nobody;
    return c->stream ? &to_stream : &to_broker;
}

static void on_gaps(mx_timer *t, void *arg) {
    mx_amqp_consumer *c = arg;
    (void)t;
    mx_inbox_settle_gaps(&c->base.inbox, c->spare, settles(c), c->line.chan);
    mx_amqp_wake(c->line.link);
}

static void settle_now(mx_amqp_consumer *c) {
    mx_timer_stop(mx_amqp_timers(c->line.link), &c->acks);
    mx_inbox_settle(&c->base.inbox, settles(c), c->line.chan);
    if (c->line.link->conn->stalled) mx_amqp_wake(c->line.link); /* there is room again for what was held up */
}

static void on_acks(mx_timer *t, void *arg) {
    mx_amqp_consumer *c = arg;
    (void)t;
    settle_now(c);
    mx_amqp_wake(c->line.link);
}

/* Each ack costs a busy broker more than a delivery. While more input is at hand, one is for a quarter of the prefetch,
 * so that both work at once; when deliveries come in dribbles, for a half. None is older than 5 ms. */
static int may_wait(const mx_amqp_consumer *c) {
    const mx_inbox *ib = &c->base.inbox;
    if (c->no_ack) return 0;
    uint32_t enough = c->line.link->again ? c->line.chan->slice : 2 * c->line.chan->slice;
    return ib->state == MX_OPEN && ib->head - ib->settled < enough && ib->head - ib->settled <= c->prefetch / 2;
}

void mx_amqp_settle(mx_amqp_consumer *c) {
    mx_inbox *ib = &c->base.inbox;
    uint64_t now = mx_clock_us();
    mx_inbox_began(ib);
    if (ib->settled != ib->head && mx_inbox_at(ib, ib->settled)->verdict) {
        if (!may_wait(c)) settle_now(c);
        else if (!c->acks.place) mx_timer_set(mx_amqp_timers(c->line.link), &c->acks, now + ACK_US);
    }
    if (ib->head - ib->settled > 1 && !c->gaps.place) mx_timer_set(mx_amqp_timers(c->line.link), &c->gaps, now + GAP_US);
}

void mx_amqp_settle_all(mx_amqp_consumer *c) {
    settle_now(c);
    mx_inbox_settle_gaps(&c->base.inbox, UINT32_MAX, settles(c), c->line.chan);
}

void mx_amqp_free_consumer(mx_amqp_consumer *c) {
    mx_amqp *a = c->line.link;
    for (mx_line *l = a->lines; l; l = l->next)
        if (l->kind == MX_PUBLISHER && mx_publisher_of(l)->replies == c) mx_amqp_lose_replies(mx_publisher_of(l));
    mx_timer_stop(mx_amqp_timers(a), &c->acks);
    mx_timer_stop(mx_amqp_timers(a), &c->gaps);
    mx_line_drop(&c->line);
    mx_inbox_fini(&c->base.inbox);
    mx_amqp_done(a, c->close_ticket);
    free(c);
}

/* What Lua did not take goes back. */
static void give_back(mx_amqp_consumer *c) {
    mx_inbox *ib = &c->base.inbox;
    mx_inbox_began(ib);
    for (uint32_t i = ib->head; i != ib->tail; i++) mx_inbox_at(ib, i)->verdict = MX_REQUEUE;
    ib->begun = ib->head = ib->tail;
    if (ib->settled == ib->head) return;
    mx_inbox_settle(ib, settles(c), c->line.chan);
    mx_inbox_settle_gaps(ib, UINT32_MAX, settles(c), c->line.chan);
}

static mx_inbox *fail_consume(mx_amqp_consumer *c, uint32_t ticket, int code, const char *text) {
    c->base.inbox.state = MX_CLOSED;
    mx_amqp_post(c->line.link, ticket, code, 0, text);
    return &c->base.inbox;
}

/* A slow handler holds its slot and all behind it, while the broker goes on with what it hears is settled: with room for
 * a few times the prefetch others may pass it, and what the broker may still send always finds a slot. */
static void make_inbox(mx_amqp_consumer *c, uint32_t prefetch) {
    uint32_t spare = prefetch < SPARE_MAX / 3 ? 3 * prefetch : SPARE_MAX, room = prefetch + spare;
    mx_inbox_init(&c->base.inbox, !prefetch ? 0 : room > ROOM_MIN ? room : ROOM_MIN);
    c->prefetch = prefetch;
    c->spare = c->base.inbox.mask + 1 - prefetch;
}

static mx_amqp_consumer *new_consumer(mx_amqp *a, uint32_t prefetch, int no_ack) {
    mx_amqp_consumer *c = mx_zalloc(sizeof *c);
    make_inbox(c, prefetch);
    c->base.link = &a->base;
    c->acks.fire = on_acks;
    c->gaps.fire = on_gaps;
    c->acks.arg = c->gaps.arg = c;
    c->no_ack = no_ack;
    mx_line_add(&c->line, MX_CONSUMER, a);
    return c;
}

/* From now on deliveries on the channel go to the consumer. */
static void attach(mx_amqp_consumer *c, mx_chan *h, mx_span tag) {
    h->consumer_tag[0] = (uint8_t)tag.n;
    memcpy(h->consumer_tag + 1, tag.p, tag.n);
    h->inbox = &c->base.inbox;
    h->no_ack = (uint8_t)c->no_ack;
    h->slice = c->prefetch ? (c->prefetch + 3) / 4 : NO_PREFETCH_SLICE;
}

mx_inbox *mx_amqp_consume(mx_link *link, const mx_consume *o, uint32_t ticket) {
    mx_amqp *a = (mx_amqp *)link;
    mx_amqp_consumer *c = new_consumer(a, o->prefetch, (o->flags & MX_F_NO_ACK) != 0);
    mx_inbox *ib = &c->base.inbox;
    c->stream = (o->flags & MX_F_STREAM) != 0;
    mx_line_open(&c->line);
    if (!c->line.chan) return fail_consume(c, ticket, MX_ECHANNEL, mx_line_refusal(a));
    attach(c, c->line.chan, o->tag);
    mx_arguments args = mx_arguments_read(o->args);
    amqp_basic_qos_t qos = {0, (uint16_t)o->prefetch, 0};
    amqp_basic_consume_t m = {
        0, mx_bytes(o->queue), mx_bytes(o->tag), 0, (amqp_boolean_t)c->no_ack, (o->flags & MX_F_EXCLUSIVE) != 0, 0, args.table};
    mx_line_ask(&c->line, AMQP_BASIC_QOS_METHOD, &qos, 0);
    int code = mx_line_ask(&c->line, AMQP_BASIC_CONSUME_METHOD, &m, ticket);
    if (code) mx_amqp_post(a, ticket, code, 0, mx_refusal());
    mx_arguments_drop(&args);
    return ib;
}

/* RabbitMQ's direct reply-to: replies come on the channel that the request was published on, to a consumer of its own. */
mx_inbox *mx_amqp_replies(mx_pub *pub, uint32_t ticket) {
    mx_amqp_publisher *p = (mx_amqp_publisher *)pub;
    mx_amqp *a = p->line.link;
    mx_amqp_consumer *c = new_consumer(a, 0, 1);
    if (pub->state != MX_OPEN || p->replies) return fail_consume(c, ticket, MX_ECHANNEL, "the channel is not free for replies");
    p->replies = c;
    attach(c, p->line.chan, mx_span_of("replies"));
    amqp_basic_consume_t m = {
        .queue = amqp_cstring_bytes("amq.rabbitmq.reply-to"), .consumer_tag = amqp_cstring_bytes("replies"), .no_ack = 1};
    mx_line_ask(&p->line, AMQP_BASIC_CONSUME_METHOD, &m, ticket);
    return &c->base.inbox;
}

void mx_amqp_lose_replies(mx_amqp_publisher *p) {
    if (!p->replies) return;
    if (p->line.chan) p->line.chan->inbox = NULL;
    p->replies->base.inbox.state = MX_CLOSED;
    p->replies = NULL;
}

void mx_amqp_cancel(mx_inbox *ib, uint32_t ticket) {
    mx_amqp_consumer *c = (mx_amqp_consumer *)ib;
    mx_amqp *a = c->line.link;
    mx_chan *h = c->line.chan;
    if (ib->state > MX_OPEN || !h) {
        mx_amqp_done(a, ticket);
        return;
    }
    ib->state = MX_CLOSING; /* while it opens the request waits behind basic.consume */
    amqp_basic_cancel_t m = {{h->consumer_tag[0], h->consumer_tag + 1}, 0};
    give_back(c);
    mx_amqp_wake(a);
    mx_line_ask(&c->line, AMQP_BASIC_CANCEL_METHOD, &m, ticket);
    h->consumer_tag[0] = 0; /* what still comes is nobody's: it is given back */
    if (c->stream) h->no_ack = 1;
}

void mx_amqp_close_inbox(mx_inbox *ib, uint32_t ticket) {
    mx_amqp_consumer *c = (mx_amqp_consumer *)ib;
    give_back(c);
    c->close_ticket = ticket;
    c->closing = 1;
    mx_chan *h = c->line.chan;
    mx_amqp_wake(c->line.link);
    if (!h || h->state == MX_CHAN_CLOSED) mx_amqp_free_consumer(c);
    else mx_line_close(&c->line);
}
