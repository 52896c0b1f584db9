/* worker.c - the loop and the turn. */
#include "worker/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/log.h"
#include "measure/account.h"
#include "measure/metrics.h"
#include "message/inbox.h"
#include "worker/notify.h"

enum { LOG_US = 50000 };  /* how often a reader of stderr that was slow is tried again */
enum { DRAIN_US = 5000 }; /* a drain pauses after this, so that I/O and heartbeats go on */
enum { BEAT_MS = 1000 };
enum { REST_US = 10000000 };

static void on_idle(uv_idle_t *h) { (void)h; }

static void on_wake(mx_runtime *r) {
    mx_worker *w = (mx_worker *)r;
    if (!w->due) uv_idle_start(&w->idle, on_idle); /* the loop must not sleep before the turn */
    w->due = 1;
}

static int fill(mx_worker *w) {
    int more = 0;
    for (mx_link_base *l = w->runtime.links, *next; l; l = next) {
        next = l->next; /* a link may leave the list while it is filled */
        more |= l->ops->fill(&l->pub);
    }
    return more;
}

static void flush(mx_worker *w) {
    for (mx_link_base *l = w->runtime.links, *next; l; l = next) {
        next = l->next;
        l->ops->flush(&l->pub);
    }
}

/* Most of what a publishing connection reads are confirms that nobody waits for: Lua need not look at each. */
static int is_for_lua(const mx_worker *w) {
    const mx_waits *posts = &w->runtime.waits.pub;
    return w->runtime.news || posts->head != posts->tail || w->runtime.turn.again;
}

/* One slice: what came in, what Lua makes of it, what goes out. Not 0: there is more to do. */
static int slice(mx_worker *w, uint64_t now) {
    w->due = 0;
    int more = fill(w);
    if (is_for_lua(w)) {
        w->runtime.news = 0;
        w->runtime.turn.again = 0;
        mx_inbox_turn(now);
        w->leaving = w->turn(w->turn_arg);
    }
    flush(w);
    if (w->leaving) uv_stop(&w->loop);
    return more || w->due || w->runtime.turn.again;
}

static void keep_awake(mx_worker *w, int on) {
    if (on) uv_idle_start(&w->idle, on_idle);
    else uv_idle_stop(&w->idle);
}

/* A publish that ran out of time, say, may have been the last that the script waited for. */
static int run_timers(mx_worker *w, uint64_t now) {
    if (mx_timers_next(&w->runtime.timers) > now || !mx_timers_run(&w->runtime.timers, now)) return 0;
    return w->runtime.news = 1;
}

static void on_check(uv_check_t *h) {
    mx_worker *w = h->data;
    uint64_t start = mx_clock_us(), now = start;
    w->shard->turns++;
    mx_hist_tick(start);
    int fired = run_timers(w, now);
    if (!w->due && !fired && !uv_is_active((uv_handle_t *)&w->idle)) return;
    int more;
    do {
        more = slice(w, now);
        mx_hist_tick(now = mx_clock_us());
        more |= run_timers(w, now);
    } while (more && !w->leaving && now - start < DRAIN_US);
    mx_hist_add(w->runtime.turn.lag, now - start, 1);
    keep_awake(w, more);
}

static void on_log(mx_timer *t, void *arg) { (void)t, (void)arg; }

static void on_rest(mx_timer *t, void *arg) {
    (void)t, (void)arg;
    if (mx_freelists_rest()) mx_memory_shrink();
}

/* The loop would wait for input now. Where each connection may leave it unread it sleeps first, unless a timer is near. */
static void sleep_on(const mx_worker *w, uint64_t due) {
    uint64_t us = UINT64_MAX, now = mx_clock_latest_us;
    for (mx_link_base *l = w->runtime.links; l; l = l->next) {
        uint64_t own = l->ops->coalesce(&l->pub, now);
        if (own < us) us = own;
    }
    if (!us || us == UINT64_MAX || due < now + 2 * us) return;
    nanosleep(&(struct timespec){0, (long)us * 1000}, NULL);
}

static void on_prepare(uv_prepare_t *h) {
    mx_worker *w = h->data;
    if (!w->rest.place && mx_freelists_kept()) mx_timer_set(&w->runtime.timers, &w->rest, mx_clock_us() + REST_US);
    if (mx_log_flush() && !w->log.place) mx_timer_set(&w->runtime.timers, &w->log, mx_clock_us() + LOG_US);
    uint64_t due = mx_timers_next(&w->runtime.timers), ahead = mx_clock_ahead_us();
    if (ahead && due != UINT64_MAX) due = due > ahead ? due - ahead : 1;
    if (!uv_is_active((uv_handle_t *)&w->idle) && !w->runtime.sockets) sleep_on(w, due);
    if (due == w->alarm_us) return;
    struct itimerspec at = {0};
    if (due != UINT64_MAX) {
        at.it_value.tv_sec = (time_t)(due / 1000000);
        at.it_value.tv_nsec = (long)(due % 1000000 * 1000) + 1; /* 0 would disarm */
    }
    timerfd_settime(w->alarm_fd, TFD_TIMER_ABSTIME, &at, NULL);
    w->alarm_us = due;
}

static void on_alarm(uv_poll_t *h, int status, int events) {
    mx_worker *w = h->data;
    uint64_t count;
    (void)status, (void)events;
    if (read(w->alarm_fd, &count, sizeof count) > 0) w->alarm_us = 0;
}

