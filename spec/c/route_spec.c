/* route_spec.c - which queues a message reaches: exchanges, bindings, topic patterns, the cache of routes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "broker/store.h"

static mx_timers timers;
static mx_store *s;

static mx_span S(const char *text) { return mx_span_of(text); }

static int begin(void **state) {
    (void)state;
    s = mx_store_get(S("route"), &timers);
    return 0;
}

static int finish(void **state) {
    (void)state;
    mx_store_put(s);
    mx_store_forget(s);
    assert_int_equal(timers.count, 0);
    assert_int_equal(mx_message_bytes(), 0);
    mx_timers_fini(&timers);
    return 0;
}

static mx_queue *queue(const char *name) { return mx_queue_new(s, S(name), NULL); }
static mx_exchange *exchange(const char *name, int type) { return mx_exchange_new(s, S(name), type); }
static void bind(mx_exchange *x, mx_queue *q, const char *key) { mx_store_bind(s, &(mx_ends){x, q, NULL, S(key), {0}}); }
static void pass_on(mx_exchange *x, mx_exchange *to, const char *key) { mx_store_bind(s, &(mx_ends){x, NULL, to, S(key), {0}}); }
static void unbind(mx_exchange *x, mx_queue *q, const char *key) { mx_store_unbind(s, &(mx_ends){x, q, NULL, S(key), {0}}); }
static uint32_t reached(const char *x, const char *key) { return mx_store_route(s, S(x), S(key), (mx_span){0})->count; }
static int matches(const char *pattern, const char *key) { return mx_topic_matches(S(pattern), S(key)); }

static int reaches(const char *x, const char *key, const mx_queue *q) {
    const mx_route *r = mx_store_route(s, S(x), S(key), (mx_span){0});
    for (uint32_t i = 0; i < r->count; i++)
        if (r->queue[i] == q) return 1;
    return 0;
}

static void topic_star_is_one_word(void **state) {
    (void)state;
    assert_true(matches("order.*", "order.new"));
    assert_false(matches("order.*", "order"));
    assert_false(matches("order.*", "order.new.eu"));
    assert_true(matches("*.new", "order.new"));
    assert_true(matches("*", "order"));
    assert_false(matches("*", ""));
    assert_true(matches("order.*", "order."));
}

static void topic_hash_is_any_number_of_words(void **state) {
    (void)state;
    assert_true(matches("#", ""));
    assert_true(matches("#", "a.b.c"));
    assert_true(matches("a.#", "a"));
    assert_true(matches("a.#", "a.b.c"));
    assert_false(matches("a.#", "ab"));
    assert_true(matches("#.c", "c"));
    assert_true(matches("#.c", "a.b.c"));
    assert_true(matches("a.#.c", "a.c"));
    assert_true(matches("a.#.c", "a.b.b.c"));
    assert_false(matches("a.#.c", "a.b.b"));
    assert_true(matches("#.a.#", "x.a.y"));
    assert_true(matches("#.*", "a"));
    assert_false(matches("#.*", ""));
    assert_true(matches("#.#", ""));
}

static void topic_words_are_whole_words(void **state) {
    (void)state;
    assert_false(matches("a.b", "a.bc"));
    assert_false(matches("a.b", "ab"));
    assert_true(matches("", ""));
    assert_false(matches("", "a"));
    assert_false(matches("a*", "ab"));
}

static void topic_hostile_pattern_takes_no_exponential_time(void **state) {
    (void)state;
    char pattern[256] = "", key[256] = "";
    for (int i = 0; i < 60; i++) strcat(pattern, "#.a."), strcat(key, "a.a.");
    strcat(pattern, "b");
    strcat(key, "c");
    assert_false(matches(pattern, key));
}

/* By recursion, as the protocol's text defines it. */
static int naive(const char *p, const char *k) {
    size_t pw = p ? strcspn(p, ".") : 0, kw = k ? strcspn(k, ".") : 0;
    const char *p2 = p && p[pw] ? p + pw + 1 : NULL, *k2 = k && k[kw] ? k + kw + 1 : NULL;
    if (!p) return !k;
    if (pw == 1 && *p == '#') return naive(p2, k) || (k && naive(p, k2));
    if (!k || !((pw == 1 && *p == '*') || (pw == kw && !memcmp(p, k, pw)))) return 0;
    return naive(p2, k2);
}

static void random_words(char *to, const char *const *words, int kinds) {
    *to = 0;
    for (int n = rand() % 5; n >= 0; n--) strcat(strcat(to, words[rand() % kinds]), n ? "." : "");
}

static void topic_agrees_with_the_definition(void **state) {
    (void)state;
    static const char *const words[] = {"a", "b", "#", "*", "ab"};
    char pattern[32], key[32];
    srand(7);
    for (int i = 0; i < 200000; i++) {
        random_words(pattern, words, 5);
        random_words(key, words, 2);
        if (matches(pattern, key) != naive(pattern, key)) fail_msg("%s against %s", pattern, key);
    }
}

static void route_default_exchange_goes_by_queue_name(void **state) {
    (void)state;
    mx_queue *q = queue("q");
    assert_true(reaches("", "q", q));
    assert_int_equal(reached("", "other"), 0);
}

