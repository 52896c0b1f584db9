/* watchdog.c - counts the ticks that one piece of work takes. */
#include "worker/watchdog.h"
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { TICK_MS = 5, IDLE_TICKS = 20, GRACE_TICKS = 5000 / TICK_MS };

static struct {
    timer_t timer;
    mx_turn *turn;
    void (*trip)(void);
    uint32_t limit; /* ticks; 0: none */
    volatile sig_atomic_t running, armed, started;
    uint32_t work, stuck, idle; /* the signal handler's */
} dog;

static void arm(int on) {
    struct itimerspec every = {{0, 0}, {0, 0}};
    if (on) every.it_interval.tv_nsec = every.it_value.tv_nsec = TICK_MS * 1000000;
    dog.armed = on;
    timer_settime(dog.timer, 0, &every, NULL);
}

/* A finalizer, or C code that never returns: no hook reaches it. The broker gives what it held to others. */
static void leave(void) {
    static const char why[] = "mxrun: Lua could not be stopped 5 s past the turn limit (a finalizer, or a C function such as "
                              "string.find with a costly pattern): leaving, unsettled deliveries go back to the broker\n";
    if (write(STDERR_FILENO, why, sizeof why - 1)) {
    } /* there is nobody else to tell */
    _exit(1);
}

static void on_tick(int number) {
    (void)number;
    dog.turn->tick++;
    if (!dog.running) {
        dog.stuck = 0;
        if (++dog.idle >= IDLE_TICKS) arm(0);
        return;
    }
    dog.idle = 0;
    if (dog.work != dog.turn->work) {
        dog.work = dog.turn->work;
        dog.stuck = 0;
        return;
    }
    uint32_t limit = dog.turn->limit ? dog.turn->limit : dog.limit;
    if (!limit || ++dog.stuck < limit) return;
    if (dog.stuck >= (limit > dog.limit ? limit : dog.limit) + GRACE_TICKS) leave();
    dog.trip();
}

int mx_watchdog_start(mx_turn *turn, double limit, void (*trip)(void)) {
    struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 3};
    event.sigev_notify_thread_id = gettid();
    dog.turn = turn;
    dog.trip = trip;
    dog.limit = limit > 0 ? (uint32_t)(limit * 1000 / TICK_MS) + 1 : 0;
    if (sigaction(event.sigev_signo, &action, NULL) || timer_create(CLOCK_MONOTONIC, &event, &dog.timer)) return MX_EINTERNAL;
    dog.started = 1;
    return 0;
}

void mx_watchdog_enter(void) {
    dog.turn->work++;
    dog.running = 1;
    if (!dog.armed) {
        dog.idle = 0;
        arm(1);
    }
}

void mx_watchdog_leave(void) { dog.running = 0; }

void mx_watchdog_stop(void) {
    if (dog.started) timer_delete(dog.timer);
    dog.started = dog.armed = 0;
}
