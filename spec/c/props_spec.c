/* props_spec.c - what props.h promises, to friends and to hostile peers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "message/props.h"

#define TABLE(bytes) (const uint8_t *)(bytes), sizeof(bytes) - 1
#define SPAN(bytes) ((mx_span){TABLE(bytes)})

/* Every prefix is copied to a block of its own, so that the sanitizer sees one byte read too far. */
static void refuses_every_prefix(const uint8_t *p, size_t n, int (*check)(const uint8_t *, size_t), size_t from) {
    for (size_t i = from; i < n; i++) {
        uint8_t *copy = malloc(i ? i : 1);
        memcpy(copy, p, i);
        assert_int_equal(check(copy, i), MX_EVALIDATION);
        free(copy);
    }
}

static mx_props every_field(void) {
    return (mx_props){.flags = 0xfff8,
                      .delivery_mode = 2,
                      .priority = 9,
                      .timestamp = 0x0123456789abcdef,
                      .content_type = SPAN("text/plain"),
                      .content_encoding = SPAN("gzip"),
                      .headers = SPAN("\1aI\0\0\0\1"),
                      .correlation_id = SPAN("c"),
                      .reply_to = SPAN(""),
                      .expiration = SPAN("1000"),
                      .message_id = SPAN("id"),
                      .type = SPAN("t\0t"),
                      .user_id = SPAN("guest"),
                      .app_id = SPAN("spec")};
}

static void same(mx_span a, mx_span b) {
    assert_int_equal(a.n, b.n);
    if (a.n) assert_memory_equal(a.p, b.p, a.n);
}

static void props_come_back_as_they_went(void **state) {
    (void)state;
    uint8_t wire[256], again[256];
    mx_props in = every_field(), out;
    int n = mx_props_encode(&in, wire, sizeof wire);
    assert_int_equal(n, mx_props_bound(&in));
    assert_int_equal(mx_props_check(wire, (size_t)n), 0);
    assert_int_equal(mx_props_decode(wire, (size_t)n, &out), 0);
    assert_int_equal(out.flags, in.flags);
    assert_true(out.delivery_mode == 2 && out.priority == 9 && out.timestamp == in.timestamp);
    same(out.content_type, in.content_type), same(out.content_encoding, in.content_encoding);
    same(out.headers, in.headers), same(out.correlation_id, in.correlation_id), same(out.reply_to, in.reply_to);
    same(out.expiration, in.expiration), same(out.message_id, in.message_id), same(out.type, in.type);
    same(out.user_id, in.user_id), same(out.app_id, in.app_id);
    assert_int_equal(mx_props_encode(&out, again, sizeof again), n);
    assert_memory_equal(wire, again, (size_t)n);
}

static void props_lie_on_the_wire_as_the_specification_says(void **state) {
    (void)state;
    uint8_t wire[64];
    mx_props p = {.flags = MX_P_DELIVERY_MODE | MX_P_MESSAGE_ID | MX_P_HEADERS | MX_P_TIMESTAMP,
                  .delivery_mode = 2,
                  .message_id = SPAN("id"),
                  .headers = SPAN("\1at\1"),
                  .timestamp = 258};
    assert_int_equal(mx_props_encode(&p, wire, sizeof wire), 22);
    assert_memory_equal(wire, "\x30\xc0\0\0\0\4\1at\1\2\2id\0\0\0\0\0\0\1\2", 22);
    p.flags = 0;
    assert_int_equal(mx_props_encode(&p, wire, 2), 2);
    assert_memory_equal(wire, "\0\0", 2);
}

static void props_encode_refuses_what_does_not_fit(void **state) {
    (void)state;
    static uint8_t text[256], wire[1024];
    mx_props p = every_field();
    for (size_t cap = 0; cap < mx_props_bound(&p); cap++) {
        uint8_t *small = malloc(cap ? cap : 1);
        assert_int_equal(mx_props_encode(&p, small, cap), MX_EMEMORY);
        free(small);
    }
    p.type = (mx_span){text, 255};
    assert_true(mx_props_encode(&p, wire, sizeof wire) > 0);
    p.type.n = 256;
    assert_int_equal(mx_props_encode(&p, wire, sizeof wire), MX_EVALIDATION);
    p = (mx_props){.flags = MX_P_HEADERS, .headers = SPAN("\1a?")};
    assert_int_equal(mx_props_encode(&p, wire, sizeof wire), MX_EVALIDATION);
    p.flags = 1;
    assert_int_equal(mx_props_encode(&p, wire, sizeof wire), MX_EVALIDATION);
}

