/* confirm_spec.c - what confirm.h promises; at the end a naive model plays 200,000 random steps against it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"
#include "link/confirm.h"
#include "measure/hist.h"
#include "wire/sendq.h"

enum { WINDOW = 100, EIGHTH = (WINDOW + 7) / 8, STEPS = 200000 };
static mx_timers timers;
static mx_waitroom room;
static mx_confirm c;
static mx_hist *latency;
static uint64_t now; /* ahead of the real clock, which only matters when a deadline fires late */

static int begin(void **state) {
    (void)state;
    now = mx_clock_us() + 3600000000u;
    timers = (mx_timers){0};
    mx_waits_init(&room, &timers);
    latency = mx_hist_new();
    mx_confirm_init(&c, WINDOW, 1, &room.pub, &timers, latency);
    c.pub.state = MX_OPEN;
    return 0;
}

static int finish(void **state) {
    (void)state;
    mx_confirm_fini(&c);
    assert_int_equal(timers.count, 0);
    mx_waits_fini(&room);
    mx_timers_fini(&timers);
    mx_hist_free(latency);
    return 0;
}

static void publish(int n) {
    while (n--) mx_confirm_add(&c, now, 0, 0, NULL);
}
static void tick(uint64_t us) { mx_timers_run(&timers, now += us); }
static int ack(uint64_t tag) { return mx_confirm_settle(&c, tag, 0, 0); }
static int ack_to(uint64_t tag) { return mx_confirm_settle(&c, tag, 1, 0); }
static int nack(uint64_t tag) { return mx_confirm_settle(&c, tag, 0, 1); }
static int state_of(double seq) { return mx_receipt_state(&c.pub, seq); }
static uint32_t watch(double seq) {
    uint32_t ticket = mx_wait_new(&room.pub, -1);
    mx_receipt_watch(&c.pub, seq, ticket);
    return ticket;
}
static uint32_t posted(void) { /* the next ticket posted, or 0 */
    return room.pub.head == room.pub.tail ? 0 : room.pub.post[room.pub.head++ & room.pub.mask].ticket;
}

static void confirm_settles_in_any_order(void **state) {
    (void)state;
    publish(4);
    assert_int_equal(ack(3), 0);
    assert_int_equal(ack(2), 0);
    assert_true(c.pub.settled == 0 && c.early == 2 && state_of(3) == MX_CONFIRMED && state_of(1) == MX_PENDING);
    assert_int_equal(ack(1), 0);
    assert_true(c.pub.settled == 3 && c.early == 0 && c.pub.failed == 0 && state_of(4) == MX_PENDING);
}

static void confirm_settles_ranges(void **state) {
    (void)state;
    publish(10);
    assert_int_equal(nack(3), 0);
    assert_int_equal(ack_to(5), 0);
    assert_true(c.pub.settled == 5 && state_of(3) == MX_NACKED && state_of(4) == MX_CONFIRMED);
    assert_int_equal(mx_confirm_settle(&c, 7, 1, 1), 0);
    assert_true(c.pub.settled == 7 && c.pub.failed == 3 && state_of(6) == MX_NACKED && state_of(8) == MX_PENDING);
}

static void confirm_takes_tag_0_as_all(void **state) {
    (void)state;
    publish(10);
    assert_int_equal(ack(0), MX_EVALIDATION);
    assert_int_equal(ack_to(0), 0);
    assert_true(c.pub.settled == 10);
}

static void confirm_refuses_tags_unknown_or_settled(void **state) {
    (void)state;
    publish(5);
    assert_int_equal(ack(6), MX_EVALIDATION);
    assert_int_equal(ack_to(6), MX_EVALIDATION);
    assert_int_equal(ack(UINT64_MAX), MX_EVALIDATION);
    assert_int_equal(ack(2), 0);
    assert_int_equal(ack(2), MX_EVALIDATION);
    assert_int_equal(nack(2), MX_EVALIDATION);
    assert_int_equal(ack_to(2), MX_EVALIDATION);
    assert_int_equal(ack_to(3), 0);
    assert_int_equal(ack(1), MX_EVALIDATION);
    assert_int_equal(ack_to(3), MX_EVALIDATION);
    assert_true(c.pub.settled == 3);
}

