/* supervisor.c - starts workers, replaces those that die or stand still, passes signals on. */
#include "worker/supervisor.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>
#include "base/clock.h"
#include "base/logline.h"
#include "worker/ask.h"
#include "worker/notify.h"
#include "worker/shard.h"
#include "worker/whole.h"

extern char **environ;

/* STUCK: past the turn limit a worker gives Lua 5 s to stop, then leaves by itself; one that does not is ended. */
enum { TICK_MS = 500, STUCK_MS = 6000, PAUSE_MS = 100, PAUSE_MAX_MS = 30000, LIVED_MS = 1000, END_MS = 5000, FAILURES = 5 };

typedef struct child {
    uv_process_t process;
    uv_timer_t again;
    struct supervisor *s;
    mx_shard *shard;
    int number;
    int failures; /* deaths in a row */
    uint64_t pause_ms;
    uint32_t turns; /* as seen at the last tick */
    int killed;
    int status, signal; /* of its end */
} child;

typedef struct supervisor {
    uv_loop_t loop;
    uv_signal_t term, interrupt, hangup;
    uv_timer_t tick, alive, end;
    const mx_options *options;
    char **argv, **environment;
    mx_shards *shards;
    mx_whole whole;
    int fd;
    child *children;
    int count;
    int ever_up, ready; /* some worker was up; all were, and systemd knows */
    int failures;       /* exits before any was up */
    int stopping, code;
    int terminal; /* it began on one, and ends with it */
    char status[64];
    char number[32]; /* of the worker that is being started, first in its environment */
} supervisor;

static void end(child *c, int code);
static void start(child *c);

/* Ends ------------------------------------------------------------------------------------------------------------ */

static void each_running(supervisor *s, int number) {
    for (int i = 0; i < s->count; i++)
        if (s->children[i].shard->pid) uv_process_kill(&s->children[i].process, number);
}

static void on_end(uv_timer_t *t) {
    mx_log("error", "workers are still there past the drain, killing them", "%s", "");
    each_running(t->data, SIGKILL);
}

static void stop(supervisor *s, int number) {
    if (!s->stopping) mx_notify("STOPPING=1\nSTATUS=stopping");
    each_running(s, number);
    if (s->stopping) return;
    s->stopping = 1;
    uv_timer_start(&s->end, on_end, (uint64_t)(s->options->drain * 1000) + END_MS, 0);
    for (int i = 0; i < s->count; i++)
        if (uv_is_active((uv_handle_t *)&s->children[i].again)) end(&s->children[i], 0);
}

static void on_walk(uv_handle_t *h, void *arg) {
    (void)arg;
    if (!uv_is_closing(h)) uv_close(h, NULL);
}

static void end(child *c, int code) {
    supervisor *s = c->s;
    c->shard->ended = 1;
    uv_timer_stop(&c->again);
    if (code > s->code) s->code = code;
    for (int i = 0; i < s->count; i++)
        if (!s->shards->shard[i].ended) return;
    mx_whole_close(&s->whole);
    uv_walk(&s->loop, on_walk, NULL);
}

/* Deaths ---------------------------------------------------------------------------------------------------------- */

static uint64_t lived_ms(const child *c) { return (mx_clock_us() - c->shard->started_us) / 1000; }

static void next_pause(child *c) {
    uint64_t enough = c->pause_ms * 10 < LIVED_MS ? LIVED_MS : c->pause_ms * 10;
    if (enough > PAUSE_MAX_MS) enough = PAUSE_MAX_MS;
    if (lived_ms(c) >= enough) c->failures = 0;
    c->pause_ms = 0;
    if (c->failures++ == 0) return;
    uint64_t most = c->failures > 10 ? PAUSE_MAX_MS : (uint64_t)PAUSE_MS << (c->failures - 2);
    if (most > PAUSE_MAX_MS) most = PAUSE_MAX_MS;
    c->pause_ms = most / 2 + mx_random() % (most / 2 + 1);
}

static void on_again(uv_timer_t *t) { start(t->data); }

static void start_later(child *c) {
    next_pause(c);
    uv_timer_start(&c->again, on_again, c->pause_ms, 0);
}

static uint32_t blame(child *c) {
    uint64_t mark = c->shard->running;
    uint32_t crashes = mark ? mx_journal_add(&c->s->shards->journal, mark) : 0;
    __atomic_store_n(&c->shard->running, 0, __ATOMIC_RELEASE); /* after it has been counted, see mark.c */
    return crashes;
}

/* Whether there is no use in starting workers: nothing ever came up. */
static int is_hopeless(supervisor *s, const child *c) {
    if (s->ever_up || c->signal) return 0;
    return c->status == 2 || ++s->failures >= FAILURES;
}

