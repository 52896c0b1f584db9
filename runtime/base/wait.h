/* wait.h - tickets: somebody waits for one, an event or its deadline posts it, never both.
 *
 * Design: tickets are counted, and each sits at its number modulo the seats; a number whose seat is taken is passed over.
 * So an answer that comes after the deadline finds nobody of its number and is dropped: a number comes again only after
 * billions of others. Posts collect in a ring that Lua empties once a turn. */
#ifndef MX_WAIT_H
#define MX_WAIT_H
#include "base/mx.h"
#include "base/timer.h"

typedef struct mx_waiting mx_waiting;
typedef struct mx_waitroom {
    mx_waits pub; /* first: what Lua sees */
    mx_timers *timers;
    mx_waiting **seat, *free;
    uint32_t seats, live, latest; /* seats: a power of two; live: how many are taken; latest: ticket given out */
} mx_waitroom;

void mx_waits_init(mx_waitroom *w, mx_timers *timers);
void mx_waits_fini(mx_waitroom *w);
/* Posts the ticket; 0 or stale: only frees the reply. The reply passes to whoever takes the post. */
void mx_wait_post(mx_waits *w, uint32_t ticket, int code, mx_reply *reply);
mx_reply *mx_reply_new(int code, int reply_code, const void *text, size_t size); /* text is copied */
#endif
