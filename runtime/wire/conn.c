/* conn.c - the connection's states, and what its frames mean. */
#include "wire/conn.h"
#include <amqp.h>
#include <amqp_framing.h>
#include <stdio.h>
#include <stdlib.h>
#include "message/props.h"
#include "wire/chan.h"

enum { WAIT_START, WAIT_TUNE, WAIT_OPEN, OPEN, CLOSING, DEAD };
enum { MAX_CHANNELS = 2047, METHOD_ROOM = 1024 };

/* One pool for all that librabbitmq decodes: what it gave is used before the next frame. */
static amqp_pool_t pool;

static amqp_bytes_t bytes(mx_span s) { return (amqp_bytes_t){s.n, (void *)s.p}; }
static mx_span span(amqp_bytes_t b) { return (mx_span){b.bytes, b.len}; }

int mx_conn_write(mx_conn *c, uint16_t channel, uint32_t method, void *decoded) {
    int n = mx_frame_method(mx_sendq_reserve(c->out, METHOD_ROOM), METHOD_ROOM, channel, method, decoded);
    if (n < 0) n = mx_frame_method(mx_sendq_reserve(c->out, c->frame_max), c->frame_max, channel, method, decoded);
    if (n < 0) return n;
    mx_sendq_add(c->out, (size_t)n);
    return 0;
}

/* ---- the end ------------------------------------------------------------------------------------------------ */

static void lose_channels(mx_conn *c, const char *text) {
    for (uint32_t i = 1; i < c->channels; i++) {
        mx_chan *h = c->channel[i];
        if (!h || h->state == MX_CHAN_CLOSED) continue;
        h->state = MX_CHAN_CLOSED;
        c->events->chan_closed(h, 0, text);
    }
}

static void die(mx_conn *c, int code, int reply_code, const char *text) {
    if (c->state == DEAD) return;
    c->state = DEAD;
    lose_channels(c, text);
    c->events->closed(c->arg, code, reply_code, text);
}

int mx_conn_break(mx_conn *c, int reply_code, const char *text) {
    amqp_connection_close_t m = {.reply_code = (uint16_t)reply_code, .reply_text = amqp_cstring_bytes(text)};
    if (c->state == DEAD) return MX_ECONNECTION;
    mx_conn_write(c, 0, AMQP_CONNECTION_CLOSE_METHOD, &m);
    die(c, MX_ECONNECTION, reply_code, text);
    return MX_ECONNECTION;
}

static void hide_password(mx_conn *c, char *text, size_t n) {
    mx_span user = c->options.user, secret = c->options.password;
    if (!secret.n || (secret.n == user.n && !memcmp(secret.p, user.p, user.n))) return;
    for (char *at = text; (at = memmem(at, n - (size_t)(at - text), secret.p, secret.n)); at += secret.n)
        memset(at, '*', secret.n);
}

static int is_control(const uint8_t *p, size_t i) {
    return p[i] < 32 || p[i] == 127 || (i && p[i - 1] == 0xC2 && p[i] < 0xA0); /* C0, DEL, C1 in UTF-8 */
}

/* The broker's text, fit to be printed: no control characters, and no password that it may echo. */
const char *mx_conn_printable(mx_conn *c, mx_span b) {
    static char text[256];
    const uint8_t *from = b.p;
    size_t n = b.n < sizeof text - 1 ? b.n : sizeof text - 1;
    for (size_t i = 0; i < n; i++) text[i] = is_control(from, i) ? '?' : (char)from[i];
    text[n] = 0;
    hide_password(c, text, n);
    return text;
}

/* ---- channel 0 ---------------------------------------------------------------------------------------------- */

static amqp_table_entry_t entry(const char *key, const char *value) {
    amqp_table_entry_t e = {.key = amqp_cstring_bytes(key), .value.kind = AMQP_FIELD_KIND_UTF8};
    e.value.value.bytes = amqp_cstring_bytes(value);
    return e;
}

static amqp_table_entry_t can(const char *key) {
    amqp_table_entry_t e = {.key = amqp_cstring_bytes(key), .value.kind = AMQP_FIELD_KIND_BOOLEAN};
    e.value.value.boolean = 1;
    return e;
}

static int offers(amqp_bytes_t mechanisms, const char *name) {
    const char *p = mechanisms.bytes, *end = p + mechanisms.len;
    size_t n = strlen(name);
    for (; p + n <= end; p++)
        if (!memcmp(p, name, n) && (p == mechanisms.bytes || p[-1] == ' ') && (p + n == end || p[n] == ' ')) return 1;
    return 0;
}

