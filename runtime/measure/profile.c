/* profile.c - puts samples and stacks together. */
#include "measure/profile.h"
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "base/clock.h"
#include "base/logline.h"
#include "measure/account.h"
#include "measure/pprof.h"
#include "measure/definition.h"
#include "measure/intern.h"
#include "measure/sampler.h"
#include "measure/ticks.h"

enum { HZ = 97, HZ_MAX = 1000, BYTES = 512 * 1024, BYTES_MIN = 1024, LOOK_US = 1000000, TABLE_BYTES = 64 << 20, LABELS = 4096 };
static const double MOST = 0.02; /* of the time, for profiles */

typedef struct label {
    uint32_t others;
    char *name, *value;
} label;

static mx_turn no_turn; /* while a script is loaded, there is no other yet */

static struct {
    mx_turn *turn;
    void (*ask)(int);
    volatile int inside, due; /* due: something was noted for the next line of Lua */
    mx_pprof *table[MX_PROFILES], *tasks;
    uint32_t users[MX_PROFILES];
    double rate[MX_PROFILES];
    uint64_t cost_ns, cost_seen_ns, looked_us;
    uint32_t slowed;
    size_t held;
    label label[LABELS];
    uint32_t labels;
    mx_intern known; /* functions, by where they are defined */
    char **names;    /* of each, the first that was seen */
    uint32_t name_room;
} own = {.turn = &no_turn};

/* Names ----------------------------------------------------------------------------------------------------------------- */

typedef struct stack {
    mx_pprof *p;
    int depth;
    uint32_t at[MX_PROFILE_DEPTH + MX_NATIVE_DEPTH + 2];
} stack;

static void push(stack *s, const char *name, const char *file, int64_t defined, int64_t line) {
    s->at[s->depth++] = mx_pprof_location(s->p, mx_pprof_function(s->p, name, file, defined), line);
}

/* As it is defined; where there is no source for that, as it was called, though after a tail call that is another's name. */
static char *find_name(const mx_frame *f) {
    char room[128];
    int found = f->defined ? mx_definition_name(f->file, f->defined, room, sizeof room) : 0;
    if (found > 0) return mx_strndup(room, strlen(room));
    if (found < 0 && f->name && strcmp(f->name, "?")) return mx_strndup(f->name, strlen(f->name));
    const char *slash = strrchr(f->file, '/'), *file = slash                                ? slash + 1
                                                       : *f->file == '@' || *f->file == '=' ? f->file + 1
                                                                                            : "a string";
    if (f->defined) snprintf(room, sizeof room, "%s:%lld", file, (long long)f->defined);
    else snprintf(room, sizeof room, "main chunk of %s", file);
    return mx_strndup(room, strlen(room));
}

/* One name for good, or it would be several functions. */
static const char *name_of(const mx_frame *f) {
    char key[512];
    int n = snprintf(key, sizeof key, "%lld:%s", (long long)f->defined, f->file);
    uint32_t i = mx_intern_put(&own.known, key, (size_t)n < sizeof key ? (size_t)n : sizeof key - 1);
    if (i >= own.name_room) {
        uint32_t room = own.name_room ? own.name_room * 2 : 64;
        own.names = mx_realloc(own.names, room * sizeof *own.names);
        memset(own.names + own.name_room, 0, (room - own.name_room) * sizeof *own.names);
        own.name_room = room;
    }
    if (!own.names[i]) own.names[i] = find_name(f);
    return own.names[i];
}

static void push_lua(stack *s, const mx_frame *frames, int depth) {
    for (int i = 0; i < depth; i++) {
        const mx_frame *f = &frames[i];
        push(s, name_of(f), *f->file == '@' || *f->file == '=' ? f->file + 1 : "[string]", f->defined, f->line);
    }
}

static void push_native(stack *s, const mx_tick *t) {
    const char *library = NULL;
    for (int i = 0; i < t->depth; i++) {
        const char *name = mx_native_name(t->pc[i], &library);
        if (name) push(s, name, library, 0, 0);
    }
}

/* What leads from the allocation to here is ours. */
static int is_sampling(const char *name) {
    static const char *const ours[] = {"on_pick", "mx_sampler_", "count"};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (!strncmp(name, ours[i], strlen(ours[i]))) return 1;
    return 0;
}

static void skip_sampling(mx_tick *t) {
    const char *library, *name;
    int n = 0;
    while (n < t->depth && (name = mx_native_name(t->pc[n], &library)) && is_sampling(name)) n++;
    memmove(t->pc, t->pc + n, (size_t)(t->depth - n) * sizeof *t->pc);
    t->depth -= n;
}

static uint32_t labels_in(mx_pprof *p, uint32_t number) {
    const char *pairs[2 * MX_PPROF_LABELS];
    int n = 0;
    for (; number && n < MX_PPROF_LABELS; number = own.label[number].others, n++) {
        pairs[2 * n] = own.label[number].name;
        pairs[2 * n + 1] = own.label[number].value;
    }
    return n ? mx_pprof_labels(p, pairs, n) : 0;
}

