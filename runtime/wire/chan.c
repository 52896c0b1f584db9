/* chan.c - a channel: what its methods mean, and how a method, a header and bodies become a message. */
#include "wire/chan.h"
#include <amqp.h>
#include <amqp_framing.h>
#include <stdlib.h>
#include "message/props.h"

/* What is coming in; only DELIVER is kept. FOREIGN: no consumer of ours has it, it is given back. REFUSED: it is beyond our
 * limits, and would be for whoever reads it next with the same ones: it is rejected. */
enum { DELIVER = 1, RETURN, FOREIGN, REFUSED };

/* ---- content (4.2.6): method, header, bodies ------------------------------------------------------------------ */

static void keep(uint8_t to[256], amqp_bytes_t from) {
    to[0] = (uint8_t)from.len;
    memcpy(to + 1, from.bytes, from.len);
}

static void give_back(mx_chan *h, int requeue) {
    amqp_basic_nack_t nack = {h->tag, 0, requeue};
    if (h->no_ack) return; /* it is settled already; to name its tag would close the channel (406) */
    mx_chan_method(h, AMQP_BASIC_NACK_METHOD, &nack);
}

/* basic.deliver (1.8.3.9) */
static int begin_delivery(mx_chan *h, const amqp_basic_deliver_t *m) {
    h->wants_header = 1;
    h->content = DELIVER;
    h->tag = m->delivery_tag;
    h->redelivered = m->redelivered != 0;
    keep(h->exchange, m->exchange);
    keep(h->key, m->routing_key);
    if (!h->inbox || m->consumer_tag.len != h->consumer_tag[0] ||
        memcmp(m->consumer_tag.bytes, h->consumer_tag + 1, m->consumer_tag.len))
        h->content = FOREIGN;
    return 0;
}

/* basic.return (1.8.3.8) */
static int begin_return(mx_chan *h, const amqp_basic_return_t *m) {
    h->wants_header = 1;
    h->content = RETURN;
    keep(h->exchange, m->exchange);
    keep(h->key, m->routing_key);
    return 0;
}

static void drop_content(mx_chan *h) {
    mx_message_unref(h->message);
    h->message = NULL;
    h->content = h->wants_header = 0;
}

static void take_slot(mx_chan *h, mx_msg *m) {
    m->tag = h->tag;
    m->redelivered = h->redelivered;
    h->inbox->tail++;
    h->inbox->delivered++;
    if (h->fed != h->conn->fed) h->fed = h->conn->fed, h->taken = 0;
    if (++h->taken == h->slice) h->conn->sliced = 1;
}

static void end_content(mx_chan *h) {
    mx_message *message = h->message;
    int content = h->content;
    h->message = NULL;
    h->content = 0;
    if (content == DELIVER && h->inbox) {
        mx_msg *m = mx_inbox_slot(h->inbox);
        mx_inbox_point(m, message);
        take_slot(h, m);
    } else if (content != RETURN) {
        mx_message_unref(message);
        give_back(h, content != REFUSED);
    }
}

static mx_span text(const uint8_t kept[256]) { return (mx_span){kept + 1, kept[0]}; }

static void refuse(mx_chan *h, const char *what, uint64_t size, uint64_t limit) {
    h->content = REFUSED;
    h->conn->events->refused(h, what, size, limit);
}

/* Only its id, exchange and key tell which publish came back. */
static void tell_return(mx_chan *h, mx_span encoded) {
    mx_props props;
    mx_span id = {0};
    if (!mx_props_decode(encoded.p, encoded.n, &props)) id = props.message_id;
    h->conn->events->returned(h, id, text(h->exchange), text(h->key));
}

