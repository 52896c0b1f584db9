/* ticks_spec.c - what ticks.h and native.h promise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <cmocka.h>
#include "measure/profile.h"
#include "measure/ticks.h"

static volatile int inside, asked;
static volatile uint32_t labels;

static void ask(int number) {
    (void)number;
    asked++;
}

static double processor(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

__attribute__((noinline)) static void burn(double seconds) {
    double until = processor() + seconds;
    for (volatile int i = 0; i % 100000 || processor() < until; i++) {
    }
}

static int has(const mx_tick *t, const char *name) {
    const char *library;
    for (int i = 0; i < t->depth; i++) {
        const char *found = mx_native_name(t->pc[i], &library);
        if (found && !strcmp(found, name)) return 1;
    }
    return 0;
}

static void drop_all(void) {
    while (mx_ticks_first()) mx_ticks_take();
}

static void ticks_count_processor_time_and_know_the_c_stack(void **state) {
    (void)state;
    uint32_t weight = 0, named = 0, count = 0;
    mx_native_look();
    labels = 7;
    assert_int_equal(mx_ticks_set(10000), 0);
    double from = processor();
    burn(0.4);
    mx_ticks_set(0);
    double took = processor() - from;
    for (const mx_tick *t; (t = mx_ticks_first()); mx_ticks_take(), count++) {
        weight += t->weight;
        named += has(t, "burn") && has(t, "ticks_count_processor_time_and_know_the_c_stack");
        assert_int_equal(t->labels, 7);
        assert_int_equal(t->inside, MX_IN_C);
    }
    assert_true(weight * 0.01 > 0.7 * took && weight * 0.01 < 1.3 * took);
    assert_true(named * 2 > count); /* the library of the clock keeps no frame pointers */
    assert_int_equal(asked, 0);
}

static void while_lua_runs_the_vm_is_asked(void **state) {
    (void)state;
    inside = MX_IN_LUA;
    mx_ticks_set(5000);
    burn(0.1);
    mx_ticks_set(0);
    inside = MX_IN_C;
    assert_true(asked > 0);
    drop_all();
}

static void what_finds_no_room_is_given_to_the_next(void **state) {
    (void)state;
    uint32_t weight = 0, count = 0;
    mx_ticks_set(4000);
    burn(0.6); /* more than there is room for */
    drop_all();
    double from = processor();
    while (!mx_ticks_first() && processor() < from + 10) burn(0.02); /* the kernel looks at the clock when it ticks, not always */
    mx_ticks_set(0);
    for (const mx_tick *t; (t = mx_ticks_first()); mx_ticks_take(), count++) weight += t->weight;
    assert_true(count > 0);
    assert_true(weight * 0.004 > 1.5 * (processor() - from));
}

static void a_walk_from_here_knows_who_called(void **state) {
    (void)state;
    mx_tick t = {.depth = 0};
    mx_native_look();
    t.depth = mx_native_walk(NULL, t.pc);
    assert_true(t.depth > 0);
    assert_true(has(&t, "a_walk_from_here_knows_who_called"));
}

int main(void) {
    mx_ticks_start(&inside, &labels, ask);
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(ticks_count_processor_time_and_know_the_c_stack),
        cmocka_unit_test(while_lua_runs_the_vm_is_asked),
        cmocka_unit_test(what_finds_no_room_is_given_to_the_next),
        cmocka_unit_test(a_walk_from_here_knows_who_called),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
