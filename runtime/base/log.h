/* log.h - lines to stderr, which may be a pipe that nobody reads: whoever writes never waits for it.
 *
 * What the other end does not take now stays here, up to a bound; beyond that whole lines are dropped and counted. */
#ifndef MX_LOG_H
#define MX_LOG_H
#include "base/mx.h"

int mx_log_flush(void);           /* what can go now goes; not 0: something is left */
void mx_log_end(int patience_ms); /* the last chance for what is left */
#endif
