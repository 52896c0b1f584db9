/* frame_spec.c - what frame.h promises: the limits of each frame type at n-1, n and n+1, and what is written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <amqp.h>
#include <amqp_framing.h>
#include <stdlib.h>
#include "wire/frame.h"

static mx_frame f;
static const char *why;

/* A frame in memory of exactly its size, so that a read past its end is seen by the sanitizer. */
static long next(int type, int channel, size_t size, uint32_t frame_max, int end) {
    uint8_t *p = malloc(size + MX_FRAME_OVERHEAD);
    mx_frame_head(p, type, (uint16_t)channel, size);
    memset(p + 7, 'x', size);
    p[7 + size] = (uint8_t)end;
    long n = mx_frame_next(p, size + MX_FRAME_OVERHEAD, frame_max, &f, &why);
    free(p);
    return n;
}

static long sound(int type, size_t size, uint32_t frame_max) { return next(type, 1, size, frame_max, MX_FRAME_END); }

/* Seven octets are enough to refuse a frame: nothing is buffered for it. */
static long by_head(int type, uint32_t size, uint32_t frame_max) {
    uint8_t p[7];
    mx_frame_head(p, type, 1, size);
    return mx_frame_next(p, sizeof p, frame_max, &f, &why);
}

static void frame_splits_a_whole_frame(void **state) {
    (void)state;
    assert_int_equal(next(MX_FRAME_METHOD, 0x1234, 10, 4096, MX_FRAME_END), 18);
    assert_int_equal(f.type, MX_FRAME_METHOD);
    assert_int_equal(f.channel, 0x1234);
    assert_int_equal(f.size, 10);
}

static void frame_waits_until_all_of_it_is_there(void **state) {
    uint8_t p[] = {1, 0, 1, 0, 0, 0, 4, 0, 60, 0, 80, MX_FRAME_END, 1, 0};
    (void)state;
    for (size_t n = 0; n < 12; n++) {
        uint8_t *part = malloc(n + 1);
        memcpy(part, p, n);
        assert_int_equal(mx_frame_next(part, n, 4096, &f, &why), 0);
        free(part);
    }
    assert_int_equal(mx_frame_next(p, sizeof p, 4096, &f, &why), 12);
}

static void frame_refuses_a_wrong_end_octet(void **state) {
    (void)state;
    assert_int_equal(next(MX_FRAME_BODY, 1, 5, 4096, 0xCF), MX_EVALIDATION);
    assert_non_null(strstr(why, "end octet"));
    assert_int_equal(next(MX_FRAME_HEARTBEAT, 0, 0, 4096, 0), MX_EVALIDATION);
}

static void frame_knows_four_types(void **state) {
    (void)state;
    for (int type = 0; type < 256; type++) {
        int known = type == 1 || type == 2 || type == 3 || type == 8;
        assert_int_equal(by_head(type, type == 8 ? 0 : 100, 4096), known ? 0 : MX_EVALIDATION);
    }
}

static void frame_holds_methods_and_bodies_to_frame_max(void **state) {
    static const uint32_t limits[] = {4096, 131072};
    (void)state;
    for (size_t i = 0; i < 2; i++)
        for (int type = MX_FRAME_METHOD; type <= MX_FRAME_BODY; type += 2) {
            uint32_t most = limits[i] - 8;
            assert_int_equal(sound(type, most - 1, limits[i]), most + 7);
            assert_int_equal(sound(type, most, limits[i]), most + 8);
            assert_int_equal(by_head(type, most + 1, limits[i]), MX_EVALIDATION);
            assert_int_equal(by_head(type, UINT32_MAX, limits[i]), MX_EVALIDATION);
        }
}

static void frame_takes_headers_up_to_a_mebibyte(void **state) {
    (void)state;
    assert_int_equal(sound(MX_FRAME_HEADER, 4089, 4096), 4097);
    assert_int_equal(sound(MX_FRAME_HEADER, MX_HEADER_CAP, 4096), MX_HEADER_CAP + 8);
    assert_int_equal(by_head(MX_FRAME_HEADER, MX_HEADER_CAP + 1, 4096), MX_EVALIDATION);
    assert_int_equal(by_head(MX_FRAME_HEADER, UINT32_MAX, 4096), MX_EVALIDATION);
}

