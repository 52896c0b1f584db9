/* http.h - a small HTTP server on a loop, for those who watch the process.
 *
 * Design: /live is answered here, since it is the loop that has to turn for it; every other path is asked of Lua: the request
 * is suspended until mx_http_answer, or a deadline that makes it a 503. Where there is no Lua, a function answers. libmicrohttpd
 * is loaded when a server is opened: most processes have none, and it costs 1 ms and 2.6 MB. No threads; whatever a client does,
 * the loop only ever sees readable and writable sockets, and the number of connections, the size of a head and the time between
 * two bytes are limited. */
#ifndef MX_HTTP_H
#define MX_HTTP_H
#include "link/link.h"

typedef struct mx_http mx_http;
typedef struct mx_http_said {
    int status;
    const char *type;
    char *text; /* passes to the server, which frees it */
    size_t size;
} mx_http_said;
enum { MX_HTTP_LATER = 0 }; /* the status when mx_http_answer says it, in the call or later; there is no text then */
typedef mx_http_said mx_http_hear(void *arg, const mx_http_request *q);

enum { MX_HTTP_WHY = 256 };
/* address NULL: nowhere, what is served is given by mx_http_serve; else host:port, :port or port; the host is numeric or
 * "localhost", by default 127.0.0.1; what is not loopback is refused without a token. token NULL: everybody may ask; else
 * "Authorization: Bearer TOKEN". hear: answers every path at once; NULL: /live here, the rest by Lua. Of r it takes the loop and,
 * for Lua, timers and waits. 0, or a negative code and why. */
int mx_http_open(mx_runtime *r, mx_http_hear *hear, void *arg, const char *address, const char *token, char why[MX_HTTP_WHY]);
void mx_http_serve(mx_runtime *r, int fd); /* a connected socket, which passes to the server */
void mx_http_close(mx_runtime *r);         /* before the loop goes; r->http may be NULL */
#endif