static void on_signal(uv_signal_t *h, int number) {
    mx_worker *w = h->data;
    /* SIGHUP is also what a terminal says that goes */
    if (number == SIGHUP && !(w->terminal && !mx_has_terminal())) {
        w->runtime.turn.reloads++;
        if (w->shard->state == MX_UP) mx_notify_reload();
    } else w->runtime.turn.signals++;
    w->runtime.news = 1;
    w->due = 1;
}

static void on_beat(uv_timer_t *t) {
    (void)t;
    if (mx_notify_period_ms()) mx_notify("WATCHDOG=1");
}

/* Only where somebody watches: an idle process sleeps. */
static void start_beat(mx_worker *w) {
    uint64_t period = mx_notify_period_ms();
    if (!period && mx_place_get()->journal) period = BEAT_MS;
    if (period) uv_timer_start(&w->beat, on_beat, period, period);
}

int mx_worker_init(mx_worker *w) {
    memset(w, 0, sizeof *w);
    w->shard = mx_place_get()->shard;
    signal(SIGPIPE, SIG_IGN);
    setenv("UV_THREADPOOL_SIZE", "16", 0); /* libuv looks up names on half of them; each that hangs holds one */
    if (uv_loop_init(&w->loop)) return MX_EINTERNAL;
    mx_runtime *r = &w->runtime;
    r->loop = &w->loop;
    r->wake = on_wake;
    mx_waits_init(&r->waits, &r->timers);
    r->turn.waits = &r->waits.pub;
    w->log.fire = on_log;
    w->rest.fire = on_rest;
    r->turn.confirm = mx_series_hist(w->confirm = mx_series_new(MX_HISTOGRAM, "messaging_publish_duration_seconds", ""));
    r->turn.lag = mx_series_hist(w->lag = mx_series_new(MX_HISTOGRAM, "mxrun_loop_lag_seconds", ""));
    r->turn.gc = mx_series_hist(w->gc = mx_series_new(MX_HISTOGRAM, "mxrun_gc_pause_seconds", ""));
    w->alarm_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (w->alarm_fd < 0) return MX_EINTERNAL;
    w->alarm_us = UINT64_MAX;
    uv_poll_init(&w->loop, &w->alarm, w->alarm_fd);
    uv_prepare_init(&w->loop, &w->prepare);
    uv_check_init(&w->loop, &w->check);
    uv_idle_init(&w->loop, &w->idle);
    uv_signal_init(&w->loop, &w->term);
    uv_signal_init(&w->loop, &w->interrupt);
    uv_signal_init(&w->loop, &w->hangup);
    w->alarm.data = w->prepare.data = w->check.data = w->idle.data = w;
    w->term.data = w->interrupt.data = w->hangup.data = w;
    w->terminal = mx_ends_with_terminal();
    uv_timer_init(&w->loop, &w->beat);
    uv_poll_start(&w->alarm, UV_READABLE, on_alarm);
    uv_prepare_start(&w->prepare, on_prepare);
    uv_check_start(&w->check, on_check);
    uv_signal_start(&w->term, on_signal, SIGTERM);
    uv_signal_start(&w->interrupt, on_signal, SIGINT);
    uv_signal_start(&w->hangup, on_signal, SIGHUP);
    start_beat(w);
    return 0;
}

void mx_worker_run(mx_worker *w) {
    w->due = w->runtime.news = 1;
    keep_awake(w, 1);
    uv_run(&w->loop, UV_RUN_DEFAULT);
}

static int nothing(void *arg) {
    (void)arg;
    return 0;
}

static void on_walk(uv_handle_t *h, void *arg) {
    (void)arg;
    if (!uv_is_closing(h)) uv_close(h, NULL);
}

int mx_worker_fini(mx_worker *w) {
    w->turn = nothing;
    w->leaving = 0;
    for (mx_link_base *l = w->runtime.links, *next; l; l = next) {
        next = l->next;
        l->ops->close(&l->pub, 0);
    }
    mx_sockets_close(&w->runtime);
    while (w->runtime.links || w->runtime.sockets) uv_run(&w->loop, UV_RUN_ONCE);
    uv_walk(&w->loop, on_walk, NULL);
    uv_run(&w->loop, UV_RUN_NOWAIT);
    int busy = uv_loop_close(&w->loop);
    close(w->alarm_fd);
    mx_log_end(1000);
    mx_timer_stop(&w->runtime.timers, &w->log);
    mx_timer_stop(&w->runtime.timers, &w->rest);
    mx_waits_fini(&w->runtime.waits);
    mx_timers_fini(&w->runtime.timers);
    mx_series_drop(w->confirm);
    mx_series_drop(w->lag);
    mx_series_drop(w->gc);
    return busy;
}

MX_EXPORT void mx_worker_state(int state) {
    mx_place_get()->shard->state = (uint32_t)state;
    if (state == MX_UP) mx_notify("READY=1\nSTATUS=up");
    else if (state == MX_STOPPING) mx_notify("STOPPING=1\nSTATUS=stopping");
}

MX_EXPORT int mx_worker_watched(void) { return mx_place_get()->watched; }

MX_EXPORT void mx_worker_report(const char *why, int health, const char *json, size_t n) {
    mx_report_write(&mx_place_get()->shard->report, why, health, json, n);
}

MX_EXPORT mx_turn *mx_runtime_turn(mx_runtime *r) { return &r->turn; }

MX_EXPORT double mx_timers_due(mx_runtime *r) {
    uint64_t due = mx_timers_next(&r->timers), now = mx_clock_us();
    if (due == UINT64_MAX) return -1;
    return due > now ? (double)(due - now) / 1e6 : 0;
}