static void confirm_times_out_at_the_deadline_and_takes_a_late_ack(void **state) {
    (void)state;
    publish(1);
    mx_confirm_add(&c, now, 5, 0, NULL);
    mx_confirm_add(&c, now, 0.5, 0, NULL);
    mx_confirm_add(&c, now, -1, 0, NULL);
    tick(499999);
    assert_int_equal(state_of(3), MX_PENDING);
    tick(2);
    assert_true(state_of(3) == MX_TIMED_OUT && state_of(1) == MX_PENDING && c.pub.settled == 0);
    tick(500000);
    assert_true(state_of(1) == MX_TIMED_OUT && c.pub.settled == 1 && c.pub.failed == 2);
    assert_int_equal(ack(1), 0);
    assert_int_equal(ack_to(3), 0);
    assert_true(state_of(1) == MX_TIMED_OUT && state_of(2) == MX_CONFIRMED && state_of(3) == MX_TIMED_OUT);
    tick(1000000000);
    assert_true(state_of(4) == MX_PENDING && c.pub.failed == 2);
}

static void confirm_needs_one_timer(void **state) {
    (void)state;
    for (int i = 0; i < 1000; i++, now += 10) {
        publish(1);
        assert_int_equal(timers.count, 1);
        ack((uint64_t)i + 1);
    }
    tick(3000000);
    assert_int_equal(timers.count, 0);
    assert_true(c.pub.failed == 0);
}

static void confirm_loses_what_is_pending_and_counts_tags_anew(void **state) {
    (void)state;
    publish(5);
    ack(1);
    ack(3);
    mx_confirm_lose(&c);
    assert_true(state_of(1) == MX_CONFIRMED && state_of(2) == MX_LOST && state_of(3) == MX_CONFIRMED);
    assert_true(c.pub.settled == 5 && c.pub.failed == 3 && c.base == 5 && timers.count == 0);
    assert_int_equal(ack(1), MX_EVALIDATION);
    publish(2);
    assert_int_equal(ack(1), 0);
    assert_true(state_of(6) == MX_CONFIRMED && state_of(7) == MX_PENDING && c.pub.settled == 6);
}

static void confirm_knows_its_own_ids(void **state) {
    (void)state;
    uint8_t id[MX_ID_SIZE], next[MX_ID_SIZE];
    mx_span none = {0};
    publish(6);
    mx_confirm_id(&c, id);
    publish(1);
    mx_confirm_id(&c, next);
    assert_memory_not_equal(id, next, sizeof id);
    for (int i = 0; i < MX_ID_SIZE; i++) assert_true(isalnum(id[i]) || id[i] == '_' || id[i] == '-');
    assert_memory_equal(id + 13, "0000007", 7);
    mx_confirm_return(&c, (mx_span){id, sizeof id}, none, none);
    mx_confirm_return(&c, (mx_span){next, sizeof next}, none, none); /* not published yet: nobody's */
    ack_to(7);
    publish(1);
    ack(8);
    assert_true(state_of(7) == MX_RETURNED && state_of(6) == MX_CONFIRMED && state_of(8) == MX_CONFIRMED);
    assert_true(c.pub.failed == 1);
}