static mx_span text_in(const amqp_table_t *t, const char *key) {
    for (int i = 0; i < t->num_entries; i++)
        if (mx_is(span(t->entries[i].key), key) && t->entries[i].value.kind == AMQP_FIELD_KIND_UTF8)
            return span(t->entries[i].value.value.bytes);
    return (mx_span){0};
}

static uint32_t rabbit_of(const amqp_table_t *about) {
    mx_span version = text_in(about, "version");
    uint32_t major = 0;
    if (!mx_is(text_in(about, "product"), "RabbitMQ")) return 0;
    for (size_t i = 0; i < version.n && i < 6 && version.p[i] >= '0' && version.p[i] <= '9'; i++)
        major = 10 * major + version.p[i] - '0';
    return major;
}

/* connection.start-ok (1.4.2.2) with SASL PLAIN: NUL user NUL password; or EXTERNAL, with nothing to say. */
static int answer_start(mx_conn *c, amqp_connection_start_t *m) {
    const mx_conn_options *o = &c->options;
    const char *mechanism = o->external ? "EXTERNAL" : "PLAIN";
    char why[96];
    snprintf(why, sizeof why, "the broker does not offer %s authentication", mechanism);
    if (!offers(m->mechanisms, mechanism)) return mx_conn_break(c, 403, why);
    c->rabbit = rabbit_of(&m->server_properties);
    amqp_table_entry_t abilities[] = {can("publisher_confirms"), can("basic.nack"), can("consumer_cancel_notify"),
                                      can("connection.blocked"), can("authentication_failure_close")};
    amqp_table_entry_t capabilities = {.key = amqp_cstring_bytes("capabilities"), .value.kind = AMQP_FIELD_KIND_TABLE};
    capabilities.value.value.table = (amqp_table_t){sizeof abilities / sizeof *abilities, abilities};
    amqp_table_entry_t name = entry("connection_name", "");
    name.value.value.bytes = bytes(o->name);
    amqp_table_entry_t about[] = {entry("product", "mxrun"), entry("platform", "C, LuaJIT"), name, capabilities};
    size_t n = o->user.n + o->password.n + 2;
    if (n + o->name.n > 3600) return mx_conn_break(c, 403, "user, password and name must fit into 4096 bytes");
    uint8_t secret[4096] = {0};
    memcpy(secret + 1, o->user.p, o->user.n);
    memcpy(secret + 2 + o->user.n, o->password.p, o->password.n);
    amqp_connection_start_ok_t ok = {{sizeof about / sizeof *about, about},
                                     amqp_cstring_bytes(mechanism),
                                     {o->external ? 0 : n, secret},
                                     amqp_cstring_bytes("en_US")};
    int code = mx_conn_write(c, 0, AMQP_CONNECTION_START_OK_METHOD, &ok);
    explicit_bzero(secret, sizeof secret);
    c->state = WAIT_TUNE;
    return code;
}

static uint32_t smaller(uint32_t a, uint32_t b) { return !a ? b : !b ? a : a < b ? a : b; }

/* connection.tune-ok, then open (1.4.2.6, 1.4.2.7): the smaller of what both want; 0 is no limit. */
static int answer_tune(mx_conn *c, amqp_connection_tune_t *m) {
    if (m->frame_max && m->frame_max < MX_FRAME_MIN) return mx_conn_break(c, 501, "the broker wants frames below 4096 bytes");
    c->frame_max = smaller(m->frame_max, MX_FRAME_MAX);
    c->channel_max = (uint16_t)smaller(m->channel_max, MAX_CHANNELS);
    /* a peer that wants no heartbeat does not switch ours off: a dead peer must be noticed */
    c->heartbeat = (uint16_t)smaller(m->heartbeat, (uint32_t)c->options.heartbeat);
    amqp_connection_tune_ok_t ok = {c->channel_max, c->frame_max, c->heartbeat};
    amqp_connection_open_t open = {.virtual_host = bytes(c->options.vhost)};
    c->state = WAIT_OPEN;
    mx_conn_write(c, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &ok);
    if (mx_conn_write(c, 0, AMQP_CONNECTION_OPEN_METHOD, &open)) return mx_conn_break(c, 530, "the vhost's name is too long");
    return 0;
}

static int code_of(int reply_code) {
    if (reply_code == 403 || reply_code == 530) return MX_EACCESS;
    return MX_ECONNECTION;
}

static int on_close(mx_conn *c, amqp_connection_close_t *m) {
    amqp_connection_close_ok_t ok = {0};
    mx_conn_write(c, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok);
    if (c->state == CLOSING) die(c, 0, 0, "closed");
    else die(c, code_of(m->reply_code), m->reply_code, mx_conn_printable(c, span(m->reply_text)));
    return MX_ECONNECTION;
}

