/* nullbroker.c - AMQP 0-9-1 without queues: so cheap a broker that only the client is measured.
 *
 *   nullbroker [-p port] [-s body bytes] [-n deliveries a consumer; 0: no end]
 *
 * What is published is parsed, counted and dropped; on a confirm channel one ack answers all that one read() brought.
 * A consumer gets invented deliveries as fast as the socket takes them, within its prefetch.
 *
 * Design: one thread, level-triggered epoll, one input and one output buffer a connection. Deliveries are not written
 * one by one: a consumer owns a block of ready frames in which only the delivery tags change, and the block goes
 * to write() as it is. Any user, exchange and queue is accepted. Every violation costs the connection, never only
 * the channel. One consumer a channel; no basic.get, no transactions. A heartbeat is answered with a heartbeat. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    METHOD = 1,
    HEADER = 2,
    BODY = 3,
    HEARTBEAT = 8,
    END = 0xCE,
    FRAME_MAX = 131072,
    CHANNELS = 2047,
    INPUT = 512 * 1024,      /* bytes that one read() may bring */
    BLOCK = 192 * 1024,      /* bytes of ready deliveries a consumer */
    OUTPUT_FULL = 512 * 1024 /* no more deliveries while this much waits for the socket */
};
#define UNSETTLED_MAX 65536u /* deliveries a channel; also the limit of a prefetch of 0 */
#define ID(class, method) ((uint32_t)(class) << 16 | (method))

typedef struct {
    uint16_t id;
    int confirm;
    int expect;         /* HEADER or BODY of a publish that has begun, else 0 */
    uint64_t body_left; /* while expect is BODY */
    uint64_t published; /* on a confirm channel */
    uint64_t confirmed; /* highest tag acked */
    int consuming;      /* between basic.consume and basic.cancel */
    int no_ack;
    uint32_t prefetch;       /* 0: no limit */
    uint64_t sent;           /* deliveries of the present consumer */
    uint64_t next, oldest;   /* delivery tags: the next to be sent, the first unsettled */
    uint32_t early;          /* settled singly beyond `oldest` */
    uint8_t *is_settled;     /* by tag modulo UNSETTLED_MAX; set only for early ones */
    uint8_t *block;          /* the consumer's ready deliveries, back to back */
    size_t bytes, per_block; /* of one delivery; deliveries in the block */
    size_t tag_at;           /* where in a delivery its tag stands */
} channel;

typedef struct {
    int fd;
    enum { GREETING, OPEN, CLOSING, DRAINING } state; /* CLOSING: flush, then shut down; DRAINING: wait for the peer's end */
    uint32_t frame_max;
    uint32_t events; /* what epoll watches */
    size_t in_len;
    uint8_t *in; /* INPUT bytes */
    uint8_t *out;
    size_t out_at, out_len, out_cap; /* [at, len) waits for the socket */
    int last;                        /* the highest channel number in use so far */
    channel *channels[CHANNELS + 1];
} conn;

static uint64_t body_bytes = 64, limit, total_published, total_delivered;
static volatile sig_atomic_t stopped;
static int poller;

static uint16_t get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static uint32_t get32(const uint8_t *p) { return (uint32_t)get16(p) << 16 | get16(p + 2); }
static uint64_t get64(const uint8_t *p) { return (uint64_t)get32(p) << 32 | get32(p + 4); }

static uint8_t *put8(uint8_t *p, uint8_t v) { return *p = v, p + 1; }
static uint8_t *put16(uint8_t *p, uint16_t v) { return put8(put8(p, (uint8_t)(v >> 8)), (uint8_t)v); }
static uint8_t *put32(uint8_t *p, uint32_t v) { return put16(put16(p, (uint16_t)(v >> 16)), (uint16_t)v); }
static uint8_t *put64(uint8_t *p, uint64_t v) {
    v = __builtin_bswap64(v);
    return (uint8_t *)memcpy(p, &v, 8) + 8;
}
static uint8_t *put_bytes(uint8_t *p, const void *from, size_t n) { return (uint8_t *)memcpy(p, from, n) + n; }
static uint8_t *put_short(uint8_t *p, const char *s) { return put_bytes(put8(p, (uint8_t)strlen(s)), s, strlen(s)); }
static uint8_t *put_frame(uint8_t *p, uint8_t type, uint16_t id, size_t n) {
    return put32(put16(put8(p, type), id), (uint32_t)n);
}