/* What is new when there is no room for it: one row. */
static int64_t *row_of(stack *s, uint32_t labels, uint32_t *row) {
    if (mx_pprof_bytes(s->p) > TABLE_BYTES) {
        s->depth = 0;
        labels = 0;
        push(s, "[too many stacks]", "", 0, 0);
    }
    *row = mx_pprof_row(s->p, s->at, s->depth, labels_in(s->p, labels));
    return mx_pprof_values(s->p, *row);
}

static mx_pprof *empty(const char *const *kinds) {
    mx_pprof *p = mx_pprof_new();
    for (; *kinds; kinds += 2) mx_pprof_type(p, kinds[0], kinds[1]);
    return p;
}

/* CPU ------------------------------------------------------------------------------------------------------------------- */

static void take_tick(const mx_tick *t, const mx_frame *frames, int depth, int state) {
    stack s = {.p = own.table[MX_CPU]};
    uint32_t row;
    int lua = t->inside == MX_IN_LUA;
    if (t->inside == MX_IN_GC || (lua && state == 'G')) push(&s, "[GC]", "[VM]", 0, 0);
    else if (lua && state == 'J') push(&s, "[JIT compiler]", "[VM]", 0, 0);
    else {
        push_native(&s, t);
        if (!s.depth && (!lua || state == 'C')) push(&s, "[C]", "[VM]", 0, 0);
    }
    if (lua) push_lua(&s, frames, depth);
    int64_t *values = row_of(&s, t->labels, &row);
    values[0] += t->weight;
    values[1] += t->weight * llround(1e9 / own.rate[MX_CPU]);
}

static void take_ticks(const mx_frame *frames, int depth, int state) {
    for (const mx_tick *t; (t = mx_ticks_first()); mx_ticks_take())
        if (own.table[MX_CPU]) take_tick(t, frames, depth, state);
}

/* The heap ---------------------------------------------------------------------------------------------------------------- */

static void place(stack *s, uint32_t labels) {
    mx_picked *x;
    size_t n = mx_sampler_waiting(&x);
    uint32_t row;
    if (!n || !own.table[MX_HEAP]) return;
    int64_t *values = row_of(s, labels, &row);
    for (size_t i = 0; i < n; i++) {
        x[i].row = row;
        values[0] += x[i].objects;
        values[1] += x[i].bytes;
        if (!x[i].block) continue;
        values[2] += x[i].objects;
        values[3] += x[i].bytes;
    }
    mx_sampler_place(n);
}

static void on_free(const mx_picked *x) {
    int64_t *values = mx_pprof_values(own.table[MX_HEAP], x->row);
    values[2] -= x->objects;
    values[3] -= x->bytes;
}

static void on_pick(void) {
    if (own.inside == MX_IN_LUA) {
        own.due = 1;
        own.ask(SIGPROF);
        return;
    }
    uint64_t from = mx_profile_clock();
    mx_tick here = {.depth = 0};
    stack s = {.p = own.table[MX_HEAP]};
    here.depth = mx_native_walk(NULL, here.pc);
    skip_sampling(&here);
    push_native(&s, &here);
    if (!s.depth) push(&s, "[C]", "", 0, 0);
    place(&s, own.turn->labels);
    own.cost_ns += mx_profile_clock() - from;
}

/* What it costs ----------------------------------------------------------------------------------------------------------- */

static void set_ticks(void) { mx_ticks_set(own.users[MX_CPU] ? (uint64_t)(1e6 / own.rate[MX_CPU]) : 0); }

static void slow_down(double share) {
    own.slowed++;
    own.rate[MX_CPU] /= 2;
    own.rate[MX_HEAP] *= 2;
    if (own.users[MX_CPU]) set_ticks();
    if (own.users[MX_HEAP]) mx_sampler_set(own.rate[MX_HEAP], on_pick, on_free);
    mx_log("warn", "profiles cost more than 2 % of the time, sampling half as often", "share=%.3f", share);
}

static void account(void) {
    size_t now = mx_sampler_bytes();
    for (int i = 0; i < MX_PROFILES; i++)
        if (own.table[i]) now += mx_pprof_bytes(own.table[i]);
    mx_hold(MX_OF_PROFILER, now - own.held);
    own.held = now;
}

/* Once a second, when something was sampled. */
static void look(uint64_t now) {
    if (now - own.looked_us < LOOK_US) return;
    double share = (double)(own.cost_ns - own.cost_seen_ns) / 1e3 / (double)(now - own.looked_us);
    if (own.looked_us && share > MOST) slow_down(share);
    own.looked_us = now;
    own.cost_seen_ns = own.cost_ns;
    account();
    mx_native_look();
}

uint64_t mx_profile_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void spent(uint64_t from) {
    own.cost_ns += mx_profile_clock() - from;
    look(mx_clock_us());
}