static int on_open_ok(mx_conn *c) {
    c->state = OPEN;
    mx_sendq_wipe(c->out); /* start-ok held the password */
    c->events->open(c->arg);
    return 0;
}

static int on_connection(mx_conn *c, uint32_t method, void *m) {
    if (method == AMQP_CONNECTION_CLOSE_METHOD) return on_close(c, m);
    if (method == AMQP_CONNECTION_CLOSE_OK_METHOD && c->state == CLOSING) return die(c, 0, 0, "closed"), MX_ECLOSED;
    if (c->state == CLOSING) return 0;
    if (method == AMQP_CONNECTION_START_METHOD && c->state == WAIT_START) return answer_start(c, m);
    if (method == AMQP_CONNECTION_TUNE_METHOD && c->state == WAIT_TUNE) return answer_tune(c, m);
    if (method == AMQP_CONNECTION_OPEN_OK_METHOD && c->state == WAIT_OPEN) return on_open_ok(c);
    if (method == AMQP_CONNECTION_BLOCKED_METHOD) return c->events->blocked(c->arg, 1), 0;
    if (method == AMQP_CONNECTION_UNBLOCKED_METHOD) return c->events->blocked(c->arg, 0), 0;
    return mx_conn_break(c, 503, "COMMAND_INVALID - unexpected method on channel 0");
}

/* librabbitmq recurses into tables without a limit. Of the methods that hold one a broker sends only start. */
static int has_sound_tables(uint32_t method, const uint8_t *p, size_t n) {
    switch (method) {
    case AMQP_CONNECTION_START_METHOD: return n >= 6 && mx_get32(p + 2) <= n - 6 && !mx_table_check(p + 6, mx_get32(p + 2));
    case AMQP_CONNECTION_START_OK_METHOD:
    case AMQP_EXCHANGE_DECLARE_METHOD:
    case AMQP_EXCHANGE_BIND_METHOD:
    case AMQP_EXCHANGE_UNBIND_METHOD:
    case AMQP_QUEUE_DECLARE_METHOD:
    case AMQP_QUEUE_BIND_METHOD:
    case AMQP_QUEUE_UNBIND_METHOD:
    case AMQP_BASIC_CONSUME_METHOD: return 0;
    }
    return 1;
}

static int on_method(mx_conn *c, mx_chan *h, const mx_frame *f, size_t rest, size_t *more) {
    uint32_t method = mx_get32(f->payload);
    void *decoded;
    *more = 0;
    if (!has_sound_tables(method, f->payload + 4, f->size - 4)) return mx_conn_break(c, 502, "SYNTAX_ERROR - broken table");
    recycle_amqp_pool(&pool);
    if (amqp_decode_method(method, &pool, (amqp_bytes_t){f->size - 4, (void *)(f->payload + 4)}, &decoded) < 0)
        return mx_conn_break(c, 502, "SYNTAX_ERROR - cannot decode a method");
    if ((method >> 16 == 10) != !h) return mx_conn_break(c, 504, "CHANNEL_ERROR - method on the wrong channel");
    if (!h) return on_connection(c, method, decoded);
    return mx_chan_on_method(h, method, decoded, f->payload + f->size + 1, rest, more);
}

static mx_chan *channel_of(mx_conn *c, uint16_t number) { return number < c->channels ? c->channel[number] : NULL; }

static int on_frame(mx_conn *c, const mx_frame *f, size_t rest, size_t *more) {
    mx_chan *h = NULL;
    *more = 0;
    if (f->type == MX_FRAME_HEARTBEAT) return f->channel ? mx_conn_break(c, 501, "FRAME_ERROR - heartbeat on a channel") : 0;
    if (f->channel) {
        if (c->state == CLOSING) return 0;
        h = channel_of(c, f->channel);
        if (!h) return mx_conn_break(c, 504, "CHANNEL_ERROR - a channel that is not open");
        if (h->state == MX_CHAN_CLOSED) return 0; /* what was under way when it closed */
    }
    if (f->type == MX_FRAME_METHOD) return on_method(c, h, f, rest, more);
    if (!h) return mx_conn_break(c, 505, "UNEXPECTED_FRAME - content on channel 0");
    return mx_chan_on_content(h, f);
}

/* ---- what the header promises ----------------------------------------------------------------------------------- */

