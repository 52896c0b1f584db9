/* account.c - the sum of what everybody holds, and the limit on it. */
#include "measure/account.h"
#include <malloc.h>
#include <stdio.h>
#include <unistd.h>

size_t mx_held_by[MX_OF_ALL];
mx_heap mx_heap_of_lua = {.allow = SIZE_MAX};

static mx_freelist *lists;
static size_t limit; /* 0: none */
static int refusing;

size_t mx_held_in_all(void) {
    size_t sum = 0;
    for (int i = 0; i < MX_OF_ALL; i++) sum += mx_held_by[i];
    return sum;
}

int mx_memory_is_refused(void) { return refusing; }

void mx_memory_allow(void) {
    size_t held = mx_held_in_all();
    mx_heap_of_lua.allow = !limit ? SIZE_MAX : limit > held ? limit - held : 0;
}

MX_EXPORT void mx_memory_limit(double bytes) {
    limit = (size_t)bytes;
    mx_memory_allow();
}

MX_EXPORT void mx_memory_refuse(int on) { refusing = on; }
MX_EXPORT double mx_memory_held(void) { return (double)mx_held_in_all(); }
MX_EXPORT double mx_memory_used(void) { return (double)(mx_heap_of_lua.live + mx_held_in_all()); }

void mx_freelist_join(mx_freelist *f) {
    f->next = lists;
    lists = f;
}

size_t mx_freelists_kept(void) {
    size_t sum = 0;
    for (const mx_freelist *f = lists; f; f = f->next) sum += f->kept;
    return sum;
}

int mx_freelists_rest(void) {
    static size_t before;
    size_t asked = 0, then = before;
    for (const mx_freelist *f = lists; f; f = f->next) asked += f->hits + f->misses;
    before = asked;
    return asked == then;
}

MX_EXPORT void mx_memory_shrink(void) {
    for (mx_freelist *f = lists; f; f = f->next) f->shrink();
    malloc_trim(0);
}

MX_EXPORT int mx_memory_pool(int i, mx_memory_pool_stats *to) {
    mx_freelist *f = lists;
    while (f && i--) f = f->next;
    if (!f) return 0;
    *to = (mx_memory_pool_stats){f->name, (double)f->live, (double)f->kept, (double)f->hits, (double)f->misses};
    return 1;
}

/* Resident bytes of the process, of files and of what is shared; 0 when the kernel does not say. */
static void resident(double *all, double *files) {
    unsigned long size, pages = 0, shared = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%lu %lu %lu", &size, &pages, &shared) != 3) pages = shared = 0;
    if (f) fclose(f);
    *all = (double)pages * (double)sysconf(_SC_PAGESIZE);
    *files = (double)shared * (double)sysconf(_SC_PAGESIZE);
}

MX_EXPORT void mx_memory_read(mx_memory *m) {
    struct mallinfo2 c = mallinfo2();
    size_t held = mx_held_in_all(), in_use = c.uordblks + c.hblkhd;
    *m = (mx_memory){
        .lua = (double)mx_heap_of_lua.live,
        .lua_peak = (double)(mx_heap_of_lua.peak > mx_heap_of_lua.live ? mx_heap_of_lua.peak : mx_heap_of_lua.live),
        .objects = (double)mx_heap_of_lua.blocks,
        .messages = (double)mx_held_by[MX_OF_MESSAGES],
        .unconfirmed = (double)mx_held_by[MX_OF_OUTPUT],
        .buffers = (double)mx_held_by[MX_OF_BUFFERS],
        .deliveries = (double)mx_held_by[MX_OF_DELIVERIES],
        .receipts = (double)mx_held_by[MX_OF_RECEIPTS],
        .broker = (double)mx_held_by[MX_OF_BROKER],
        .tls = (double)mx_held_by[MX_OF_TLS],
        .profiler = (double)mx_held_by[MX_OF_PROFILER],
        .pools = (double)mx_held_by[MX_OF_POOLS],
        .other = in_use > held ? (double)(in_use - held) : 0,
        .free = (double)c.fordblks,
        .limit = (double)limit,
    };
    double files;
    resident(&m->rss, &files);
    m->total = m->lua + (double)(in_use > held ? in_use : held);
    m->retained = m->rss - files > m->total ? m->rss - files - m->total : 0;
}
