/* logline.c - lines of the log from where there is no Lua. */
#include "base/logline.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/log.h"

enum { LINE = 1024 };

static struct { int as_json, threshold; } logs = {.threshold = 1};

static int weight(const char *level) {
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    for (int i = 0; i < 4; i++)
        if (!strcmp(level, levels[i])) return i;
    return 1;
}

static int is_number(const char *text) {
    char *end;
    strtod(text, &end);
    return end != text && !*end;
}

static void add(char *line, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(char *line, const char *format, ...) {
    size_t used = strlen(line);
    va_list args;
    va_start(args, format);
    vsnprintf(line + used, LINE - used, format, args);
    va_end(args);
}

static void add_json(char *line, char *fields) {
    for (char *field; (field = strsep(&fields, " "));) {
        char *value = strchr(field, '=');
        if (!value) continue;
        *value++ = 0;
        add(line, is_number(value) ? ",\"%s\":%s" : ",\"%s\":\"%s\"", field, value);
    }
}

static void add_time(char *line) {
    struct timespec now;
    struct tm at;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &at);
    size_t used = strlen(line);
    strftime(line + used, LINE - used, "%Y-%m-%dT%H:%M:%S", &at);
    add(line, ".%03ldZ", now.tv_nsec / 1000000);
}

void mx_log_setup(const char *format, const char *level) {
    logs.as_json = format && !strcmp(format, "json");
    logs.threshold = weight(level ? level : "info");
}

void mx_log(const char *level, const char *text, const char *format, ...) {
    char line[LINE] = "", fields[LINE / 2];
    va_list args;
    if (weight(level) < logs.threshold) return;
    va_start(args, format);
    vsnprintf(fields, sizeof fields, format, args);
    va_end(args);
    if (logs.as_json) {
        add(line, "{\"time\":\"");
        add_time(line);
        add(line, "\",\"level\":\"%s\",\"message\":\"%s\"", level, text);
        add_json(line, fields);
        add(line, "}\n");
    } else {
        add_time(line);
        add(line, " %-5s %s%s%s\n", level, text, *fields ? " " : "", fields);
    }
    mx_log_write(line, strlen(line));
}