static void on_death(child *c) {
    supervisor *s = c->s;
    uint32_t crashes = blame(c);
    char how[32];
    const char *name = sigabbrev_np(c->signal);
    if (name) snprintf(how, sizeof how, "signal=%s", name);
    else snprintf(how, sizeof how, c->signal ? "signal=%d" : "exit=%d", c->signal ? c->signal : c->status);
    if (is_hopeless(s, c)) {
        mx_log("error", "no worker comes up, giving up", "worker=%d %s", c->number, how);
        if (!s->stopping) stop(s, SIGTERM);
        return end(c, c->status);
    }
    s->shards->restarts++;
    start_later(c);
    mx_log("error", "a worker died, starting another", "worker=%d %s pause=%.1f", c->number, how, (double)c->pause_ms / 1000);
    if (crashes) mx_log("warn", "it ran a redelivered message", "worker=%d crashes=%u", c->number, crashes);
}

static int exit_code(const child *c) {
    if (!c->signal) return c->status;
    return c->signal == SIGTERM || c->signal == SIGINT ? 0 : 128 + c->signal; /* it may not have come to catching them */
}

static void on_gone(uv_handle_t *h) {
    child *c = h->data;
    supervisor *s = c->s;
    if (c->shard->state >= MX_UP || (!c->signal && c->status == 0)) s->ever_up = 1;
    if (s->stopping) return end(c, exit_code(c));
    if (!c->signal && (c->status == 0 || c->status == 4)) return end(c, c->status);
    on_death(c);
}

static void close_ask(child *c) {
    if (c->shard->ask_fd >= 0) close(c->shard->ask_fd);
    c->shard->ask_fd = -1;
}

static void on_exit_of(uv_process_t *p, int64_t status, int signal) {
    child *c = p->data;
    c->status = (int)status;
    c->signal = signal;
    c->shard->pid = 0;
    close_ask(c);
    mx_whole_keep(&c->s->whole, (uint32_t)c->number - 1);
    uv_close((uv_handle_t *)p, on_gone);
}

/* Starts ---------------------------------------------------------------------------------------------------------- */

static int is_ours(const char *setting) {
    static const char *const names[] = {"MXRUN_WORKER=", "NOTIFY_SOCKET=", "WATCHDOG_USEC=", "WATCHDOG_PID="};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strncmp(setting, names[i], strlen(names[i]))) return 1;
    return 0;
}

/* The environment with room for one more in front: systemd listens to the supervisor only. */
static char **environment(void) {
    size_t n = 0, used = 1;
    while (environ[n]) n++;
    char **list = mx_zalloc((n + 2) * sizeof *list);
    for (size_t i = 0; i < n; i++)
        if (!is_ours(environ[i])) list[used++] = environ[i];
    return list;
}

/* Where somebody watches: the two ends, to what is to be the worker; -1 when there are none. */
static void open_ask(child *c, int ask[2]) {
    close_ask(c);
    if (!c->s->shards->watched || mx_ask_pair(ask)) ask[0] = ask[1] = -1;
    c->shard->ask_fd = ask[0];
}