static void confirm_finds_foreign_ids_oldest_first(void **state) {
    (void)state;
    mx_span id = mx_span_of("mine"), ex = mx_span_of("e"), key = mx_span_of("k");
    uint64_t hash = mx_confirm_hash(id, ex, key);
    assert_true(hash && hash != mx_confirm_hash(id, mx_span_of("ek"), (mx_span){0}));
    publish(1);
    for (int i = 0; i < 3; i++) mx_confirm_add(&c, now, 0, hash, NULL);
    mx_confirm_return(&c, id, ex, key);
    mx_confirm_return(&c, id, ex, key);
    mx_confirm_return(&c, id, ex, mx_span_of("other"));
    ack_to(4);
    assert_true(state_of(1) == MX_CONFIRMED && state_of(2) == MX_RETURNED && state_of(3) == MX_RETURNED);
    assert_true(state_of(4) == MX_CONFIRMED);
}

/* A message forwarded with the id an earlier publish of the same publisher gave it. */
static void confirm_does_not_take_a_forwarded_id_for_its_own(void **state) {
    (void)state;
    uint8_t bytes[MX_ID_SIZE];
    mx_span id = {bytes, sizeof bytes}, ex = mx_span_of("e"), key = mx_span_of("k");
    mx_confirm_id(&c, bytes);
    mx_confirm_add(&c, now, 0, mx_confirm_hash(mx_span_of("x"), ex, key), NULL);
    mx_confirm_add(&c, now, 0, mx_confirm_hash(id, ex, key), NULL);
    mx_confirm_return(&c, id, ex, key);
    ack_to(2);
    assert_true(state_of(1) == MX_CONFIRMED && state_of(2) == MX_RETURNED);
}

static void confirm_up_to_confirms_all_but_the_returned(void **state) {
    (void)state;
    publish(10);
    mx_confirm_returned(&c, 4);
    mx_confirm_returned(&c, 40);
    mx_confirm_returned(&c, -4);
    mx_confirm_up_to(&c, 8);
    mx_confirm_up_to(&c, 2);
    assert_true(c.pub.settled == 8 && c.pub.failed == 1 && state_of(4) == MX_RETURNED && state_of(5) == MX_CONFIRMED);
    mx_confirm_up_to(&c, 1e15);
    assert_true(c.pub.settled == 10);
}

static void confirm_posts_every_watcher_of_a_publish_once(void **state) {
    (void)state;
    publish(3);
    uint32_t a = watch(2), b = watch(2), other = watch(3);
    ack(1);
    assert_int_equal(posted(), 0);
    ack(2);
    assert_int_equal(posted(), a);
    assert_int_equal(posted(), b);
    assert_int_equal(posted(), 0);
    uint32_t late = watch(2);
    assert_int_equal(posted(), late);
    mx_confirm_lose(&c);
    assert_int_equal(posted(), other);
    assert_int_equal(room.live, 0);
}

static void confirm_posts_a_second_watcher_although_the_first_gave_up(void **state) {
    (void)state;
    publish(1);
    mx_wait_drop(&room.pub, watch(1));
    uint32_t b = watch(1);
    ack(1);
    assert_int_equal(posted(), b);
}

static void confirm_tells_when_an_eighth_of_the_window_is_free(void **state) {
    (void)state;
    uint32_t a = mx_wait_new(&room.pub, -1), b = mx_wait_new(&room.pub, -1), d = mx_wait_new(&room.pub, -1);
    publish(WINDOW - 1);
    assert_false(mx_confirm_full(&c));
    mx_pub_watch(&c.pub, d);
    assert_int_equal(posted(), d);
    publish(1);
    assert_true(mx_confirm_full(&c));
    mx_pub_watch(&c.pub, a);
    mx_pub_watch(&c.pub, b);
    ack(2);
    ack_to(EIGHTH - 1);
    assert_int_equal(posted(), 0);
    ack(EIGHTH);
    assert_int_equal(posted(), a);
    assert_int_equal(posted(), b);
    publish(EIGHTH);
    mx_pub_watch(&c.pub, a = mx_wait_new(&room.pub, -1));
    mx_confirm_lose(&c);
    assert_int_equal(posted(), a);
}

