/* socket_spec.c - the buffer of a socket: how far it reads ahead, grows and shrinks; and who is told of an end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "link/link.h"

enum { AHEAD = 64 * 1024 };

static uv_loop_t loop;
static mx_runtime runtime;
static mx_sock *s;
static int listener, peer;
static char host[64];
static size_t said, heard; /* bytes of the pattern, so far */

static void on_wake(mx_runtime *r) { (void)r; }
static uint8_t pattern(size_t i) { return (uint8_t)(i * 31 + i / 251); }

static int posted(uint32_t ticket) {
    mx_waits *w = &runtime.waits.pub;
    if (w->head == w->tail) return 0;
    assert_int_equal(w->tail - w->head, 1);
    assert_int_equal(w->post[w->head++ & w->mask].ticket, ticket);
    return 1;
}

static uint32_t ticket(void) { return mx_wait_new(&runtime.waits.pub, -1); }

/* The loop until there is nothing left to do at once. */
static void settle(void) {
    for (int i = 0; i < 200; i++) uv_run(&loop, UV_RUN_NOWAIT);
}

/* The peer sends n bytes, or as many as fit. */
static size_t say(size_t n) {
    uint8_t block[4096];
    size_t sum = 0;
    while (sum < n) {
        size_t part = n - sum < sizeof block ? n - sum : sizeof block;
        for (size_t i = 0; i < part; i++) block[i] = pattern(said + i);
        ssize_t sent = send(peer, block, part, MSG_DONTWAIT);
        if (sent <= 0) {
            uv_run(&loop, UV_RUN_NOWAIT);
            if ((sent = send(peer, block, part, MSG_DONTWAIT)) <= 0) break;
        }
        said += (size_t)sent;
        sum += (size_t)sent;
    }
    return sum;
}

static void take(size_t n) {
    assert_true(n <= s->size);
    for (size_t i = 0; i < n; i++)
        if (s->data[i] != pattern(heard + i)) fail_msg("byte %zu is wrong", heard + i);
    heard += n;
    mx_sock_take(s, n);
}

static int before(void **state) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    (void)state;
    said = heard = 0;
    uv_loop_init(&loop);
    runtime = (mx_runtime){.loop = &loop, .wake = on_wake};
    mx_waits_init(&runtime.waits, &runtime.timers);
    snprintf(host, sizeof host, "unix:/tmp/socket_spec.%d", (int)getpid());
    strcpy(at.sun_path, host + 5);
    unlink(at.sun_path);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1)) return 1;
    uint32_t t = ticket();
    s = mx_sock_open(&runtime, host, "", NULL, t);
    assert_int_equal(s->state, MX_OPENING);
    peer = accept(listener, NULL, NULL);
    settle();
    assert_true(posted(t));
    assert_int_equal(s->state, MX_OPEN);
    return 0;
}

static int after(void **state) {
    (void)state;
    if (s) mx_sock_close(s);
    close(peer);
    close(listener);
    unlink(host + 5);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_null(runtime.sockets);
    assert_int_equal(runtime.timers.count, 0);
    mx_waits_fini(&runtime.waits);
    mx_timers_fini(&runtime.timers);
    return uv_loop_close(&loop);
}

static void it_reads_64_KiB_ahead_and_no_more(void **state) {
    (void)state;
    assert_true(say(10 << 20) < 10 << 20);
    settle();
    assert_int_equal(s->size, AHEAD);
    take(1); /* a byte is not worth a read */
    settle();
    assert_int_equal(s->size, AHEAD - 1);
    take(AHEAD / 2);
    settle();
    assert_true(s->size > AHEAD / 2);
    assert_true(s->size <= AHEAD);
}

static void it_reads_what_is_asked_for_however_much(void **state) {
    enum { MUCH = 3000000 };
    uint32_t t = ticket();
    (void)state;
    say(100);
    settle();
    take(50);
    mx_sock_wait(s, MUCH, t);
    say(MUCH - 51);
    settle();
    assert_false(posted(t));
    assert_int_equal(s->size, MUCH - 1);
    say(1);
    settle();
    assert_true(posted(t));
    say(10 << 20);
    settle();
    assert_true(s->size <= MUCH + AHEAD);
    take(MUCH);
    while (s->size) {
        assert_true(s->size <= AHEAD);
        take(s->size);
    }
    settle();
    assert_int_equal(s->size, AHEAD); /* as before */
}

