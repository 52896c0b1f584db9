/* pprof.c - the tables of a profile, how two are added, and what is in one. */
#include "measure/pprofparts.h"
#include <stdio.h>
#include <stdlib.h>

MX_EXPORT mx_pprof *mx_pprof_new(void) {
    mx_pprof *p = mx_zalloc(sizeof *p);
    p->default_type = p->period_type.type = p->period_type.unit = mx_pprof_text(p, mx_span_of(""));
    return p;
}

MX_EXPORT void mx_pprof_free(mx_pprof *p) {
    if (!p) return;
    mx_intern_fini(&p->strings);
    mx_intern_fini(&p->functions);
    mx_intern_fini(&p->locations);
    mx_intern_fini(&p->labels);
    mx_intern_fini(&p->stacks);
    mx_intern_fini(&p->comments);
    free(p->values);
    free(p->key);
    free(p);
}

size_t mx_pprof_bytes(const mx_pprof *p) {
    return sizeof *p + mx_intern_bytes(&p->strings) + mx_intern_bytes(&p->functions) + mx_intern_bytes(&p->locations) +
           mx_intern_bytes(&p->labels) + mx_intern_bytes(&p->stacks) + mx_intern_bytes(&p->comments) +
           p->value_room * MX_PPROF_VALUES * sizeof *p->values + p->key_room * sizeof *p->key;
}

uint32_t mx_pprof_text(mx_pprof *p, mx_span text) { return mx_intern_put(&p->strings, text.p, text.n); }

static uint32_t text(mx_pprof *p, const char *s) { return mx_pprof_text(p, mx_span_of(s)); }

MX_EXPORT void mx_pprof_type(mx_pprof *p, const char *type, const char *unit) {
    if (p->types == MX_PPROF_VALUES) return;
    uint32_t t = text(p, type), u = text(p, unit);
    p->type[p->types++] = (mx_pprof_kind){t, u};
}

MX_EXPORT void mx_pprof_default(mx_pprof *p, const char *type) { p->default_type = text(p, type); }

MX_EXPORT void mx_pprof_period(mx_pprof *p, const char *type, const char *unit, int64_t period) {
    p->period_type.type = text(p, type);
    p->period_type.unit = text(p, unit);
    p->period = period;
}

MX_EXPORT void mx_pprof_time(mx_pprof *p, int64_t time_ns, int64_t duration_ns) {
    p->time_ns = time_ns;
    p->duration_ns = duration_ns;
}

MX_EXPORT void mx_pprof_comment(mx_pprof *p, const char *comment) {
    uint32_t t = text(p, comment);
    mx_intern_put(&p->comments, &t, sizeof t);
}

uint32_t mx_pprof_function_of(mx_pprof *p, uint32_t name, uint32_t file, int64_t line) {
    mx_pprof_function_key k = {name, file, line};
    return mx_intern_put(&p->functions, &k, sizeof k);
}

MX_EXPORT uint32_t mx_pprof_function(mx_pprof *p, const char *name, const char *file, int64_t line) {
    uint32_t n = text(p, name), f = text(p, file);
    return mx_pprof_function_of(p, n, f, line);
}

MX_EXPORT uint32_t mx_pprof_location(mx_pprof *p, uint32_t function, int64_t line) {
    mx_pprof_location_key k = {function, 0, line};
    return mx_intern_put(&p->locations, &k, sizeof k);
}

static int by_bytes(const void *a, const void *b) { return memcmp(a, b, sizeof(mx_pprof_label)); }

uint32_t mx_pprof_labels_of(mx_pprof *p, mx_pprof_label *labels, size_t n) {
    if (!n) return 0;
    qsort(labels, n, sizeof *labels, by_bytes);
    return mx_intern_put(&p->labels, labels, n * sizeof *labels);
}

MX_EXPORT uint32_t mx_pprof_labels(mx_pprof *p, const char *const *pairs, int n) {
    mx_pprof_label labels[MX_PPROF_LABELS];
    size_t used = 0;
    for (int i = 0; i < n && used < MX_PPROF_LABELS; i++) {
        uint32_t key = text(p, pairs[2 * i]), value = text(p, pairs[2 * i + 1]);
        if (value != MX_PPROF_EMPTY) labels[used++] = (mx_pprof_label){.key = key, .text = value, .unit = MX_PPROF_EMPTY};
    }
    return mx_pprof_labels_of(p, labels, used);
}

uint32_t *mx_pprof_stack(mx_pprof *p, size_t depth) {
    if (depth + 1 > p->key_room) {
        p->key_room = 2 * depth + 32;
        p->key = mx_realloc(p->key, p->key_room * sizeof *p->key);
    }
    return p->key + 1;
}

