/* dial.h - a connection to a name, by whichever of its addresses answers first. */
#ifndef MX_DIAL_H
#define MX_DIAL_H
#include <uv.h>

typedef struct mx_dial mx_dial;

/* From the loop, once: a connected handle, which the owner closes, and frees once it is closed; or NULL and why. The dial is
 * gone then. */
typedef void (*mx_dialled)(void *arg, uv_stream_t *won, const char *why);

/* host and port are copied; host "unix:/path" is a local socket and has no port. The name has 5 s to be looked up, each address
 * 3 s to answer; the next one has its turn 250 ms after the one before, IPv6 and IPv4 by turns (RFC 8305). */
mx_dial *mx_dial_start(uv_loop_t *loop, const char *host, const char *port, mx_dialled done, void *arg);
void mx_dial_stop(mx_dial *d); /* before it is done: it will not be */
#endif
