/* shard_spec.c - what shard.h promises, and what abi.h does of marks. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "message/props.h"
#include "worker/shard.h"

static mx_shards *shards;
static int fd;

static int before(void **state) {
    (void)state;
    shards = mx_shards_new(3, 0, &fd);
    return !shards;
}

static int after(void **state) {
    (void)state;
    mx_shards_free(shards);
    return close(fd);
}

/* In a process of its own with that number in its environment: what check answers as a worker or not. */
static int as_worker(const char *number, int with_mapping, int (*check)(void)) {
    pid_t pid = fork();
    if (pid == 0) {
        setenv("MXRUN_WORKER", number, 1);
        if (with_mapping) dup2(fd, MX_SHARD_FD);
        else close(MX_SHARD_FD);
        mx_place_attach();
        _exit(check());
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int writes(void) {
    const mx_place *p = mx_place_get();
    if (p->number != 2 || p->count != 3 || !p->journal || getenv("MXRUN_WORKER")) return 1;
    p->shard->turns = 5;
    *mx_worker_running() = 77;
    return mx_mark_crashes(77) == 1 ? 0 : 2;
}

static void a_worker_finds_its_shard_and_the_journal(void **state) {
    (void)state;
    mx_journal_add(&shards->journal, 77);
    assert_int_equal(as_worker("2", 1, writes), 0);
    assert_int_equal(shards->shard[1].turns, 5);
    assert_int_equal(shards->shard[1].running, 77);
    assert_int_equal(shards->shard[0].turns, 0);
}

static int counts(void) {
    if (!mx_place_get()->watched) return 1;
    mx_series_new(MX_COUNTER, "a", "")->value = 3;
    mx_worker_report("no broker", MX_DEGRADED, "{}", 2);
    return 0;
}

static void a_worker_that_is_watched_counts_in_its_slab(void **state) {
    (void)state;
    int other;
    mx_shards *watched = mx_shards_new(3, 1, &other);
    dup2(other, fd);
    assert_int_equal(as_worker("2", 1, counts), 0);
    assert_null(mx_series_next(mx_shards_slab(watched, 0), NULL));
    assert_true(mx_series_next(mx_shards_slab(watched, 1), NULL)->value == 3);
    mx_report_page page;
    assert_int_equal(mx_report_read(&watched->shard[1].report, &page), 1);
    assert_true(!page.ready && page.health == MX_DEGRADED);
    assert_string_equal(page.why, "no broker");
    mx_shards_wipe(watched, 1);
    assert_null(mx_series_next(mx_shards_slab(watched, 1), NULL));
    for (size_t i = 0; i < 65536; i++) assert_true(((char *)mx_shards_slab(watched, 1))[i] == 0);
    assert_int_equal(as_worker("2", 1, counts), 0);
    assert_true(mx_series_next(mx_shards_slab(watched, 1), NULL)->value == 3);
    mx_shards_free(watched);
    close(other);
}

static int is_alone(void) {
    const mx_place *p = mx_place_get();
    p->shard->turns++;
    return p->number == 1 && p->count == 1 && !p->journal && !mx_worker_running() && mx_mark_crashes(77) == 0 ? 0 : 1;
}

static void a_process_without_the_mapping_is_no_worker(void **state) {
    (void)state;
    assert_int_equal(as_worker("1", 0, is_alone), 0);
    assert_int_equal(as_worker("4", 1, is_alone), 0);
    assert_int_equal(as_worker("x", 1, is_alone), 0);
}

static int knows_one_crash(void) { return mx_mark_crashes(77) == 1 ? 0 : 1; }
static int knows_of_no_crash(void) { return mx_mark_crashes(77) == 0 ? 0 : 1; }

static void what_a_worker_ran_that_died_counts_before_the_supervisor_knows(void **state) {
    (void)state;
    pid_t pid = fork();
    if (pid == 0) _exit(0);
    shards->shard[1].running = 77;
    shards->shard[1].pid = getpid();
    assert_int_equal(as_worker("1", 1, knows_of_no_crash), 0);
    siginfo_t about;
    assert_int_equal(waitid(P_PID, (id_t)pid, &about, WEXITED | WNOWAIT), 0);
    shards->shard[1].pid = pid;
    assert_int_equal(as_worker("1", 1, knows_one_crash), 0); /* a zombie */
    assert_int_equal(as_worker("2", 1, knows_of_no_crash), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(as_worker("1", 1, knows_one_crash), 0);
}

static uint64_t mark(const char *queue, const char *id, const char *body) {
    uint8_t bytes[64];
    mx_props props = {.flags = id ? MX_P_MESSAGE_ID : 0, .message_id = mx_span_of(id)};
    int n = mx_props_encode(&props, bytes, sizeof bytes);
    assert_true(n > 0);
    mx_msg m = {.props = bytes, .props_size = (uint32_t)n, .body = (const uint8_t *)body, .size = strlen(body)};
    return mx_msg_mark(&m, queue, strlen(queue));
}

static void a_mark_is_of_queue_and_id_or_of_what_is_in_the_message(void **state) {
    (void)state;
    assert_true(mark("q", "a", "one") == mark("q", "a", "two"));
    assert_true(mark("q", "a", "one") != mark("q", "b", "one"));
    assert_true(mark("q", "a", "one") != mark("r", "a", "one"));
    assert_true(mark("q", NULL, "one") == mark("q", NULL, "one"));
    assert_true(mark("q", NULL, "one") != mark("q", NULL, "two"));
    assert_true(mark("q", "", "one") == mark("q", NULL, "one"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_worker_finds_its_shard_and_the_journal, before, after),
        cmocka_unit_test_setup_teardown(a_worker_that_is_watched_counts_in_its_slab, before, after),
        cmocka_unit_test_setup_teardown(a_process_without_the_mapping_is_no_worker, before, after),
        cmocka_unit_test_setup_teardown(what_a_worker_ran_that_died_counts_before_the_supervisor_knows, before, after),
        cmocka_unit_test(a_mark_is_of_queue_and_id_or_of_what_is_in_the_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
