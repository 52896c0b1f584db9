/* control_spec.c - the local socket: whose path it takes, and what it bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "admin/control.h"

static uv_loop_t loop;
static mx_runtime runtime;
static struct sockaddr_un at;
static char why[MX_CONTROL_WHY];

static void on_wake(mx_runtime *r) { (void)r; }
static void settle(void) {
    for (int i = 0; i < 100; i++) uv_run(&loop, UV_RUN_NOWAIT);
}

static int setup(void **state) {
    (void)state;
    memset(&runtime, 0, sizeof runtime);
    uv_loop_init(&loop);
    runtime.loop = &loop;
    runtime.wake = on_wake;
    mx_waits_init(&runtime.waits, &runtime.timers);
    at.sun_family = AF_UNIX;
    snprintf(at.sun_path, sizeof at.sun_path, "/tmp/mxrun-control-%d", (int)getpid());
    return 0;
}

static int teardown(void **state) {
    (void)state;
    mx_control_close(&runtime);
    settle();
    mx_waits_fini(&runtime.waits);
    mx_timers_fini(&runtime.timers);
    int busy = uv_loop_close(&loop);
    unlink(at.sun_path);
    return busy;
}

static void open_it(void) { assert_int_equal(mx_control_open(&runtime, at.sun_path, why), 0); }

static int connected(void) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    settle();
    return fd;
}

static void say(int fd, const char *text) {
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
    settle();
}

static mx_control_line line;
static int take(void) { return mx_control_take(&runtime, &line); }

static void assert_line(const char *text) {
    assert_true(take());
    assert_non_null(line.text);
    assert_int_equal(line.size, strlen(text));
    assert_memory_equal(line.text, text, line.size);
}

static int is_closed(int fd) {
    char block[4096];
    ssize_t n;
    settle();
    while ((n = recv(fd, block, sizeof block, MSG_DONTWAIT)) > 0) settle();
    return n == 0;
}

static void control_is_for_nobody_else(void **state) {
    (void)state;
    struct stat s;
    umask(0);
    open_it();
    assert_int_equal(stat(at.sun_path, &s), 0);
    assert_int_equal(s.st_mode & 0777, 0600);
    mx_control_close(&runtime);
    assert_int_not_equal(stat(at.sun_path, &s), 0);
}

static void control_takes_the_place_of_a_socket_that_nobody_listens_at(void **state) {
    (void)state;
    int dead = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(dead, (struct sockaddr *)&at, sizeof at), 0);
    close(dead);
    open_it();
    close(connected());
}

static void control_refuses_the_path_of_one_that_lives_and_of_a_file(void **state) {
    (void)state;
    int fd = open(at.sun_path, O_CREAT | O_WRONLY, 0600);
    close(fd);
    assert_int_equal(mx_control_open(&runtime, at.sun_path, why), MX_ECONNECTION);
    assert_string_equal(why, "there is a file of that name, and it is no socket");
    assert_int_equal(unlink(at.sun_path), 0);

    int other = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(other, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(other, 1), 0);
    assert_int_equal(mx_control_open(&runtime, at.sun_path, why), MX_ECONNECTION);
    assert_string_equal(why, "another process listens there");
    close(other);
}

static void control_leaves_the_path_to_who_took_it_since(void **state) {
    (void)state;
    open_it();
    assert_int_equal(rename(at.sun_path, "/tmp/mxrun-control-moved"), 0);
    unlink("/tmp/mxrun-control-moved");
    close(open(at.sun_path, O_CREAT | O_WRONLY, 0600));
    mx_control_close(&runtime);
    assert_int_equal(access(at.sun_path, F_OK), 0);
}

static void control_refuses_a_path_that_is_too_long(void **state) {
    (void)state;
    char path[200];
    memset(path, 'x', sizeof path);
    path[sizeof path - 1] = '\0';
    assert_int_equal(mx_control_open(&runtime, path, why), MX_ECONFIG);
}

static void control_gives_whole_lines_and_tells_of_who_leaves(void **state) {
    (void)state;
    open_it();
    int fd = connected();
    say(fd, "half");
    assert_false(take());
    say(fd, " a line\nand\nmore");
    assert_line("half a line");
    assert_int_equal(line.uid, geteuid());
    assert_int_equal(line.pid, getpid());
    uint32_t client = line.client;
    assert_line("and");
    assert_false(take());
    close(fd);
    settle();
    assert_true(take());
    assert_null(line.text);
    assert_int_equal(line.client, client);
    assert_false(take());
    assert_int_equal(mx_control_send(&runtime, client, "x", 1), MX_ECLOSED);
}

static void control_posts_the_ticket_when_there_is_a_line(void **state) {
    (void)state;
    open_it();
    int fd = connected();
    mx_waits *w = &runtime.waits.pub;
    mx_control_wait(&runtime, mx_wait_new(w, -1));
    settle();
    assert_int_equal(w->head, w->tail);
    say(fd, "x\ny\n");
    assert_int_equal(w->tail - w->head++, 1);
    assert_line("x");
    mx_control_wait(&runtime, mx_wait_new(w, -1)); /* there is one more */
    assert_int_equal(w->tail - w->head++, 1);
    close(fd);
}