static void confirm_tells_of_room_in_the_smallest_windows(void **state) {
    (void)state;
    for (uint32_t window = 1; window <= 17; window++) {
        mx_confirm_fini(&c);
        mx_confirm_init(&c, window, 1, &room.pub, &timers, latency);
        for (uint32_t i = 1; i < 20; i++) {
            uint32_t a = mx_wait_new(&room.pub, -1), taken = 0;
            while (!mx_confirm_full(&c)) publish(1);
            mx_pub_watch(&c.pub, a);
            while (posted() != a) assert_true(taken++ < (window + 7) / 8 && ack((uint64_t)c.pub.settled + 1) == 0);
            assert_int_equal(taken, (window + 7) / 8);
        }
    }
}

/* As while the output is full: then who watches waits for mx_confirm_post_room. */
static void confirm_tells_of_no_room_in_a_window_of_none(void **state) {
    (void)state;
    uint32_t a = mx_wait_new(&room.pub, -1), b = mx_wait_new(&room.pub, -1);
    publish(1);
    c.pub.window = 0;
    mx_pub_watch(&c.pub, a);
    mx_pub_watch(&c.pub, b);
    ack(1);
    assert_int_equal(posted(), 0);
    mx_confirm_post_room(&c);
    assert_int_equal(posted(), a);
    assert_int_equal(posted(), b);
}

static void confirm_settles_at_once_without_confirms(void **state) {
    (void)state;
    c.pub.confirm = 0;
    publish(1000);
    assert_true(c.pub.settled == 1000 && !mx_confirm_full(&c) && timers.count == 0 && state_of(7) == MX_CONFIRMED);
}

static void confirm_records_the_latency_of_confirmed_ones(void **state) {
    (void)state;
    uint64_t then = mx_clock_us() - 1000000;
    for (int i = 0; i < 9; i++) mx_confirm_add(&c, then, 100, 0, NULL);
    nack(1);
    ack(2);
    ack_to(9);
    assert_true(mx_hist_count(latency) == 8);
    assert_true(mx_hist_percentile(latency, 1) > 0.99 && mx_hist_max(latency) < 10);
}

static void confirm_remembers_the_last_million_failures(void **state) {
    (void)state;
    double n = (1 << 20) + 1000;
    while (c.pub.seq < n) {
        publish(WINDOW);
        mx_confirm_settle(&c, 0, 1, 1);
    }
    n = c.pub.seq - (1 << 20);
    assert_true(c.forgotten == n && state_of(n) == MX_LOST && state_of(n + 1) == MX_NACKED);
    assert_true(state_of(c.pub.seq) == MX_NACKED && state_of(c.pub.seq + 1) == MX_LOST && state_of(0) == MX_LOST);
}

/* ---- the model: one record a publish, every question answered by looking at all of them ---- */

static struct {
    uint64_t due, hash;
    uint32_t ticket;
    uint8_t state, returned;
} model[STEPS + 2];
static uint64_t last, base, front; /* front: all before it have ended */
static double failed, confirmed;

static uint32_t rnd(uint32_t n) {
    static uint64_t x = 0x2545f4914f6cdd1d;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return (uint32_t)(x >> 20) % n;
}

static void model_end(uint64_t seq, int how) {
    if (model[seq].state) return;
    model[seq].state = (uint8_t)(how == MX_CONFIRMED && model[seq].returned ? MX_RETURNED : how);
    if (model[seq].state == MX_CONFIRMED) confirmed++;
    else failed++;
}

static int model_settle(uint64_t tag, int multiple, int how) {
    if (tag > last - base || (!tag && !multiple)) return MX_EVALIDATION;
    int state = tag ? model[base + tag].state : MX_PENDING;
    if (state != MX_PENDING && state != MX_TIMED_OUT) return MX_EVALIDATION;
    if (!multiple) model_end(base + tag, how);
    /* what is behind the front cannot change any more: starting there is the one shortcut */
    for (uint64_t seq = front; multiple && seq <= (tag ? base + tag : last); seq++) model_end(seq, how);
    return 0;
}

