/* control.h - the local socket of --socket: lines from those who look into the process, lines back to them.
 *
 * Design: C carries bytes and keeps them bounded; what they mean is Lua's (scripts/mx/repl). A line is at most MX_CONTROL_LINE
 * bytes; while one waits to be taken its client is not read further. What a client does not read is kept up to
 * MX_CONTROL_PENDING bytes, then the client is dropped: nobody's slow terminal holds up the loop. Only the user whose process
 * it is, and root, may connect. */
#ifndef MX_CONTROL_H
#define MX_CONTROL_H
#include "link/link.h"

typedef struct mx_control mx_control;

enum { MX_CONTROL_WHY = 256, MX_CONTROL_CLIENTS = 32, MX_CONTROL_LINE = 64 * 1024, MX_CONTROL_PENDING = 4 << 20 };
/* Listens at path. A socket that nobody listens at any more is replaced; one that lives, or a file that is none, is refused.
 * 0, or a negative code (MX_ECONFIG, MX_ECONNECTION) and why. Of r it takes the loop and waits. */
int mx_control_open(mx_runtime *r, const char *path, char why[MX_CONTROL_WHY]);
void mx_control_close(mx_runtime *r); /* before the loop goes; r->control may be NULL */
#endif