static int on_header(mx_chan *h, const mx_frame *f) {
    mx_conn *c = h->conn;
    int whole = f->size <= MX_HEADER_CAP; /* else only what lies before the properties is there */
    mx_span props = {f->payload + 12, whole ? f->size - 12 : 0};
    if (!h->content || !h->wants_header) return mx_conn_break(c, 505, "UNEXPECTED_FRAME - header without its method");
    if (mx_get16(f->payload) != 60 || mx_get16(f->payload + 2)) return mx_conn_break(c, 501, "FRAME_ERROR - not a basic header");
    if (whole && mx_props_check(props.p, props.n)) return mx_conn_break(c, 501, "FRAME_ERROR - broken properties");
    h->left = mx_get64(f->payload + 4);
    if (h->left > INT64_MAX) return mx_conn_break(c, 501, "FRAME_ERROR - a body of impossible size");
    h->wants_header = 0;
    if (h->content == RETURN) tell_return(h, props);
    else if (h->content == DELIVER && !whole) refuse(h, "headers", f->size, MX_HEADER_CAP);
    else if (h->content == DELIVER && h->left > c->options.max_body) refuse(h, "body", h->left, c->options.max_body);
    size_t first = h->left < MX_FRAME_MAX ? h->left : MX_FRAME_MAX; /* it grows as bytes arrive */
    if (h->content == DELIVER) h->message = mx_message_new(text(h->exchange), text(h->key), props, first);
    if (!h->left) end_content(h);
    return 0;
}

static int on_body(mx_chan *h, const mx_frame *f) {
    mx_conn *c = h->conn;
    if (!h->content || h->wants_header) return mx_conn_break(c, 505, "UNEXPECTED_FRAME - body without its header");
    if (f->size > h->left) return mx_conn_break(c, 501, "FRAME_ERROR - body larger than announced");
    if (h->content == DELIVER) h->message = mx_message_append(h->message, f->payload, f->size);
    h->left -= f->size;
    if (!h->left) end_content(h);
    return 0;
}

/* The common case: the method, its header and one body lie whole in the buffer, and the slot points at them.
 * Returns the bytes of header and body, or 0: then the general way takes them. */
static size_t deliver_in_place(mx_chan *h, const amqp_basic_deliver_t *d, const uint8_t *p, size_t n) {
    const mx_conn *c = h->conn;
    mx_frame header, body;
    const char *why;
    if (h->content != DELIVER) return 0;
    long a = mx_frame_next(p, n, c->frame_max, &header, &why);
    if (a <= 0 || header.type != MX_FRAME_HEADER || header.channel != h->number) return 0;
    uint64_t size = mx_get64(header.payload + 4);
    long b = 0;
    if (size > c->options.max_body) return 0;
    if (size) {
        b = mx_frame_next(p + a, n - (size_t)a, c->frame_max, &body, &why);
        if (b <= 0 || body.type != MX_FRAME_BODY || body.channel != h->number || body.size != size) return 0;
    }
    if (mx_get32(header.payload) != 60 << 16 || mx_props_check(header.payload + 12, header.size - 12)) return 0;
    mx_msg *m = mx_inbox_slot(h->inbox);
    m->body = size ? body.payload : header.payload;
    m->size = size;
    m->props = header.payload + 12;
    m->props_size = header.size - 12;
    m->exchange = d->exchange.bytes;
    m->exchange_size = (uint8_t)d->exchange.len;
    m->key = d->routing_key.bytes;
    m->key_size = (uint8_t)d->routing_key.len;
    take_slot(h, m);
    h->content = h->wants_header = 0;
    return (size_t)(a + b);
}

/* ---- methods ---------------------------------------------------------------------------------------------------- */

/* channel.close (1.5.2.5) by the broker. */
static int on_close(mx_chan *h, const amqp_channel_close_t *m) {
    amqp_channel_close_ok_t ok = {0};
    mx_chan_method(h, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);
    drop_content(h);
    if (h->state == MX_CHAN_CLOSING) return 0; /* ours is under way: its close-ok ends it */
    h->state = MX_CHAN_CLOSED;
    h->conn->events->chan_closed(h, m->reply_code, mx_conn_printable(h->conn, (mx_span){m->reply_text.bytes, m->reply_text.len}));
    return 0;
}

/* channel.flow (1.5.2.3) */
static int on_flow(mx_chan *h, const amqp_channel_flow_t *m) {
    amqp_channel_flow_ok_t ok = {m->active};
    h->paused = !ok.active;
    mx_chan_method(h, AMQP_CHANNEL_FLOW_OK_METHOD, &ok);
    return 0;
}

static int on_confirm(mx_chan *h, uint64_t tag, int multiple, int nack) {
    h->conn->events->confirm(h, tag, multiple, nack);
    return 0;
}

static int on_answer(mx_chan *h, int expected, int next, uint32_t method, void *decoded) {
    if (h->state != expected) return mx_conn_break(h->conn, 503, "COMMAND_INVALID - unexpected method");
    h->state = (uint8_t)next;
    h->conn->events->reply(h, method, decoded);
    return 0;
}