/* From the binding ---------------------------------------------------------------------------------------------------------- */

void mx_profile_start(mx_turn *turn, void (*ask)(int)) {
    own.turn = turn ? turn : &no_turn;
    own.ask = ask;
    mx_ticks_start(&own.inside, &own.turn->labels, ask);
}

void mx_profile_inside(int what) { own.inside = what; }
int mx_profile_is_noted(void) { return own.due || mx_ticks_first(); }

void mx_profile_stack(const mx_frame *frames, int depth, int state, uint64_t from) {
    own.due = 0;
    take_ticks(frames, depth, state);
    stack s = {.p = own.table[MX_HEAP]};
    if (s.p) {
        push_lua(&s, frames, depth);
        place(&s, own.turn->labels);
    }
    spent(from);
}

void mx_profile_rest(void) {
    if (!mx_profile_is_noted()) return;
    static const mx_frame none = {NULL, "=[Lua]", 0, 0};
    mx_profile_stack(&none, 1, 'I', mx_profile_clock());
}

void mx_profile_waited(const mx_frame *frames, int depth, const char *why, double seconds) {
    stack s = {.p = own.table[MX_WAIT]};
    uint32_t row;
    if (!s.p) return;
    uint64_t from = mx_profile_clock();
    push(&s, why, "[wait]", 0, 0);
    push_lua(&s, frames, depth);
    int64_t *values = row_of(&s, own.turn->labels, &row);
    values[0]++;
    values[1] += llround(seconds * 1e9);
    spent(from);
}

void mx_profile_task(const mx_frame *frames, int depth, const char *why) {
    static const char *const kinds[] = {"tasks", "count", NULL};
    uint32_t row;
    if (!own.tasks) {
        own.tasks = empty(kinds);
        mx_pprof_period(own.tasks, "tasks", "count", 1);
    }
    stack s = {.p = own.tasks};
    push(&s, why, "[wait]", 0, 0);
    push_lua(&s, frames, depth);
    row_of(&s, 0, &row)[0]++;
}

/* From Lua ------------------------------------------------------------------------------------------------------------------- */

static const char *const types[MX_PROFILES][9] = {
    [MX_CPU] = {"samples", "count", "cpu", "nanoseconds"},
    [MX_HEAP] = {"alloc_objects", "count", "alloc_space", "bytes", "inuse_objects", "count", "inuse_space", "bytes"},
    [MX_WAIT] = {"contentions", "count", "delay", "nanoseconds"}};

MX_EXPORT void mx_profile_want(int which, double rate) {
    if (own.users[which]++) return;
    mx_native_look();
    own.table[which] = empty(types[which]);
    if (which == MX_CPU) {
        own.rate[which] = fmax(1, fmin(HZ_MAX, rate > 0 ? rate : HZ));
        set_ticks();
    } else if (which == MX_HEAP) {
        own.rate[which] = fmax(BYTES_MIN, rate > 0 ? rate : BYTES);
        mx_sampler_set(own.rate[which], on_pick, on_free);
    }
    account();
}

MX_EXPORT void mx_profile_leave(int which) {
    if (--own.users[which]) return;
    if (which == MX_CPU) set_ticks();
    else if (which == MX_HEAP) mx_sampler_set(0, on_pick, on_free);
    mx_pprof_free(own.table[which]);
    own.table[which] = NULL;
    own.rate[which] = 0;
    account();
}

MX_EXPORT mx_pprof *mx_profile_copy(int which) {
    const char *why;
    mx_pprof *p = empty(types[which]);
    if (which == MX_CPU && own.rate[which] > 0) mx_pprof_period(p, "cpu", "nanoseconds", llround(1e9 / own.rate[which]));
    else if (which == MX_HEAP) mx_pprof_period(p, "space", "bytes", llround(own.rate[which]));
    else mx_pprof_period(p, "contentions", "count", 1);
    if (own.table[which]) mx_pprof_add(p, own.table[which], 1, &why);
    return p;
}

MX_EXPORT mx_pprof *mx_profile_tasks(void) {
    mx_pprof *p = own.tasks;
    own.tasks = NULL;
    return p;
}

MX_EXPORT uint32_t mx_profile_label(uint32_t others, const char *name, const char *value) {
    for (uint32_t i = 1; i <= own.labels; i++)
        if (own.label[i].others == others && !strcmp(own.label[i].name, name) && !strcmp(own.label[i].value, value)) return i;
    if (own.labels == LABELS - 1) return 0;
    own.label[++own.labels] = (label){others, mx_strndup(name, strlen(name)), mx_strndup(value, strlen(value))};
    return own.labels;
}

MX_EXPORT double mx_profile_cost(void) { return (double)own.cost_ns / 1e9; }
MX_EXPORT double mx_profile_slowed(void) { return own.slowed; }
MX_EXPORT double mx_profile_rate(int which) { return own.rate[which]; }
MX_EXPORT void mx_bytes_free(char *p) { free(p); }
