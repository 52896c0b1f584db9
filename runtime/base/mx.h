/* mx.h - the vocabulary: abi.h's types, the error map, memory that does not fail. */
#ifndef MX_H
#define MX_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "abi.h"

/* name of the enum, its number, what Lua calls it, its text, worth trying again? */
#define MX_ERROR_MAP(X)                                                                                                          \
    X(TIMEOUT, 1, "timeout", "ran out of time", 1)                                                                               \
    X(BACKPRESSURE, 2, "backpressure", "too much is in flight", 1)                                                               \
    X(UNROUTABLE, 3, "unroutable", "no queue is bound for this key", 0)                                                          \
    X(NACKED, 4, "nacked", "the broker refused the message", 1)                                                                  \
    X(CONNECTION, 5, "connection", "the connection failed", 1)                                                                   \
    X(CHANNEL, 6, "channel", "the broker closed the channel", 0)                                                                 \
    X(ACCESS, 7, "access", "access refused", 0)                                                                                  \
    X(CONFIG, 8, "config", "wrong configuration", 0)                                                                             \
    X(VALIDATION, 9, "validation", "invalid argument", 0)                                                                        \
    X(SERIALIZATION, 10, "serialization", "cannot encode or decode", 0)                                                          \
    X(MEMORY, 11, "memory", "out of memory", 1)                                                                                  \
    X(CLOSED, 12, "closed", "closed", 0)                                                                                         \
    X(INTERRUPTED, 13, "interrupted", "interrupted", 1)                                                                          \
    X(INTERNAL, 14, "internal", "internal error", 0)                                                                             \
    X(AGAIN, 15, "again", "not now", 1)

enum {
#define X(name, n, lua, text, retryable) MX_E##name = -(n),
    MX_ERROR_MAP(X)
#undef X
};

#define MX_EXPORT __attribute__((visibility("default")))

void *mx_sure(void *p, size_t n);             /* p; when it is NULL, the end of the process, with a line that asks for n */
void *mx_zalloc(size_t n);                    /* zeroed; aborts with a line when there is no memory */
void *mx_realloc(void *p, size_t n);          /* as realloc; aborts likewise */
void *mx_aligned(size_t alignment, size_t n); /* n: a multiple of it; as aligned_alloc; aborts likewise */
char *mx_strndup(const void *p, size_t n);
int mx_has_terminal(void);       /* it sends SIGHUP when it goes */
int mx_ends_with_terminal(void); /* the process began on one, and is to end with it: under nohup it is not */

static inline mx_span mx_span_of(const char *s) { return (mx_span){(const uint8_t *)s, s ? strlen(s) : 0}; }
static inline int mx_same(mx_span a, mx_span b) { return a.n == b.n && (!a.n || !memcmp(a.p, b.p, a.n)); }
static inline int mx_is(mx_span s, const char *word) { return mx_same(s, mx_span_of(word)); }
#endif
