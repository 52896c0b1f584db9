/* upload_spec.c - a request to a collector: answered, refused by the network, or dropped in the middle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "admin/upload.h"

static uv_loop_t loop;
static mx_runtime runtime;
static int listener, port;

static void on_wake(mx_runtime *r) { (void)r; }

static int before(void **state) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    (void)state;
    uv_loop_init(&loop);
    runtime = (mx_runtime){.loop = &loop, .wake = on_wake};
    mx_waits_init(&runtime.waits, &runtime.timers);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&at, n) || listen(listener, 4)) return 1;
    getsockname(listener, (struct sockaddr *)&at, &n);
    port = ntohs(at.sin_port);
    return 0;
}

/* Nothing is left open, so that the loop can go. */
static int after(void **state) {
    (void)state;
    close(listener);
    mx_uploader_close(&runtime);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    mx_waits_fini(&runtime.waits);
    return 0;
}

static uint32_t begin(const char *body) {
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/v1/traces", port);
    mx_upload_options o = {.url = url, .headers = "X-Key: a\nX-Other: b\n", .timeout = 10};
    uint32_t ticket = mx_wait_new(&runtime.waits.pub, -1);
    assert_int_equal(mx_upload(&runtime, &o, body, strlen(body), ticket), 0);
    return ticket;
}

/* The loop until the ticket is posted: its code. */
static int posted(uint32_t ticket) {
    mx_waits *w = &runtime.waits.pub;
    while (w->head == w->tail) uv_run(&loop, UV_RUN_ONCE);
    mx_post p = w->post[w->head++ & w->mask];
    assert_int_equal(p.ticket, ticket);
    if (p.reply) mx_reply_free(p.reply);
    return p.code;
}

static int accepted(void) {
    struct timeval soon = {0, 1000};
    setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon);
    int fd;
    while ((fd = accept(listener, NULL, NULL)) < 0) uv_run(&loop, UV_RUN_NOWAIT);
    return fd;
}

static void answers_with_the_status(void **state) {
    static const char said[] = "HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}";
    char heard[4096] = "";
    size_t n = 0;
    (void)state;
    uint32_t ticket = begin("{\"a\":1}");
    int fd = accepted();
    while (!strstr(heard, "{\"a\":1}")) {
        ssize_t got = recv(fd, heard + n, sizeof heard - 1 - n, MSG_DONTWAIT);
        if (got > 0) n += (size_t)got;
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    assert_non_null(strstr(heard, "POST /v1/traces HTTP/1.1\r\n"));
    assert_non_null(strstr(heard, "X-Key: a\r\nX-Other: b\r\n"));
    assert_null(strstr(heard, "Expect:"));
    assert_int_equal(send(fd, said, sizeof said - 1, 0), sizeof said - 1);
    assert_int_equal(posted(ticket), 503);
    close(fd);
}

static void says_when_nobody_is_there(void **state) {
    (void)state;
    close(listener);
    assert_int_equal(posted(begin("x")), MX_ECONNECTION);
    listener = socket(AF_INET, SOCK_STREAM, 0);
}

static void drops_what_is_under_way_when_it_closes(void **state) {
    (void)state;
    begin("x");
    begin("y");
    int fd = accepted();
    mx_uploader_close(&runtime);
    assert_true(runtime.waits.pub.head == runtime.waits.pub.tail);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(answers_with_the_status, before, after),
        cmocka_unit_test_setup_teardown(says_when_nobody_is_there, before, after),
        cmocka_unit_test_setup_teardown(drops_what_is_under_way_when_it_closes, before, after),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
