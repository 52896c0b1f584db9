/* pprofread.c - reads what pprof wrote, ours or somebody else's: unpacked, checked, then added. */
#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>
#include "measure/pprofparts.h"

enum { UNPACKED_MAX = 64 << 20, FRAMES_A_BYTE = 4, DEPTH_MAX = 2048 };

typedef struct field {
    unsigned number, type; /* type: VARINT ... */
    uint64_t v;            /* of a VARINT */
    mx_span bytes;         /* of BYTES */
} field;

enum { VARINT, FIXED64, BYTES, FIXED32 = 5 };

/* One line of a function, or many when the compiler inlined. */
typedef struct lines {
    uint32_t first, count;
} lines;

typedef struct reader {
    mx_pprof *p;
    mx_span all;
    uint32_t *strings; /* of the file's string table: our numbers */
    size_t string_count, string_room;
    mx_intern mapping_ids, function_ids, location_ids; /* what the file calls them; from 1 in the order of the arrays below */
    uint32_t *mapping_files, *functions;
    lines *locations;
    size_t mapping_room, function_room, location_room;
    uint32_t *frames; /* our locations, of `locations` */
    size_t frame_count, frame_room, budget;
    uint64_t *ids; /* of the sample that is read */
    size_t id_count, id_room;
    mx_pprof_label *labels;
    size_t label_count, label_room;
    int64_t values[MX_PPROF_VALUES];
    unsigned value_count;
} reader;

static char said[160];

static int wrong(const char *format, unsigned long long n) {
    snprintf(said, sizeof said, format, n);
    return MX_EVALIDATION;
}

static const char malformed[] = "it is no profile: it is cut short or was damaged";

static int take_varint(mx_span *s, uint64_t *v) {
    *v = 0;
    for (unsigned shift = 0; shift < 64 && s->n; shift += 7) {
        uint8_t byte = *s->p++;
        s->n--;
        *v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return 0;
    }
    return wrong(malformed, 0);
}

static int skip(mx_span *s, uint64_t n) {
    if (n > s->n) return wrong(malformed, 0);
    s->p += n, s->n -= n;
    return 0;
}

/* 1: there is one, 0: the end, negative: it is malformed. */
static int next(mx_span *s, field *f) {
    uint64_t tag;
    if (!s->n) return 0;
    if (take_varint(s, &tag)) return MX_EVALIDATION;
    if (tag >> 3 == 0 || tag >> 32) return wrong(malformed, 0);
    *f = (field){.number = (unsigned)(tag >> 3), .type = tag & 7};
    int code;
    switch (f->type) {
    case VARINT: code = take_varint(s, &f->v); break;
    case FIXED64: code = skip(s, 8); break;
    case FIXED32: code = skip(s, 4); break;
    case BYTES:
        code = take_varint(s, &f->v);
        f->bytes = (mx_span){s->p, (size_t)f->v};
        if (!code) code = skip(s, f->v);
        break;
    default: code = wrong(malformed, 0);
    }
    return code ? code : 1;
}

/* The numbers of a message's fields 1 to 7; what is of another type or higher is left out. */
static int read_numbers(mx_span s, uint64_t *v) {
    field f;
    int more;
    memset(v, 0, 8 * sizeof *v);
    while ((more = next(&s, &f)) > 0)
        if (f.type == VARINT && f.number < 8) v[f.number] = f.v;
    return more;
}

static void *grown(void *array, size_t *room, size_t count, size_t size) {
    if (count < *room) return array;
    *room = 2 * *room + 64;
    return mx_realloc(array, *room * size);
}

/* Our number of a text of the file's table. */
static int text(const reader *r, uint64_t i, uint32_t *to) {
    if (i >= r->string_count) return wrong("it is no profile: there is no text %llu", i);
    *to = r->strings[i];
    return 0;
}

static int kind(const reader *r, mx_span s, mx_pprof_kind *to) {
    uint64_t v[8];
    int code = read_numbers(s, v);
    if (!code) code = text(r, v[1], &to->type);
    return code ? code : text(r, v[2], &to->unit);
}

/* Each of the file's things has a number that nothing else has; the array of what we know of them grows with it. */
static int named(mx_intern *ids, uint64_t id, const char *what) {
    uint32_t before = ids->count;
    if (!id || mx_intern_put(ids, &id, sizeof id) <= before) return wrong(what, id);
    return 0;
}

