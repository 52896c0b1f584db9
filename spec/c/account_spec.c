/* account_spec.c - each owner of bytes gives back what it took, and the limit leaves Lua what is left of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include "measure/account.h"
#include "message/inbox.h"
#include "wire/sendq.h"

static int before(void **state) {
    (void)state;
    mx_memory_shrink();
    return 0;
}

static int after(void **state) {
    (void)state;
    mx_memory_shrink();
    for (int i = 0; i < MX_OF_ALL; i++) assert_int_equal(mx_held_by[i], 0);
    return 0;
}

static mx_message *message(size_t n) {
    char *body = mx_zalloc(n);
    mx_message *m = mx_message_append(mx_message_new((mx_span){0}, mx_span_of("key"), (mx_span){0}, 10), body, n);
    free(body);
    return m;
}

static void messages_of_each_size_are_counted_once(void **state) {
    (void)state;
    size_t sizes[] = {0, 1, 100, 500, 3000, 5000, 100000, 3000000};
    mx_message *m[8];
    size_t sum = 0;
    for (int i = 0; i < 8; i++) m[i] = message(sizes[i]), sum += sizes[i];
    assert_in_range(mx_held_by[MX_OF_MESSAGES], sum, 3 * sum);
    for (int i = 0; i < 8; i++) mx_message_unref(m[i]);
    assert_int_equal(mx_held_by[MX_OF_MESSAGES], 0);
}

static void what_a_pool_keeps_is_counted_until_it_shrinks(void **state) {
    (void)state;
    mx_memory_pool_stats p;
    mx_message *m = message(500);
    mx_message_unref(m);
    int i = 0;
    while (mx_memory_pool(i, &p) && strcmp(p.name, "messages")) i++;
    assert_string_equal(p.name, "messages");
    assert_true(p.live == 0);
#ifndef __SANITIZE_ADDRESS__
    assert_true(p.free >= 1);
    assert_true(mx_held_by[MX_OF_POOLS] >= 500);
#endif
    mx_memory_shrink();
    mx_memory_pool(i, &p);
    assert_true(p.free == 0);
    assert_int_equal(mx_held_by[MX_OF_POOLS], 0);
    assert_int_equal(mx_memory_pool(1000, &p), 0);
}

static void what_goes_out_is_counted_until_nobody_holds_it(void **state) {
    (void)state;
    mx_sendq q = {0};
    uint8_t *p = mx_sendq_reserve(&q, 1000000);
    mx_sendq_add(&q, 1000000);
    mx_sendq_hold(p);
    assert_true(mx_held_by[MX_OF_OUTPUT] >= 1000000);
    mx_sendq_wrote(&q, 1000000);
    mx_sendq_clear(&q);
    assert_true(mx_held_by[MX_OF_OUTPUT] >= 1000000);
    mx_sendq_release(p);
    assert_int_equal(mx_held_by[MX_OF_OUTPUT], 0);
}

static void an_inbox_is_counted_and_knows_what_lies_in_it(void **state) {
    (void)state;
    mx_inbox ib;
    mx_inbox_init(&ib, 100);
    assert_int_equal(mx_held_by[MX_OF_DELIVERIES], 128 * sizeof(mx_msg));
    for (int i = 0; i < 3; i++) {
        mx_inbox_point(mx_inbox_slot(&ib), message(1000));
        ib.tail++;
    }
    mx_inbox_at(&ib, 1)->verdict = MX_ACK;
    assert_true(mx_inbox_bytes(&ib) == 2000);
    mx_inbox_fini(&ib);
}

static void the_limit_leaves_lua_what_others_do_not_hold(void **state) {
    (void)state;
    mx_memory_allow();
    assert_true(mx_heap_of_lua.allow == SIZE_MAX);
    mx_memory_limit(10000000);
    mx_message *m = message(3000000);
    mx_memory_allow();
    assert_in_range(mx_heap_of_lua.allow, 10000000 - 6100000, 10000000 - 3000000);
    mx_memory_limit(1000);
    assert_int_equal(mx_heap_of_lua.allow, 0);
    mx_message_unref(m);
    mx_memory_limit(0);
    assert_true(mx_heap_of_lua.allow == SIZE_MAX);
}

static void the_whole_is_what_malloc_says(void **state) {
    (void)state;
    mx_memory a, b;
    mx_memory_read(&a);
    void *p = mx_zalloc(5000000);
    memset(p, 1, 5000000);
    mx_memory_read(&b);
#ifndef __SANITIZE_ADDRESS__
    assert_in_range(b.total - a.total, 5000000, 5100000);
    assert_true(b.other - a.other >= 5000000);
#endif
    assert_true(b.rss > a.rss);
    free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(messages_of_each_size_are_counted_once, before, after),
        cmocka_unit_test_setup_teardown(what_a_pool_keeps_is_counted_until_it_shrinks, before, after),
        cmocka_unit_test_setup_teardown(what_goes_out_is_counted_until_nobody_holds_it, before, after),
        cmocka_unit_test_setup_teardown(an_inbox_is_counted_and_knows_what_lies_in_it, before, after),
        cmocka_unit_test_setup_teardown(the_limit_leaves_lua_what_others_do_not_hold, before, after),
        cmocka_unit_test_setup_teardown(the_whole_is_what_malloc_says, before, after),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
