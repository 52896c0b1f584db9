/* tcp_spec.c - what stream.h promises of an end: it is told once, from the loop, with a reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "wire/stream.h"

static uv_loop_t loop;
static int ups, downs, gones;
static char reason[200];

static void on_up(void *arg) { (void)arg, ups++; }
static void on_room(void *arg, uint8_t **p, size_t *n) { (void)arg, *p = NULL, *n = 0; }
static void on_data(void *arg, size_t n) { (void)arg, (void)n; }
static void on_drained(void *arg, size_t n) { (void)arg, (void)n; }
static void on_down(void *arg, const char *why) {
    mx_stream **s = arg;
    downs++;
    strncpy(reason, why, sizeof reason - 1);
    mx_stream_close(*s);
}
static void on_gone(void *arg) { (void)arg, gones++; }
static const mx_stream_events events = {on_up, on_room, on_data, on_drained, on_down, on_gone};

static int before(void **state) {
    (void)state;
    ups = downs = gones = 0;
    *reason = 0;
    return uv_loop_init(&loop);
}

static int after(void **state) {
    (void)state;
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop); /* nothing is left open */
}

static char *long_name(void) {
    static char name[301];
    memset(name, 'a', 300);
    return name;
}

static void tcp_says_why_a_name_is_not_even_looked_up(void **state) {
    mx_stream *s;
    (void)state;
    s = mx_tcp_open(&loop, long_name(), "5672", 0, &events, &s);
    assert_int_equal(downs, 0); /* not from within the call */
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(downs == 1 && gones == 1 && ups == 0);
    assert_true(strlen(reason) > 3);
}

static void tcp_closes_before_it_could_say_so(void **state) {
    mx_stream *s;
    (void)state;
    s = mx_tcp_open(&loop, long_name(), "5672", 0, &events, &s);
    mx_stream_close(s);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(downs == 0 && gones == 1);
}

static void tcp_says_that_nobody_listens(void **state) {
    mx_stream *s;
    (void)state;
    s = mx_tcp_open(&loop, "127.0.0.1", "1", 0, &events, &s);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(downs == 1 && gones == 1 && ups == 0);
    assert_string_equal(reason, "connection refused");
}

static int fd_of_stream;
static void on_walk(uv_handle_t *h, void *arg) {
    (void)arg;
    if (h->type == UV_TCP) assert_int_equal(uv_fileno(h, &fd_of_stream), 0);
}

static int option(int level, int name) {
    int value = -1;
    socklen_t size = sizeof value;
    assert_int_equal(getsockopt(fd_of_stream, level, name, &value, &size), 0);
    return value;
}

static void check_options(void *arg) {
    mx_stream **s = arg;
    uv_walk(&loop, on_walk, NULL);
    assert_true(option(IPPROTO_TCP, TCP_NODELAY));
    assert_true(option(SOL_SOCKET, SO_KEEPALIVE));
    assert_int_equal(option(IPPROTO_TCP, TCP_KEEPIDLE), 60);
    assert_int_equal(option(IPPROTO_TCP, TCP_USER_TIMEOUT), 7000);
    assert_true(fcntl(fd_of_stream, F_GETFD) & FD_CLOEXEC);
    mx_stream_patience(*s, 0);
    assert_int_equal(option(IPPROTO_TCP, TCP_USER_TIMEOUT), 0);
    ups++;
    mx_stream_close(*s);
}

/* A stream to somebody who listens at host, until it is closed. */
static void open_to(const char *host, const mx_stream_events *e) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = inet_addr(host)};
    socklen_t size = sizeof at;
    int listening = socket(AF_INET, SOCK_STREAM, 0);
    char port[8];
    mx_stream *s;
    assert_int_equal(bind(listening, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(listening, 1), 0);
    getsockname(listening, (struct sockaddr *)&at, &size);
    snprintf(port, sizeof port, "%d", ntohs(at.sin_port));
    s = mx_tcp_open(&loop, host, port, 7000, e, &s);
    uv_run(&loop, UV_RUN_DEFAULT);
    close(listening);
}

static void tcp_sends_at_once_and_finds_a_dead_peer(void **state) {
    static const mx_stream_events checking = {check_options, on_room, on_data, on_drained, on_down, on_gone};
    (void)state;
    open_to("127.0.0.1", &checking);
    assert_true(ups == 1 && downs == 0 && gones == 1);
}

static int local;

static void ask_whether_local(void *arg) {
    mx_stream **s = arg;
    local = mx_stream_is_local(*s);
    mx_stream_close(*s);
}

/* What goes to 127.0.0.2 comes from 127.0.0.1: two addresses, as between two machines. */
static void tcp_knows_a_peer_on_its_own_address(void **state) {
    static const mx_stream_events asking = {ask_whether_local, on_room, on_data, on_drained, on_down, on_gone};
    (void)state;
    open_to("127.0.0.1", &asking);
    assert_true(local);
    open_to("127.0.0.2", &asking);
    assert_false(local);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tcp_says_why_a_name_is_not_even_looked_up, before, after),
        cmocka_unit_test_setup_teardown(tcp_closes_before_it_could_say_so, before, after),
        cmocka_unit_test_setup_teardown(tcp_says_that_nobody_listens, before, after),
        cmocka_unit_test_setup_teardown(tcp_sends_at_once_and_finds_a_dead_peer, before, after),
        cmocka_unit_test_setup_teardown(tcp_knows_a_peer_on_its_own_address, before, after),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
