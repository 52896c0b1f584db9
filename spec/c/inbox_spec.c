/* inbox_spec.c - what inbox.h promises: the settlements are written down as text, "a7*" is an ack up to 7. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"
#include "measure/hist.h"
#include "message/inbox.h"

static char heard[4096];

static void say(const char *format, unsigned long tag) {
    size_t n = strlen(heard);
    snprintf(heard + n, sizeof heard - n, format, tag);
}
static void on_ack(void *arg, uint64_t tag, int multiple) { (void)arg, say(multiple ? "a%lu* " : "a%lu ", tag); }
static void on_reject(void *arg, uint64_t tag, int requeue) { (void)arg, say(requeue ? "q%lu " : "r%lu ", tag); }
static const mx_settle wire = {on_ack, on_reject};

static void deliver(mx_inbox *ib, uint64_t tag, int owned) {
    mx_msg *m = mx_inbox_slot(ib);
    m->tag = tag;
    m->exchange = (const uint8_t *)"ex", m->exchange_size = 2;
    m->key = (const uint8_t *)"key", m->key_size = 3;
    m->props = (const uint8_t *)"\0\0", m->props_size = 2;
    m->body = (const uint8_t *)"body", m->size = 4;
    m->redelivered = 1;
    if (owned) {
        mx_message *o = mx_message_new(mx_span_of("ex"), mx_span_of("key"), (mx_span){m->props, 2}, 4);
        mx_inbox_point(m, mx_message_append(o, "body", 4));
    }
    ib->tail++;
}

/* One delivery a letter, tags from 1: a ack, r reject, q requeue, . unsettled; all taken by Lua. */
static void play(mx_inbox *ib, const char *verdicts) {
    static const char letters[] = ".arq";
    heard[0] = 0;
    mx_inbox_init(ib, 64);
    for (size_t i = 0; verdicts[i]; i++) {
        deliver(ib, i + 1, i % 2);
        mx_inbox_at(ib, ib->head++)->verdict = (uint8_t)(strchr(letters, verdicts[i]) - letters);
    }
}

static void settle(mx_inbox *ib, uint32_t count, const char *want) {
    assert_int_equal(mx_inbox_settle(ib, &wire, NULL), count);
    assert_string_equal(heard, want);
    heard[0] = 0;
}

static void gaps(mx_inbox *ib, uint32_t unsettled, const char *want) {
    assert_int_equal(mx_inbox_settle_gaps(ib, 64, &wire, NULL), unsettled);
    assert_string_equal(heard, want);
    heard[0] = 0;
}

static void finish(mx_inbox *ib) {
    mx_inbox_fini(ib);
    assert_int_equal(mx_message_bytes(), 0);
}

static void check(const char *verdicts, uint32_t count, const char *want) {
    mx_inbox ib;
    play(&ib, verdicts);
    settle(&ib, count, want);
    finish(&ib);
}

static void inbox_acks_a_run_as_one_multiple(void **state) { (void)state, check("aaaa", 4, "a4* "); }
static void inbox_acks_a_single_one_singly(void **state) { (void)state, check("a", 1, "a1 "); }
static void inbox_stops_at_the_first_unsettled(void **state) { (void)state, check("aa.a", 2, "a2* "); }
static void inbox_says_nothing_when_the_first_is_unsettled(void **state) { (void)state, check(".aa", 0, ""); }

static void inbox_rejects_and_requeues_each_singly(void **state) { (void)state, check("aarrqqa", 7, "a2* r3 r4 q5 q6 a7 "); }

static void inbox_settles_gaps_once_and_singly(void **state) {
    (void)state;
    mx_inbox ib;
    play(&ib, ".ar.qaa.");
    settle(&ib, 0, "");
    gaps(&ib, 3, "a2 r3 q5 a6 a7 ");
    gaps(&ib, 3, "");
    mx_inbox_at(&ib, 0)->verdict = MX_ACK;
    settle(&ib, 3, "a1 ");
    mx_inbox_at(&ib, 3)->verdict = MX_REJECT;
    mx_inbox_at(&ib, 7)->verdict = MX_ACK;
    settle(&ib, 5, "r4 a8 ");
    assert_true(ib.acked == 5 && ib.rejected == 2 && ib.requeued == 1);
    finish(&ib);
}

