/* peer.c - what mxrun is measured against: librabbitmq's blocking API, as a C programmer would use it.
 *
 *   peer pub|con|lat -p port -s body bytes -t seconds -n messages -w window -P (persistent) -q queue -f prefetch
 *                    -a messages an ack (0: no ack) -r messages a second
 *
 * pub keeps `window` messages unconfirmed; con acks every -a messages; lat sends at a steady rate, a thread each for
 * publishing and consuming. Ends after -n messages, else after -t seconds, and prints one line of JSON. */
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static struct {
    int port, window, persistent, prefetch, per_ack, rate;
    size_t size;
    double seconds;
    uint64_t count; /* 0: until `seconds` are over */
    const char *queue;
} opt = {5672, 256, 0, 256, 1, 1000, 64, 4, 0, "bench"};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void expect(int status, const char *what) {
    if (status == AMQP_STATUS_OK) return;
    fprintf(stderr, "peer: %s: %s\n", what, amqp_error_string2(status));
    exit(1);
}

static void expect_reply(amqp_rpc_reply_t reply, const char *what) {
    if (reply.reply_type == AMQP_RESPONSE_NORMAL) return;
    fprintf(stderr, "peer: %s: %s\n", what,
            reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION ? "refused" : amqp_error_string2(reply.library_error));
    exit(1);
}