/* Each field of the whole that has this number. */
static int each(reader *r, unsigned number, int (*take)(reader *, const field *)) {
    mx_span s = r->all;
    field f;
    int more = 0, code = 0;
    while (!code && (more = next(&s, &f)) > 0)
        if (f.number == number) code = take(r, &f);
    return code ? code : more;
}

enum { SAMPLE_TYPE = 1, SAMPLE, MAPPING, LOCATION, FUNCTION, STRING, TIME = 9, DURATION, PERIOD_TYPE, PERIOD, COMMENT, DEFAULT };

static int take_string(reader *r, const field *f) {
    if (f->type != BYTES || (!r->string_count && f->bytes.n)) return wrong(malformed, 0);
    r->strings = grown(r->strings, &r->string_room, r->string_count, sizeof *r->strings);
    r->strings[r->string_count++] = mx_pprof_text(r->p, f->bytes);
    return 0;
}

static int take_type(reader *r, const field *f) {
    mx_pprof *p = r->p;
    if (p->types == MX_PPROF_VALUES) return wrong("it has more than %llu sample types", MX_PPROF_VALUES);
    return f->type == BYTES ? kind(r, f->bytes, &p->type[p->types++]) : wrong(malformed, 0);
}

static int take_mapping(reader *r, const field *f) {
    uint64_t v[8];
    uint32_t file = 0, n = r->mapping_ids.count;
    int code = f->type == BYTES ? read_numbers(f->bytes, v) : wrong(malformed, 0);
    if (!code) code = named(&r->mapping_ids, v[1], "it is no profile: mapping %llu is there twice");
    if (!code) code = text(r, v[5], &file);
    if (code) return code;
    r->mapping_files = grown(r->mapping_files, &r->mapping_room, n, sizeof *r->mapping_files);
    r->mapping_files[n] = file;
    return 0;
}

static int take_function(reader *r, const field *f) {
    uint64_t v[8];
    uint32_t name, file, n = r->function_ids.count;
    int code = f->type == BYTES ? read_numbers(f->bytes, v) : wrong(malformed, 0);
    if (!code) code = named(&r->function_ids, v[1], "it is no profile: function %llu is there twice");
    if (!code) code = text(r, v[2], &name);
    if (!code) code = text(r, v[4], &file);
    if (code) return code;
    r->functions = grown(r->functions, &r->function_room, n, sizeof *r->functions);
    r->functions[n] = mx_pprof_function_of(r->p, name, file, (int64_t)v[5]);
    return 0;
}

static void add_frame(reader *r, uint32_t location) {
    r->frames = grown(r->frames, &r->frame_room, r->frame_count, sizeof *r->frames);
    r->frames[r->frame_count++] = location;
}

static int take_line(reader *r, mx_span s) {
    uint64_t v[8];
    int code = read_numbers(s, v);
    if (code) return code;
    uint32_t n = mx_intern_find(&r->function_ids, &v[1], sizeof v[1]);
    if (!n) return wrong("it is no profile: there is no function %llu", v[1]);
    add_frame(r, mx_pprof_location(r->p, r->functions[n - 1], (int64_t)v[2]));
    return 0;
}

/* What nobody found a name for is called by its address. */
static void add_address(reader *r, uint64_t mapping, uint64_t address) {
    char name[24];
    snprintf(name, sizeof name, "0x%llx", (unsigned long long)address);
    uint32_t n = mx_intern_find(&r->mapping_ids, &mapping, sizeof mapping), file = n ? r->mapping_files[n - 1] : MX_PPROF_EMPTY;
    uint32_t function = mx_pprof_function_of(r->p, mx_pprof_text(r->p, mx_span_of(name)), file, 0);
    add_frame(r, mx_pprof_location(r->p, function, 0));
}