static void *grown(void *p, size_t n) {
    p = realloc(p, n);
    if (!p) abort();
    return p;
}

/* n bytes at the end of the output. */
static uint8_t *room(conn *c, size_t n) {
    if (c->out_at && c->out_len + n > c->out_cap) {
        memmove(c->out, c->out + c->out_at, c->out_len -= c->out_at);
        c->out_at = 0;
    }
    if (c->out_len + n > c->out_cap) c->out = grown(c->out, c->out_cap = 2 * (c->out_len + n));
    c->out_len += n;
    return c->out + c->out_len - n;
}

static void answer(conn *c, uint16_t id, uint32_t method, const void *args, size_t n) {
    uint8_t *p = put_frame(room(c, n + 12), METHOD, id, n + 4);
    put8(put_bytes(put32(p, method), args, n), END);
}

/* connection.close; whatever else the peer had to say is not read. */
static void fail(conn *c, uint16_t code, const char *text, uint32_t method) {
    uint8_t args[256], *p = put32(put_short(put16(args, code), text), method);
    answer(c, 0, ID(10, 50), args, (size_t)(p - args));
    c->state = CLOSING;
    fprintf(stderr, "nullbroker: %u %s (method %u.%u)\n", code, text, method >> 16, method & 0xffff);
}

/* Method arguments, read within their frame. */
typedef struct {
    const uint8_t *at, *end;
    int is_short; /* more was asked for than there is */
} reader;

static const uint8_t *take(reader *r, size_t n) {
    static const uint8_t nothing[256];
    if ((size_t)(r->end - r->at) < n) r->is_short = 1;
    if (r->is_short) return nothing;
    r->at += n;
    return r->at - n;
}

static char *take_short(reader *r, char into[256]) {
    uint8_t n = *take(r, 1);
    memcpy(into, take(r, n), n);
    into[r->is_short ? 0 : n] = 0;
    return into;
}

/* Deliveries */

/* One whole delivery at p with a tag of 0; returns its end. */
static uint8_t *put_delivery(uint8_t *p, const conn *c, channel *ch, const char *consumer) {
    uint8_t *start = p;
    p = put_frame(p, METHOD, ch->id, 4 + 1 + strlen(consumer) + 8 + 1 + 1 + 5);
    p = put_short(put32(p, ID(60, 60)), consumer);
    ch->tag_at = (size_t)(p - start);
    p = put8(put_short(put8(put8(put64(p, 0), 0), 0), "null"), END); /* not redelivered; exchange ""; key "null" */
    p = put64(put32(put_frame(p, HEADER, ch->id, 15), ID(60, 0)), body_bytes);
    p = put8(put8(put16(p, 0x1000), 1), END); /* delivery-mode 1 */
    for (size_t left = body_bytes, n; left; left -= n) {
        n = left < c->frame_max - 8 ? left : c->frame_max - 8;
        p = put_frame(p, BODY, ch->id, n);
        memset(p, 'x', n);
        p = put8(p + n, END);
    }
    return p;
}

static void prepare(conn *c, channel *ch, const char *consumer) {
    size_t most = 600 + body_bytes + (body_bytes / (c->frame_max - 8) + 1) * 8;
    ch->block = grown(ch->block, most);
    ch->bytes = (size_t)(put_delivery(ch->block, c, ch, consumer) - ch->block);
    ch->per_block = ch->bytes < BLOCK ? BLOCK / ch->bytes : 1;
    ch->block = grown(ch->block, ch->per_block * ch->bytes + most);
    for (size_t i = 0; i < ch->per_block; i++) put_delivery(ch->block + i * ch->bytes, c, ch, consumer);
    ch->consuming = 1;
    ch->sent = 0;
}