static amqp_connection_state_t dial(void) {
    amqp_connection_state_t c = amqp_new_connection();
    expect(amqp_socket_open(amqp_tcp_socket_new(c), "127.0.0.1", opt.port), "connect");
    expect_reply(amqp_login(c, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest"), "login");
    amqp_channel_open(c, 1);
    expect_reply(amqp_get_rpc_reply(c), "channel.open");
    return c;
}

static void hang_up(amqp_connection_state_t c) {
    amqp_connection_close(c, AMQP_REPLY_SUCCESS);
    amqp_destroy_connection(c);
}

/* What a run took, and its line. */
typedef struct {
    int64_t at;
    struct rusage usage;
} moment;

static moment take_moment(void) {
    moment m;
    m.at = now_ns();
    getrusage(RUSAGE_SELF, &m.usage);
    return m;
}

static double us(struct timeval from, struct timeval to) {
    return (double)(to.tv_sec - from.tv_sec) * 1e6 + (double)(to.tv_usec - from.tv_usec);
}

static void report(const char *mode, uint64_t n, const moment *a, const char *more) {
    moment b = take_moment();
    double secs = (double)(b.at - a->at) / 1e9, each = n ? (double)n : 1;
    double user = us(a->usage.ru_utime, b.usage.ru_utime) / each, sys = us(a->usage.ru_stime, b.usage.ru_stime) / each;
    printf("{\"client\":\"c\",\"mode\":\"%s\",\"size\":%zu,\"n\":%llu,\"secs\":%.3f,\"rate\":%.0f,\"user_us\":%.3f,"
           "\"sys_us\":%.3f,\"cpu_us\":%.3f,\"rss_mb\":%.1f%s}\n",
           mode, opt.size, (unsigned long long)n, secs, (double)n / secs, user, sys, user + sys, (double)b.usage.ru_maxrss / 1024,
           more);
}

/* Publishing */

/* Confirms come in any order and shape: tags below `from` are confirmed, beyond it the set ones. */
enum { TAGS = 1 << 20 };
static struct {
    uint8_t is_set[TAGS];
    uint64_t from, count;
} confirmed = {.from = 1};

static void on_ack(const amqp_basic_ack_t *ack) {
    uint64_t tag = ack->delivery_tag;
    for (uint64_t t = ack->multiple ? confirmed.from : tag; t <= tag; t++) {
        confirmed.count += !confirmed.is_set[t % TAGS];
        confirmed.is_set[t % TAGS] = 1;
    }
    for (; confirmed.is_set[confirmed.from % TAGS]; confirmed.from++) confirmed.is_set[confirmed.from % TAGS] = 0;
}

/* Reads a frame; 0 if none came within the timeout (NULL: for ever). */
static int read_confirm(amqp_connection_state_t c, struct timeval *timeout) {
    amqp_frame_t frame;
    int status = amqp_simple_wait_frame_noblock(c, &frame, timeout);
    if (status == AMQP_STATUS_TIMEOUT) return 0;
    expect(status, "confirm");
    if (frame.frame_type != AMQP_FRAME_METHOD) return 1;
    if (frame.payload.method.id != AMQP_BASIC_ACK_METHOD) {
        fprintf(stderr, "peer: expected basic.ack, got %s\n", amqp_method_name(frame.payload.method.id));
        exit(1);
    }
    on_ack(frame.payload.method.decoded);
    return 1;
}

/* Blocks until at most `left` of the `sent` messages are unconfirmed. */
static void await_confirms(amqp_connection_state_t c, uint64_t sent, uint64_t left) {
    struct timeval at_once = {0, 0};
    while (sent - confirmed.count > left) {
        read_confirm(c, NULL);
        while (read_confirm(c, &at_once)) {
        }
        amqp_maybe_release_buffers(c);
    }
}

static void send_one(amqp_connection_state_t c, void *body) {
    amqp_basic_properties_t props = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG, .delivery_mode = opt.persistent ? 2 : 1};
    amqp_bytes_t bytes = {opt.size, body};
    expect(amqp_basic_publish(c, 1, amqp_empty_bytes, amqp_cstring_bytes(opt.queue), 0, 0, &props, bytes), "publish");
}

static char *body_new(void) { return memset(malloc(opt.size + 8), 'x', opt.size + 8); }

/* Whether a run that began at `start` and has made n messages is over; looks at the clock every 64 messages. */
static int is_over(int64_t start, uint64_t n) {
    if (opt.count) return n >= opt.count;
    return n % 64 == 0 && (double)(now_ns() - start) / 1e9 >= opt.seconds;
}

static void publish(amqp_connection_state_t c) {
    char *body = body_new();
    uint64_t sent = 0;
    moment start = take_moment();
    while (!is_over(start.at, sent)) {
        await_confirms(c, sent, (uint64_t)opt.window - 1);
        send_one(c, body);
        sent++;
    }
    await_confirms(c, sent, 0);
    report("pub", confirmed.count, &start, "");
    free(body);
}

/* Consuming */

static void subscribe(amqp_connection_state_t c) {
    if (opt.per_ack) {
        amqp_basic_qos(c, 1, 0, (uint16_t)opt.prefetch, 0);
        expect_reply(amqp_get_rpc_reply(c), "basic.qos");
    }
    amqp_basic_consume(c, 1, amqp_cstring_bytes(opt.queue), amqp_empty_bytes, 0, opt.per_ack == 0, 0, amqp_empty_table);
    expect_reply(amqp_get_rpc_reply(c), "basic.consume");
}

/* 0, or -1 after five seconds without a message. */
static int receive(amqp_connection_state_t c, amqp_envelope_t *into) {
    struct timeval timeout = {5, 0};
    amqp_rpc_reply_t reply;
    amqp_maybe_release_buffers(c);
    reply = amqp_consume_message(c, into, &timeout, 0);
    if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION && reply.library_error == AMQP_STATUS_TIMEOUT) return -1;
    expect_reply(reply, "consume");
    return 0;
}

static void consume(amqp_connection_state_t c) {
    uint64_t n = 0, bytes = 0, tag = 0;
    int unacked = 0;
    subscribe(c);
    moment start = take_moment();
    for (amqp_envelope_t e; !is_over(start.at, n) && receive(c, &e) == 0; amqp_destroy_envelope(&e)) {
        n++;
        bytes += e.message.body.len;
        tag = e.delivery_tag;
        if (!opt.per_ack || ++unacked < opt.per_ack) continue;
        expect(amqp_basic_ack(c, 1, tag, opt.per_ack > 1), "ack");
        unacked = 0;
    }
    if (unacked) expect(amqp_basic_ack(c, 1, tag, 1), "ack");
    report("con", n, &start, "");
    if (opt.count && n < opt.count) fprintf(stderr, "peer: only %llu messages came\n", (unsigned long long)n);
    if (bytes != n * opt.size) fprintf(stderr, "peer: bodies were not of %zu bytes\n", opt.size);
}