static void step_publish(void) {
    static const double timeouts[] = {0, 0, 0, -1, 0.01, 0.3};
    if (mx_confirm_full(&c)) return;
    double timeout = timeouts[rnd(6)];
    uint64_t hash = rnd(4) ? 0 : 1 + rnd(5);
    assert_true(mx_confirm_add(&c, now, timeout, hash, NULL) == (double)++last);
    double s = timeout == 0 ? 1 : timeout;
    model[last].due = s < 0 ? UINT64_MAX : now + (uint64_t)(s * 1e6) + 1;
    model[last].hash = hash;
}

static void step_settle(void) {
    uint64_t highest = last - base + 1, back = rnd(WINDOW), tag = rnd(8) && back <= highest ? highest - back : rnd(3);
    int multiple = rnd(10) == 0, no = rnd(20) == 0, how = no ? MX_NACKED : MX_CONFIRMED;
    assert_int_equal(mx_confirm_settle(&c, tag, multiple, no), model_settle(tag, multiple, how));
}

static void step_return(void) {
    uint64_t seq = last - rnd(WINDOW) + 1;
    if (seq > last + 1 || seq < front) return;
    mx_confirm_returned(&c, (double)seq);
    if (seq <= last && !model[seq].state) model[seq].returned = 1;
}

static void step_watch(void) {
    uint64_t seq = last - rnd(WINDOW);
    if (seq > last || seq < 1 || model[seq].ticket) return;
    model[seq].ticket = watch((double)seq);
}

static void step_tick(void) {
    tick(rnd(20000));
    for (uint64_t seq = front; seq <= last; seq++)
        if (model[seq].due <= now) model_end(seq, MX_TIMED_OUT);
}

static void step_lose(void) {
    mx_confirm_lose(&c);
    for (uint64_t seq = front; seq <= last; seq++) model_end(seq, MX_LOST);
    base = last;
}

/* Whoever watches what has ended was posted; nobody else was. */
static void compare_posts(uint64_t from) {
    for (uint32_t ticket; (ticket = posted());) {
        uint64_t seq = last;
        while (seq > 0 && model[seq].ticket != ticket) seq--;
        assert_true(seq > 0 && model[seq].state != MX_PENDING);
        model[seq].ticket = 0;
    }
    for (uint64_t seq = from; seq <= last; seq++) assert_false(model[seq].ticket && model[seq].state);
}

static void compare(void) {
    uint64_t from = front;
    while (front <= last && model[front].state) front++;
    assert_true(c.pub.seq == (double)last && c.pub.settled == (double)(front - 1));
    assert_true(c.pub.failed == failed && mx_hist_count(latency) == confirmed);
    uint32_t early = 0;
    for (uint64_t seq = front; seq <= last; seq++) early += model[seq].state != MX_PENDING;
    assert_int_equal(c.early, early);
    for (uint64_t seq = from; seq <= last; seq++) assert_int_equal(state_of((double)seq), model[seq].state);
    compare_posts(from > WINDOW ? from - WINDOW : 1);
}

static void confirm_agrees_with_a_naive_model(void **state) {
    (void)state;
    front = 1;
    for (int i = 0; i < STEPS; i++) {
        uint32_t what = rnd(1000);
        if (what < 480) step_publish();
        else if (what < 900) step_settle();
        else if (what < 940) step_return();
        else if (what < 980) step_watch();
        else if (what < 998) step_tick();
        else step_lose();
        compare();
    }
    step_lose();
    compare();
    for (uint64_t seq = 1; seq <= last; seq++) assert_int_equal(state_of((double)seq), model[seq].state);
    assert_int_equal(room.live, 0);
    assert_true(last > 50000 && failed > 5000 && confirmed > 20000);
}

