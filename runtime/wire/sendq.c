/* sendq.c - the chunks of what goes out. */
#include "wire/sendq.h"
#include <stdlib.h>
#include <string.h>
#include "measure/account.h"

enum { SPARE_MAX = 32, SECRET_MAX = 8192, CHUNK_ROOM = MX_CHUNK - sizeof(mx_chunk) };

static mx_chunk *spare; /* of CHUNK_ROOM */

static void shrink(void);
static mx_freelist list = {.name = "chunks", .shrink = shrink};
static __attribute__((constructor)) void join(void) { mx_freelist_join(&list); }

static void shrink(void) {
    for (mx_chunk *c; (c = spare); free(c)) {
        spare = c->next;
        mx_let_go(MX_OF_POOLS, MX_CHUNK);
    }
    list.kept = 0;
}

size_t mx_sendq_room(void) { return mx_held_by[MX_OF_OUTPUT]; }

static size_t size_of(size_t room) { return (sizeof(mx_chunk) + room + MX_CHUNK - 1) / MX_CHUNK * MX_CHUNK; }

static mx_chunk *new_chunk(size_t n) {
    size_t room = n > CHUNK_ROOM ? n : CHUNK_ROOM;
    mx_chunk *c = spare;
    if (room == CHUNK_ROOM && c) {
        spare = c->next;
        list.kept--;
        list.hits++;
        mx_let_go(MX_OF_POOLS, MX_CHUNK);
    } else {
        list.misses++;
        c = mx_aligned(MX_CHUNK, size_of(room));
    }
    *c = (mx_chunk){.room = room, .queued = 1};
    list.live++;
    mx_hold_block(MX_OF_OUTPUT, c, size_of(room));
    return c;
}

void mx_chunk_free(mx_chunk *c) {
    mx_let_go_block(MX_OF_OUTPUT, c, size_of(c->room));
    list.live--;
    if (c->room != CHUNK_ROOM || list.kept == SPARE_MAX) {
        free(c);
        return;
    }
    c->next = spare;
    spare = c;
    list.kept++;
    mx_hold(MX_OF_POOLS, MX_CHUNK);
}

static void take_first(mx_sendq *o) {
    mx_chunk *c = o->first;
    o->first = c->next;
    if (!o->first) o->last = NULL;
    o->off = 0;
    c->queued = 0;
    if (!c->holds) mx_chunk_free(c);
}

uint8_t *mx_sendq_more(mx_sendq *o, size_t n) {
    if (o->first && o->off == o->first->len) take_first(o);
    mx_chunk *c = new_chunk(n);
    if (o->last) o->last->next = c;
    else o->first = c;
    o->last = c;
    return c->bytes;
}

void mx_sendq_wrote(mx_sendq *o, size_t n) {
    o->off += n;
    o->pending -= n;
    while (o->first != o->last && o->off == o->first->len) take_first(o);
}

void mx_sendq_move(mx_sendq *o, mx_sendq *from) {
    if (!from->pending) return;
    if (o->first && o->off == o->first->len) take_first(o);
    if (o->last) o->last->next = from->first;
    else o->first = from->first;
    o->last = from->last;
    o->pending += from->pending;
    *from = (mx_sendq){0};
}

void mx_sendq_clear(mx_sendq *o) {
    while (o->first) take_first(o);
    o->pending = 0;
}

void mx_sendq_wipe(mx_sendq *o) {
    mx_chunk *c = o->first;
    if (!c) return;
    explicit_bzero(c->bytes, o->off);
    explicit_bzero(c->bytes + c->len, c->room - c->len < SECRET_MAX ? c->room - c->len : SECRET_MAX);
}
