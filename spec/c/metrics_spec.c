/* metrics_spec.c - what metrics.h promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include "measure/metrics.h"

enum { ROOM = 2 << 20 };
static mx_slab *slab[2];

static int set_up(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) slab[i] = mx_slab_init(mx_zalloc(ROOM), ROOM);
    mx_slab_use(slab[0]);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) free(slab[i]);
    return 0;
}

static mx_series *with(int kind, const char *name, const char *labels, double value) {
    mx_series *s = mx_series_new(kind, name, labels);
    if (s) s->value = value;
    return s;
}

static void says(const mx_slab *const *slabs, int count, int openmetrics, const char *want) {
    size_t size;
    char *text = mx_metrics_write(slabs, count, openmetrics, &size);
    assert_string_equal(text, want);
    assert_int_equal(size, strlen(want));
    free(text);
}

#define ONE (const mx_slab *const *)slab, 1, 0
#define BOTH (const mx_slab *const *)slab, 2, 0

static void metrics_are_sorted_into_families(void **state) {
    (void)state;
    with(MX_GAUGE, "b", "", 0.1);
    with(MX_COUNTER, "a_total", "x=\"2\"", 2);
    with(MX_COUNTER, "a_total", "x=\"1\"", 1e15);
    with(MX_HELP, "a_total", "of a", 0);
    says(ONE, "# HELP a_total of a\n# TYPE a_total counter\na_total{x=\"1\"} 1e+15\na_total{x=\"2\"} 2\n# TYPE b gauge\nb 0.1\n");
    says((const mx_slab *const *)slab, 1, 1,
         "# HELP a of a\n# TYPE a counter\na_total{x=\"1\"} 1e+15\na_total{x=\"2\"} 2\n# TYPE b gauge\nb 0.1\n# EOF\n");
}

static void metrics_of_one_name_and_labels_are_added_up(void **state) {
    (void)state;
    with(MX_COUNTER, "a", "x=\"1\"", 1);
    with(MX_COUNTER, "a", "x=\"1\"", 2);
    mx_hist_record(mx_series_hist(with(MX_HISTOGRAM, "h", "", 0)), 0.0001);
    mx_slab_use(slab[1]);
    with(MX_COUNTER, "a", "x=\"1\"", 4);
    with(MX_COUNTER, "a", "x=\"2\"", 8);
    mx_hist *h = mx_series_hist(with(MX_HISTOGRAM, "h", "", 0));
    mx_hist_record(h, 0.0002);
    mx_hist_record(h, 100);
    size_t size;
    char *text = mx_metrics_write(BOTH, &size);
    assert_non_null(strstr(text, "a{x=\"1\"} 7\na{x=\"2\"} 8\n"));
    assert_non_null(strstr(text, "h_bucket{le=\"0.0001\"} 1\nh_bucket{le=\"0.00025\"} 2\n"));
    assert_non_null(strstr(text, "h_bucket{le=\"60.0\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 100.0003\nh_count 3\n"));
    free(text);
}

static void metrics_that_were_dropped_are_gone_and_their_room_is_used_again(void **state) {
    (void)state;
    mx_series *s = with(MX_HISTOGRAM, "h", "queue=\"the name of a queue that needs some room\"", 0);
    mx_hist_tick(1000 * 1000000);
    for (int i = 1; i < 1000; i++) mx_hist_record(mx_series_hist(s), i);
    uint64_t used = slab[0]->used;
    mx_series_drop(s);
    says(ONE, "");
    mx_series *again = with(MX_HISTOGRAM, "h", "queue=\"b\"", 0);
    assert_ptr_equal(again, s);
    assert_true(slab[0]->used == used && slab[0]->free == 0);
    assert_true(mx_hist_count(mx_series_hist(again)) == 0 && mx_hist_recent(mx_series_hist(again), 100) == 0);
    for (size_t i = 0; i < sizeof(mx_hist); i++) assert_true(((char *)mx_series_hist(again))[i] == 0);
}

static void metrics_beyond_the_room_are_refused(void **state) {
    (void)state;
    int n = 0;
    while (with(MX_HISTOGRAM, "h", "", 0)) n++;
    assert_true(n > 2 && n < 10);
    assert_non_null(with(MX_COUNTER, "c", "", 1));
    assert_true(slab[0]->used <= ROOM);
}

static void metrics_write_numbers_that_are_none(void **state) {
    (void)state;
    with(MX_GAUGE, "a", "", 0.0 / 0.0);
    with(MX_GAUGE, "b", "", 1 / 0.0);
    with(MX_GAUGE, "c", "", -1 / 0.0);
    with(MX_GAUGE, "d", "", 1 / 3.0);
    with(MX_GAUGE, "e", "", 123456789012345678.0);
    says(ONE, "# TYPE a gauge\na NaN\n# TYPE b gauge\nb +Inf\n# TYPE c gauge\nc -Inf\n# TYPE d gauge\nd 0.33333333333333331\n"
              "# TYPE e gauge\ne 1.2345678901234568e+17\n");
}

static void what_a_slab_counted_is_kept_in_another_without_its_gauges(void **state) {
    (void)state;
    with(MX_COUNTER, "a", "x=\"1\"", 1);
    mx_hist_record(mx_series_hist(with(MX_HISTOGRAM, "h", "", 0)), 0.0001);
    mx_slab_use(slab[1]);
    with(MX_COUNTER, "a", "x=\"1\"", 4);
    with(MX_COUNTER, "a", "x=\"2\"", 8);
    with(MX_GAUGE, "g", "", 16);
    with(MX_HELP, "a", "of a", 0);
    mx_hist *h = mx_series_hist(with(MX_HISTOGRAM, "h", "", 0));
    mx_hist_record(h, 0.0002);
    mx_hist_record(h, 3);
    mx_slab_use(slab[0]);
    mx_slab_keep(slab[1]);
    size_t size;
    char *kept = mx_metrics_write(ONE, &size);
    assert_non_null(strstr(kept, "# HELP a of a\n# TYPE a counter\na{x=\"1\"} 5\na{x=\"2\"} 8\n# TYPE h histogram\n"));
    assert_non_null(strstr(kept, "h_bucket{le=\"0.0001\"} 1\nh_bucket{le=\"0.00025\"} 2\n"));
    assert_non_null(strstr(kept, "h_bucket{le=\"5.0\"} 3\n"));
    assert_non_null(strstr(kept, "h_sum 3.0003\nh_count 3\n"));
    free(kept);
    mx_slab_keep(slab[1]);
    kept = mx_metrics_write(ONE, &size);
    assert_non_null(strstr(kept, "a{x=\"1\"} 9\na{x=\"2\"} 16\n"));
    assert_non_null(strstr(kept, "h_count 5\n"));
    free(kept);
}

static void nothing_is_dropped_from_a_sealed_slab(void **state) {
    (void)state;
    mx_series *s = with(MX_COUNTER, "a", "", 1);
    mx_slab_seal();
    mx_series_drop(s);
    says(ONE, "# TYPE a counter\na 1\n");
}

/* A worker may have died of what it wrote there. */
static void a_slab_ends_where_there_is_no_record(void **state) {
    (void)state;
    with(MX_COUNTER, "a", "", 1);
    mx_series *b = with(MX_COUNTER, "b", "", 2);
    with(MX_COUNTER, "c", "", 4);
    mx_series was = *b;
    mx_series wrong[] = {was, was, was, was, was};
    wrong[0].size = 0;
    wrong[1].size = ROOM;
    wrong[2].kind = MX_HISTOGRAM;
    wrong[3].kind = 77;
    wrong[4].name_size = 65535;
    for (int i = 0; i < 5; i++) {
        *b = wrong[i];
        says(ONE, "# TYPE a counter\na 1\n");
    }
    *b = was;
    says(ONE, "# TYPE a counter\na 1\n# TYPE b counter\nb 2\n# TYPE c counter\nc 4\n");
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void) {
    const struct CMUnitTest cases[] = {
        CASE(metrics_are_sorted_into_families),
        CASE(metrics_of_one_name_and_labels_are_added_up),
        CASE(metrics_that_were_dropped_are_gone_and_their_room_is_used_again),
        CASE(metrics_beyond_the_room_are_refused),
        CASE(metrics_write_numbers_that_are_none),
        CASE(what_a_slab_counted_is_kept_in_another_without_its_gauges),
        CASE(nothing_is_dropped_from_a_sealed_slab),
        CASE(a_slab_ends_where_there_is_no_record),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