/* 0, or -1 for a tag that is not outstanding. */
static int settle(channel *ch, uint64_t tag, int multiple) {
    if (multiple && tag == 0) tag = ch->next - 1;
    if (tag >= ch->next || (tag < ch->oldest && !(multiple && ch->oldest == ch->next))) return -1;
    if (multiple && !ch->early) {
        if (tag >= ch->oldest) ch->oldest = tag + 1;
        return 0;
    }
    for (uint64_t t = multiple ? ch->oldest : tag; t <= tag; t++) {
        uint8_t *done = &ch->is_settled[t % UNSETTLED_MAX];
        if (*done && !multiple) return -1;
        if (!*done) ch->early++;
        *done = 1;
    }
    for (uint8_t *done; ch->early && *(done = &ch->is_settled[ch->oldest % UNSETTLED_MAX]); ch->oldest++) {
        *done = 0;
        ch->early--;
    }
    return 0;
}

static uint64_t deliverable(const channel *ch) {
    uint64_t n = UNSETTLED_MAX - (ch->next - ch->oldest), unacked = ch->next - ch->oldest - ch->early;
    if (!ch->consuming) return 0;
    if (n > ch->per_block) n = ch->per_block;
    if (ch->prefetch && !ch->no_ack) {
        if (unacked >= ch->prefetch) return 0;
        if (n > ch->prefetch - unacked) n = ch->prefetch - unacked;
    }
    return limit && n > limit - ch->sent ? limit - ch->sent : n;
}

