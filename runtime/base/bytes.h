/* bytes.h - numbers as AMQP has them on the wire, the highest byte first; nothing is aligned. */
#ifndef MX_BYTES_H
#define MX_BYTES_H
#include <stdint.h>
#include <string.h>

static inline uint16_t mx_get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline uint32_t mx_get32(const uint8_t *p) { return (uint32_t)mx_get16(p) << 16 | mx_get16(p + 2); }
static inline uint64_t mx_get64(const uint8_t *p) { return (uint64_t)mx_get32(p) << 32 | mx_get32(p + 4); }
static inline void mx_put16(uint8_t *p, uint16_t v) { p[0] = (uint8_t)(v >> 8), p[1] = (uint8_t)v; }
static inline void mx_put32(uint8_t *p, uint32_t v) { v = __builtin_bswap32(v), memcpy(p, &v, 4); }
static inline void mx_put64(uint8_t *p, uint64_t v) { v = __builtin_bswap64(v), memcpy(p, &v, 8); }

/* One of n bytes, at most 8. */
static inline uint64_t mx_get(const uint8_t *p, size_t n) {
    uint64_t v = 0;
    while (n--) v = v << 8 | *p++;
    return v;
}
#endif
