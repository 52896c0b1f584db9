/* message.c - counted message blocks: small ones from bounded free lists by size class, large ones from malloc. */
#include "message/message.h"
#include <stdlib.h>
#include <string.h>
#include "measure/account.h"

/* Blocks of 128, 160, 192, 224, 256, 320 ... 4096 bytes, header included: four classes each doubling. */
enum { SMALLEST = 128, LARGEST = 4096, CLASSES = 21, LARGE = CLASSES };
#ifdef __SANITIZE_ADDRESS__
enum { CACHE_BYTES = 0 }; /* every block goes back to the sanitizer, which then sees a use after free */
#else
enum { CACHE_BYTES = 2 << 20 };
#endif
#define HEADER offsetof(mx_message, bytes)

static mx_message *cache[CLASSES];
static size_t cached; /* bytes */

static void shrink(void);
static mx_freelist list = {.name = "messages", .shrink = shrink};
static __attribute__((constructor)) void join(void) { mx_freelist_join(&list); }

static size_t meta(const mx_message *m) { return (size_t)m->exchange_size + m->key_size + m->props_size; }

static unsigned class_of(size_t block) {
    if (block > LARGEST) return LARGE;
    unsigned last = block > SMALLEST ? (unsigned)block - 1 : SMALLEST - 1, log2 = 31 - (unsigned)__builtin_clz(last);
    return 4 * (log2 - 6) + (last >> (log2 - 2) & 3) - 3;
}

static size_t class_size(unsigned cls) { return (size_t)(5 + (cls + 3) % 4) << ((cls + 3) / 4 + 4); }

static size_t block_size(const mx_message *m) { return m->cls == LARGE ? HEADER + meta(m) + m->room : class_size(m->cls); }

/* A block of at least the size asked for; says in *size how large it became. */
static mx_message *take(size_t *size, unsigned cls) {
    if (cls != LARGE) *size = class_size(cls);
    list.live++;
    mx_message *m = cls == LARGE ? NULL : cache[cls];
    if (!m) {
        list.misses++;
        m = mx_realloc(NULL, *size);
        mx_hold_block(MX_OF_MESSAGES, m, *size);
        return m;
    }
    mx_hold_block(MX_OF_MESSAGES, m, *size);
    cache[cls] = m->next;
    cached -= *size;
    mx_let_go(MX_OF_POOLS, *size);
    list.kept--;
    list.hits++;
    return m;
}

static void give(mx_message *m) {
    size_t size = block_size(m);
    mx_let_go_block(MX_OF_MESSAGES, m, size);
    list.live--;
    if (m->cls == LARGE || cached + size > CACHE_BYTES) {
        free(m);
        return;
    }
    cached += size;
    mx_hold(MX_OF_POOLS, size);
    list.kept++;
    m->next = cache[m->cls];
    cache[m->cls] = m;
}

static void shrink(void) {
    for (int i = 0; i < CLASSES; i++)
        for (mx_message *m; (m = cache[i]); free(m)) {
            cache[i] = m->next;
            mx_let_go(MX_OF_POOLS, class_size((unsigned)i));
            list.kept--;
        }
    cached = 0;
}

static uint8_t *put(uint8_t *to, mx_span s) {
    if (s.n) memcpy(to, s.p, s.n);
    return to + s.n;
}

mx_message *mx_message_new(mx_span exchange, mx_span key, mx_span props, size_t room) {
    size_t fixed = HEADER + exchange.n + key.n + props.n, size = fixed + room;
    if (size < sizeof(mx_message)) size = sizeof(mx_message);
    unsigned cls = class_of(size);
    mx_message *m = take(&size, cls);
    m->next = NULL;
    m->refs = 1;
    m->props_size = (uint32_t)props.n;
    m->size = 0;
    m->room = size - fixed;
    m->exchange_size = (uint8_t)exchange.n;
    m->key_size = (uint8_t)key.n;
    m->redelivered = 0;
    m->cls = (uint8_t)cls;
    put(put(put(m->bytes, exchange), key), props);
    return m;
}

static mx_message *grow(mx_message *m, size_t room) {
    size_t fixed = HEADER + meta(m), size = fixed + room;
    if (m->cls == LARGE) {
        mx_let_go_block(MX_OF_MESSAGES, m, fixed + m->room);
        m = mx_realloc(m, size);
        mx_hold_block(MX_OF_MESSAGES, m, size);
        m->room = room;
        return m;
    }
    unsigned cls = class_of(size);
    mx_message *bigger = take(&size, cls);
    memcpy(bigger, m, fixed + m->size);
    bigger->room = size - fixed;
    bigger->cls = (uint8_t)cls;
    give(m);
    return bigger;
}

mx_message *mx_message_append(mx_message *m, const void *bytes, size_t n) {
    if (!n) return m;
    if (n > m->room - m->size) m = grow(m, m->size + n > 2 * m->room ? m->size + n : 2 * m->room);
    memcpy(mx_message_body(m) + m->size, bytes, n);
    m->size += n;
    return m;
}

void mx_message_ref(mx_message *m) { m->refs++; }

void mx_message_unref(mx_message *m) {
    if (m && --m->refs == 0) give(m);
}

size_t mx_message_bytes(void) { return mx_held_by[MX_OF_MESSAGES]; }
