/* clock.c - the monotonic clock, and how far a test has moved it ahead. */
#include "base/clock.h"
#include <time.h>
#include "base/mx.h"

static uint64_t ahead_us;
uint64_t mx_clock_latest_us;

uint64_t mx_clock_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return mx_clock_latest_us = (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000 + ahead_us;
}

uint64_t mx_clock_ahead_us(void) { return ahead_us; }

MX_EXPORT double mx_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9 + (double)ahead_us / 1e6;
}

MX_EXPORT void mx_clock_advance(double seconds) {
    if (seconds > 0) ahead_us += mx_us_of(seconds);
}
