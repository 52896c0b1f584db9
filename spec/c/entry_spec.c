/* entry_spec.c - entries of field tables: read, found, compared, sorted and written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "message/entry.h"
#include "broker/names.h"
#include "message/props.h"

static mx_span S(const char *text) { return mx_span_of(text); }
#define BYTES(text)                                                                                                              \
    (mx_span) { (const uint8_t *)(text), sizeof(text) - 1 }

/* One entry of each type RabbitMQ knows, by the names of their letters. */
static const mx_span all = BYTES("\1tt\1"
                                 "\1bb\377"
                                 "\1BB\377"
                                 "\1ss\377\376"
                                 "\1uu\377\376"
                                 "\1II\377\377\377\375"
                                 "\1ii\377\377\377\375"
                                 "\1ll\377\377\377\377\377\377\377\374"
                                 "\1LL\0\0\0\0\0\0\0\5"
                                 "\1ff\77\300\0\0"
                                 "\1dd\77\370\0\0\0\0\0\0"
                                 "\1DD\2\0\0\0\7"
                                 "\1TT\0\0\0\0\0\0\0\6"
                                 "\1VV"
                                 "\1SS\0\0\0\3one"
                                 "\1xx\0\0\0\3two"
                                 "\1AA\0\0\0\4t\0t\1"
                                 "\1FF\0\0\0\4\1kt\1");

static mx_entry get(const char *key) {
    mx_entry f;
    assert_true(mx_entry_find(all, S(key), &f));
    assert_int_equal(f.type, *key);
    return f;
}

static void entry_reads_every_type(void **state) {
    (void)state;
    assert_int_equal(mx_table_check(all.p, all.n), 0);
    assert_int_equal(get("t").number, 1);
    assert_int_equal(get("b").number, -1);
    assert_int_equal(get("B").number, 255);
    assert_int_equal(get("s").number, -2);
    assert_int_equal(get("u").number, 65534);
    assert_int_equal(get("I").number, -3);
    assert_int_equal(get("i").number, 4294967293);
    assert_int_equal(get("l").number, -4);
    assert_int_equal(get("L").number, 5);
    assert_true(get("f").real == 1.5);
    assert_true(get("d").real == 1.5);
    assert_int_equal(get("T").number, 6);
    assert_true(mx_is(get("S").text, "one") && mx_is(get("x").text, "two"));
    assert_int_equal(get("A").text.n, 4);
    assert_int_equal(get("F").bytes.n, 9);
}

static void entry_walks_to_the_end_of_its_table(void **state) {
    (void)state;
    mx_entry f;
    int n = 0;
    const uint8_t *p = all.p, *end = p + all.n;
    for (; p < end; n++) p += mx_entry_read(p, 1, &f);
    assert_ptr_equal(p, end);
    assert_int_equal(n, 18);
}

static void entry_reads_arrays_without_keys(void **state) {
    (void)state;
    mx_entry array = get("A"), f;
    assert_int_equal(mx_entry_read(array.text.p, 0, &f), 2);
    assert_int_equal(f.number, 0);
    assert_int_equal(f.key.n, 0);
}

static void entry_says_what_is_not_there(void **state) {
    (void)state;
    mx_entry f;
    assert_false(mx_entry_find(all, S("none"), &f));
    assert_int_equal(f.type, 0);
    assert_false(mx_entry_find((mx_span){0}, S("t"), &f));
}

static int equal(mx_span a, mx_span b) {
    mx_entry x, y;
    mx_entry_read(a.p, 0, &x);
    mx_entry_read(b.p, 0, &y);
    assert_int_equal(mx_entry_equal(&x, &y), mx_entry_equal(&y, &x));
    return mx_entry_equal(&x, &y);
}

