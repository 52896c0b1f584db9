/* timer_spec.c - what the heap of deadlines promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>
#include "base/mx.h"
#include "base/timer.h"

static mx_timers timers;
static uint64_t last_due;
static int fired;

static void on_fire(mx_timer *t, void *arg) {
    (void)arg;
    assert_true(t->due_us >= last_due);
    assert_int_equal(t->place, 0);
    last_due = t->due_us;
    fired++;
}

static void timers_fire_in_order(void **state) {
    enum { N = 2000 };
    static mx_timer t[N];
    (void)state;
    srand(7);
    last_due = 0, fired = 0;
    for (int i = 0; i < N; i++) {
        t[i].fire = on_fire;
        mx_timer_set(&timers, &t[i], (uint64_t)rand() % 10000);
    }
    for (int i = 0; i < N; i += 3) mx_timer_set(&timers, &t[i], (uint64_t)rand() % 10000);
    for (int i = 1; i < N; i += 5) mx_timer_stop(&timers, &t[i]);
    mx_timers_run(&timers, 5000);
    assert_true(mx_timers_next(&timers) > 5000);
    mx_timers_run(&timers, 10000);
    assert_int_equal(fired, N - (N + 3) / 5);
    assert_int_equal(timers.count, 0);
    mx_timers_fini(&timers);
}

static void on_again(mx_timer *t, void *arg) {
    (void)arg;
    if (++fired < 3) mx_timer_set(&timers, t, t->due_us + 10);
}

static void a_timer_may_set_itself_again(void **state) {
    mx_timer t = {.fire = on_again};
    (void)state;
    fired = 0;
    mx_timer_set(&timers, &t, 10);
    assert_int_equal(mx_timers_run(&timers, 100), 3);
    assert_true(mx_timers_next(&timers) == UINT64_MAX);
    mx_timer_stop(&timers, &t);
    mx_timers_fini(&timers);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(timers_fire_in_order), cmocka_unit_test(a_timer_may_set_itself_again)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
