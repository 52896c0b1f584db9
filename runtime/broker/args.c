/* args.c - the arguments of queue.declare: which there are, what each may be, and which kind of queue takes it. */
#include <stdio.h>
#include <string.h>
#include "broker/answer.h"

enum { CLASSIC = 1, QUORUM = 2, STREAM = 4 };
enum kind { WHOLE, TEXT, YES_OR_NO };
static const struct {
    const char *key;
    int kind, takers; /* takers: CLASSIC, QUORUM, STREAM */
} known[MX_ARGS] = {
    [MX_ARG_EXPIRES] = {"x-expires", WHOLE, CLASSIC | QUORUM},
    [MX_ARG_TTL] = {"x-message-ttl", WHOLE, CLASSIC | QUORUM},
    [MX_ARG_DEAD_EXCHANGE] = {"x-dead-letter-exchange", TEXT, CLASSIC | QUORUM},
    [MX_ARG_DEAD_KEY] = {"x-dead-letter-routing-key", TEXT, CLASSIC | QUORUM},
    [MX_ARG_DEAD_STRATEGY] = {"x-dead-letter-strategy", TEXT, QUORUM},
    [MX_ARG_MAX_LENGTH] = {"x-max-length", WHOLE, CLASSIC | QUORUM},
    [MX_ARG_MAX_BYTES] = {"x-max-length-bytes", WHOLE, CLASSIC | QUORUM | STREAM},
    [MX_ARG_MEMORY_LENGTH] = {"x-max-in-memory-length", WHOLE, QUORUM},
    [MX_ARG_MEMORY_BYTES] = {"x-max-in-memory-bytes", WHOLE, QUORUM},
    [MX_ARG_MAX_PRIORITY] = {"x-max-priority", WHOLE, CLASSIC},
    [MX_ARG_OVERFLOW] = {"x-overflow", TEXT, CLASSIC | QUORUM},
    [MX_ARG_MODE] = {"x-queue-mode", TEXT, CLASSIC},
    [MX_ARG_VERSION] = {"x-queue-version", WHOLE, CLASSIC},
    [MX_ARG_SINGLE] = {"x-single-active-consumer", YES_OR_NO, CLASSIC | QUORUM},
    [MX_ARG_TYPE] = {"x-queue-type", TEXT, CLASSIC | QUORUM | STREAM},
    [MX_ARG_GROUP_SIZE] = {"x-quorum-initial-group-size", WHOLE, QUORUM},
    [MX_ARG_LOCATOR] = {"x-queue-leader-locator", TEXT, QUORUM | STREAM},
    [MX_ARG_MAX_AGE] = {"x-max-age", TEXT, STREAM},
    [MX_ARG_SEGMENT_SIZE] = {"x-stream-max-segment-size-bytes", WHOLE, STREAM},
    [MX_ARG_CLUSTER_SIZE] = {"x-initial-cluster-size", WHOLE, STREAM},
    [MX_ARG_DELIVERY_LIMIT] = {"x-delivery-limit", WHOLE, QUORUM},
};

/* Texts that are one of a few words; what RabbitMQ says of any other: a fixed text, or that this kind is not supported. */
static const struct {
    int arg;
    const char *words[4], *fixed, *kind;
} choices[] = {
    {MX_ARG_DEAD_STRATEGY, {"at-most-once", "at-least-once"}, "invalid_dlx_strategy", NULL},
    {MX_ARG_OVERFLOW, {"drop-head", "reject-publish", "reject-publish-dlx"}, "invalid_overflow", NULL},
    {MX_ARG_MODE, {"default", "lazy"}, NULL, "mode"},
    {MX_ARG_TYPE, {"classic", "quorum", "stream"}, NULL, "type"},
    {MX_ARG_LOCATOR, {"client-local", "balanced", "random", "least-leaders"}, "invalid_queue_locator_arg", NULL},
};

void mx_args_collect(mx_span table, mx_entry args[MX_ARGS]) {
    for (int i = 0; i < MX_ARGS; i++) mx_entry_find(table, mx_span_of(known[i].key), &args[i]);
}

/* ---- the queue is there already --------------------------------------------------------------------------------- */

static mx_entry field_of(const mx_arg *a) {
    return (mx_entry){.type = a->type, .number = a->number, .text = mx_span_of(a->text)};
}

/* No type is the type classic. */
static int is_equal(int i, const mx_entry *a, const mx_entry *b) {
    const mx_entry *given = a->type ? a : b;
    if (a->type && b->type) return mx_entry_equal(a, b);
    return !given->type || (i == MX_ARG_TYPE && mx_is(given->text, "classic"));
}

/* RabbitMQ names the type only when the other side has no value. */
void mx_arg_words(const mx_entry *f, int other_type, char *to, size_t size) {
    char value[260];
    if (f->type == 'S') snprintf(value, sizeof value, "%.*s", MX_TEXT(f->text));
    else if (f->type == 't') snprintf(value, sizeof value, "%s", f->number ? "true" : "false");
    else if (f->type == 'd' || f->type == 'f') snprintf(value, sizeof value, "%.17g", f->real);
    else snprintf(value, sizeof value, "%lld", (long long)f->number);
    if (!f->type) snprintf(to, size, "none");
    else if (other_type) snprintf(to, size, "'%s'", value);
    else snprintf(to, size, "the value '%s' of type '%s'", value, mx_entry_type_name(f->type));
}