static int take_location(reader *r, const field *f) {
    uint64_t v[8];
    mx_span s = f->bytes;
    uint32_t n = r->location_ids.count;
    size_t first = r->frame_count;
    int code = f->type == BYTES ? read_numbers(s, v) : wrong(malformed, 0), more = 0;
    if (!code) code = named(&r->location_ids, v[1], "it is no profile: location %llu is there twice");
    field line;
    while (!code && (more = next(&s, &line)) > 0)
        if (line.number == 4 && line.type == BYTES) code = take_line(r, line.bytes);
    if (code) return code;
    if (r->frame_count == first) add_address(r, v[2], v[3]);
    r->locations = grown(r->locations, &r->location_room, n, sizeof *r->locations);
    r->locations[n] = (lines){(uint32_t)first, (uint32_t)(r->frame_count - first)};
    return 0;
}

static void add_id(reader *r, uint64_t id) {
    r->ids = grown(r->ids, &r->id_room, r->id_count, sizeof *r->ids);
    r->ids[r->id_count++] = id;
}

static void add_value(reader *r, uint64_t v) {
    if (r->value_count < MX_PPROF_VALUES) r->values[r->value_count] = (int64_t)v;
    r->value_count++;
}

/* A list of numbers: one a field, or all in one. */
static int take_list(reader *r, const field *f, void (*add)(reader *, uint64_t)) {
    if (f->type == VARINT) add(r, f->v);
    if (f->type == VARINT) return 0;
    mx_span s = f->bytes;
    uint64_t v;
    while (f->type == BYTES && s.n) {
        if (take_varint(&s, &v)) return MX_EVALIDATION;
        add(r, v);
    }
    return f->type == BYTES ? 0 : wrong(malformed, 0);
}

static int take_label(reader *r, const field *f) {
    uint64_t v[8];
    mx_pprof_label l = {0};
    int code = f->type == BYTES ? read_numbers(f->bytes, v) : wrong(malformed, 0);
    if (!code) code = text(r, v[1], &l.key);
    if (!code) code = text(r, v[2], &l.text);
    if (!code) code = text(r, v[4], &l.unit);
    l.number = l.text == MX_PPROF_EMPTY ? (int64_t)v[3] : 0;
    if (code || (l.text == MX_PPROF_EMPTY && !v[3] && !v[4])) return code;
    r->labels = grown(r->labels, &r->label_room, r->label_count, sizeof *r->labels);
    r->labels[r->label_count++] = l;
    return 0;
}

/* What the ids stand for, one after the other: the depth; MX_EVALIDATION: one is unknown, or inlined lines make it huge. */
static int unfold(reader *r, size_t *depth) {
    *depth = 0;
    for (size_t i = 0; i < r->id_count; i++) {
        uint32_t n = mx_intern_find(&r->location_ids, &r->ids[i], sizeof *r->ids);
        if (!n) return wrong("it is no profile: there is no location %llu", r->ids[i]);
        r->ids[i] = n - 1;
        *depth += r->locations[n - 1].count;
    }
    if (*depth > DEPTH_MAX) return wrong("a stack is deeper than %llu", DEPTH_MAX);
    if (*depth > r->budget) return wrong("its stacks have too many inlined lines", 0);
    r->budget -= *depth;
    uint32_t *to = mx_pprof_stack(r->p, *depth);
    for (size_t i = 0; i < r->id_count; i++) {
        lines l = r->locations[r->ids[i]];
        memcpy(to, r->frames + l.first, l.count * sizeof *to);
        to += l.count;
    }
    return 0;
}

static int take_sample(reader *r, const field *f) {
    mx_span s = f->bytes;
    field g;
    int more = 0, code = f->type == BYTES ? 0 : wrong(malformed, 0);
    r->id_count = r->label_count = r->value_count = 0;
    while (!code && (more = next(&s, &g)) > 0) switch (g.number) {
        case 1: code = take_list(r, &g, add_id); break;
        case 2: code = take_list(r, &g, add_value); break;
        case 3: code = take_label(r, &g); break;
        }
    if (!code) code = more;
    if (!code && r->value_count != r->p->types)
        code = wrong("it is no profile: a sample has %llu values, not one of each type", r->value_count);
    size_t depth;
    if (!code) code = unfold(r, &depth);
    if (code) return code;
    uint32_t labels = mx_pprof_labels_of(r->p, r->labels, r->label_count);
    int64_t *to = mx_pprof_values(r->p, mx_pprof_row_of_stack(r->p, depth, labels));
    for (uint32_t i = 0; i < r->p->types; i++) to[i] = (int64_t)((uint64_t)to[i] + (uint64_t)r->values[i]);
    return 0;
}

