/* watchdog.h - notices a turn in which one handler or task runs past the turn limit.
 *
 * Design: a timer signal to this thread every 5 ms, only while turns are taken; it compares turn->work with what it was.
 * No thread, and nothing to do per message but that one store. trip runs in the signal handler, again each 5 ms until
 * work changes or the turn ends. */
#ifndef MX_WATCHDOG_H
#define MX_WATCHDOG_H
#include "base/mx.h"

int mx_watchdog_start(mx_turn *turn, double limit, void (*trip)(void)); /* once a process; limit in seconds, 0: never */
void mx_watchdog_enter(void);                                           /* a turn begins */
void mx_watchdog_leave(void);
void mx_watchdog_stop(void);
#endif
