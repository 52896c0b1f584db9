/* ask.h - what the supervisor asks a worker by HTTP, where the numbers that they share are not enough.
 *
 * Design: a worker inherits one end of a socket pair as descriptor 4. Over it come connections, each one end of a new pair, which
 * its HTTP server takes like any other. Nothing listens anywhere, so that nobody else can connect. */
#ifndef MX_ASK_H
#define MX_ASK_H
#include "admin/http.h"

enum { MX_ASK_FD = 4 };

int mx_ask_pair(
    int fd[2]); /* fd[0] is the supervisor's, fd[1] to be inherited; both closed in what is executed. -1: errno says why */

/* What came, from its status line on, is valid in the call; n 0: nothing came, or not in time. */
typedef void mx_ask_answer(void *arg, uint32_t number, const char *bytes, size_t n);
/* Asks worker `number` behind fd for "/path?query"; the answer comes in a later turn of the loop. */
void mx_ask(uv_loop_t *loop, int fd, uint32_t number, const char *target, uint64_t timeout_ms, mx_ask_answer *answer, void *arg);

/* The worker's: opens a server for what comes over descriptor 4. 0, or a negative code and why. */
int mx_ask_serve(mx_runtime *r, char why[MX_HTTP_WHY]);
#endif