/* Latency */

typedef struct {
    amqp_connection_state_t c;
    uint64_t want, n;
    int64_t *took; /* ns, `want` of them */
} sampler;

static void *consume_stamps(void *arg) {
    sampler *s = arg;
    for (amqp_envelope_t e; s->n < s->want && receive(s->c, &e) == 0; amqp_destroy_envelope(&e)) {
        int64_t sent;
        memcpy(&sent, e.message.body.bytes, 8);
        s->took[s->n++] = now_ns() - sent;
        expect(amqp_basic_ack(s->c, 1, e.delivery_tag, 0), "ack");
    }
    return NULL;
}

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int print_quantiles(char *into, size_t size, const char *name, sampler *s) {
    qsort(s->took, s->n, 8, ascending);
#define QUANTILE(q) (s->n ? (double)s->took[(uint64_t)((double)(s->n - 1) * (q))] / 1e3 : 0)
    return snprintf(into, size, ",\"%s_p50\":%.1f,\"%s_p99\":%.1f,\"%s_p999\":%.1f", name, QUANTILE(.5), name, QUANTILE(.99),
                    name, QUANTILE(.999));
}

static void latency(amqp_connection_state_t c) {
    uint64_t want = (uint64_t)(opt.seconds * opt.rate);
    sampler sends = {c, want, 0, malloc(want * 8)}, receives = {dial(), want, 0, malloc(want * 8)};
    char *body = body_new(), more[512];
    pthread_t thread;
    moment start;
    if (opt.size < 8) opt.size = 8;
    subscribe(receives.c);
    pthread_create(&thread, NULL, consume_stamps, &receives);
    usleep(300000);
    start = take_moment();
    while (sends.n < want) {
        int64_t due = start.at + (int64_t)((double)sends.n * 1e9 / opt.rate), sent;
        struct timespec at = {due / 1000000000, due % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        sent = now_ns();
        memcpy(body, &sent, 8);
        send_one(c, body);
        await_confirms(c, sends.n + 1, 0);
        sends.took[sends.n++] = now_ns() - sent;
    }
    pthread_join(thread, NULL);
    print_quantiles(more + print_quantiles(more, sizeof more, "conf", &sends), sizeof more / 2, "cons", &receives);
    report("lat", receives.n, &start, more);
    hang_up(receives.c);
    free(sends.took);
    free(receives.took);
    free(body);
}

static int usage(void) {
    fprintf(stderr, "peer pub|con|lat [-p port] [-s bytes] [-t seconds] [-n messages] [-w window] [-P] [-q queue] "
                    "[-f prefetch] [-a messages an ack] [-r rate]\n");
    return 2;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    void (*run)(amqp_connection_state_t) = !strcmp(mode, "pub")   ? publish
                                           : !strcmp(mode, "con") ? consume
                                           : !strcmp(mode, "lat") ? latency
                                                                  : NULL;
    if (!run) return usage();
    optind = 2;
    for (int o; (o = getopt(argc, argv, "p:s:t:n:w:Pq:f:a:r:")) != -1;) switch (o) {
        case 'p': opt.port = atoi(optarg); break;
        case 's': opt.size = strtoul(optarg, NULL, 10); break;
        case 't': opt.seconds = atof(optarg); break;
        case 'n': opt.count = strtoull(optarg, NULL, 10); break;
        case 'w': opt.window = atoi(optarg); break;
        case 'P': opt.persistent = 1; break;
        case 'q': opt.queue = optarg; break;
        case 'f': opt.prefetch = atoi(optarg); break;
        case 'a': opt.per_ack = atoi(optarg); break;
        case 'r': opt.rate = atoi(optarg); break;
        default: return usage();
        }
    amqp_connection_state_t c = dial();
    amqp_queue_declare(c, 1, amqp_cstring_bytes(opt.queue), 0, opt.persistent, 0, 0, amqp_empty_table);
    expect_reply(amqp_get_rpc_reply(c), "queue.declare");
    if (run != consume) {
        amqp_confirm_select(c, 1);
        expect_reply(amqp_get_rpc_reply(c), "confirm.select");
    }
    run(c);
    hang_up(c);
    return 0;
}