static void it_keeps_the_order_in_pieces_of_every_size(void **state) {
    (void)state;
    for (size_t i = 1, in = 1, out = 1; i < 3000; i++) {
        say(in = in * 7 % 70001);
        uv_run(&loop, UV_RUN_NOWAIT);
        out = out * 5 % 65003;
        mx_sock_wait(s, out, 0);
        uv_run(&loop, UV_RUN_NOWAIT);
        take(out < s->size ? out : s->size);
    }
    assert_true(heard > 10000000);
}

static void it_finds_a_text_across_what_came_apart(void **state) {
    (void)state;
    assert_true(mx_sock_find(s, 0, "\r\n", 2) < 0);
    for (const char *p = "a\rb\r\nc"; *p; p++) {
        assert_int_equal(send(peer, p, 1, 0), 1);
        settle();
    }
    assert_true(mx_sock_find(s, 0, "\r\n", 2) == 3);
    assert_true(mx_sock_find(s, 3, "\r\n", 2) == 3);
    assert_true(mx_sock_find(s, 4, "\r\n", 2) < 0);
    assert_true(mx_sock_find(s, 6, "c", 1) < 0);
    assert_true(mx_sock_find(s, 600, "c", 1) < 0);
}

static void who_waits_is_told_of_the_end_and_has_what_came(void **state) {
    uint32_t t = ticket();
    (void)state;
    mx_sock_wait(s, 1000, t);
    say(10);
    close(peer);
    settle();
    assert_true(posted(t));
    assert_int_equal(s->state, MX_CLOSED);
    assert_int_equal(s->code, MX_ECLOSED);
    assert_int_equal(s->size, 10);
    take(10);
    mx_sock_wait(s, 1, t = ticket());
    assert_true(posted(t));
    assert_int_equal(mx_sock_send(s, "x", 1, 0), MX_ECLOSED);
}

static void a_send_is_over_when_the_kernel_has_it(void **state) {
    static uint8_t much[4 << 20];
    uint32_t t = ticket();
    (void)state;
    assert_int_equal(mx_sock_send(s, much, 100, t), 0);
    assert_int_equal(mx_sock_send(s, much, sizeof much, t), MX_EAGAIN);
    settle();
    assert_false(posted(t));
    for (size_t got = 0; got < sizeof much + 100;) {
        static uint8_t to[65536];
        ssize_t n = recv(peer, to, sizeof to, MSG_DONTWAIT);
        if (n > 0) got += (size_t)n;
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    settle();
    assert_true(posted(t));
}

static void closing_tells_both_who_wait(void **state) {
    static uint8_t much[4 << 20];
    uint32_t in = ticket(), out = ticket();
    (void)state;
    mx_sock_wait(s, 1, in);
    assert_int_equal(mx_sock_send(s, much, sizeof much, out), MX_EAGAIN);
    mx_sock_close(s);
    s = NULL;
    mx_waits *w = &runtime.waits.pub;
    assert_int_equal(w->tail - w->head, 2);
    assert_int_equal(w->post[w->head++ & w->mask].ticket, in);
    assert_int_equal(w->post[w->head++ & w->mask].ticket, out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_reads_64_KiB_ahead_and_no_more, before, after),
        cmocka_unit_test_setup_teardown(it_reads_what_is_asked_for_however_much, before, after),
        cmocka_unit_test_setup_teardown(it_keeps_the_order_in_pieces_of_every_size, before, after),
        cmocka_unit_test_setup_teardown(it_finds_a_text_across_what_came_apart, before, after),
        cmocka_unit_test_setup_teardown(who_waits_is_told_of_the_end_and_has_what_came, before, after),
        cmocka_unit_test_setup_teardown(a_send_is_over_when_the_kernel_has_it, before, after),
        cmocka_unit_test_setup_teardown(closing_tells_both_who_wait, before, after),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
