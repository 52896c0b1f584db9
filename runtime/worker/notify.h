/* notify.h - what systemd is told (sd_notify(3)), without its library; nothing when nobody listens. */
#ifndef MX_NOTIFY_H
#define MX_NOTIFY_H
#include <stdint.h>

void mx_notify(const char *format, ...) __attribute__((format(printf, 1, 2))); /* "READY=1", lines of it */
void mx_notify_reload(void);        /* that a reload began, and is over: scripts have heard of it */
uint64_t mx_notify_period_ms(void); /* how often WATCHDOG=1 is due: half of what systemd waits; 0: it does not */
#endif