static void start(child *c) {
    supervisor *s = c->s;
    int ask[2];
    open_ask(c, ask);
    snprintf(s->number, sizeof s->number, "MXRUN_WORKER=%d", c->number);
    uv_stdio_container_t stdio[] = {{.flags = UV_IGNORE},
                                    {.flags = UV_INHERIT_FD, .data.fd = STDOUT_FILENO},
                                    {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
                                    {.flags = UV_INHERIT_FD, .data.fd = s->fd},
                                    {.flags = UV_INHERIT_FD, .data.fd = ask[1]}};
    _Static_assert(MX_SHARD_FD == 3 && MX_ASK_FD == 4, "they are the last of them");
    uv_process_options_t o = {.file = "/proc/self/exe",
                              .args = s->argv,
                              .env = s->environment,
                              .exit_cb = on_exit_of,
                              .stdio = stdio,
                              .stdio_count = ask[1] < 0 ? MX_ASK_FD : MX_ASK_FD + 1,
                              .flags = UV_PROCESS_DETACHED}; /* a terminal's signals come from here, once */
    mx_shard *shard = c->shard;
    shard->turns = shard->state = 0;
    shard->running = 0;
    shard->report.version = 0;
    shard->still_ms = 0;
    shard->generation++;
    shard->started_us = mx_clock_us();
    c->turns = 0;
    c->killed = 0;
    int code = uv_spawn(&s->loop, &c->process, &o);
    if (ask[1] >= 0) close(ask[1]);
    c->process.data = c;
    if (code == 0) {
        shard->pid = c->process.pid;
        return;
    }
    c->signal = 0;
    c->status = 1;
    mx_log("error", "cannot start a worker", "worker=%d error=%s", c->number, uv_err_name(code));
    uv_close((uv_handle_t *)&c->process, on_gone);
}

/* The look at them, twice a second ---------------------------------------------------------------------------------- */

static int is_stuck(const child *c) {
    double limit_ms = c->s->options->turn_limit * 1000;
    return limit_ms > 0 && c->shard->pid && c->shard->still_ms >= limit_ms + STUCK_MS;
}

static void look_at(child *c) {
    if (c->turns != c->shard->turns) c->shard->still_ms = 0;
    else c->shard->still_ms += TICK_MS;
    c->turns = c->shard->turns;
    if (!is_stuck(c) || c->killed) return;
    c->killed = 1;
    mx_log("error", "a worker stands still, killing it", "worker=%d pid=%d seconds=%d", c->number, (int)c->shard->pid,
           (int)c->shard->still_ms / 1000);
    uv_process_kill(&c->process, SIGKILL);
}

static void tell(supervisor *s, int up, int ended) {
    char status[sizeof s->status];
    if (s->stopping) return;
    snprintf(status, sizeof status, "%d of %d workers up, %d restarts", up, s->count, (int)s->shards->restarts);
    int is_ready = up > 0 && up + ended == s->count;
    if (is_ready && !s->ready) {
        s->ready = 1;
        mx_log("info", "all workers are up", "workers=%d", s->count);
        mx_notify("READY=1\nSTATUS=%s", status);
    } else if (strcmp(status, s->status)) mx_notify("STATUS=%s", status);
    memcpy(s->status, status, sizeof status);
}

static void on_tick(uv_timer_t *t) {
    supervisor *s = t->data;
    int up = 0, ended = 0;
    for (int i = 0; i < s->count; i++) {
        child *c = &s->children[i];
        ended += (int)c->shard->ended;
        if (!c->shard->pid) continue;
        look_at(c);
        up += c->shard->state >= MX_UP;
    }
    if (up) s->ever_up = 1;
    tell(s, up, ended);
}

/* systemd need not hear of one that stands still before its replacement is due. */
static void on_alive(uv_timer_t *t) {
    supervisor *s = t->data;
    for (int i = 0; i < s->count; i++)
        if (is_stuck(&s->children[i])) return;
    mx_notify("WATCHDOG=1");
}

/* The whole ----------------------------------------------------------------------------------------------------------- */

static void on_stop_signal(uv_signal_t *h, int number) { stop(h->data, number); }

/* Of a terminal that goes: the end. Otherwise what scripts hear as "reload", once they can. */
static void on_hangup(uv_signal_t *h, int number) {
    supervisor *s = h->data;
    if (s->terminal && !mx_has_terminal()) return stop(s, SIGTERM);
    for (int i = 0; i < s->count; i++)
        if (s->children[i].shard->pid && s->children[i].shard->turns) uv_process_kill(&s->children[i].process, number);
    if (s->ready) mx_notify_reload();
}

static void init(supervisor *s) {
    s->terminal = mx_ends_with_terminal();
    uv_signal_init(&s->loop, &s->term);
    uv_signal_init(&s->loop, &s->interrupt);
    uv_signal_init(&s->loop, &s->hangup);
    uv_timer_init(&s->loop, &s->tick);
    uv_timer_init(&s->loop, &s->alive);
    uv_timer_init(&s->loop, &s->end);
    s->term.data = s->interrupt.data = s->hangup.data = s->tick.data = s->alive.data = s->end.data = s;
    uv_signal_start(&s->term, on_stop_signal, SIGTERM);
    uv_signal_start(&s->interrupt, on_stop_signal, SIGINT);
    uv_signal_start(&s->hangup, on_hangup, SIGHUP);
    uv_timer_start(&s->tick, on_tick, TICK_MS, TICK_MS);
    uint64_t period = mx_notify_period_ms();
    if (period) uv_timer_start(&s->alive, on_alive, period, period);
}

static void start_all(supervisor *s) {
    s->children = mx_zalloc((size_t)s->count * sizeof *s->children);
    for (int i = 0; i < s->count; i++) {
        child *c = &s->children[i];
        c->s = s;
        c->shard = &s->shards->shard[i];
        c->shard->ask_fd = -1;
        c->number = i + 1;
        uv_timer_init(&s->loop, &c->again);
        c->again.data = c;
        start(c);
    }
}

int mx_supervisor_run(const mx_options *o) {
    supervisor s = {.options = o, .argv = o->given, .count = o->workers};
    signal(SIGPIPE, SIG_IGN);
    mx_log_setup(o->log, o->log_level);
    s.shards = mx_shards_new((uint32_t)s.count, o->http != NULL, &s.fd);
    if (!s.shards || uv_loop_init(&s.loop)) {
        perror("mxrun: cannot start workers");
        return 1;
    }
    s.environment = environment();
    s.environment[0] = s.number;
    if (!(s.code = mx_whole_open(&s.whole, &s.loop, s.shards, o))) {
        init(&s);
        start_all(&s);
    }
    uv_run(&s.loop, UV_RUN_DEFAULT);
    uv_loop_close(&s.loop);
    close(s.fd);
    mx_shards_free(s.shards);
    free(s.environment);
    free(s.children);
    return s.code;
}
