/* definition_spec.c - what definition.h promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/mx.h"
#include "measure/definition.h"

static void names(const char *line, const char *name) {
    char to[64] = "";
    assert_int_equal(mx_definition_in(line, to, sizeof to), name != NULL);
    if (name) assert_string_equal(to, name);
}

static void a_line_names_the_function_it_defines(void **state) {
    (void)state;
    names("local function send(a, b)", "send");
    names("function Queue:send (a)", "Queue:send");
    names("  function M.a.b() return 1 end", "M.a.b");
    names("local send = function(a)", "send");
    names("M.send=function()", "M.send");
    names("  [\"on message\"] = function()", "on message");
    names("  ['x'] =  function()", "x");
    names("local t = { handle = function(m) end }", "handle");
}

static void a_line_without_a_name_has_none(void **state) {
    (void)state;
    names("", NULL);
    names("mx.consume(\"orders\", function(msg)", NULL);
    names("return function() end", NULL);
    names("local functions = {}", NULL);
    names("function", NULL);
    names("= function(", NULL);
    names("] = function(", NULL);
    names("\"] = function(", NULL);
}

static void a_name_is_cut_to_the_room(void **state) {
    (void)state;
    char to[4];
    assert_int_equal(mx_definition_in("function abcdef()", to, sizeof to), 1);
    assert_string_equal(to, "abc");
}

static void a_source_is_a_file_or_the_text_itself(void **state) {
    (void)state;
    char to[64];
    assert_int_equal(mx_definition_name("local x\nfunction second() end", 2, to, sizeof to), 1);
    assert_string_equal(to, "second");
    assert_int_equal(mx_definition_name("local x", 9, to, sizeof to), 0);
    assert_int_equal(mx_definition_name("=stdin", 1, to, sizeof to), MX_ECONFIG);
    assert_int_equal(mx_definition_name("@/no/such/file.lua", 1, to, sizeof to), MX_ECONFIG);
}

int main(void) {
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(a_line_names_the_function_it_defines),
        cmocka_unit_test(a_line_without_a_name_has_none),
        cmocka_unit_test(a_name_is_cut_to_the_room),
        cmocka_unit_test(a_source_is_a_file_or_the_text_itself),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