static void inbox_never_names_a_tag_twice(void **state) {
    (void)state;
    mx_inbox ib;
    play(&ib, ".a.a");
    gaps(&ib, 2, "a2 a4 ");
    mx_inbox_at(&ib, 0)->verdict = MX_ACK;
    mx_inbox_at(&ib, 2)->verdict = MX_ACK;
    settle(&ib, 4, "a3* ");
    assert_true(ib.acked == 4);
    finish(&ib);
}

/* Plays a broker that keeps as many unacked as the prefetch allows; the first delivery is never settled. */
static uint32_t unacked;
static void hear_ack(void *arg, uint64_t tag, int multiple) { (void)arg, (void)tag, (void)multiple, unacked--; }
static void hear_reject(void *arg, uint64_t tag, int requeue) { (void)arg, (void)tag, (void)requeue, unacked--; }

static void inbox_always_has_a_slot_for_what_the_broker_may_still_send(void **state) {
    static const mx_settle broker = {hear_ack, hear_reject};
    (void)state;
    for (uint32_t prefetch = 1; prefetch <= 64; prefetch++) {
        mx_inbox ib;
        uint64_t tag = 0;
        mx_inbox_init(&ib, 64);
        unacked = 0;
        for (int round = 0; round < 200; round++) {
            for (; unacked < prefetch; unacked++) {
                assert_false(mx_inbox_full(&ib));
                deliver(&ib, ++tag, 1);
            }
            while (ib.head != ib.tail) mx_inbox_at(&ib, ib.head++)->verdict = tag % 3 ? MX_ACK : MX_REQUEUE;
            mx_inbox_at(&ib, 0)->verdict = MX_UNSETTLED;
            assert_int_equal(mx_inbox_settle_gaps(&ib, 64 - prefetch, &broker, NULL), 1);
        }
        assert_true(prefetch == 1 ? tag == 1 : tag == 64);
        finish(&ib);
    }
}

static void inbox_does_not_settle_what_lua_has_not_taken(void **state) {
    (void)state;
    mx_inbox ib;
    play(&ib, "a");
    deliver(&ib, 2, 1);
    settle(&ib, 1, "a1 ");
    settle(&ib, 0, "");
    finish(&ib);
}

static void inbox_is_full_when_its_room_is_unsettled(void **state) {
    (void)state;
    mx_inbox ib;
    mx_inbox_init(&ib, 64);
    for (uint64_t i = 1; i <= 64; i++) {
        assert_false(mx_inbox_full(&ib));
        deliver(&ib, i, 1);
    }
    assert_true(mx_inbox_full(&ib));
    finish(&ib);
}

static void inbox_detaches_what_is_borrowed(void **state) {
    (void)state;
    mx_inbox ib;
    play(&ib, "a...");
    mx_inbox_detach(&ib);
    assert_null(mx_inbox_at(&ib, 0)->own);
    for (uint32_t i = 1; i < 4; i++) {
        mx_msg *m = mx_inbox_at(&ib, i);
        assert_non_null(m->own);
        assert_ptr_equal(m->body, mx_message_body(m->own));
        assert_memory_equal(m->exchange, "exkey\0\0body", 11);
        assert_int_equal(m->redelivered, 1);
    }
    finish(&ib);
}