static int on_method(mx_chan *h, uint32_t method, void *decoded) {
    const mx_conn_events *events = h->conn->events;
    if (method == AMQP_CHANNEL_CLOSE_METHOD) return on_close(h, decoded);
    if (h->state == MX_CHAN_CLOSING && method != AMQP_CHANNEL_CLOSE_OK_METHOD) return 0;
    if (h->content) return mx_conn_break(h->conn, 505, "UNEXPECTED_FRAME - method inside a content");
    switch (method) {
    case AMQP_BASIC_ACK_METHOD: {
        const amqp_basic_ack_t *m = decoded;
        return on_confirm(h, m->delivery_tag, m->multiple, 0);
    }
    case AMQP_BASIC_NACK_METHOD: {
        const amqp_basic_nack_t *m = decoded;
        return on_confirm(h, m->delivery_tag, m->multiple, 1);
    }
    case AMQP_BASIC_DELIVER_METHOD: return begin_delivery(h, decoded);
    case AMQP_BASIC_RETURN_METHOD: return begin_return(h, decoded);
    case AMQP_BASIC_CANCEL_METHOD: return events->cancelled(h), 0; /* never answered: RabbitMQ closes with 503 */
    case AMQP_CHANNEL_FLOW_METHOD: return on_flow(h, decoded);
    case AMQP_CHANNEL_OPEN_OK_METHOD: return on_answer(h, MX_CHAN_OPENING, MX_CHAN_OPEN, method, decoded);
    case AMQP_CHANNEL_CLOSE_OK_METHOD: return on_answer(h, MX_CHAN_CLOSING, MX_CHAN_CLOSED, method, decoded);
    default: return events->reply(h, method, decoded), 0;
    }
}

int mx_chan_on_method(mx_chan *h, uint32_t method, void *decoded, const uint8_t *rest, size_t n, size_t *more) {
    int code = on_method(h, method, decoded);
    if (!code && method == AMQP_BASIC_DELIVER_METHOD) *more = deliver_in_place(h, decoded, rest, n);
    return code;
}

int mx_chan_on_content(mx_chan *h, const mx_frame *f) {
    if (h->state == MX_CHAN_CLOSING) return 0;
    return f->type == MX_FRAME_HEADER ? on_header(h, f) : on_body(h, f);
}

/* ---- what the owner does ------------------------------------------------------------------------------------------ */

/* Next-fit, so that a number is used again as late as possible. */
static uint32_t free_number(mx_conn *c) {
    for (uint32_t k = 0; k < c->channel_max; k++) {
        uint32_t i = c->next_number % c->channel_max + 1;
        c->next_number = i;
        if (i >= c->channels || !c->channel[i]) return i;
    }
    return 0;
}

mx_chan *mx_chan_new(mx_conn *c, void *arg) {
    amqp_channel_open_t m = {0};
    uint32_t number = free_number(c);
    if (!number || !mx_conn_is_open(c)) return NULL;
    if (number >= c->channels) {
        uint32_t room = number + 16;
        c->channel = mx_realloc(c->channel, room * sizeof *c->channel);
        memset(c->channel + c->channels, 0, (room - c->channels) * sizeof *c->channel);
        c->channels = room;
    }
    mx_chan *h = c->channel[number] = mx_zalloc(sizeof *h);
    h->conn = c;
    h->arg = arg;
    h->number = (uint16_t)number;
    h->state = MX_CHAN_OPENING;
    mx_conn_write(c, h->number, AMQP_CHANNEL_OPEN_METHOD, &m);
    return h;
}

void mx_chan_close(mx_chan *h) {
    amqp_channel_close_t m = {.reply_code = 200, .reply_text = amqp_cstring_bytes("bye")};
    drop_content(h);
    h->state = MX_CHAN_CLOSING;
    mx_chan_method(h, AMQP_CHANNEL_CLOSE_METHOD, &m);
}

void mx_chan_free(mx_chan *h) {
    drop_content(h);
    h->conn->channel[h->number] = NULL;
    free(h);
}

int mx_chan_method(mx_chan *h, uint32_t method, void *decoded) { return mx_conn_write(h->conn, h->number, method, decoded); }