static void props_check_knows_all_fourteen_fields(void **state) {
    (void)state;
    mx_props out;
    static const uint8_t wire[] = "\xff\xfc\1c\1e\0\0\0\0\1\1\1c\1r\1x\1m\0\0\0\0\0\0\0\1\1t\1u\1a\1k";
    assert_int_equal(mx_props_check(wire, sizeof wire - 1), 0);
    assert_int_equal(mx_props_decode(wire, sizeof wire - 1, &out), 0);
    assert_int_equal(out.flags, 0xfff8); /* cluster-id is reserved: read past */
    refuses_every_prefix(wire, sizeof wire - 1, mx_props_check, 0);
}

static void props_check_refuses_a_second_flag_word(void **state) {
    (void)state;
    assert_int_equal(mx_props_check(TABLE("\0\1\0\0")), MX_EVALIDATION);
    assert_int_equal(mx_props_check(TABLE("\0\2")), MX_EVALIDATION);
}

static void props_check_refuses_bytes_left_over(void **state) {
    (void)state;
    assert_int_equal(mx_props_check(TABLE("\x10\0\2")), 0);
    assert_int_equal(mx_props_check(TABLE("\x10\0\2\0")), MX_EVALIDATION);
}

static void props_check_leaves_unknown_types_to_whoever_reads_them(void **state) {
    (void)state;
    assert_int_equal(mx_props_check(TABLE("\x20\0\0\0\0\3\1a?")), 0);
    assert_int_equal(mx_props_check(TABLE("\x20\0\0\0\0\3\5a?")), MX_EVALIDATION);
    mx_props p = {.flags = MX_P_HEADERS, .headers = SPAN("\1a?")};
    uint8_t wire[64];
    assert_int_equal(mx_props_encode(&p, wire, sizeof wire), MX_EVALIDATION); /* we send none */
}

static uint64_t rnd(void) {
    static uint64_t x = 88172645463325252u;
    x ^= x << 13, x ^= x >> 7;
    return x ^= x << 17;
}

/* Random bytes, and a sound list with a few bytes changed; exact blocks, so that the sanitizer guards their ends. */
static void props_survive_a_million_random_lists(void **state) {
    (void)state;
    uint8_t sound[256], out[1024];
    mx_props p = every_field(), found;
    p.headers = SPAN("\1aF\0\0\0\7\1bS\0\0\0\0\1cA\0\0\0\7S\0\0\0\2hiV\1dD\1\2\3\4\5\1et\1");
    assert_int_equal(mx_table_check(p.headers.p, p.headers.n), MX_EVALIDATION);
    p.headers = SPAN("\1aF\0\0\0\7\1bS\0\0\0\0\1cA\0\0\0\x8S\0\0\0\2hiV\1dD\1\2\3\4\5\1et\1");
    size_t n = (size_t)mx_props_encode(&p, sound, sizeof sound), accepted = 0;
    assert_int_equal(mx_props_check(sound, n), 0);
    for (int i = 0; i < 1000000; i++) {
        size_t size = i & 1 ? n - (rnd() % 8 == 0) * rnd() % n : rnd() % 64;
        uint8_t *b = malloc(size ? size : 1);
        if (i & 1) memcpy(b, sound, size);
        else
            for (size_t k = 0; k < size; k++) b[k] = (uint8_t)(rnd() >> 11);
        for (unsigned k = rnd() % 4; i & 1 && size && k > 0; k--) b[rnd() % size] = (uint8_t)(rnd() >> 9 & (k & 1 ? 255 : 15));
        mx_table_check(b, size);
        if (mx_props_check(b, size) == 0) {
            assert_int_equal(mx_props_decode(b, size, &found), 0);
            assert_true(mx_props_bound(&found) <= size);
            int code = mx_table_check(found.headers.p, found.headers.n);
            assert_int_equal(mx_props_encode(&found, out, sizeof out), code ? code : (int)mx_props_bound(&found));
            accepted++;
        } else mx_props_decode(b, size, &found);
        free(b);
    }
    assert_true(accepted > 10000);
}

int main(void) {
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(props_come_back_as_they_went),
        cmocka_unit_test(props_lie_on_the_wire_as_the_specification_says),
        cmocka_unit_test(props_encode_refuses_what_does_not_fit),
        cmocka_unit_test(props_check_knows_all_fourteen_fields),
        cmocka_unit_test(props_check_refuses_a_second_flag_word),
        cmocka_unit_test(props_check_refuses_bytes_left_over),
        cmocka_unit_test(props_check_leaves_unknown_types_to_whoever_reads_them),
        cmocka_unit_test(props_survive_a_million_random_lists),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