static void entry_compares_as_rabbitmq_does(void **state) {
    (void)state;
    assert_true(equal(BYTES("b\1"), BYTES("l\0\0\0\0\0\0\0\1")));
    assert_true(equal(BYTES("I\0\0\0\1"), BYTES("d\77\360\0\0\0\0\0\0")));
    assert_true(equal(BYTES("T\0\0\0\0\0\0\0\1"), BYTES("B\1")));
    assert_true(equal(BYTES("S\0\0\0\1a"), BYTES("x\0\0\0\1a")));
    assert_true(equal(BYTES("t\1"), BYTES("t\1")));
    assert_true(equal(BYTES("V"), BYTES("V")));
    assert_true(equal(BYTES("A\0\0\0\2t\1"), BYTES("A\0\0\0\2t\1")));
    assert_false(equal(BYTES("t\1"), BYTES("b\1")));
    assert_false(equal(BYTES("S\0\0\0\1"
                             "1"),
                       BYTES("b\1")));
    assert_false(equal(BYTES("S\0\0\0\1a"), BYTES("S\0\0\0\1b")));
    assert_false(equal(BYTES("b\377"), BYTES("B\377")));
    assert_false(equal(BYTES("A\0\0\0\2t\1"), BYTES("A\0\0\0\2t\0")));
}

static void entry_sorts_a_table_by_its_keys(void **state) {
    (void)state;
    mx_span sorted = mx_table_sorted(BYTES("\1bt\1\2aat\0\1aV\0V"));
    assert_int_equal(sorted.n, 14);
    assert_memory_equal(sorted.p, "\0V\1aV\2aat\0\1bt\1", 14);
    free((void *)sorted.p);
    sorted = mx_table_sorted((mx_span){0});
    assert_int_equal(sorted.n, 0);
    free((void *)sorted.p);
}

static void entry_writes_what_it_reads(void **state) {
    (void)state;
    uint8_t room[256];
    mx_out o = {room, room + sizeof room};
    mx_entry f;
    for (const uint8_t *p = all.p; p < all.p + all.n;) {
        p += mx_entry_read(p, 1, &f);
        mx_out_entry(&o, &f);
    }
    assert_int_equal(o.at - room, all.n);
    assert_memory_equal(room, all.p, all.n);
}

static void entry_writes_lengths_when_they_are_known(void **state) {
    (void)state;
    uint8_t room[64];
    mx_out o = {room, room + sizeof room};
    mx_out_key(&o, S("a"), 'A');
    uint8_t *array = mx_out_open(&o);
    mx_out_bytes(&o, "F", 1);
    uint8_t *table = mx_out_open(&o);
    mx_out_text(&o, "k", S("v"));
    mx_out_close(&o, table);
    mx_out_close(&o, array);
    mx_span written = {room, (size_t)(o.at - room)};
    assert_int_equal(mx_table_check(written.p, written.n), 0);
    assert_memory_equal(written.p, "\1aA\0\0\0\15F\0\0\0\10\1kS\0\0\0\1v", written.n);
}

static void entry_stops_where_there_is_no_room(void **state) {
    (void)state;
    for (size_t size = 1; size <= 19; size++) {
        uint8_t *room = malloc(size); /* so that the sanitizer sees a byte too many */
        mx_out o = {room, room + size};
        mx_out_key(&o, S("a"), 'A');
        uint8_t *array = mx_out_open(&o);
        mx_out_text(&o, "key", S("text"));
        mx_out_close(&o, array);
        assert_true(o.at <= o.end);
        assert_int_equal(o.at == o.end, size <= 19);
        free(room);
    }
}

#define CASE(f) cmocka_unit_test(f)
int main(void) {
    const struct CMUnitTest cases[] = {
        CASE(entry_reads_every_type),
        CASE(entry_walks_to_the_end_of_its_table),
        CASE(entry_reads_arrays_without_keys),
        CASE(entry_says_what_is_not_there),
        CASE(entry_compares_as_rabbitmq_does),
        CASE(entry_sorts_a_table_by_its_keys),
        CASE(entry_writes_what_it_reads),
        CASE(entry_writes_lengths_when_they_are_known),
        CASE(entry_stops_where_there_is_no_room),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