mx_conn *mx_conn_new(const mx_conn_options *o, mx_sendq *out, const mx_conn_events *events, void *arg) {
    mx_conn *c = mx_zalloc(sizeof *c);
    c->options = *o;
    c->out = out;
    c->events = events;
    c->arg = arg;
    c->frame_max = MX_FRAME_MAX;
    c->channel_max = MAX_CHANNELS;
    if (!pool.pagesize) init_amqp_pool(&pool, 16384);
    memcpy(mx_sendq_reserve(out, 8), "AMQP\0\0\x09\x01", 8); /* 4.2.2 */
    mx_sendq_add(out, 8);
    return c;
}

void mx_conn_free(mx_conn *c) {
    for (uint32_t i = 1; i < c->channels; i++)
        if (c->channel[i]) mx_chan_free(c->channel[i]);
    free(c->channel);
    free(c);
}

/* Only a delivery needs room: a close or cancel-ok behind a full inbox must come through. While we close nothing is kept. */
static int is_full(mx_conn *c, const mx_frame *f) {
    if (c->state == CLOSING || f->type != MX_FRAME_METHOD || mx_get32(f->payload) != AMQP_BASIC_DELIVER_METHOD) return 0;
    mx_chan *h = channel_of(c, f->channel);
    return h && h->inbox && h->consumer_tag[0] && h->state == MX_CHAN_OPEN && mx_inbox_full(h->inbox);
}

/* A header above MX_HEADER_CAP is not kept: what it says of the body is enough to read past its content. */
static long begin_skip(mx_conn *c, const mx_frame *f, size_t n) {
    size_t more;
    if (n < 7 + 12) return 0;
    c->skip = (uint64_t)f->size + MX_FRAME_OVERHEAD - (7 + 12);
    on_frame(c, f, 0, &more);
    return 7 + 12;
}

static size_t skip(mx_conn *c, const uint8_t *p, size_t n) {
    if (n > c->skip) n = (size_t)c->skip;
    c->skip -= n;
    if (n && !c->skip && p[n - 1] != MX_FRAME_END) mx_conn_break(c, 501, "FRAME_ERROR - wrong end octet");
    return n;
}

size_t mx_conn_feed(mx_conn *c, const uint8_t *p, size_t n, int *again) {
    size_t used = 0;
    *again = 0;
    c->sliced = 0;
    c->stalled = 0;
    c->fed++;
    if (c->state == WAIT_START && n && p[0] == 'A') { /* no frame begins so: a protocol header (4.2.2) */
        if (n < 8) return 0;
        die(c, MX_ECONNECTION, 0, "the broker speaks another version of AMQP");
        return n;
    }
    while (c->state != DEAD) {
        mx_frame f;
        const char *why;
        size_t more;
        if (c->skip) used += skip(c, p + used, n - used);
        long size = mx_frame_next(p + used, n - used, c->frame_max, &f, &why);
        if (size < 0 && f.type == MX_FRAME_HEADER && f.size > MX_HEADER_CAP) {
            size = begin_skip(c, &f, n - used);
            used += (size_t)size;
            if (size) continue;
        }
        if (size == 0) break;
        if (size < 0) {
            mx_conn_break(c, 501, why);
            break;
        }
        if (is_full(c, &f)) {
            c->stalled = 1;
            break;
        }
        used += (size_t)size;
        if (on_frame(c, &f, n - used, &more)) break;
        used += more;
        if (c->sliced) {
            *again = 1;
            break;
        }
    }
    return c->state == DEAD ? n : used;
}

void mx_conn_close(mx_conn *c) {
    amqp_connection_close_t m = {.reply_code = 200, .reply_text = amqp_cstring_bytes("bye")};
    if (c->state == DEAD || c->state == CLOSING) return;
    if (c->state != OPEN) {
        die(c, 0, 0, "closed");
        return;
    }
    mx_conn_write(c, 0, AMQP_CONNECTION_CLOSE_METHOD, &m);
    c->state = CLOSING;
}

void mx_conn_fail(mx_conn *c, int code, const char *text) {
    /* RabbitMQ without authentication_failure_close, and a wrong vhost's broker, just hang up */
    if (c->state == WAIT_TUNE && code == MX_ECONNECTION) text = "the broker closed the connection while logging in";
    if (c->state == CLOSING) die(c, 0, 0, "closed");
    else die(c, code, 0, text);
}

void mx_conn_heartbeat(mx_conn *c) {
    if (c->state != OPEN) return;
    uint8_t *p = mx_sendq_reserve(c->out, MX_FRAME_OVERHEAD);
    mx_frame_head(p, MX_FRAME_HEARTBEAT, 0, 0);
    p[7] = MX_FRAME_END;
    mx_sendq_add(c->out, MX_FRAME_OVERHEAD);
}

int mx_conn_is_open(const mx_conn *c) { return c->state == OPEN; }