static void control_drops_who_sends_a_line_without_end(void **state) {
    (void)state;
    open_it();
    int fd = connected();
    char block[4096];
    memset(block, 'x', sizeof block);
    for (int i = 0; i < 256; i++) {
        if (send(fd, block, sizeof block, MSG_NOSIGNAL) < 0) break;
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    settle();
    char said[256] = "";
    assert_true(recv(fd, said, sizeof said - 1, MSG_DONTWAIT) > 0);
    assert_non_null(strstr(said, "a line is at most 65536 bytes"));
    assert_false(take());
    close(fd);
}

static void control_reads_no_further_while_a_line_waits(void **state) {
    (void)state;
    open_it();
    int fd = connected();
    size_t sent = 0;
    for (ssize_t n; sent < 16 << 20; sent += (size_t)n) {
        n = send(fd, "line\nline\nline\nline\n", 20, MSG_NOSIGNAL);
        uv_run(&loop, UV_RUN_NOWAIT);
        if (n != 20) break;
    }
    assert_true(sent < 1 << 20);
    for (int taken = 0, turns = 0; taken < 1000 && ++turns < 10000;) {
        if (take()) taken += line.size == 4;
        else settle();
        if (turns == 9999) fail();
    }
    close(fd);
}

static void control_drops_who_does_not_read(void **state) {
    (void)state;
    open_it();
    int fd = connected();
    say(fd, "x\n");
    assert_line("x");
    static char block[256 * 1024];
    int code = 0, pieces = 0;
    while (!code && ++pieces < 100) code = mx_control_send(&runtime, line.client, block, sizeof block);
    assert_int_equal(code, MX_EBACKPRESSURE);
    assert_true((size_t)pieces * sizeof block < MX_CONTROL_PENDING + (1 << 20));
    assert_true(mx_control_pending(&runtime, line.client) < 0);
    assert_true(is_closed(fd));
    close(fd);
}

static void control_sends_in_order_what_the_kernel_does_not_take_at_once(void **state) {
    (void)state;
    open_it();
    int fd = connected();
    say(fd, "x\n");
    assert_line("x");
    static unsigned char block[1 << 20], got[1 << 20];
    for (size_t i = 0; i < sizeof block; i++) block[i] = (unsigned char)(i * 7 + i / 251);
    for (int i = 0; i < 2; i++)
        assert_int_equal(mx_control_send(&runtime, line.client, (char *)block + i * (1 << 19), 1 << 19), 0);
    size_t size = 0;
    for (int i = 0; i < 10000 && size < sizeof got; i++) {
        ssize_t n = recv(fd, got + size, sizeof got - size, MSG_DONTWAIT);
        if (n > 0) size += (size_t)n;
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(size, sizeof got);
    assert_memory_equal(got, block, size);
    close(fd);
}

static void control_takes_so_many_clients_and_no_more(void **state) {
    (void)state;
    open_it();
    int fd[100];
    for (int i = 0; i < 100; i++) fd[i] = connected();
    for (int i = 0; i < 100; i++) assert_int_equal(is_closed(fd[i]), i >= MX_CONTROL_CLIENTS);
    for (int i = 0; i < 100; i++) close(fd[i]);
    settle();
    int again = connected();
    assert_false(is_closed(again));
    close(again);
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest cases[] = {
        CASE(control_is_for_nobody_else),
        CASE(control_takes_the_place_of_a_socket_that_nobody_listens_at),
        CASE(control_refuses_the_path_of_one_that_lives_and_of_a_file),
        CASE(control_leaves_the_path_to_who_took_it_since),
        CASE(control_refuses_a_path_that_is_too_long),
        CASE(control_gives_whole_lines_and_tells_of_who_leaves),
        CASE(control_posts_the_ticket_when_there_is_a_line),
        CASE(control_drops_who_sends_a_line_without_end),
        CASE(control_reads_no_further_while_a_line_waits),
        CASE(control_drops_who_does_not_read),
        CASE(control_sends_in_order_what_the_kernel_does_not_take_at_once),
        CASE(control_takes_so_many_clients_and_no_more),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
