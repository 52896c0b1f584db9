/* batch.c - how many, how many bytes and how long. */
#include "message/batch.h"
#include <stdlib.h>
#include "measure/account.h"
#include "message/inbox.h"

enum { ROOM_MIN = 16 };

MX_EXPORT mx_batch *mx_batch_new(uint32_t size, double bytes, double timeout, mx_batch_look *look) {
    mx_batch *b = mx_zalloc(sizeof *b);
    b->size = size ? size : 1;
    b->most = bytes;
    b->timeout = timeout;
    b->look = look;
    return b;
}

MX_EXPORT void mx_batch_free(mx_batch *b) {
    mx_let_go(MX_OF_DELIVERIES, b->room * sizeof *b->seq);
    free(b->seq);
    free(b);
}

MX_EXPORT void mx_batch_clear(mx_batch *b) {
    b->count = b->due = 0;
    b->bytes = 0;
}

static void grow(mx_batch *b) {
    uint32_t room = b->room ? 2 * b->room : ROOM_MIN;
    b->seq = mx_realloc(b->seq, room * sizeof *b->seq);
    mx_hold(MX_OF_DELIVERIES, (room - b->room) * sizeof *b->seq);
    b->room = room;
}

static void tell(mx_batch *b, double now) {
    b->look->count = b->count;
    b->look->bytes = b->bytes;
    b->look->age = b->count && now > b->since ? now - b->since : 0;
    b->look->idle = b->count && now > b->latest ? now - b->latest : 0;
    if (!b->due && b->count && b->look->age >= b->timeout) b->due = MX_BATCH_TIME;
}

void mx_batch_count(mx_batch *b, double bytes, double now) {
    if (!b->count) b->since = now;
    b->latest = now;
    b->count++;
    b->bytes += bytes;
    if (b->count >= b->size) b->due = MX_BATCH_SIZE;
    else if (b->bytes >= b->most) b->due = MX_BATCH_BYTES;
    tell(b, now);
}

MX_EXPORT void mx_batch_take(mx_batch *b, mx_inbox *ib, uint32_t most, double now) {
    for (; most && !b->due && ib->head != ib->tail; most--) {
        double bytes = (double)mx_inbox_at(ib, ib->head)->size;
        if (b->count && b->bytes + bytes > b->most) {
            b->due = MX_BATCH_BYTES;
            break;
        }
        if (b->count == b->room) grow(b);
        b->seq[b->count] = ib->head++;
        mx_batch_count(b, bytes, now);
    }
    b->look->depth = ib->tail - ib->head;
}

MX_EXPORT void mx_batch_tell(mx_batch *b, const mx_inbox *ib, double now) {
    tell(b, now);
    if (ib) b->look->depth = ib->tail - ib->head;
}
