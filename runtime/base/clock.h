/* clock.h - the monotonic clock; nothing in mxrun counts by the wall clock. */
#ifndef MX_CLOCK_H
#define MX_CLOCK_H
#include <stdint.h>
uint64_t mx_clock_us(void);
#endif
