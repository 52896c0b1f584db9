/* answer.c - what the embedded broker says. */
#include "broker/answer.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { REPLY_TEXT_MAX = 1024 };

static mx_reply *say(int reply_code, const char *format, va_list list) {
    char text[REPLY_TEXT_MAX];
    vsnprintf(text, sizeof text, format, list);
    return mx_reply_new(reply_code == 403 ? MX_EACCESS : MX_ECHANNEL, reply_code, text, strlen(text));
}

mx_reply *mx_refused(int reply_code, const char *format, ...) {
    va_list list;
    va_start(list, format);
    mx_reply *r = say(reply_code, format, list);
    va_end(list);
    return r;
}

mx_reply *mx_no_queue(mx_span name) { return mx_refused(404, "NOT_FOUND - no queue '%.*s' in vhost '/'", MX_TEXT(name)); }

mx_reply *mx_no_exchange(mx_span name) { return mx_refused(404, "NOT_FOUND - no exchange '%.*s' in vhost '/'", MX_TEXT(name)); }

mx_reply *mx_is_default(void) { return mx_refused(403, "ACCESS_REFUSED - operation not permitted on the default exchange"); }

mx_reply *mx_is_locked(mx_span queue) {
    return mx_refused(405,
                      "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '%.*s' in vhost '/'. It could be "
                      "originally declared on another connection or the exclusive property value does not match that of "
                      "the original declaration.",
                      MX_TEXT(queue));
}

mx_reply *mx_in_use(mx_span queue) {
    return mx_refused(403, "ACCESS_REFUSED - queue '%.*s' in vhost '/' in exclusive use", MX_TEXT(queue));
}

mx_reply *mx_unequal(const char *what, const char *kind, mx_span name, const char *got, const char *current) {
    return mx_refused(406,
                      "PRECONDITION_FAILED - inequivalent arg '%s' for %s '%.*s' in vhost '/': received %s but current is %s",
                      what, kind, MX_TEXT(name), got, current);
}

mx_reply *mx_unequal_flag(const char *what, const char *kind, mx_span name, int got, int current) {
    static const char *const words[] = {"'false'", "'true'"};
    return got == current ? NULL : mx_unequal(what, kind, name, words[got], words[current]);
}

mx_reply *mx_bad_arg(mx_span queue, const char *key, const char *format, ...) {
    char why[320];
    va_list list;
    va_start(list, format);
    vsnprintf(why, sizeof why, format, list);
    va_end(list);
    return mx_refused(406, "PRECONDITION_FAILED - invalid arg '%s' for queue '%.*s' in vhost '/'%s", key, MX_TEXT(queue), why);
}
