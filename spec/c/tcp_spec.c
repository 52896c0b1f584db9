/* tcp_spec.c - what stream.h promises of an end: it is told once, from the loop, with a reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "wire/stream.h"

static uv_loop_t loop;
static int ups, downs, gones;
static char reason[200];

static void on_up(void *arg) { (void)arg, ups++; }
static void on_room(void *arg, uint8_t **p, size_t *n) { (void)arg, *p = NULL, *n = 0; }
static void on_data(void *arg, size_t n) { (void)arg, (void)n; }
static void on_drained(void *arg, size_t n) { (void)arg, (void)n; }
static void on_down(void *arg, const char *why) {
    mx_stream **s = arg;
    downs++;
    strncpy(reason, why, sizeof reason - 1);
    mx_stream_close(*s);
}
static void on_gone(void *arg) { (void)arg, gones++; }
static const mx_stream_events events = {on_up, on_room, on_data, on_drained, on_down, on_gone};

static int before(void **state) {
    (void)state;
    ups = downs = gones = 0;
    *reason = 0;
    return uv_loop_init(&loop);
}

static int after(void **state) {
    (void)state;
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop); /* nothing is left open */
}

static char *long_name(void) {
    static char name[301];
    memset(name, 'a', 300);
    return name;
}

static void tcp_says_why_a_name_is_not_even_looked_up(void **state) {
    mx_stream *s;
    (void)state;
    s = mx_tcp_open(&loop, long_name(), "5672", 0, &events, &s);
    assert_int_equal(downs, 0); /* not from within the call */
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(downs == 1 && gones == 1 && ups == 0);
    assert_true(strlen(reason) > 3);
}

static void tcp_closes_before_it_could_say_so(void **state) {
    mx_stream *s;
    (void)state;
    s = mx_tcp_open(&loop, long_name(), "5672", 0, &events, &s);
    mx_stream_close(s);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(downs == 0 && gones == 1);
}

static void tcp_says_that_nobody_listens(void **state) {
    mx_stream *s;
    (void)state;
    s = mx_tcp_open(&loop, "127.0.0.1", "1", 0, &events, &s);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(downs == 1 && gones == 1 && ups == 0);
    assert_string_equal(reason, "connection refused");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tcp_says_why_a_name_is_not_even_looked_up, before, after),
        cmocka_unit_test_setup_teardown(tcp_closes_before_it_could_say_so, before, after),
        cmocka_unit_test_setup_teardown(tcp_says_that_nobody_listens, before, after),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
