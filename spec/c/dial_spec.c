/* dial_spec.c - which address wins, and what becomes of the others. The resolver is made up: addresses of this machine, where one
 * refuses, one is silent, and some answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "wire/dial.h"

enum { MOST = 8, QUEUE = 2 };

static uv_loop_t loop;
static const char *names[MOST]; /* what the resolver answers; NULL at its end */
static uv_sem_t asked, answer;
static int hangs, listeners[MOST], fillers[MOST * (QUEUE + 1)], listening, filling;
static char port[8], winner[64], reason[100];
static int dialled, won;

/* libuv finds these two before those of the C library. */
__attribute__((visibility("default"))) int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                                                       struct addrinfo **out) {
    struct addrinfo **at = out;
    if (hints->ai_flags & AI_NUMERICHOST) {
        if (!strcmp(host, "name")) return EAI_NONAME;
        names[0] = host;
        names[1] = NULL;
    } else if (hangs) {
        uv_sem_post(&asked);
        uv_sem_wait(&answer);
        return EAI_AGAIN;
    }
    for (int i = 0; names[i]; i++, at = &(*at)->ai_next) {
        struct sockaddr_in6 *six = calloc(1, sizeof *six);
        struct sockaddr_in *four = (struct sockaddr_in *)six;
        int family = strchr(names[i], ':') ? AF_INET6 : AF_INET;
        six->sin6_family = (sa_family_t)family;
        six->sin6_port = htons((uint16_t)atoi(service));
        inet_pton(family, names[i], family == AF_INET6 ? (void *)&six->sin6_addr : (void *)&four->sin_addr);
        *at = calloc(1, sizeof **at);
        **at = (struct addrinfo){.ai_family = family, .ai_socktype = SOCK_STREAM, .ai_addr = (struct sockaddr *)six};
        (*at)->ai_addrlen = family == AF_INET6 ? sizeof *six : sizeof *four;
    }
    *at = NULL;
    return 0;
}

__attribute__((visibility("default"))) void freeaddrinfo(struct addrinfo *a) {
    for (struct addrinfo *next; a; a = next) {
        next = a->ai_next;
        free(a->ai_addr);
        free(a);
    }
}

/* Listens at the address, on the port of all of them. */
static int listen_at(const char *name, int backlog) {
    struct addrinfo hints = {0}, *a;
    const char *kept[] = {names[0], names[1]};
    int hung = hangs;
    names[0] = name;
    names[1] = NULL;
    hangs = 0;
    getaddrinfo("name", port, &hints, &a);
    names[0] = kept[0];
    names[1] = kept[1];
    hangs = hung;
    int fd = socket(a->ai_family, SOCK_STREAM, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a->ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    assert_int_equal(bind(fd, a->ai_addr, a->ai_addrlen), 0);
    assert_int_equal(listen(fd, backlog), 0);
    freeaddrinfo(a);
    return listeners[listening++] = fd;
}

/* Its queue is full: the kernel drops what knocks. */
static void be_silent_at(const char *name) {
    struct sockaddr_storage at;
    socklen_t size = sizeof at;
    int fd = listen_at(name, QUEUE - 1);
    getsockname(fd, (struct sockaddr *)&at, &size);
    for (int i = 0; i < QUEUE + 1; i++) {
        int c = fillers[filling++] = socket(at.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(c, (struct sockaddr *)&at, size);
    }
}

static void on_freed(uv_handle_t *h) { free(h); }

static void on_dialled(void *arg, uv_stream_t *s, const char *why) {
    struct sockaddr_storage at;
    int size = sizeof at;
    (void)arg;
    dialled++;
    if (!s) {
        snprintf(reason, sizeof reason, "%s", why);
        return;
    }
    won++;
    uv_tcp_getpeername((uv_tcp_t *)s, (struct sockaddr *)&at, &size);
    uv_ip_name((struct sockaddr *)&at, winner, sizeof winner);
    uv_close((uv_handle_t *)s, on_freed);
}

static int before(void **state) {
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof any;
    (void)state;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(fd, (struct sockaddr *)&any, size)) return 1;
    getsockname(fd, (struct sockaddr *)&any, &size);
    close(fd);
    snprintf(port, sizeof port, "%d", ntohs(any.sin_port));
    memset(names, 0, sizeof names);
    dialled = won = hangs = listening = filling = 0;
    *winner = *reason = 0;
    return uv_loop_init(&loop);
}

static int after(void **state) {
    (void)state;
    while (listening) close(listeners[--listening]);
    while (filling) close(fillers[--filling]);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop); /* nothing is left open */
}