/* What waits, to the socket; -1 if the socket is dead. */
static int flush(conn *c) {
    while (c->out_at < c->out_len) {
        ssize_t n = write(c->fd, c->out + c->out_at, c->out_len - c->out_at);
        if (n < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
        c->out_at += (size_t)n;
    }
    c->out_at = c->out_len = 0;
    return 0;
}

/* One block, or what of it is allowed; only what the socket refuses is copied. 1 if the socket took all. */
static int deliver(conn *c, channel *ch, uint64_t n) {
    size_t len = n * ch->bytes, done = 0;
    uint8_t *tag = ch->block + ch->tag_at;
    for (uint64_t i = 0; i < n; i++, tag += ch->bytes) put64(tag, ch->next++);
    if (ch->no_ack) settle(ch, ch->next - 1, 1);
    ch->sent += n;
    total_delivered += n;
    if (c->out_at == c->out_len) {
        ssize_t w = write(c->fd, ch->block, len);
        if (w > 0) done = (size_t)w;
    }
    if (done < len) put_bytes(room(c, len - done), ch->block + done, len - done);
    return done == len;
}

/* A few blocks for each consumer; 1 if the socket would take more. */
static int pump(conn *c) {
    int more = 0;
    for (int turn = 0; turn < 4; turn++) {
        more = 0;
        for (int id = 1; id <= c->last; id++) {
            channel *ch = c->channels[id];
            uint64_t n = ch && c->out_len - c->out_at < OUTPUT_FULL ? deliverable(ch) : 0;
            if (n && deliver(c, ch, n)) more = 1;
        }
        if (!more) break;
    }
    return more;
}

/* Methods */

static void start(conn *c) {
    static const char *const can[] = {"publisher_confirms",     "exchange_exchange_bindings", "basic.nack",
                                      "consumer_cancel_notify", "connection.blocked",         "per_consumer_qos"};
    uint8_t args[512], *p = put16(args, 9), *table = p, *inner; /* version 0-9 */
    inner = p = put8(put_short(p + 4, "capabilities"), 'F');
    p += 4;
    for (size_t i = 0; i < sizeof can / sizeof *can; i++) p = put8(put8(put_short(p, can[i]), 't'), 1);
    put32(inner, (uint32_t)(p - inner - 4));
    p = put_bytes(put32(put8(put_short(p, "product"), 'S'), 10), "nullbroker", 10);
    put32(table, (uint32_t)(p - table - 4));
    p = put_bytes(put32(put_bytes(put32(p, 5), "PLAIN", 5), 5), "en_US", 5);
    answer(c, 0, ID(10, 10), args, (size_t)(p - args));
}

static void on_connection(conn *c, uint32_t method, reader *r) {
    uint8_t args[8];
    switch (method) {
    case ID(10, 11): /* start-ok: tune, without heartbeats of our own */
        put16(put32(put16(args, CHANNELS), FRAME_MAX), 0);
        answer(c, 0, ID(10, 30), args, 8);
        break;
    case ID(10, 31): /* tune-ok */
        take(r, 2);
        c->frame_max = get32(take(r, 4));
        if (c->frame_max < 4096 || c->frame_max > FRAME_MAX) c->frame_max = FRAME_MAX;
        break;
    case ID(10, 40): answer(c, 0, ID(10, 41), "", 1); break;
    case ID(10, 50): answer(c, 0, ID(10, 51), "", 0); /* fall through */
    case ID(10, 51): c->state = CLOSING; break;
    default: fail(c, 540, "NOT_IMPLEMENTED", method);
    }
}

static void open_channel(conn *c, uint16_t id) {
    channel *ch = grown(NULL, sizeof *ch);
    *ch = (channel){.id = id, .next = 1, .oldest = 1};
    ch->is_settled = calloc(UNSETTLED_MAX, 1);
    if (!ch->is_settled) abort();
    c->channels[id] = ch;
    if (id > c->last) c->last = id;
    answer(c, id, ID(20, 11), "\0\0\0", 4);
}

static void close_channel(conn *c, int id) {
    channel *ch = c->channels[id];
    c->channels[id] = NULL;
    if (!ch) return;
    free(ch->is_settled);
    free(ch->block);
    free(ch);
}

/* Methods whose answer says nothing: where their nowait bit is, and how many zero bytes the answer has. */
static const struct {
    uint32_t method, answer;
    uint8_t reserved, names, nowait, zeros;
} plain[] = {{ID(40, 10), ID(40, 11), 2, 2, 16, 0}, {ID(40, 20), ID(40, 21), 2, 1, 2, 0}, {ID(40, 30), ID(40, 31), 2, 3, 1, 0},
             {ID(40, 40), ID(40, 51), 2, 3, 1, 0},  {ID(50, 20), ID(50, 21), 2, 3, 1, 0}, {ID(50, 50), ID(50, 51), 2, 3, 0, 0},
             {ID(50, 30), ID(50, 31), 2, 1, 1, 4},  {ID(50, 40), ID(50, 41), 2, 1, 4, 4}, {ID(85, 10), ID(85, 11), 0, 0, 1, 0},
             {ID(60, 110), ID(60, 111), 0, 0, 0, 0}};

static void on_plain(conn *c, channel *ch, uint32_t method, reader *r) {
    size_t i = 0, count = sizeof plain / sizeof *plain;
    char name[256];
    while (i < count && plain[i].method != method) i++;
    if (i == count) {
        fail(c, 540, "NOT_IMPLEMENTED", method);
        return;
    }
    take(r, plain[i].reserved);
    for (int k = 0; k < plain[i].names; k++) take_short(r, name);
    if (method == ID(85, 10)) ch->confirm = 1;
    if (!r->is_short && !(plain[i].nowait && *take(r, 1) & plain[i].nowait))
        answer(c, ch->id, plain[i].answer, "\0\0\0", plain[i].zeros);
}

static void on_declare(conn *c, channel *ch, reader *r) { /* queue.declare */
    uint8_t args[300], *p;
    char name[256];
    take(r, 2);
    take_short(r, name);
    if (*take(r, 1) & 16) return;
    if (!*name) snprintf(name, sizeof name, "amq.gen-%d-%u", c->fd, ch->id);
    p = put64(put_short(args, name), 0);
    answer(c, ch->id, ID(50, 11), args, (size_t)(p - args));
}

static void on_consume(conn *c, channel *ch, reader *r) {
    uint8_t args[256], bits;
    char queue[256], consumer[256];
    take(r, 2);
    take_short(r, queue);
    take_short(r, consumer);
    bits = *take(r, 1);
    if (r->is_short) return;
    if (ch->consuming) {
        fail(c, 540, "NOT_IMPLEMENTED - one consumer a channel", ID(60, 20));
        return;
    }
    if (!*consumer) snprintf(consumer, sizeof consumer, "amq.ctag-%d-%u", c->fd, ch->id);
    ch->no_ack = bits >> 1 & 1;
    prepare(c, ch, consumer);
    if (!(bits & 8)) answer(c, ch->id, ID(60, 21), args, (size_t)(put_short(args, consumer) - args));
}

static void on_cancel(conn *c, channel *ch, reader *r) {
    uint8_t args[256];
    char consumer[256];
    take_short(r, consumer);
    ch->consuming = 0;
    if (!(*take(r, 1) & 1)) answer(c, ch->id, ID(60, 31), args, (size_t)(put_short(args, consumer) - args));
}

static void on_settlement(conn *c, channel *ch, uint32_t method, reader *r) {
    uint64_t tag = get64(take(r, 8));
    int multiple = method != ID(60, 90) && *take(r, 1) & 1;
    if (!r->is_short && settle(ch, tag, multiple)) fail(c, 406, "PRECONDITION_FAILED - unknown delivery tag", method);
}

static void on_method(conn *c, uint16_t id, const uint8_t *payload, size_t n) {
    uint32_t method = get32(payload);
    reader r = {payload + 4, payload + n, 0};
    channel *ch = c->channels[id];
    if (method >> 16 == 10) on_connection(c, method, &r);
    else if (id && !ch && method == ID(20, 10)) open_channel(c, id);
    else if (!ch || method == ID(20, 10)) fail(c, 504, "CHANNEL_ERROR", method);
    else if (ch->expect) fail(c, 505, "UNEXPECTED_FRAME - expected content", method);
    else switch (method) {
        case ID(60, 40): ch->expect = HEADER; break;
        case ID(60, 80):
        case ID(60, 90):
        case ID(60, 120): on_settlement(c, ch, method, &r); break;
        case ID(60, 10): /* qos */
            take(&r, 4);
            ch->prefetch = get16(take(&r, 2));
            answer(c, id, ID(60, 11), "", 0);
            break;
        case ID(60, 20): on_consume(c, ch, &r); break;
        case ID(60, 30): on_cancel(c, ch, &r); break;
        case ID(50, 10): on_declare(c, ch, &r); break;
        case ID(20, 40):
            close_channel(c, id);
            answer(c, id, ID(20, 41), "", 0);
            break;
        default: on_plain(c, ch, method, &r);
        }
    if (r.is_short && c->state == OPEN) fail(c, 502, "SYNTAX_ERROR - short method", method);
}

/* Frames */

static void on_content(conn *c, channel *ch, int type, const uint8_t *payload, size_t n) {
    if (!ch || ch->expect != type || (type == HEADER ? n < 14 : n > ch->body_left)) {
        fail(c, 505, "UNEXPECTED_FRAME - content", ID(60, 40));
        return;
    }
    ch->body_left = type == HEADER ? get64(payload + 4) : ch->body_left - n;
    ch->expect = ch->body_left ? BODY : 0;
    if (ch->expect) return;
    total_published++;
    if (ch->confirm) ch->published++;
}

static void confirm(conn *c) {
    for (int id = 1; id <= c->last; id++) {
        channel *ch = c->channels[id];
        uint8_t args[9];
        if (!ch || ch->published == ch->confirmed) continue;
        put8(put64(args, ch->published), ch->published - ch->confirmed > 1);
        answer(c, ch->id, ID(60, 80), args, 9);
        ch->confirmed = ch->published;
    }
}

/* Every whole frame of the input. */
static void parse(conn *c) {
    const uint8_t *p = c->in, *end = c->in + c->in_len;
    if (c->state == GREETING) {
        if (end - p < 8) return;
        if (memcmp(p, "AMQP\0\0\x09\x01", 8)) {
            put_bytes(room(c, 8), "AMQP\0\0\x09\x01", 8); /* what it should have said */
            c->state = CLOSING;
            return;
        }
        p += 8;
        c->state = OPEN;
        start(c);
    }
    while (end - p >= 7 && c->state == OPEN) {
        const uint8_t *payload = p + 7;
        uint32_t n = get32(p + 3);
        uint16_t id = get16(p + 1);
        channel *ch;
        if (n > c->frame_max - 8 || id > CHANNELS) {
            fail(c, 501, "FRAME_ERROR - too large", 0);
            break;
        }
        if ((size_t)(end - payload) < n + 1) break;
        ch = c->channels[id];
        if (payload[n] != END) fail(c, 501, "FRAME_ERROR - bad end", 0);
        else if (*p == METHOD && n >= 4) on_method(c, id, payload, n);
        else if (*p == HEADER || *p == BODY) on_content(c, ch, *p, payload, n);
        else if (*p == HEARTBEAT) put8(put_frame(room(c, 8), HEARTBEAT, 0, 0), END);
        else fail(c, 501, "FRAME_ERROR - type", 0);
        p = payload + n + 1;
    }
    c->in_len = (size_t)(end - p);
    memmove(c->in, p, c->in_len);
    confirm(c);
}

/* Connections */

static void drop(conn *c) {
    for (int id = 1; id <= c->last; id++) close_channel(c, id);
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

static void watch(conn *c, int op, uint32_t events) {
    struct epoll_event e = {.events = c->events = events, .data.ptr = c};
    epoll_ctl(poller, op, c->fd, &e);
}

static void on_accept(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
    if (fd < 0) return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    conn *c = memset(grown(NULL, sizeof *c), 0, sizeof *c);
    c->fd = fd;
    c->frame_max = FRAME_MAX;
    c->in = grown(NULL, INPUT);
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static int on_readable(conn *c) {
    ssize_t n = read(c->fd, c->in + c->in_len, INPUT - c->in_len);
    if (n < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (n == 0) return -1;
    if (c->state > OPEN) return 0;
    c->in_len += (size_t)n;
    parse(c);
    return 0;
}

static void on_event(conn *c, uint32_t events) {
    int more = 0;
    if ((events & ~(uint32_t)EPOLLOUT && on_readable(c)) || flush(c)) {
        drop(c);
        return;
    }
    if (c->state == OPEN) more = pump(c);
    if (c->state == CLOSING && c->out_at == c->out_len) {
        shutdown(c->fd, SHUT_WR);
        c->state = DRAINING;
    }
    events = EPOLLIN | (more || c->out_at < c->out_len ? (uint32_t)EPOLLOUT : 0);
    if (events != c->events) watch(c, EPOLL_CTL_MOD, events);
}

static void on_signal(int signal) { stopped = signal; }

static int listen_on(uint16_t port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    return bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 128) ? -1 : fd;
}

int main(int argc, char **argv) {
    int port = 5699, option, listener;
    struct sigaction action = {.sa_handler = on_signal};
    struct epoll_event events[64], first = {.events = EPOLLIN, .data.ptr = NULL};
    while ((option = getopt(argc, argv, "p:s:n:")) != -1)
        if (option == 'p') port = atoi(optarg);
        else if (option == 's') body_bytes = strtoull(optarg, NULL, 10);
        else if (option == 'n') limit = strtoull(optarg, NULL, 10);
        else return fprintf(stderr, "nullbroker [-p port] [-s body bytes] [-n deliveries a consumer]\n"), 2;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    listener = listen_on((uint16_t)port);
    if (listener < 0) return perror("nullbroker: listen"), 1;
    poller = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &first);
    while (!stopped) {
        int n = epoll_wait(poller, events, 64, -1);
        for (int i = 0; i < n; i++)
            if (events[i].data.ptr) on_event(events[i].data.ptr, events[i].events);
            else on_accept(listener);
    }
    fprintf(stderr, "nullbroker: published %llu, delivered %llu\n", (unsigned long long)total_published,
            (unsigned long long)total_delivered);
    return 0;
}
