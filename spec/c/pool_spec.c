/* pool_spec.c - which link of a pool gets the next channel. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include "base/mx.h"
#include "link/link.h"

static mx_runtime runtime;
static mx_link_base links[3];
static mx_pool *pool;
static int woken;

static void wake(mx_runtime *r) {
    (void)r;
    woken++;
}

static int before(void **state) {
    (void)state;
    runtime = (mx_runtime){.wake = wake};
    woken = 0;
    mx_waits_init(&runtime.waits, &runtime.timers);
    pool = mx_pool_new(&runtime, 2);
    for (int i = 0; i < 3; i++) {
        links[i] = (mx_link_base){.pub = {.state = MX_OPEN}};
        mx_link_attach(&runtime, &links[i]);
        mx_pool_add(pool, &links[i].pub);
    }
    return 0;
}

static int after(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) mx_link_detach(&links[i]);
    mx_pool_free(pool);
    mx_waits_fini(&runtime.waits);
    mx_timers_fini(&runtime.timers);
    return 0;
}

static void take(int i, int n) {
    while (n--) mx_link_take_channel(&links[i]);
}

static void the_least_used_gets_it(void **state) {
    (void)state;
    take(0, 2), take(1, 1), take(2, 2);
    assert_ptr_equal(mx_pool_least_used(pool, 1), &links[1].pub);
}

static void without_room_none_gets_it(void **state) {
    (void)state;
    take(0, 2), take(1, 2), take(2, 2);
    assert_null(mx_pool_least_used(pool, 1));
    assert_non_null(mx_pool_least_used(pool, 0));
}

static void the_broker_may_allow_fewer(void **state) {
    (void)state;
    take(0, 1), take(1, 2), take(2, 2);
    links[0].pub.channel_max = 1;
    assert_null(mx_pool_least_used(pool, 1));
}

static void what_is_not_open_gets_none(void **state) {
    (void)state;
    take(1, 1), take(2, 1);
    links[0].pub.state = MX_CLOSED;
    links[1].pub.state = MX_OPENING;
    assert_ptr_equal(mx_pool_least_used(pool, 1), &links[2].pub);
    mx_link_detach(&links[2]);
    assert_null(mx_pool_least_used(pool, 1));
}

static void who_waits_hears_of_a_channel_given_back(void **state) {
    (void)state;
    mx_waits *w = &runtime.waits.pub;
    for (int i = 0; i < 20; i++) mx_pool_wait(pool, mx_wait_new(w, -1));
    take(0, 1);
    assert_int_equal(w->tail - w->head, 0);
    mx_link_give_channel(&links[0]);
    assert_int_equal(w->tail - w->head, 20);
    assert_true(woken);
    mx_pool_wait(pool, mx_wait_new(w, -1));
    assert_int_equal(w->tail - w->head, 20);
}

static void it_may_go_before_its_links(void **state) {
    (void)state;
    mx_pool_free(pool);
    take(0, 1);
    mx_link_give_channel(&links[0]);
    pool = mx_pool_new(&runtime, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_least_used_gets_it, before, after),
        cmocka_unit_test_setup_teardown(without_room_none_gets_it, before, after),
        cmocka_unit_test_setup_teardown(the_broker_may_allow_fewer, before, after),
        cmocka_unit_test_setup_teardown(what_is_not_open_gets_none, before, after),
        cmocka_unit_test_setup_teardown(who_waits_hears_of_a_channel_given_back, before, after),
        cmocka_unit_test_setup_teardown(it_may_go_before_its_links, before, after),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
