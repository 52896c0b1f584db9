/* definition.c - LuaJIT keeps no names of functions; the line "local function send(" or "send = function(" does. */
#include "measure/definition.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include "base/mx.h"

static int is_word(char c) { return isalnum((unsigned char)c) || c == '_'; }
static int is_name(char c) { return is_word(c) || c == '.' || c == ':'; }

static const char *skip_space(const char *p) {
    while (*p == ' ' || *p == '\t') p++;
    return p;
}

static const char *skip_space_back(const char *start, const char *p) {
    while (p > start && (p[-1] == ' ' || p[-1] == '\t')) p--;
    return p;
}

static int put(const char *from, const char *end, char *to, size_t size) {
    if (from == end) return 0;
    snprintf(to, size, "%.*s", (int)(end - from), from);
    return 1;
}

static int name_before(const char *start, const char *keyword, char *to, size_t size) {
    const char *end = skip_space_back(start, keyword);
    if (end == start || end[-1] != '=') return 0;
    end = skip_space_back(start, end - 1);
    if (end > start && end[-1] == ']') { /* ["name"] */
        const char *last = end - 2, *from = last;
        if (last <= start || (*last != '"' && *last != '\'')) return 0;
        while (from > start && from[-1] != *last) from--;
        return put(from, last, to, size);
    }
    const char *from = end;
    while (from > start && is_name(from[-1])) from--;
    return put(from, end, to, size);
}

int mx_definition_in(const char *line, char *to, size_t size) {
    static const char keyword[] = "function";
    for (const char *p = line; (p = strstr(p, keyword)); p += sizeof keyword - 1) {
        const char *from = p + sizeof keyword - 1;
        if ((p > line && is_word(p[-1])) || is_word(*from)) continue;
        from = skip_space(from);
        const char *end = from;
        while (is_name(*end)) end++;
        if (*skip_space(end) != '(') continue;
        return put(from, end, to, size) || name_before(line, p, to, size);
    }
    return 0;
}

static int in_text(const char *text, int64_t line, char *to, size_t size) {
    char room[1024];
    while (--line && text) text = (text = strchr(text, '\n')) ? text + 1 : NULL;
    if (!text) return 0;
    snprintf(room, sizeof room, "%.*s", (int)strcspn(text, "\n"), text);
    return mx_definition_in(room, to, size);
}

static int in_file(const char *path, int64_t line, char *to, size_t size) {
    char room[1024];
    FILE *f = fopen(path, "re");
    if (!f) return MX_ECONFIG;
    int found = 0;
    while (line && fgets(room, sizeof room, f))
        if (strchr(room, '\n') || feof(f)) line--;
    if (!line) found = mx_definition_in(room, to, size);
    fclose(f);
    return found;
}

MX_EXPORT int mx_definition_name(const char *source, int64_t line, char *to, size_t size) {
    if (*source == '@') return in_file(source + 1, line, to, size);
    return *source == '=' ? MX_ECONFIG : in_text(source, line, to, size);
}