static void route_says_when_an_exchange_is_missing(void **state) {
    (void)state;
    assert_true(mx_store_route(s, S("nowhere"), S("k"), (mx_span){0})->missing);
    assert_false(mx_store_route(s, S("amq.direct"), S("k"), (mx_span){0})->missing);
}

static void route_direct_goes_by_key(void **state) {
    (void)state;
    mx_queue *a = queue("a"), *b = queue("b");
    mx_exchange *x = exchange("x", MX_EX_DIRECT);
    bind(x, a, "1");
    bind(x, b, "1");
    bind(x, b, "2");
    assert_int_equal(reached("x", "1"), 2);
    assert_int_equal(reached("x", "2"), 1);
    assert_true(reaches("x", "2", b));
    assert_int_equal(reached("x", "3"), 0);
}

static void route_fanout_goes_to_all_once(void **state) {
    (void)state;
    mx_exchange *x = exchange("x", MX_EX_FANOUT);
    mx_queue *a = queue("a");
    bind(x, a, "1");
    bind(x, a, "2");
    bind(x, queue("b"), "");
    assert_int_equal(reached("x", "whatever"), 2);
}

static void route_passes_from_exchange_to_exchange(void **state) {
    (void)state;
    mx_exchange *x = exchange("x", MX_EX_TOPIC), *y = exchange("y", MX_EX_FANOUT);
    mx_queue *q = queue("q");
    pass_on(x, y, "a.#");
    bind(y, q, "");
    assert_true(reaches("x", "a.b", q));
    assert_false(reaches("x", "b.a", q));
}

static void route_ends_in_a_circle_of_exchanges(void **state) {
    (void)state;
    mx_exchange *x = exchange("x", MX_EX_FANOUT), *y = exchange("y", MX_EX_FANOUT);
    pass_on(x, y, "");
    pass_on(y, x, "");
    bind(y, queue("q"), "");
    assert_int_equal(reached("x", "k"), 1);
}

static void route_follows_every_change(void **state) {
    (void)state;
    mx_exchange *x = exchange("x", MX_EX_DIRECT);
    mx_queue *q = queue("q");
    assert_int_equal(reached("x", "k"), 0);
    bind(x, q, "k");
    assert_int_equal(reached("x", "k"), 1);
    unbind(x, q, "k");
    assert_int_equal(reached("x", "k"), 0);
    bind(x, q, "k");
    mx_queue_delete(q);
    assert_int_equal(reached("x", "k"), 0);
    assert_int_equal(reached("", "q"), 0);
    mx_exchange_delete(s, x);
    assert_true(mx_store_route(s, S("x"), S("k"), (mx_span){0})->missing);
}

static void route_finds_each_of_thousands(void **state) {
    (void)state;
    mx_exchange *x = exchange("x", MX_EX_DIRECT);
    mx_queue *q[3000];
    char name[16];
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "q%d", i);
        bind(x, q[i] = queue(name), name + 1);
    }
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "q%d", i);
        assert_true(reaches("", name, q[i]) && reached("", name) == 1);
        assert_true(reaches("x", name + 1, q[i]) && reached("x", name + 1) == 1);
    }
}

static void auto_delete_exchange_goes_with_its_last_binding(void **state) {
    (void)state;
    mx_exchange *x = exchange("x", MX_EX_FANOUT), *y = exchange("y", MX_EX_FANOUT);
    mx_queue *q = queue("q");
    x->auto_delete = y->auto_delete = 1;
    pass_on(x, y, "");
    bind(y, q, "1");
    bind(y, q, "2");
    unbind(y, q, "1");
    assert_non_null(mx_store_exchange(s, S("y")));
    mx_queue_delete(q);
    assert_null(mx_store_exchange(s, S("y")));
    assert_null(mx_store_exchange(s, S("x")));
}

static void auto_delete_exchanges_in_a_circle_all_go(void **state) {
    (void)state;
    mx_exchange *x = exchange("x", MX_EX_FANOUT), *y = exchange("y", MX_EX_FANOUT);
    x->auto_delete = y->auto_delete = 1;
    pass_on(x, y, "");
    pass_on(y, x, "");
    mx_exchange_delete(s, x);
    assert_null(mx_store_exchange(s, S("y")));
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, begin, finish)
int main(void) {
    const struct CMUnitTest cases[] = {
        CASE(topic_star_is_one_word),
        CASE(topic_hash_is_any_number_of_words),
        CASE(topic_words_are_whole_words),
        CASE(topic_hostile_pattern_takes_no_exponential_time),
        CASE(topic_agrees_with_the_definition),
        CASE(route_default_exchange_goes_by_queue_name),
        CASE(route_says_when_an_exchange_is_missing),
        CASE(route_direct_goes_by_key),
        CASE(route_fanout_goes_to_all_once),
        CASE(route_passes_from_exchange_to_exchange),
        CASE(route_ends_in_a_circle_of_exchanges),
        CASE(route_follows_every_change),
        CASE(route_finds_each_of_thousands),
        CASE(auto_delete_exchange_goes_with_its_last_binding),
        CASE(auto_delete_exchanges_in_a_circle_all_go),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
