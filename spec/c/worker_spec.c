/* worker_spec.c - what worker.h promises of turns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/clock.h"
#include "worker/worker.h"

static mx_worker w;
static mx_timer timer;
static int turns, fired;

static void on_timer(mx_timer *t, void *arg) { (void)t, (void)arg, fired++; }

static int before(void **state) {
    (void)state;
    turns = fired = 0;
    timer = (mx_timer){.fire = on_timer};
    return mx_worker_init(&w);
}

static int after(void **state) {
    (void)state;
    mx_timer_stop(&w.runtime.timers, &timer);
    mx_worker_fini(&w);
    return 0;
}

/* A timer is due, and more is to do, when the turn says that it was the last one. */
static int last_turn(void *arg) {
    mx_worker *self = arg;
    turns++;
    self->runtime.turn.again = self->runtime.news = 1;
    mx_timer_set(&self->runtime.timers, &timer, mx_clock_us() - 1);
    return 1;
}

static void a_worker_takes_no_turn_after_the_last_one(void **state) {
    (void)state;
    w.turn = last_turn;
    w.turn_arg = &w;
    mx_worker_run(&w);
    assert_int_equal(turns, 1);
}

static int third_turn(void *arg) {
    mx_worker *self = arg;
    mx_timer_set(&self->runtime.timers, &timer, mx_clock_us() + 1000);
    return ++turns == 3;
}

static void a_timer_brings_a_turn(void **state) {
    (void)state;
    w.turn = third_turn;
    w.turn_arg = &w;
    mx_worker_run(&w);
    assert_true(turns == 3 && fired >= 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_worker_takes_no_turn_after_the_last_one, before, after),
        cmocka_unit_test_setup_teardown(a_timer_brings_a_turn, before, after),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
