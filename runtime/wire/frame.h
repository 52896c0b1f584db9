/* frame.h - frames of AMQP 0-9-1 (section 4.2.3): split from what came in, written into what goes out. */
#ifndef MX_FRAME_H
#define MX_FRAME_H
#include "base/bytes.h"
#include "base/mx.h"

enum { MX_FRAME_METHOD = 1, MX_FRAME_HEADER = 2, MX_FRAME_BODY = 3, MX_FRAME_HEARTBEAT = 8, MX_FRAME_END = 0xCE };
enum { MX_FRAME_MIN = 4096, MX_FRAME_MAX = 131072, MX_HEADER_CAP = 1024 * 1024, MX_FRAME_OVERHEAD = 8 };

typedef struct mx_frame {
    int type;
    uint16_t channel;
    uint32_t size;
    const uint8_t *payload;
} mx_frame;

/* Bytes of the first whole frame of p, 0 when it is not all there yet, or MX_EVALIDATION with *why set.
 * RabbitMQ sends header frames above frame_max, so those have a cap of their own. */
long mx_frame_next(const uint8_t *p, size_t n, uint32_t frame_max, mx_frame *out, const char **why);

/* Each returns the bytes written at p; a method that does not fit into the room a negative code. */
size_t mx_frame_head(uint8_t *p, int type, uint16_t channel, size_t size);
int mx_frame_method(uint8_t *p, size_t room, uint16_t channel, uint32_t method, void *decoded);
size_t mx_frame_body(uint8_t *p, uint16_t channel, const void *body, size_t n, uint32_t frame_max);
size_t mx_frame_body_bound(size_t n, uint32_t frame_max);
#endif
