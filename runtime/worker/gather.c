/* gather.c - puts the workers' profiles together. */
#include "worker/gather.h"
#include <stdio.h>
#include <stdlib.h>
#include "measure/pprof.h"
#include "worker/ask.h"

enum { SECONDS = 30, SPARE_S = 15, SECONDS_MAX = 3600 };

#define TEXT "text/plain; charset=utf-8"

typedef struct gather {
    mx_runtime *runtime;
    mx_pprof *profile; /* with a comment on each that is missing */
    int came;          /* some profile did */
    FILE *out;         /* texts */
    char *text;
    size_t size;
    uint32_t id, waiting;
    int status; /* the worst that was said */
} gather;

static void end(gather *g) {
    size_t n;
    if (fclose(g->out)) abort(); /* no memory */
    if (g->came) {
        char *bytes = mx_pprof_write(g->profile, &n);
        mx_http_answer(g->runtime, g->id, 200, "application/octet-stream", bytes, n);
        free(bytes);
    } else mx_http_answer(g->runtime, g->id, g->status, TEXT, g->text, g->size);
    mx_pprof_free(g->profile);
    free(g->text);
    free(g);
}

/* The status of an answer, and its body. 0: it is none. */
static int parse(const char *bytes, size_t n, mx_span *body) {
    char head[16] = "";
    const char *end = n ? memmem(bytes, n, "\r\n\r\n", 4) : NULL;
    if (!end || n < sizeof head) return 0;
    memcpy(head, bytes, sizeof head - 1);
    body->p = (const uint8_t *)end + 4;
    body->n = n - (size_t)(end + 4 - bytes);
    return (int)strtol(head + strcspn(head, " "), NULL, 10);
}

static int is_gzip(mx_span s) { return s.n > 2 && s.p[0] == 0x1f && s.p[1] == 0x8b; }

static const char *take_profile(gather *g, mx_span body) {
    const char *why = NULL;
    if (mx_pprof_read(g->profile, body.p, body.n, 1, &why)) return why;
    g->came = 1;
    return NULL;
}

static void on_answer(void *arg, uint32_t number, const char *bytes, size_t n) {
    gather *g = arg;
    mx_span body = {0};
    char comment[64];
    int status = parse(bytes, n, &body);
    const char *why = status ? NULL : "it gave no answer";
    if (status == 200 && is_gzip(body)) why = take_profile(g, body);
    else if (status) fprintf(g->out, "worker %u\n%.*s\n", number, (int)body.n, (const char *)body.p);
    if (why) {
        fprintf(g->out, "worker %u: %s\n", number, why);
        snprintf(comment, sizeof comment, "worker %u is missing: %s", number, why);
        mx_pprof_comment(g->profile, comment);
    }
    if (!status) status = 503;
    if (status > g->status) g->status = status;
    if (--g->waiting == 0) end(g);
}

/* The number that the query has for a name; otherwise the default. */
static double number_in(const char *query, const char *name, double otherwise) {
    size_t n = strlen(name);
    for (const char *p = query; p && *p; p = (p = strchr(p, '&')) ? p + 1 : NULL)
        if (!strncmp(p, name, n) && p[n] == '=') return strtod(p + n + 1, NULL);
    return otherwise;
}

void mx_gather(mx_runtime *r, const mx_shards *shards, const mx_http_request *q) {
    char target[1024];
    gather *g = mx_zalloc(sizeof *g);
    g->runtime = r;
    g->id = q->id;
    g->profile = mx_pprof_new();
    g->out = open_memstream(&g->text, &g->size);
    if (!g->out) abort(); /* no memory */
    snprintf(target, sizeof target, "%s?%s", q->path, q->query);
    double seconds = number_in(q->query, "seconds", SECONDS), only = number_in(q->query, "worker", 0);
    if (!(seconds >= 0 && seconds <= SECONDS_MAX)) seconds = 0; /* the worker says what is wrong with it */
    g->waiting = 1;
    for (uint32_t i = 0; i < shards->count; i++) {
        if (!shards->shard[i].pid || (only > 0 && only != i + 1)) continue;
        g->waiting++;
        mx_ask(r->loop, shards->shard[i].ask_fd, i + 1, target, (uint64_t)(seconds + SPARE_S) * 1000, on_answer, g);
    }
    if (g->waiting == 1) {
        fputs("there is no such worker\n", g->out);
        g->status = 404;
    }
    if (--g->waiting == 0) end(g);
}