mx_reply *mx_args_differ(const mx_queue *q, const mx_entry args[MX_ARGS]) {
    char got[320], current[320];
    mx_entry mine;
    int i = 0;
    for (; i < MX_ARGS; i++) {
        mine = field_of(&q->arg[i]);
        if (!is_equal(i, &mine, &args[i])) break;
    }
    if (i == MX_ARGS) return NULL;
    mx_arg_words(&args[i], mine.type, got, sizeof got);
    mx_arg_words(&mine, args[i].type, current, sizeof current);
    return mx_unequal(known[i].key, "queue", mx_name_of(&q->named), got, current);
}

/* ---- a new one -------------------------------------------------------------------------------------------------- */

static mx_reply *check_whole(mx_span queue, int i, const mx_entry *f) {
    long long n = f->number;
    const char *key = known[i].key;
    if (!mx_entry_is_integer(f)) return mx_bad_arg(queue, key, ": \"expected integer, got %s\"", mx_entry_type_name(f->type));
    if (n < 0) return mx_bad_arg(queue, key, ": {value_negative,%lld}", n);
    if (!n && (i == MX_ARG_EXPIRES || i == MX_ARG_GROUP_SIZE)) return mx_bad_arg(queue, key, ": {value_zero,0}");
    if (n > MX_EXPIRY_MAX_MS && (i == MX_ARG_EXPIRES || i == MX_ARG_TTL))
        return mx_bad_arg(queue, key, ": {value_too_large,%lld}", n);
    if (n > 255 && i == MX_ARG_MAX_PRIORITY) return mx_bad_arg(queue, key, ": {max_value_exceeded,%lld}", n);
    if (i == MX_ARG_VERSION && n != 1 && n != 2) return mx_bad_arg(queue, key, ": \"unsupported queue version '%lld'\"", n);
    return NULL;
}

static mx_reply *check_choice(mx_span queue, int i, const mx_entry *f) {
    for (size_t c = 0; c < sizeof choices / sizeof *choices; c++) {
        if (choices[c].arg != i) continue;
        for (int w = 0; w < 4 && choices[c].words[w]; w++)
            if (mx_is(f->text, choices[c].words[w])) return NULL;
        if (choices[c].fixed) return mx_bad_arg(queue, known[i].key, ": %s", choices[c].fixed);
        return mx_bad_arg(queue, known[i].key, ": \"unsupported queue %s '%.*s'\"", choices[c].kind, MX_TEXT(f->text));
    }
    return NULL;
}

static mx_reply *check_one(mx_span queue, int i, const mx_entry *args) {
    const mx_entry *f = &args[i];
    int expected = known[i].kind == YES_OR_NO ? 't' : 'S';
    if (!f->type || i == MX_ARG_DELIVERY_LIMIT) return NULL; /* RabbitMQ takes any limit, and one that is no number as none */
    if (known[i].kind == WHOLE) return check_whole(queue, i, f);
    if (f->type != expected) return mx_bad_arg(queue, known[i].key, ": {unacceptable_type,%s}", mx_entry_type_name(f->type));
    if (i == MX_ARG_DEAD_KEY && !args[MX_ARG_DEAD_EXCHANGE].type)
        return mx_bad_arg(queue, known[i].key, ": routing_key_but_no_dlx_defined");
    if (i == MX_ARG_MAX_AGE && mx_stream_age_s(f->text) < 0) return mx_bad_arg(queue, known[i].key, ": invalid_max_age");
    return check_choice(queue, i, f);
}

static mx_reply *check_property(mx_span queue, uint32_t flags) {
    const char *wrong = flags & MX_F_EXCLUSIVE     ? "exclusive-owner"
                        : flags & MX_F_AUTO_DELETE ? "auto-delete"
                        : flags & MX_F_DURABLE     ? NULL
                                                   : "non-durable";
    if (!wrong) return NULL;
    return mx_refused(406, "PRECONDITION_FAILED - invalid property '%s' for queue '%.*s' in vhost '/'", wrong, MX_TEXT(queue));
}

static int type_of(const mx_entry *type) {
    if (!type->type || mx_is(type->text, "classic")) return CLASSIC;
    return mx_is(type->text, "quorum") ? QUORUM : STREAM;
}

static mx_reply *check_taken(mx_span queue, const mx_entry args[MX_ARGS], int type) {
    for (int i = 0; i < MX_ARGS; i++)
        if (args[i].type && !(known[i].takers & type))
            return mx_bad_arg(queue, known[i].key, " of queue type rabbit_%s_queue",
                              type == CLASSIC  ? "classic"
                              : type == QUORUM ? "quorum"
                                               : "stream");
    return NULL;
}

mx_reply *mx_args_check(mx_span queue, const mx_entry args[MX_ARGS], uint32_t flags) {
    const mx_entry *dead = &args[MX_ARG_DEAD_EXCHANGE];
    if (dead->type && dead->type != 'S')
        return mx_refused(406,
                          "PRECONDITION_FAILED - invalid type '%s' for arg 'x-dead-letter-exchange' in queue '%.*s' in vhost '/'",
                          mx_entry_type_name(dead->type), MX_TEXT(queue));
    mx_reply *bad = check_one(queue, MX_ARG_TYPE, args);
    if (bad) return bad;
    int type = type_of(&args[MX_ARG_TYPE]);
    for (int i = 0; i < MX_ARGS && !bad; i++)
        if (known[i].takers & type) bad = check_one(queue, i, args);
    if (!bad) bad = check_taken(queue, args, type);
    return bad || type == CLASSIC ? bad : check_property(queue, flags);
}