static void dial(void) {
    mx_dial_start(&loop, "name", port, on_dialled, NULL);
    assert_int_equal(dialled, 0); /* not from within the call */
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(dialled, 1);
}

static void dial_goes_on_when_an_address_refuses(void **state) {
    (void)state;
    names[0] = "127.0.0.2";
    names[1] = "::1";
    names[2] = "127.0.0.3";
    listen_at("127.0.0.3", 5);
    dial();
    assert_string_equal(winner, "127.0.0.3");
}

static void dial_does_not_wait_for_an_address_that_is_silent(void **state) {
    (void)state;
    names[0] = "::1";
    names[1] = "127.0.0.2";
    names[2] = "127.0.0.3";
    be_silent_at("::1");
    be_silent_at("127.0.0.2");
    listen_at("127.0.0.3", 5);
    uint64_t from = uv_hrtime();
    dial();
    assert_string_equal(winner, "127.0.0.3");
    assert_true(uv_hrtime() - from < 3000000000u); /* the silent ones have not even been given up */
}

static void dial_tries_both_families_by_turns(void **state) {
    (void)state;
    names[0] = "127.0.0.2";
    names[1] = "127.0.0.3";
    names[2] = "::1";
    be_silent_at("127.0.0.2");
    listen_at("127.0.0.3", 5);
    listen_at("::1", 5);
    dial();
    assert_string_equal(winner, "::1");
}

static void dial_says_why_when_none_answers(void **state) {
    (void)state;
    names[0] = "127.0.0.2";
    names[1] = "::1";
    dial();
    assert_string_equal(reason, "connection refused");
    assert_int_equal(won, 0);
}

static void dial_gives_up_an_address_that_stays_silent(void **state) {
    (void)state;
    names[0] = "127.0.0.2";
    be_silent_at("127.0.0.2");
    dial();
    assert_string_equal(reason, "connection timed out");
}

static void dial_stops_while_several_are_tried(void **state) {
    (void)state;
    names[0] = "127.0.0.2";
    names[1] = "127.0.0.3";
    be_silent_at("127.0.0.2");
    be_silent_at("127.0.0.3");
    mx_dial *d = mx_dial_start(&loop, "name", port, on_dialled, NULL);
    for (uint64_t due = uv_hrtime() + 400000000u; uv_hrtime() < due;) uv_run(&loop, UV_RUN_ONCE);
    mx_dial_stop(d);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(dialled, 0);
}

static void dial_stops_at_once_while_the_resolver_hangs(void **state) {
    (void)state;
    hangs = 1;
    mx_dial *d = mx_dial_start(&loop, "name", port, on_dialled, NULL);
    uv_sem_wait(&asked);
    mx_dial_stop(d);
    uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(uv_loop_close(&loop), UV_EBUSY); /* all that is left is the question */
    uv_sem_post(&answer);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(dialled, 0);
}

static void dial_asks_no_resolver_about_an_address(void **state) {
    (void)state;
    hangs = 1;
    listen_at("127.0.0.3", 5);
    mx_dial_start(&loop, "127.0.0.3", port, on_dialled, NULL);
    assert_int_equal(dialled, 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_string_equal(winner, "127.0.0.3");
}

static void dial_waits_5_s_for_the_resolver(void **state) {
    (void)state;
    hangs = 1;
    mx_dial_start(&loop, "name", port, on_dialled, NULL);
    uv_sem_wait(&asked);
    while (!dialled) uv_run(&loop, UV_RUN_ONCE);
    assert_string_equal(reason, "its name was not looked up within 5 s");
    uv_sem_post(&answer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(dial_goes_on_when_an_address_refuses, before, after),
        cmocka_unit_test_setup_teardown(dial_does_not_wait_for_an_address_that_is_silent, before, after),
        cmocka_unit_test_setup_teardown(dial_tries_both_families_by_turns, before, after),
        cmocka_unit_test_setup_teardown(dial_says_why_when_none_answers, before, after),
        cmocka_unit_test_setup_teardown(dial_gives_up_an_address_that_stays_silent, before, after),
        cmocka_unit_test_setup_teardown(dial_stops_while_several_are_tried, before, after),
        cmocka_unit_test_setup_teardown(dial_stops_at_once_while_the_resolver_hangs, before, after),
        cmocka_unit_test_setup_teardown(dial_asks_no_resolver_about_an_address, before, after),
        cmocka_unit_test_setup_teardown(dial_waits_5_s_for_the_resolver, before, after),
    };
    uv_sem_init(&asked, 0);
    uv_sem_init(&answer, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