static void confirm_lists_its_failures_in_order(void **state) {
    (void)state;
    assert_true(mx_pub_failure(&c.pub, 0) == 0);
    publish(6);
    nack(5);
    assert_true(mx_pub_failure(&c.pub, 0) == 0); /* 1 has not ended */
    nack(2);
    ack_to(6);
    assert_true(mx_pub_failure(&c.pub, 0) == 2);
    assert_true(mx_pub_failure(&c.pub, 2) == 5);
    assert_true(mx_pub_failure(&c.pub, 5) == 0);
}

static void confirm_makes_an_id_where_there_is_none(void **state) {
    (void)state;
    uint8_t id[MX_ID_SIZE], again[64];
    mx_props given = {.flags = MX_P_TYPE, .type = mx_span_of("t")}, own;
    const mx_props *made = mx_confirm_props(&c, &given, &own, id);
    assert_int_equal(made->flags, MX_P_TYPE | MX_P_MESSAGE_ID);
    assert_int_equal(given.flags, MX_P_TYPE);
    publish(1);
    assert_int_equal(mx_receipt_id(&c.pub, 1, again), MX_ID_SIZE);
    assert_memory_equal(made->message_id.p, again, MX_ID_SIZE);
    mx_confirm_return(&c, made->message_id, mx_span_of("e"), mx_span_of("k"));
    ack(1);
    assert_int_equal(state_of(1), MX_RETURNED);
    given.flags |= MX_P_MESSAGE_ID;
    given.message_id = mx_span_of("mine");
    assert_ptr_equal(mx_confirm_props(&c, &given, &own, id), &given);
}

/* ---- a new channel ---- */

static mx_sendq old, fresh;
static char resent[100]; /* "attempt number name" of each, as again saw them */

static void publish_named(const char *names) {
    for (; *names; names++) {
        uint8_t *p = mx_sendq_reserve(&old, 1);
        *p = (uint8_t)*names;
        mx_sendq_add(&old, 1);
        mx_confirm_add(&c, now, 0, 0, p);
    }
}

static const uint8_t *again(void *arg, const uint8_t *frames, unsigned attempt) {
    (void)arg;
    char text[3] = {(char)('0' + attempt), (char)*frames, 0};
    strcat(resent, text);
    uint8_t *p = mx_sendq_reserve(&fresh, 1);
    *p = *frames;
    mx_sendq_add(&fresh, 1);
    return p;
}

static void resend(const char *expected) {
    *resent = 0;
    mx_confirm_resend(&c, again, NULL);
    assert_string_equal(resent, expected);
    mx_sendq_clear(&old);
    old = fresh;
    fresh = (mx_sendq){0};
}

static void nothing_is_held(void) {
    mx_sendq_clear(&old);
    assert_int_equal(mx_sendq_room(), 0);
}

static void confirm_sends_again_what_is_pending_in_its_order(void **state) {
    (void)state;
    publish_named("abcde");
    ack(2);
    resend("2a2c2d2e");
    assert_int_equal(ack_to(2), 0); /* a and c */
    assert_true(state_of(1) == MX_CONFIRMED && state_of(3) == MX_CONFIRMED && state_of(4) == MX_PENDING);
    publish_named("f");
    assert_int_equal(nack(4), 0);
    assert_int_equal(ack(5), 0);
    assert_true(state_of(4) == MX_PENDING && state_of(5) == MX_NACKED && state_of(6) == MX_CONFIRMED);
    resend("3d");
    assert_int_equal(ack_to(0), 0);
    assert_int_equal(state_of(4), MX_CONFIRMED);
    nothing_is_held();
}

static void confirm_knows_no_tag_of_the_channel_before(void **state) {
    (void)state;
    publish_named("abc");
    ack(1);
    resend("2b2c");
    assert_int_equal(ack(3), MX_EVALIDATION);
    assert_int_equal(ack(2), 0);
    assert_true(state_of(2) == MX_PENDING && state_of(3) == MX_CONFIRMED);
    assert_int_equal(ack(1), 0);
    assert_int_equal(ack(1), MX_EVALIDATION);
    nothing_is_held();
}

