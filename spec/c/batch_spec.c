/* batch_spec.c - what batch.h and abi.h promise of batches. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "measure/account.h"
#include "message/batch.h"
#include "message/inbox.h"

enum { ANY = 1000 };
static mx_inbox inbox;
static mx_batch_look look;
static size_t held;

static int begin(void **state) {
    (void)state;
    held = mx_held_by[MX_OF_DELIVERIES];
    mx_inbox_init(&inbox, 64);
    return 0;
}

static int finish(void **state) {
    mx_batch_free(*state);
    mx_inbox_fini(&inbox);
    assert_int_equal(mx_held_by[MX_OF_DELIVERIES], held);
    return 0;
}

static mx_batch *make(void **state, uint32_t size, double bytes, double timeout) {
    *state = mx_batch_new(size, bytes, timeout, &look);
    return *state;
}

static void deliver(int n, size_t size) {
    for (; n--; inbox.tail++) {
        mx_msg *m = mx_inbox_slot(&inbox);
        m->tag = inbox.tail + 1;
        m->size = size;
    }
}

static void takes_what_is_there_in_its_order(void **state) {
    mx_batch *b = make(state, 10, ANY, 1);
    deliver(3, 5);
    mx_batch_take(b, &inbox, UINT32_MAX, 1);
    deliver(2, 5);
    mx_batch_take(b, &inbox, 1, 1.25);
    assert_int_equal(b->count, 4);
    assert_int_equal(b->due, MX_BATCH_OPEN);
    assert_int_equal(inbox.head, 4);
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(b->seq[i], i);
    mx_batch_tell(b, &inbox, 1.5);
    assert_float_equal(look.count, 4, 0);
    assert_float_equal(look.bytes, 20, 0);
    assert_float_equal(look.age, 0.5, 1e-9);
    assert_float_equal(look.idle, 0.25, 1e-9);
    assert_float_equal(look.depth, 1, 0);
}

static void is_due_at_its_size_and_takes_no_more(void **state) {
    mx_batch *b = make(state, 40, ANY, 1);
    deliver(60, 1);
    mx_batch_take(b, &inbox, UINT32_MAX, 1);
    assert_int_equal(b->count, 40);
    assert_int_equal(b->due, MX_BATCH_SIZE);
    mx_batch_take(b, &inbox, UINT32_MAX, 1);
    assert_int_equal(inbox.head, 40);
    assert_float_equal(look.depth, 20, 0);
}

static void never_has_more_bytes_than_it_may_but_for_one_that_is_larger(void **state) {
    mx_batch *b = make(state, 100, 10, 1);
    deliver(3, 4);
    deliver(1, 50);
    mx_batch_take(b, &inbox, UINT32_MAX, 1);
    assert_int_equal(b->count, 2);
    assert_int_equal(b->due, MX_BATCH_BYTES);
    mx_batch_clear(b);
    mx_batch_take(b, &inbox, UINT32_MAX, 1);
    assert_int_equal(b->count, 1);
    assert_int_equal(b->due, MX_BATCH_BYTES);
    mx_batch_clear(b);
    mx_batch_take(b, &inbox, UINT32_MAX, 1);
    assert_int_equal(b->count, 1);
    assert_int_equal(b->due, MX_BATCH_BYTES);
    assert_int_equal(inbox.head, 4);
}

static void is_due_when_its_first_is_old_enough(void **state) {
    mx_batch *b = make(state, 100, ANY, 1);
    mx_batch_tell(b, NULL, 50);
    assert_int_equal(b->due, MX_BATCH_OPEN);
    deliver(2, 1);
    mx_batch_take(b, &inbox, 1, 50);
    mx_batch_take(b, &inbox, 1, 50.75);
    assert_int_equal(b->due, MX_BATCH_OPEN);
    mx_batch_tell(b, &inbox, 51);
    assert_int_equal(b->due, MX_BATCH_TIME);
    mx_batch_clear(b);
    assert_int_equal(b->due, MX_BATCH_OPEN);
}

static int acks, multiples;
static uint64_t last;
static void on_ack(void *arg, uint64_t tag, int multiple) { (void)arg, acks++, multiples += multiple, last = tag; }
static void on_reject(void *arg, uint64_t tag, int requeue) { (void)arg, (void)tag, (void)requeue, fail(); }

static void costs_one_ack_when_all_of_it_is_good(void **state) {
    const mx_settle wire = {on_ack, on_reject};
    mx_batch *b = make(state, 50, ANY, 1);
    deliver(50, 1);
    mx_batch_take(b, &inbox, UINT32_MAX, 1);
    for (uint32_t i = 0; i < b->count; i++) mx_inbox_at(&inbox, b->seq[i])->verdict = MX_ACK;
    mx_inbox_settle(&inbox, &wire, NULL);
    assert_int_equal(acks, 1);
    assert_int_equal(multiples, 1);
    assert_int_equal(last, 50);
}

#define SPEC(f) cmocka_unit_test_setup_teardown(f, begin, finish)
int main(void) {
    const struct CMUnitTest specs[] = {
        SPEC(takes_what_is_there_in_its_order),
        SPEC(is_due_at_its_size_and_takes_no_more),
        SPEC(never_has_more_bytes_than_it_may_but_for_one_that_is_larger),
        SPEC(is_due_when_its_first_is_old_enough),
        SPEC(costs_one_ack_when_all_of_it_is_good),
    };
    return cmocka_run_group_tests(specs, NULL, NULL);
}