static void inbox_message_that_is_kept_outlives_its_settlement(void **state) {
    (void)state;
    mx_inbox ib;
    mx_msg copy;
    play(&ib, "..");
    mx_msg_keep(mx_inbox_at(&ib, 1), &copy);
    assert_non_null(mx_inbox_at(&ib, 1)->own);
    mx_inbox_at(&ib, 0)->verdict = mx_inbox_at(&ib, 1)->verdict = MX_ACK;
    settle(&ib, 2, "a2* ");
    assert_memory_equal(copy.exchange, "exkey\0\0body", 11);
    mx_msg_drop(&copy);
    assert_null(copy.own);
    finish(&ib);
}

static void inbox_positions_may_wrap(void **state) {
    (void)state;
    mx_inbox ib;
    mx_inbox_init(&ib, 3);
    assert_int_equal(ib.mask, 3);
    ib.head = ib.tail = ib.settled = UINT32_MAX - 5;
    heard[0] = 0;
    for (uint64_t tag = 1; tag < 20; tag += 2) {
        deliver(&ib, tag, 0);
        deliver(&ib, tag + 1, 1);
        mx_inbox_at(&ib, ib.head++)->verdict = MX_ACK;
        mx_inbox_at(&ib, ib.head++)->verdict = MX_ACK;
        assert_int_equal(mx_inbox_settle(&ib, &wire, NULL), 2);
    }
    assert_string_equal(heard, "a2* a4* a6* a8* a10* a12* a14* a16* a18* a20* ");
    finish(&ib);
}

static void inbox_tells_how_long_each_waited_for_its_handler(void **state) {
    (void)state;
    mx_inbox ib;
    mx_inbox_init(&ib, 64);
    heard[0] = 0;
    ib.wait = mx_hist_new();
    for (uint64_t tag = 1; tag <= 40; tag++) {
        if (tag == 31) mx_clock_advance(10);
        mx_clock_us();
        deliver(&ib, tag, 1);
    }
    mx_clock_advance(5);
    mx_inbox_turn(mx_clock_us());
    mx_inbox_began(&ib); /* none was taken */
    assert_true(mx_hist_count(ib.wait) == 0);
    ib.head += 35;
    mx_inbox_began(&ib);
    assert_true(mx_hist_count(ib.wait) == 35);
    assert_true(mx_hist_percentile(ib.wait, 14) < 6 && mx_hist_percentile(ib.wait, 15) > 14 && mx_hist_max(ib.wait) < 16);
    mx_inbox_turn(mx_clock_us());
    mx_clock_advance(100); /* as long as the turn took: they began in it one after the other */
    ib.head += 5;
    mx_inbox_began(&ib);
    assert_true(mx_hist_count(ib.wait) == 40);
    assert_true(mx_hist_max(ib.wait) > 75 && mx_hist_max(ib.wait) < 100);
    for (uint32_t i = 0; i < 40; i++) mx_inbox_at(&ib, i)->verdict = MX_ACK;
    settle(&ib, 40, "a40* ");
    mx_hist_free(ib.wait);
    finish(&ib);
}

int main(void) {
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(inbox_acks_a_run_as_one_multiple),
        cmocka_unit_test(inbox_acks_a_single_one_singly),
        cmocka_unit_test(inbox_stops_at_the_first_unsettled),
        cmocka_unit_test(inbox_says_nothing_when_the_first_is_unsettled),
        cmocka_unit_test(inbox_rejects_and_requeues_each_singly),
        cmocka_unit_test(inbox_settles_gaps_once_and_singly),
        cmocka_unit_test(inbox_never_names_a_tag_twice),
        cmocka_unit_test(inbox_always_has_a_slot_for_what_the_broker_may_still_send),
        cmocka_unit_test(inbox_does_not_settle_what_lua_has_not_taken),
        cmocka_unit_test(inbox_is_full_when_its_room_is_unsettled),
        cmocka_unit_test(inbox_detaches_what_is_borrowed),
        cmocka_unit_test(inbox_message_that_is_kept_outlives_its_settlement),
        cmocka_unit_test(inbox_positions_may_wrap),
        cmocka_unit_test(inbox_tells_how_long_each_waited_for_its_handler),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