static void confirm_counts_what_was_not_sent_as_no_sending(void **state) {
    (void)state;
    publish_named("a");
    publish_named("b");
    mx_confirm_unsent(&c);
    resend("2a1b");
    resend("3a2b");
    ack_to(2);
    nothing_is_held();
}

static void confirm_does_not_send_again_what_ran_out_of_time(void **state) {
    (void)state;
    publish_named("ab");
    tick(2000000);
    publish_named("c");
    resend("2c");
    ack(1);
    assert_true(state_of(1) == MX_TIMED_OUT && state_of(2) == MX_TIMED_OUT && state_of(3) == MX_CONFIRMED);
    nothing_is_held();
}

static void confirm_takes_a_return_as_of_its_channel(void **state) {
    uint8_t id[MX_ID_SIZE];
    (void)state;
    publish_named("a");
    mx_receipt_id(&c.pub, 1, id);
    mx_confirm_return(&c, (mx_span){id, sizeof id}, mx_span_of(""), mx_span_of("a"));
    resend("2a");
    ack(1); /* this time somebody had bound a queue */
    assert_int_equal(state_of(1), MX_CONFIRMED);
    nothing_is_held();
}

static int is_vowel(void *arg, const uint8_t *frames) {
    (void)arg;
    return *frames == 'a' || *frames == 'e';
}

static void confirm_loses_some_and_sends_the_others(void **state) {
    (void)state;
    publish_named("abcde");
    uint32_t ticket = watch(5);
    assert_int_equal(mx_confirm_lose_some(&c, is_vowel, NULL), 2);
    assert_true(state_of(1) == MX_LOST && state_of(5) == MX_LOST && state_of(2) == MX_PENDING);
    assert_int_equal(posted(), ticket);
    resend("2b2c2d");
    ack_to(3);
    assert_true(c.pub.settled == 5 && c.pub.failed == 2);
    nothing_is_held();
}

int main(void) {
#define CASE(f) cmocka_unit_test_setup_teardown(f, begin, finish)
    const struct CMUnitTest cases[] = {
        CASE(confirm_settles_in_any_order),
        CASE(confirm_sends_again_what_is_pending_in_its_order),
        CASE(confirm_knows_no_tag_of_the_channel_before),
        CASE(confirm_counts_what_was_not_sent_as_no_sending),
        CASE(confirm_does_not_send_again_what_ran_out_of_time),
        CASE(confirm_takes_a_return_as_of_its_channel),
        CASE(confirm_loses_some_and_sends_the_others),
        CASE(confirm_lists_its_failures_in_order),
        CASE(confirm_makes_an_id_where_there_is_none),
        CASE(confirm_settles_ranges),
        CASE(confirm_takes_tag_0_as_all),
        CASE(confirm_refuses_tags_unknown_or_settled),
        CASE(confirm_times_out_at_the_deadline_and_takes_a_late_ack),
        CASE(confirm_needs_one_timer),
        CASE(confirm_loses_what_is_pending_and_counts_tags_anew),
        CASE(confirm_knows_its_own_ids),
        CASE(confirm_finds_foreign_ids_oldest_first),
        CASE(confirm_does_not_take_a_forwarded_id_for_its_own),
        CASE(confirm_up_to_confirms_all_but_the_returned),
        CASE(confirm_posts_every_watcher_of_a_publish_once),
        CASE(confirm_posts_a_second_watcher_although_the_first_gave_up),
        CASE(confirm_tells_when_an_eighth_of_the_window_is_free),
        CASE(confirm_tells_of_room_in_the_smallest_windows),
        CASE(confirm_tells_of_no_room_in_a_window_of_none),
        CASE(confirm_settles_at_once_without_confirms),
        CASE(confirm_records_the_latency_of_confirmed_ones),
        CASE(confirm_remembers_the_last_million_failures),
        CASE(confirm_agrees_with_a_naive_model),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
