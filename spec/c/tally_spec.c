/* tally_spec.c - what tally.h promises, and stamp.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <unistd.h>
#include "base/clock.h"
#include "link/confirm.h"
#include "measure/hist.h"
#include "measure/tally.h"
#include "message/props.h"

enum { PRODUCERS = 2, WORKERS = 2, WINDOW = MX_TALLY_SLOTS * MX_TALLY_BLOCK };
static mx_tallies *t;
static double last[PRODUCERS];

static int begin(void **state) {
    (void)state;
    t = mx_tallies_new(WORKERS, PRODUCERS);
    t->start = t->from = 100;
    memset(last, 0, sizeof last);
    return t ? 0 : -1;
}

static int finish(void **state) {
    (void)state;
    close(mx_tallies_fd(t));
    return 0;
}

static mx_stamp stamp(uint32_t producer, double number) {
    return (mx_stamp){.run = t->run, .producer = producer, .number = number, .due = 101, .sent = 102};
}

static void arrive(double number) {
    mx_stamp s = stamp(0, number);
    mx_tally_take(t, 1, &s, 1, 0, last, 103);
}

static mx_tally *of(uint32_t number) { return mx_tally_of(t, number); }
static mx_hist *hist(int which) { return mx_tally_hist(t, 1, which); }

static void tally_counts_a_second_arrival_as_a_duplicate(void **state) {
    (void)state;
    for (int i = 1; i <= 100; i++) arrive(i);
    arrive(7);
    arrive(100);
    assert_true(of(1)->arrived == 100 && of(1)->duplicated == 2 && of(1)->reordered == 0 && of(1)->strange == 0);
}

static void tally_counts_what_comes_after_a_later_one_as_reordered(void **state) {
    (void)state;
    arrive(1), arrive(3), arrive(2), arrive(4);
    assert_true(of(1)->arrived == 4 && of(1)->reordered == 1 && of(1)->duplicated == 0);
    assert_true(mx_tally_has(t, 0, 2) && !mx_tally_has(t, 0, 5) && !mx_tally_has(t, 1, 2));
}

static void tally_knows_in_one_process_what_arrived_in_another(void **state) {
    (void)state;
    mx_tallies *other = mx_tallies_map(mx_tallies_fd(t));
    assert_true(other && other != t && other->run == t->run);
    arrive(1);
    mx_stamp s = stamp(0, 1);
    double mine[PRODUCERS] = {0};
    mx_tally_take(other, 2, &s, 1, 0, mine, 103);
    assert_true(of(1)->arrived == 1 && of(2)->arrived == 0 && of(2)->duplicated == 1);
}

static void tally_counts_a_loss_however_far_the_run_has_gone(void **state) {
    (void)state;
    const int all = 3 * WINDOW + 77;
    for (int i = 1; i <= all; i++)
        if (i != 5 && i != 100000 && i != all - 3) arrive(i);
    assert_true(of(1)->arrived == all - 3 && of(1)->duplicated == 0);
    arrive(5), arrive(100000), arrive(all - 3); /* late, and not lost */
    assert_true(of(1)->arrived == all && of(1)->duplicated == 0 && of(1)->reordered == 3);
    arrive(6);
    arrive(all - 2);
    assert_true(of(1)->arrived == all && of(1)->duplicated == 2);
}

static void tally_keeps_apart_what_is_not_of_this_run(void **state) {
    (void)state;
    mx_stamp s = stamp(0, 1), odd = stamp(PRODUCERS, 1), none = stamp(0, 0);
    mx_tally_take(t, 1, NULL, 1, 0, last, 103);
    mx_tally_take(t, 1, &odd, 1, 0, last, 103);
    mx_tally_take(t, 1, &none, 1, 0, last, 103);
    mx_tally_take(t, 1, &s, 1, 0, last, 103);
    assert_true(of(1)->received == 4 && of(1)->strange == 3 && of(1)->arrived == 1);
}

static void tally_measures_from_when_it_was_due_and_from_when_it_was_sent(void **state) {
    (void)state;
    arrive(1);
    assert_true(mx_hist_max(hist(MX_TALLY_E2E)) == 2 && mx_hist_max(hist(MX_TALLY_E2E_RAW)) == 1);
}

static void tally_leaves_the_warm_up_out_of_all_but_the_check(void **state) {
    (void)state;
    mx_stamp s = stamp(0, 1);
    s.due = 99;
    mx_tally_take(t, 1, &s, 1, 0, last, 99.5);
    mx_tally_sent(t, 1, 99, 0.5);
    assert_true(of(1)->received == 0 && of(1)->arrived == 1 && of(1)->published == 1 && of(1)->sent == 0 && of(1)->late == 0);
    assert_true(mx_hist_count(hist(MX_TALLY_E2E)) == 0 && mx_hist_count(hist(MX_TALLY_LAG)) == 0);
}

