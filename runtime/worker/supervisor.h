/* supervisor.h - mxrun -w N: this process starts itself N times and sees to it that N go on.
 *
 * What it does with a worker that ends: 0 and 4 (the script ended) are an end; anything else is started again, at once, then
 * after pauses that double from 0.1 s to 30 s, with jitter, until one has lived ten times its pause (1 to 30 s). Until some
 * worker has come up, the first exit 2 and the fifth other one (a syntax error, say) end the whole: starting again mends neither.
 */
#ifndef MX_SUPERVISOR_H
#define MX_SUPERVISOR_H
#include "options.h"

int mx_supervisor_run(const mx_options *o); /* the worst exit code of the workers' last ones */
#endif
