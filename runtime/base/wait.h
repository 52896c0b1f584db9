/* wait.h - tickets: somebody waits for one, an event or its deadline posts it, never both.
 *
 * Design: a ticket is a slot number and a generation, so that an answer that comes after the deadline finds a
 * stale number and is dropped. Posts collect in a ring that Lua empties once a turn. */
#ifndef MX_WAIT_H
#define MX_WAIT_H
#include "base/mx.h"
#include "base/timer.h"

typedef struct mx_waiting mx_waiting;
typedef struct mx_waitroom {
    mx_waits pub; /* first: what Lua sees */
    mx_timers *timers;
    mx_waiting **seat;
    uint32_t seats, free_seat;
} mx_waitroom;

void mx_waits_init(mx_waitroom *w, mx_timers *timers);
void mx_waits_fini(mx_waitroom *w);
/* Posts the ticket; 0 or stale: only frees the reply. The reply passes to whoever takes the post. */
void mx_wait_post(mx_waits *w, uint32_t ticket, int code, mx_reply *reply);
mx_reply *mx_reply_new(int code, int reply_code, const void *text, size_t size); /* text is copied */
#endif