static int take_time(reader *r, const field *f) {
    r->p->time_ns = (int64_t)f->v;
    return 0;
}

static int take_duration(reader *r, const field *f) {
    r->p->duration_ns = (int64_t)f->v;
    return 0;
}

static int take_period(reader *r, const field *f) {
    r->p->period = (int64_t)f->v;
    return 0;
}

static int take_period_type(reader *r, const field *f) { return kind(r, f->bytes, &r->p->period_type); }
static int take_default(reader *r, const field *f) { return text(r, f->v, &r->p->default_type); }

static void add_comment(reader *r, uint64_t i) {
    if (i < r->string_count) mx_intern_put(&r->p->comments, &r->strings[i], sizeof *r->strings);
}
static int take_comment(reader *r, const field *f) { return take_list(r, f, add_comment); }

/* Each in its turn, for what refers to what may stand in any order. */
static int read_all(reader *r) {
    static const struct {
        unsigned number;
        int (*take)(reader *, const field *);
    } turns[] = {
        {STRING, take_string},     {SAMPLE_TYPE, take_type}, {MAPPING, take_mapping}, {FUNCTION, take_function},
        {LOCATION, take_location}, {SAMPLE, take_sample},    {TIME, take_time},       {DURATION, take_duration},
        {PERIOD, take_period},     {COMMENT, take_comment},  {DEFAULT, take_default}, {PERIOD_TYPE, take_period_type},
    };
    int code = 0;
    for (size_t i = 0; !code && i < sizeof turns / sizeof *turns; i++) {
        code = each(r, turns[i].number, turns[i].take);
        if (!code && !r->p->types && turns[i].number == SAMPLE_TYPE) return wrong("it is no profile: it has no sample types", 0);
    }
    return code;
}

static int read_profile(mx_pprof *p, mx_span all) {
    reader r = {.p = p, .all = all, .budget = all.n * FRAMES_A_BYTE};
    int code = read_all(&r);
    mx_intern_fini(&r.mapping_ids);
    mx_intern_fini(&r.function_ids);
    mx_intern_fini(&r.location_ids);
    free(r.strings);
    free(r.mapping_files);
    free(r.functions);
    free(r.locations);
    free(r.frames);
    free(r.ids);
    free(r.labels);
    return code;
}

/* What gzip packed; the caller frees to->p, whatever the answer is. */
static int unpack(mx_span from, uint8_t **to, size_t *n) {
    z_stream z = {.next_in = (Bytef *)from.p, .avail_in = (uInt)from.n};
    size_t room = 0;
    int code;
    if (inflateInit2(&z, 15 + 16) != Z_OK) return wrong("zlib has no memory", 0);
    do {
        if (z.total_out == room) {
            room = room ? 2 * room : 4 * from.n + 1024;
            *to = mx_realloc(*to, room);
        }
        z.next_out = *to + z.total_out, z.avail_out = (uInt)(room - z.total_out);
        code = inflate(&z, Z_NO_FLUSH);
    } while (code == Z_OK && z.total_out <= UNPACKED_MAX);
    *n = z.total_out;
    int left = z.avail_in > 0;
    inflateEnd(&z);
    if (code == Z_OK) return wrong("it is larger than %llu MiB unpacked", UNPACKED_MAX >> 20);
    if (code != Z_STREAM_END) return wrong("it is cut short or was damaged: gzip cannot read it", 0);
    return left ? wrong("something follows the end of it", 0) : 0;
}

MX_EXPORT int mx_pprof_read(mx_pprof *p, const void *bytes, size_t n, int factor, const char **why) {
    mx_span all = {bytes, n};
    uint8_t *unpacked = NULL;
    mx_pprof *read = mx_pprof_new();
    *why = said;
    int code = !n ? wrong("it is empty", 0) : n > UNPACKED_MAX ? wrong("it is larger than %llu MiB", UNPACKED_MAX >> 20) : 0;
    if (!code && n > 2 && all.p[0] == 0x1f && all.p[1] == 0x8b) {
        code = unpack(all, &unpacked, &all.n);
        all.p = unpacked;
    }
    if (!code) code = read_profile(read, all);
    free(unpacked);
    if (!code) code = mx_pprof_add(p, read, factor, why);
    mx_pprof_free(read);
    return code;
}