static void tally_counts_who_was_late(void **state) {
    (void)state;
    mx_tally_sent(t, 1, 101, 0.0005);
    mx_tally_sent(t, 1, 101, 0.002);
    mx_tally_sent(t, 1, 101, -1); /* it had no schedule */
    assert_true(of(1)->sent == 3 && of(1)->late == 1 && mx_hist_count(hist(MX_TALLY_LAG)) == 2);
}

static void a_probe_measures_confirms(void **state) {
    (void)state;
    mx_timers timers = {0};
    mx_waitroom room;
    mx_confirm c;
    mx_hist *before = mx_hist_new();
    double now = mx_now();
    mx_waits_init(&room, &timers);
    mx_confirm_init(&c, 5, 1, &room.pub, &timers, before);
    mx_probe *p = mx_pub_probe(&c.pub, t, 1);
    assert_int_equal(p->mask, 7);
    t->from = now - 10;
    p->due[1] = now - 1, p->due[2] = now - 2, p->due[3] = now - 20; /* the last was warm-up */
    for (int i = 0; i < 3; i++) mx_confirm_add(&c, (uint64_t)(now * 1e6), 0, 0, NULL);
    mx_confirm_settle(&c, 2, 0, 0);
    mx_confirm_settle(&c, 3, 1, 0);
    mx_hist *corrected = hist(MX_TALLY_CONFIRM), *raw = hist(MX_TALLY_CONFIRM_RAW);
    assert_true(of(1)->confirmed == 2 && mx_hist_count(corrected) == 2 && mx_hist_count(raw) == 2 && mx_hist_count(before) == 0);
    assert_true(mx_hist_percentile(corrected, 1) >= 1 && mx_hist_max(corrected) >= 2 && mx_hist_max(raw) < 1);
    mx_confirm_fini(&c);
    mx_waits_fini(&room);
    mx_timers_fini(&timers);
    mx_hist_free(before);
}

static void a_stamp_is_found_in_the_body_or_in_a_header(void **state) {
    (void)state;
    uint8_t body[64] = {0}, table[64], bytes[128], *at = table;
    mx_stamp s = stamp(1, 1);
    memcpy(body, &s, sizeof s);
    mx_msg m = {.body = body, .size = sizeof body};
    t->from = 0;
    mx_tally_receive(t, 1, &m, 1, 0, last);
    assert_true(of(1)->arrived == 1);

    s.number = 2;
    memcpy(at, "\x0ax-mx-benchS\0\0\0\x20", 16), at += 16;
    memcpy(at, &s, sizeof s), at += sizeof s;
    mx_props p = {.flags = MX_P_HEADERS, .headers = {table, (size_t)(at - table)}};
    int n = mx_props_encode(&p, bytes, sizeof bytes);
    assert_true(n > 0);
    m = (mx_msg){.body = body, .size = 3, .props = bytes, .props_size = (uint32_t)n};
    mx_tally_receive(t, 1, &m, 1, 0, last);
    assert_true(of(1)->arrived == 2 && of(1)->strange == 0);

    m.props_size = 2; /* flags that say nothing */
    memset(bytes, 0, 2);
    mx_tally_receive(t, 1, &m, 1, 0, last);
    assert_true(of(1)->strange == 1);
}

static void usage_only_grows(void **state) {
    (void)state;
    mx_usage a, b;
    mx_usage_read(&a);
    for (volatile int i = 0; i < 10000000; i++) continue;
    mx_usage_read(&b);
    assert_true(b.user + b.system >= a.user + a.system && b.ran > a.ran && b.waited >= a.waited && b.peak_rss > 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, begin, finish)

int main(void) {
    const struct CMUnitTest cases[] = {
        CASE(tally_counts_a_second_arrival_as_a_duplicate),
        CASE(tally_counts_what_comes_after_a_later_one_as_reordered),
        CASE(tally_knows_in_one_process_what_arrived_in_another),
        CASE(tally_counts_a_loss_however_far_the_run_has_gone),
        CASE(tally_keeps_apart_what_is_not_of_this_run),
        CASE(tally_measures_from_when_it_was_due_and_from_when_it_was_sent),
        CASE(tally_leaves_the_warm_up_out_of_all_but_the_check),
        CASE(tally_counts_who_was_late),
        CASE(a_probe_measures_confirms),
        CASE(a_stamp_is_found_in_the_body_or_in_a_header),
        CASE(usage_only_grows),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
