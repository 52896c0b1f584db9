/* clock.h - the monotonic clock; nothing in mxrun counts by the wall clock. */
#ifndef MX_CLOCK_H
#define MX_CLOCK_H
#include <stdint.h>
uint64_t mx_clock_us(void);
extern uint64_t mx_clock_latest_us; /* what it answered last */
uint64_t mx_clock_ahead_us(void);   /* how far mx_clock_advance moved it: the kernel's timers count without this */
/* Whole microseconds; what is beyond 30 years, or no number, counts as 30 years. */
static inline uint64_t mx_us_of(double seconds) {
    return seconds < 0 ? 0 : seconds < 1e9 ? (uint64_t)(seconds * 1e6) : (uint64_t)1e15;
}
#endif
