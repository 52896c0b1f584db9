/* frame.c - splitting and writing frames. */
#include "wire/frame.h"
#include <amqp.h>
#include <amqp_framing.h>
#include <stdlib.h>

static const char *wrong_size(int type, uint32_t size, uint32_t frame_max) {
    uint32_t most = type == MX_FRAME_HEADER ? MX_HEADER_CAP : frame_max - MX_FRAME_OVERHEAD;
    if (size > most) return "FRAME_ERROR - frame larger than negotiated";
    if (type == MX_FRAME_METHOD && size < 4) return "FRAME_ERROR - method frame too short";
    if (type == MX_FRAME_HEADER && size < 14) return "FRAME_ERROR - header frame too short";
    if (type == MX_FRAME_HEARTBEAT && size) return "FRAME_ERROR - heartbeat with a payload";
    return NULL;
}

static int is_type(int type) { return (type >= MX_FRAME_METHOD && type <= MX_FRAME_BODY) || type == MX_FRAME_HEARTBEAT; }

long mx_frame_next(const uint8_t *p, size_t n, uint32_t frame_max, mx_frame *out, const char **why) {
    if (n < 7) return 0;
    *out = (mx_frame){p[0], mx_get16(p + 1), mx_get32(p + 3), p + 7};
    *why = is_type(out->type) ? wrong_size(out->type, out->size, frame_max) : "FRAME_ERROR - unknown frame type";
    if (*why) return MX_EVALIDATION;
    if (n < (size_t)out->size + MX_FRAME_OVERHEAD) return 0;
    if (p[7 + out->size] == MX_FRAME_END) return (long)out->size + MX_FRAME_OVERHEAD;
    *why = "FRAME_ERROR - wrong end octet";
    return MX_EVALIDATION;
}

size_t mx_frame_head(uint8_t *p, int type, uint16_t channel, size_t size) {
    p[0] = (uint8_t)type;
    mx_put16(p + 1, channel);
    mx_put32(p + 3, (uint32_t)size);
    return 7;
}

int mx_frame_method(uint8_t *p, size_t room, uint16_t channel, uint32_t method, void *decoded) {
    int n = amqp_encode_method(method, decoded, (amqp_bytes_t){room - 12, p + 11});
    if (n < 0) return MX_EVALIDATION;
    mx_frame_head(p, MX_FRAME_METHOD, channel, (size_t)n + 4);
    mx_put32(p + 7, method);
    p[11 + n] = MX_FRAME_END;
    return n + 12;
}

size_t mx_frame_body_bound(size_t n, uint32_t frame_max) {
    size_t most = frame_max - MX_FRAME_OVERHEAD;
    return n + (n + most - 1) / most * MX_FRAME_OVERHEAD;
}

size_t mx_frame_body(uint8_t *p, uint16_t channel, const void *body, size_t n, uint32_t frame_max) {
    uint8_t *start = p;
    size_t most = frame_max - MX_FRAME_OVERHEAD;
    for (const uint8_t *from = body; n;) {
        size_t k = n < most ? n : most;
        p += mx_frame_head(p, MX_FRAME_BODY, channel, k);
        memcpy(p, from, k);
        p[k] = MX_FRAME_END;
        p += k + 1, from += k, n -= k;
    }
    return (size_t)(p - start);
}
