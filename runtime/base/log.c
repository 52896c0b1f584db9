/* log.c - a ring of bytes before stderr. */
#include "base/log.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { ROOM = 256 * 1024, PIECE = 4096 }; /* PIECE: what a pipe that polls writable takes without blocking (PIPE_BUF) */

static struct {
    char bytes[ROOM];
    size_t head, size;
    double dropped; /* lines */
    double untold;  /* of those, what no line tells of yet */
} ring;

static int is_writable(void) {
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    return poll(&p, 1, 0) == 1 && p.revents & (POLLOUT | POLLERR); /* an error: write says which */
}

static void drop_all(void) {
    for (size_t i = 0; i < ring.size; i++) ring.untold += ring.bytes[(ring.head + i) % ROOM] == '\n';
    ring.dropped += ring.untold;
    ring.size = 0;
}

int mx_log_flush(void) {
    while (ring.size && is_writable()) {
        size_t n = ROOM - ring.head < ring.size ? ROOM - ring.head : ring.size;
        ssize_t wrote = write(STDERR_FILENO, ring.bytes + ring.head, n < PIECE ? n : PIECE);
        if (wrote < 0 && (errno == EAGAIN || errno == EINTR)) break;
        if (wrote < 0) { /* a full disk, a closed pipe: there is nobody to tell */
            drop_all();
            break;
        }
        ring.head = (ring.head + (size_t)wrote) % ROOM;
        ring.size -= (size_t)wrote;
    }
    return ring.size != 0;
}

static int put(const char *p, size_t n) {
    if (n > ROOM - ring.size) return 0;
    size_t at = (ring.head + ring.size) % ROOM, first = ROOM - at < n ? ROOM - at : n;
    memcpy(ring.bytes + at, p, first);
    memcpy(ring.bytes, p + first, n - first);
    ring.size += n;
    return 1;
}

static void tell_of_dropped(void) {
    char text[96];
    int n = snprintf(text, sizeof text, "mxrun: %.0f lines of the log were dropped, stderr did not take them\n", ring.untold);
    if (ring.untold && ring.size < ROOM / 2 && put(text, (size_t)n)) ring.untold = 0;
}

MX_EXPORT void mx_log_write(const char *line, size_t n) {
    mx_log_flush();
    tell_of_dropped();
    if (!put(line, n)) {
        ring.dropped++;
        ring.untold++;
    }
    mx_log_flush();
}

MX_EXPORT double mx_log_dropped(void) { return ring.dropped; }

void mx_log_end(int patience_ms) {
    for (; mx_log_flush() && patience_ms > 0; patience_ms -= 10) usleep(10000);
}