static void frame_refuses_what_is_too_short(void **state) {
    (void)state;
    for (uint32_t n = 0; n < 4; n++) assert_int_equal(by_head(MX_FRAME_METHOD, n, 4096), MX_EVALIDATION);
    for (uint32_t n = 0; n < 14; n++) assert_int_equal(by_head(MX_FRAME_HEADER, n, 4096), MX_EVALIDATION);
    assert_int_equal(sound(MX_FRAME_METHOD, 4, 4096), 12);
    assert_int_equal(sound(MX_FRAME_HEADER, 14, 4096), 22);
    assert_int_equal(sound(MX_FRAME_BODY, 0, 4096), 8);
    assert_int_equal(by_head(MX_FRAME_HEARTBEAT, 1, 4096), MX_EVALIDATION);
}

static void frame_writes_a_method_it_can_read(void **state) {
    uint8_t p[64];
    amqp_basic_ack_t ack = {7, 1};
    (void)state;
    int n = mx_frame_method(p, sizeof p, 5, AMQP_BASIC_ACK_METHOD, &ack);
    assert_int_equal(n, 21);
    assert_memory_equal(p, "\x01\0\x05\0\0\0\x0d\0\x3c\0\x50\0\0\0\0\0\0\0\x07\x01\xce", 21);
    assert_int_equal(mx_frame_next(p, (size_t)n, 4096, &f, &why), n);
}

static void frame_refuses_a_method_that_does_not_fit(void **state) {
    static char name[256];
    uint8_t *p = malloc(64);
    amqp_queue_purge_t long_name = {0, {256, name}, 0}, no_room = {0, {255, name}, 0};
    (void)state;
    assert_int_equal(mx_frame_method(p, 64, 1, AMQP_QUEUE_PURGE_METHOD, &no_room), MX_EVALIDATION);
    free(p);
    p = malloc(1024);
    assert_int_equal(mx_frame_method(p, 1024, 1, AMQP_QUEUE_PURGE_METHOD, &long_name), MX_EVALIDATION);
    assert_true(mx_frame_method(p, 1024, 1, AMQP_QUEUE_PURGE_METHOD, &no_room) > 0);
    free(p);
}

/* n-1, n, n+1, 2n bytes and none: the bound is exact, the frames are whole, the bytes are the body's. */
static void frame_cuts_bodies_at_frame_max(void **state) {
    static const size_t sizes[] = {0, 1, 4087, 4088, 4089, 8176, 8177};
    static uint8_t body[8177], back[8177];
    (void)state;
    for (size_t i = 0; i < sizeof body; i++) body[i] = (uint8_t)(i * 7);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t bound = mx_frame_body_bound(sizes[i], 4096), at = 0, got = 0;
        uint8_t *p = malloc(bound + 1);
        assert_int_equal(mx_frame_body(p, 3, body, sizes[i], 4096), bound);
        for (; at < bound; got += f.size) {
            long n = mx_frame_next(p + at, bound - at, 4096, &f, &why);
            assert_true(n > 0 && f.type == MX_FRAME_BODY && f.channel == 3);
            memcpy(back + got, f.payload, f.size);
            at += (size_t)n;
        }
        assert_int_equal(got, sizes[i]);
        assert_memory_equal(back, body, got);
        free(p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frame_splits_a_whole_frame),
        cmocka_unit_test(frame_waits_until_all_of_it_is_there),
        cmocka_unit_test(frame_refuses_a_wrong_end_octet),
        cmocka_unit_test(frame_knows_four_types),
        cmocka_unit_test(frame_holds_methods_and_bodies_to_frame_max),
        cmocka_unit_test(frame_takes_headers_up_to_a_mebibyte),
        cmocka_unit_test(frame_refuses_what_is_too_short),
        cmocka_unit_test(frame_writes_a_method_it_can_read),
        cmocka_unit_test(frame_refuses_a_method_that_does_not_fit),
        cmocka_unit_test(frame_cuts_bodies_at_frame_max),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
