/* message.h - the bytes of one message, counted: body, exchange, routing key and properties in one block.
 *
 * Small blocks come from free lists by size class and go back there; the lists are bounded. */
#ifndef MX_MESSAGE_H
#define MX_MESSAGE_H
#include "base/mx.h"

struct mx_message {
    mx_message *next; /* in a free list */
    uint32_t refs;
    uint32_t props_size;
    size_t size, room; /* of the body; room: what the block can hold after the meta bytes */
    uint8_t exchange_size, key_size, redelivered, cls;
    uint8_t bytes[]; /* exchange, key, props, body */
};

/* refs is 1. room: bytes kept for the body, at least; size is 0 and grows with mx_message_append. */
mx_message *mx_message_new(mx_span exchange, mx_span key, mx_span props, size_t room);
/* May move the block: use what it returns. Grows by doubling, never to an announced size. */
mx_message *mx_message_append(mx_message *m, const void *bytes, size_t n);
void mx_message_ref(mx_message *m);
void mx_message_unref(mx_message *m); /* NULL is fine */
size_t mx_message_bytes(void);        /* live, in all */

static inline uint8_t *mx_message_key(mx_message *m) { return m->bytes + m->exchange_size; }
static inline uint8_t *mx_message_props(mx_message *m) { return m->bytes + m->exchange_size + m->key_size; }
static inline uint8_t *mx_message_body(mx_message *m) { return mx_message_props(m) + m->props_size; }
#endif