uint32_t mx_pprof_row_of_stack(mx_pprof *p, size_t depth, uint32_t labels) {
    p->key[0] = labels;
    uint32_t before = p->stacks.count, row = mx_intern_put(&p->stacks, p->key, (depth + 1) * sizeof *p->key);
    if (row <= before) return row;
    if (row > p->value_room) {
        p->value_room = p->value_room ? 2 * p->value_room : 32;
        p->values = mx_realloc(p->values, p->value_room * MX_PPROF_VALUES * sizeof *p->values);
    }
    memset(mx_pprof_values(p, row), 0, MX_PPROF_VALUES * sizeof *p->values);
    return row;
}

MX_EXPORT uint32_t mx_pprof_row(mx_pprof *p, const uint32_t *locations, int depth, uint32_t labels) {
    uint32_t *stack = mx_pprof_stack(p, (size_t)depth);
    if (depth) memcpy(stack, locations, (size_t)depth * sizeof *stack);
    return mx_pprof_row_of_stack(p, (size_t)depth, labels);
}

MX_EXPORT int64_t *mx_pprof_values(mx_pprof *p, uint32_t row) { return p->values + (size_t)(row - 1) * MX_PPROF_VALUES; }

/* ---- one and another ---- */

typedef struct translation { /* from the numbers of one profile to those of another; [0] is 0 */
    uint32_t *strings, *locations, *labels;
} translation;

static uint32_t *numbers(uint32_t count) { return mx_zalloc(((size_t)count + 1) * sizeof(uint32_t)); }

static void translate_strings(translation *t, mx_pprof *p, const mx_pprof *from) {
    t->strings = numbers(from->strings.count);
    for (uint32_t i = 1; i <= from->strings.count; i++) {
        size_t n;
        const uint8_t *s = mx_intern_at(&from->strings, i, &n);
        t->strings[i] = mx_pprof_text(p, (mx_span){s, n});
    }
}

static void translate_locations(translation *t, mx_pprof *p, const mx_pprof *from) {
    uint32_t *functions = numbers(from->functions.count);
    for (uint32_t i = 1; i <= from->functions.count; i++) {
        const mx_pprof_function_key *k = mx_intern_at(&from->functions, i, NULL);
        functions[i] = mx_pprof_function_of(p, t->strings[k->name], t->strings[k->file], k->line);
    }
    t->locations = numbers(from->locations.count);
    for (uint32_t i = 1; i <= from->locations.count; i++) {
        const mx_pprof_location_key *k = mx_intern_at(&from->locations, i, NULL);
        t->locations[i] = mx_pprof_location(p, functions[k->function], k->line);
    }
    free(functions);
}

static void translate_labels(translation *t, mx_pprof *p, const mx_pprof *from) {
    mx_pprof_label *copy = NULL;
    t->labels = numbers(from->labels.count);
    for (uint32_t i = 1; i <= from->labels.count; i++) {
        size_t n;
        const mx_pprof_label *labels = mx_intern_at(&from->labels, i, &n);
        copy = mx_realloc(copy, n);
        n /= sizeof *labels;
        for (size_t j = 0; j < n; j++) {
            copy[j] = labels[j];
            copy[j].key = t->strings[labels[j].key];
            copy[j].text = t->strings[labels[j].text];
            copy[j].unit = t->strings[labels[j].unit];
        }
        t->labels[i] = mx_pprof_labels_of(p, copy, n);
    }
    free(copy);
}

/* What a number that no int64_t holds becomes is nobody's business, but it is defined. */
static int64_t plus(int64_t a, int64_t b, int factor) { return (int64_t)((uint64_t)a + (uint64_t)b * (uint64_t)(int64_t)factor); }

/* Values go behind the first so many of p. */
static void add_rows(mx_pprof *p, const mx_pprof *from, const translation *t, int factor, uint32_t behind) {
    for (uint32_t i = 1; i <= from->stacks.count; i++) {
        size_t n;
        const uint32_t *key = mx_intern_at(&from->stacks, i, &n);
        size_t depth = n / sizeof *key - 1;
        uint32_t labels = t->labels[key[0]], *stack = mx_pprof_stack(p, depth);
        for (size_t j = 0; j < depth; j++) stack[j] = t->locations[key[j + 1]];
        const int64_t *values = from->values + (size_t)(i - 1) * MX_PPROF_VALUES;
        int64_t *to = mx_pprof_values(p, mx_pprof_row_of_stack(p, depth, labels));
        for (uint32_t v = 0; v < from->types; v++) to[behind + v] = plus(to[behind + v], values[v], factor);
    }
}

static void add_comments(mx_pprof *p, const mx_pprof *from, const uint32_t *strings) {
    for (uint32_t i = 1; i <= from->comments.count; i++) {
        uint32_t comment = strings[*(const uint32_t *)mx_intern_at(&from->comments, i, NULL)];
        mx_intern_put(&p->comments, &comment, sizeof comment);
    }
}

