/* ticks.c - a POSIX timer on this thread's CPU clock. */
#include "measure/ticks.h"
#include "measure/profile.h"
#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { RING = 64 };

static struct {
    const volatile int *inside;
    const volatile uint32_t *labels;
    void (*ask)(int);
    timer_t timer;
    int created;
    volatile uint32_t head, tail; /* the handler writes at tail */
    uint32_t missed;              /* the handler's: periods for which there was no room, given to the next */
    mx_tick ring[RING];
} own;

static void on_tick(int number, siginfo_t *info, void *context) {
    int before = errno;
    uint32_t weight = 1 + own.missed + (info->si_code == SI_TIMER && info->si_overrun > 0 ? (uint32_t)info->si_overrun : 0);
    if (own.tail - own.head == RING) own.missed = weight;
    else {
        mx_tick *t = &own.ring[own.tail % RING];
        *t = (mx_tick){.weight = weight, .labels = *own.labels, .inside = *own.inside};
        t->depth = mx_native_walk(context, t->pc);
        own.missed = 0;
        own.tail++;
    }
    if (*own.inside == MX_IN_LUA) own.ask(number);
    errno = before;
}

void mx_ticks_start(const volatile int *inside, const volatile uint32_t *labels, void (*ask)(int)) {
    struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_RESTART | SA_SIGINFO};
    own.inside = inside;
    own.labels = labels;
    own.ask = ask;
    sigaction(SIGPROF, &action, NULL);
}

static int create(void) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF};
    event.sigev_notify_thread_id = gettid();
    own.created = !timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &own.timer);
    return own.created ? 0 : MX_EINTERNAL;
}

int mx_ticks_set(uint64_t period_us) {
    struct itimerspec every = {.it_interval = {(time_t)(period_us / 1000000), (long)(period_us % 1000000 * 1000)}};
    every.it_value = every.it_interval;
    if (!own.created && period_us && create()) return MX_EINTERNAL;
    if (own.created) timer_settime(own.timer, 0, &every, NULL);
    own.missed = 0;
    return 0;
}

const mx_tick *mx_ticks_first(void) { return own.head == own.tail ? NULL : &own.ring[own.head % RING]; }
void mx_ticks_take(void) { own.head++; }
