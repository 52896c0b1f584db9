/* profile_spec.c - what is sampled where no script is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>
#include "measure/account.h"
#include "measure/profile.h"

static void profile_takes_blocks_before_and_after_there_is_a_script(void **state) {
    (void)state;
    mx_profile_want(MX_HEAP, 1);
    for (int i = 0; i < 1000; i++) {
        void *p = malloc(4096);
        mx_hold_block(MX_OF_BUFFERS, p, 1 << 20);
        mx_let_go_block(MX_OF_BUFFERS, p, 1 << 20);
        free(p);
    }
    mx_profile_leave(MX_HEAP);
}

int main(void) {
    const struct CMUnitTest cases[] = {cmocka_unit_test(profile_takes_blocks_before_and_after_there_is_a_script)};
    return cmocka_run_group_tests(cases, NULL, NULL);
}