/* When it was and how long, of a profile that is added and not taken away. */
static void add_times(mx_pprof *p, const mx_pprof *from, const uint32_t *strings) {
    if (from->time_ns && (!p->time_ns || from->time_ns < p->time_ns)) p->time_ns = from->time_ns;
    p->duration_ns = plus(p->duration_ns, from->duration_ns, 1);
    if (from->period > p->period) p->period = from->period;
    add_comments(p, from, strings);
}

static void take_types(mx_pprof *p, const mx_pprof *from, const uint32_t *strings) {
    p->types = from->types;
    for (uint32_t i = 0; i < p->types; i++)
        p->type[i] = (mx_pprof_kind){strings[from->type[i].type], strings[from->type[i].unit]};
    p->period_type = (mx_pprof_kind){strings[from->period_type.type], strings[from->period_type.unit]};
    p->default_type = strings[from->default_type];
}

static int same_types(const mx_pprof *p, const mx_pprof *from, const uint32_t *strings) {
    int same = p->types == from->types;
    for (uint32_t i = 0; same && i < p->types; i++)
        same = p->type[i].type == strings[from->type[i].type] && p->type[i].unit == strings[from->type[i].unit];
    return same;
}

MX_EXPORT int mx_pprof_add(mx_pprof *p, const mx_pprof *from, int factor, const char **why) {
    translation t = {0};
    translate_strings(&t, p, from);
    if (!p->types && !p->stacks.count) take_types(p, from, t.strings);
    int same = same_types(p, from, t.strings);
    if (same) {
        translate_locations(&t, p, from);
        translate_labels(&t, p, from);
        add_rows(p, from, &t, factor, 0);
        if (factor > 0) add_times(p, from, t.strings);
    } else {
        *why = "it has other sample types";
    }
    free(t.strings);
    free(t.locations);
    free(t.labels);
    return same ? 0 : MX_EVALIDATION;
}

MX_EXPORT int mx_pprof_join(mx_pprof *p, const mx_pprof *from) {
    uint32_t behind = p->types;
    translation t = {0};
    if (behind + from->types > MX_PPROF_VALUES) return MX_EVALIDATION;
    translate_strings(&t, p, from);
    translate_locations(&t, p, from);
    translate_labels(&t, p, from);
    for (uint32_t i = 0; i < from->types; i++)
        p->type[p->types++] = (mx_pprof_kind){t.strings[from->type[i].type], t.strings[from->type[i].unit]};
    add_rows(p, from, &t, 1, behind);
    add_comments(p, from, t.strings);
    free(t.strings);
    free(t.locations);
    free(t.labels);
    return 0;
}

/* ---- what is in it ---- */

static const char *said(const mx_pprof *p, uint32_t number) { return mx_intern_at(&p->strings, number, NULL); }

MX_EXPORT void mx_pprof_sum_up(const mx_pprof *p, mx_pprof_summary *to) {
    *to = (mx_pprof_summary){
        .types = p->types,
        .shown = p->types ? p->types - 1 : 0,
        .rows = p->stacks.count,
        .period_type = said(p, p->period_type.type),
        .period_unit = said(p, p->period_type.unit),
        .period = p->period,
        .time_ns = p->time_ns,
        .duration_ns = p->duration_ns,
    };
    for (uint32_t i = 0; i < p->types; i++) {
        to->type[i] = said(p, p->type[i].type);
        to->unit[i] = said(p, p->type[i].unit);
        if (p->type[i].type == p->default_type && p->default_type != MX_PPROF_EMPTY) to->shown = i;
    }
}

MX_EXPORT void mx_pprof_sample_of(const mx_pprof *p, uint32_t row, mx_pprof_sample *to) {
    size_t n;
    const uint32_t *key = mx_intern_at(&p->stacks, row, &n);
    *to = (mx_pprof_sample){key + 1, p->values + (size_t)(row - 1) * MX_PPROF_VALUES, (uint32_t)(n / sizeof *key) - 1, key[0]};
}

MX_EXPORT void mx_pprof_frame_of(const mx_pprof *p, uint32_t location, mx_pprof_frame *to) {
    const mx_pprof_location_key *l = mx_intern_at(&p->locations, location, NULL);
    const mx_pprof_function_key *f = mx_intern_at(&p->functions, l->function, NULL);
    *to = (mx_pprof_frame){said(p, f->name), said(p, f->file), l->line, f->line, l->function};
}

MX_EXPORT int mx_pprof_label_of(const mx_pprof *p, uint32_t labels, uint32_t i, const char **name, const char **value) {
    static char number[32];
    size_t n = 0;
    const mx_pprof_label *l = labels ? mx_intern_at(&p->labels, labels, &n) : NULL;
    if (i >= n / sizeof *l) return 0;
    snprintf(number, sizeof number, "%lld", (long long)l[i].number);
    *name = said(p, l[i].key);
    *value = l[i].text == MX_PPROF_EMPTY ? number : said(p, l[i].text);
    return 1;
}
