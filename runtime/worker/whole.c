/* whole.c - what the shards say, as HTTP has it. */
#include "worker/whole.h"
#include <stdio.h>
#include <stdlib.h>
#include "admin/door.h"
#include "base/logline.h"
#include "worker/gather.h"

enum { STUCK_MS = 3000 }; /* a loop turns once a second at least */

#define TEXT "text/plain; charset=utf-8"

static const char *const standings[] = {
#define X(name, text) text,
    MX_STANDINGS(X)
#undef X
};

static int standing(const mx_shard *s) {
    if (s->ended) return MX_IS_ENDED;
    if (!s->pid) return MX_IS_DOWN;
    if (s->still_ms >= STUCK_MS) return MX_IS_STUCK;
    return s->state <= MX_STOPPING ? (int)s->state : MX_IS_UP;
}

/* Why the worker keeps the whole from it, into the room; NULL: it does not. */
typedef const char *objection(const mx_shard *s, mx_report_page *room);

static const char *not_live(const mx_shard *s, mx_report_page *room) {
    (void)room;
    return standing(s) == MX_IS_STUCK ? "its loop does not turn" : NULL;
}

static const char *not_ready(const mx_shard *s, mx_report_page *room) {
    int is = standing(s);
    if (is == MX_IS_ENDED) return NULL;
    if (is != MX_IS_UP) return standings[is];
    if (!mx_report_read(&s->report, room)) return "it has said nothing yet";
    return room->ready ? NULL : room->why;
}

static mx_http_said said(FILE *out, int status, const char *type, mx_http_said *to) {
    if (fclose(out)) abort(); /* no memory */
    to->status = status;
    to->type = type;
    return *to;
}

static FILE *writer(mx_http_said *to) {
    FILE *out = open_memstream(&to->text, &to->size);
    if (!out) abort();
    return out;
}

/* 200 and the word, or 503 and a line for each worker that objects. */
static mx_http_said agreed(const mx_whole *w, objection *objects, const char *word) {
    mx_http_said to;
    mx_report_page room;
    FILE *out = writer(&to);
    int count = 0;
    for (uint32_t i = 0; i < w->shards->count; i++) {
        const char *why = objects(&w->shards->shard[i], &room);
        if (why) fprintf(out, "worker %u: %s\n", i + 1, why), count++;
    }
    if (!count) fprintf(out, "%s\n", word);
    return said(out, count ? 503 : 200, TEXT, &to);
}

static const char *const healths[] = {[MX_HEALTHY] = "healthy", [MX_DEGRADED] = "degraded", [MX_UNHEALTHY] = "unhealthy"};

/* The fields of a worker's own report behind what is said here. */
static int write_health(FILE *out, const mx_shard *s, uint32_t number) {
    mx_report_page page = {.health = MX_HEALTHY};
    int is = standing(s), reports = is < MX_IS_DOWN && mx_report_read(&s->report, &page);
    int health = is == MX_IS_DOWN || is == MX_IS_STUCK ? MX_UNHEALTHY : (int)page.health;
    fprintf(out, "{\"number\":%u,\"state\":\"%s\",\"status\":\"%s\"", number, standings[is], healths[health]);
    if (reports && page.size > sizeof "{}" - 1) fprintf(out, ",%.*s", (int)page.size - 1, page.text + 1);
    else putc('}', out);
    return health;
}

static mx_http_said health(const mx_whole *w) {
    mx_http_said to, list;
    FILE *out = writer(&list);
    int worst = MX_HEALTHY;
    for (uint32_t i = 0; i < w->shards->count; i++) {
        if (i) putc(',', out);
        int one = write_health(out, &w->shards->shard[i], i + 1);
        if (one > worst) worst = one;
    }
    said(out, 0, NULL, &list);
    out = writer(&to);
    fprintf(out, "{\"status\":\"%s\",\"workers\":[%s]}\n", healths[worst], list.text);
    free(list.text);
    return said(out, worst == MX_UNHEALTHY ? 503 : 200, "application/json", &to);
}

static void measure(mx_whole *w) {
    for (int k = 0; k < MX_STANDINGS_COUNT; k++) w->workers[k]->value = 0;
    for (uint32_t i = 0; i < w->shards->count; i++) w->workers[standing(&w->shards->shard[i])]->value++;
    w->restarts->value = w->shards->restarts;
}

static mx_http_said metrics(mx_whole *w, const char *accept) {
    int openmetrics = strstr(accept, "application/openmetrics-text") != NULL;
    mx_http_said to = {.status = 200};
    to.type =
        openmetrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8" : "text/plain; version=0.0.4; charset=utf-8";
    uint32_t count = w->shards->count + 1;
    const mx_slab **slabs = mx_zalloc(count * sizeof *slabs);
    for (uint32_t i = 0; i < count; i++) slabs[i] = mx_shards_slab(w->shards, i);
    measure(w);
    to.text = mx_metrics_write(slabs, (int)count, openmetrics, &to.size);
    free(slabs);
    return to;
}

mx_http_said mx_whole_hear(void *arg, const mx_http_request *q) {
    mx_whole *w = arg;
    const char *path = q->path;
    if (!strcmp(path, "/live")) return agreed(w, not_live, "ok");
    if (!strcmp(path, "/ready")) return agreed(w, not_ready, "ready");
    if (!strcmp(path, "/health")) return health(w);
    if (!strcmp(path, "/metrics")) return metrics(w, q->accept);
    if (!strncmp(path, "/debug/pprof/", 13)) {
        mx_gather(&w->runtime, w->shards, q);
        return (mx_http_said){.status = MX_HTTP_LATER};
    }
    static const char paths[] = "there is /debug/pprof/, /health, /live, /metrics, /ready\n";
    return (mx_http_said){404, TEXT, mx_strndup(paths, sizeof paths - 1), sizeof paths - 1};
}

static void begin_slab(mx_whole *w) {
    mx_slab_use(mx_slab_init(mx_shards_slab(w->shards, w->shards->count), MX_SLAB_BYTES));
    for (int k = 0; k < MX_STANDINGS_COUNT; k++) {
        char labels[32];
        snprintf(labels, sizeof labels, "state=\"%s\"", standings[k]);
        w->workers[k] = mx_series_new(MX_GAUGE, "mxrun_workers", labels);
    }
    w->restarts = mx_series_new(MX_COUNTER, "mxrun_worker_restarts_total", "");
    mx_series_new(MX_HELP, "mxrun_workers", "how the workers of mxrun -w stand");
    mx_series_new(MX_HELP, "mxrun_worker_restarts_total", "workers that died and were or are to be started again");
}

int mx_whole_open(mx_whole *w, uv_loop_t *loop, mx_shards *shards, const mx_options *o) {
    w->runtime.loop = loop;
    w->shards = shards;
    if (!shards->watched) return 0;
    begin_slab(w);
    int code = mx_door_open(&w->runtime, mx_whole_hear, w, o);
    if (w->runtime.http)
        mx_log("info", "serving /live /ready /health /metrics /debug/pprof/", "http=%s", mx_http_address(&w->runtime));
    return code;
}

void mx_whole_keep(mx_whole *w, uint32_t i) {
    if (!w->shards->watched) return;
    mx_slab_keep(mx_shards_slab(w->shards, i));
    mx_shards_wipe(w->shards, i);
}

void mx_whole_close(mx_whole *w) { mx_http_close(&w->runtime); }
