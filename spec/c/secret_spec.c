/* secret_spec.c - where secrets are, and where they are not any more. */
#include "base/secret.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

extern char **environ;

/* Whether a core dump leaves out the mapping that p is in. */
static int is_left_out(const void *p) {
    char line[512];
    unsigned long low, high;
    int inside = 0, out = 0;
    FILE *f = fopen("/proc/self/smaps", "re");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "%lx-%lx ", &low, &high) == 2) inside = (uintptr_t)p >= low && (uintptr_t)p < high;
        if (inside && !strncmp(line, "VmFlags:", 8)) out = strstr(line, " dd") != NULL;
    }
    fclose(f);
    return out;
}

static void a_secret_is_left_out_of_core_dumps(void **state) {
    (void)state;
    char *s = mx_secret("S3cr3t-77", 9), *p = malloc(10);
    assert_string_equal(s, "S3cr3t-77");
    assert_true(is_left_out(s));
    assert_false(is_left_out(p));
    mx_secret_free(s);
    free(p);
}

static void one_that_is_freed_is_gone(void **state) {
    (void)state;
    char *s = mx_secret("S3cr3t-77", 9);
    void *page = (void *)((uintptr_t)s & ~(uintptr_t)(getpagesize() - 1));
    unsigned char there;
    assert_int_equal(mincore(page, 1, &there), 0);
    mx_secret_free(s);
    assert_int_equal(mincore(page, 1, &there), -1);
}

static void a_large_one_is_left_out_as_well(void **state) {
    (void)state;
    enum { N = 8192 };
    char *all = malloc(N), *s;
    memset(all, 'x', N);
    s = mx_secret(all, N);
    assert_int_equal(strlen(s), N);
    assert_true(is_left_out(s + N));
    mx_secret_free(s);
    mx_secret_free(NULL);
    free(all);
}

static void there_is_room_for_many(void **state) {
    (void)state;
    enum { MANY = 1000 };
    static char *s[MANY];
    for (int i = 0; i < MANY; i++) s[i] = mx_secret("a password that is not as short as others", 41);
    for (int i = 0; i < MANY; i++) assert_int_equal(s[i][40], 's');
    for (int i = 0; i < MANY; i++) mx_secret_free(s[i]);
}

static int holds(const char *path, const char *word) {
    static char text[1 << 16];
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    return memmem(text, n, word, strlen(word)) != NULL;
}

static void one_of_the_environment_leaves_its_first_place(void **state) {
    (void)state;
    assert_true(holds("/proc/self/environ", "S3cr3t-78"));
    const char *s = mx_secret_environment("MXRUN_SPEC_SECRET");
    assert_string_equal(s, "S3cr3t-78");
    assert_true(is_left_out(s));
    assert_false(holds("/proc/self/environ", "S3cr3t-78"));
    assert_ptr_equal(mx_secret_environment("MXRUN_SPEC_SECRET"), s);
    assert_int_equal(system("test \"$MXRUN_SPEC_SECRET\" = S3cr3t-78"), 0);
    assert_null(mx_secret_environment("MXRUN_SPEC_NOT_THERE"));
}

static void one_that_was_set_later_stays_where_it_is(void **state) {
    (void)state;
    setenv("MXRUN_SPEC_LATER", "S3cr3t-79", 1);
    assert_ptr_equal(mx_secret_environment("MXRUN_SPEC_LATER"), getenv("MXRUN_SPEC_LATER"));
    assert_string_equal(getenv("MXRUN_SPEC_LATER"), "S3cr3t-79");
}

int main(int argc, char **argv) {
    (void)argc;
    if (!getenv("MXRUN_SPEC_SECRET")) { /* it has to come with exec */
        setenv("MXRUN_SPEC_SECRET", "S3cr3t-78", 1);
        execve("/proc/self/exe", argv, environ);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_secret_is_left_out_of_core_dumps),
        cmocka_unit_test(one_that_is_freed_is_gone),
        cmocka_unit_test(a_large_one_is_left_out_as_well),
        cmocka_unit_test(there_is_room_for_many),
        cmocka_unit_test(one_of_the_environment_leaves_its_first_place),
        cmocka_unit_test(one_that_was_set_later_stays_where_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
