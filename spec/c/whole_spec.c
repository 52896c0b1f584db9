/* whole_spec.c - what whole.h and report.h promise, without a socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>
#include "worker/whole.h"

static mx_shards *shards;
static mx_whole whole;
static int fd;

static void say(int i, const char *why, int health, const char *text) {
    mx_report_write(&shards->shard[i].report, why, health, text, strlen(text));
}

/* Two workers that are up, ready and healthy. */
static int before(void **state) {
    (void)state;
    static const mx_options none;
    uv_loop_t *no_loop = NULL;
    shards = mx_shards_new(2, 1, &fd);
    whole = (mx_whole){0};
    if (!shards || mx_whole_open(&whole, no_loop, shards, &none)) return 1;
    for (int i = 0; i < 2; i++) {
        mx_slab_init(mx_shards_slab(shards, (uint32_t)i), MX_SLAB_BYTES);
        shards->shard[i].pid = 1;
        shards->shard[i].state = MX_UP;
        say(i, NULL, MX_HEALTHY, "{}");
    }
    return 0;
}

static int after(void **state) {
    (void)state;
    mx_slab_use(NULL);
    mx_shards_free(shards);
    return close(fd);
}

static void answers(const char *path, int status, const char *text) {
    mx_http_said said = mx_whole_hear(&whole, &(mx_http_request){1, path, "", ""});
    assert_string_equal(said.text, text);
    assert_int_equal(said.size, strlen(text));
    assert_int_equal(said.status, status);
    free(said.text);
}

static double number(const char *name) {
    mx_http_said said = mx_whole_hear(&whole, &(mx_http_request){1, "/metrics", "", ""});
    const char *at = said.text - 1;
    do at = strstr(at + 1, name);
    while (at && (at[strlen(name)] != ' ' || at[-1] != '\n'));
    double n = at ? strtod(at + strlen(name), NULL) : -1;
    free(said.text);
    return n;
}

static void the_whole_is_live_while_no_loop_stands_still(void **state) {
    (void)state;
    answers("/live", 200, "ok\n");
    shards->shard[0].state = MX_STARTING;
    shards->shard[1].pid = 0;
    answers("/live", 200, "ok\n");
    shards->shard[0].still_ms = 4000;
    answers("/live", 503, "worker 1: its loop does not turn\n");
}

static void the_whole_is_ready_when_each_is_up_and_says_so(void **state) {
    (void)state;
    answers("/ready", 200, "ready\n");
    shards->shard[0].state = MX_STARTING;
    say(1, "mem: no connection to publish", MX_HEALTHY, "{}");
    answers("/ready", 503, "worker 1: starting\nworker 2: mem: no connection to publish\n");
    shards->shard[0].pid = 0;
    shards->shard[1].report.version = 0;
    answers("/ready", 503, "worker 1: down\nworker 2: it has said nothing yet\n");
    say(1, NULL, MX_HEALTHY, "{}");
    shards->shard[0].ended = 1;
    answers("/ready", 200, "ready\n");
}

static void the_whole_is_as_healthy_as_its_worst(void **state) {
    (void)state;
    say(1, NULL, MX_DEGRADED, "{\"checks\":{}}");
    answers("/health", 200,
            "{\"status\":\"degraded\",\"workers\":[{\"number\":1,\"state\":\"up\",\"status\":\"healthy\"},"
            "{\"number\":2,\"state\":\"up\",\"status\":\"degraded\",\"checks\":{}}]}\n");
    shards->shard[0].pid = 0;
    say(1, NULL, MX_HEALTHY, "{}");
    answers("/health", 503,
            "{\"status\":\"unhealthy\",\"workers\":[{\"number\":1,\"state\":\"down\",\"status\":\"unhealthy\"},"
            "{\"number\":2,\"state\":\"up\",\"status\":\"healthy\"}]}\n");
}

static void sums_do_not_fall_when_a_worker_is_gone(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        mx_slab_use(mx_shards_slab(shards, i));
        mx_series_new(MX_COUNTER, "a_total", "")->value = 3;
        mx_series_new(MX_GAUGE, "g", "")->value = 5;
    }
    mx_slab_use(mx_shards_slab(shards, 2));
    assert_true(number("a_total") == 6 && number("g") == 10);
    mx_whole_keep(&whole, 1);
    assert_true(number("a_total") == 6 && number("g") == 5);
    mx_whole_keep(&whole, 0);
    mx_whole_keep(&whole, 0);
    assert_true(number("a_total") == 6 && number("g") == -1);
}

static void the_whole_counts_its_workers(void **state) {
    (void)state;
    shards->restarts = 7;
    shards->shard[0].pid = 0;
    assert_true(number("mxrun_workers{state=\"up\"}") == 1 && number("mxrun_workers{state=\"down\"}") == 1);
    assert_true(number("mxrun_workers{state=\"stuck\"}") == 0 && number("mxrun_worker_restarts_total") == 7);
}

static void a_report_is_whole_while_the_next_is_written(void **state) {
    (void)state;
    static mx_report r;
    mx_report_page page;
    assert_int_equal(mx_report_read(&r, &page), 0);
    for (int i = 0; i < 5; i++) {
        char text[] = "{0}";
        text[1] = (char)('0' + i);
        mx_report_write(&r, NULL, MX_HEALTHY, text, 3);
        memset(&r.page[~r.version & 1], 0xff, sizeof r.page[0]); /* the next */
        assert_int_equal(mx_report_read(&r, &page), 1);
        assert_memory_equal(page.text, text, 3);
        assert_true(page.ready && page.size == 3);
    }
    mx_report_write(&r, "why", 9, "{}", MX_REPORT_BYTES + 1);
    assert_int_equal(mx_report_read(&r, &page), 1);
    assert_true(!page.ready && page.size == 0 && page.health == MX_UNHEALTHY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_whole_is_live_while_no_loop_stands_still, before, after),
        cmocka_unit_test_setup_teardown(the_whole_is_ready_when_each_is_up_and_says_so, before, after),
        cmocka_unit_test_setup_teardown(the_whole_is_as_healthy_as_its_worst, before, after),
        cmocka_unit_test_setup_teardown(sums_do_not_fall_when_a_worker_is_gone, before, after),
        cmocka_unit_test_setup_teardown(the_whole_counts_its_workers, before, after),
        cmocka_unit_test(a_report_is_whole_while_the_next_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
