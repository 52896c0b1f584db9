/* alloc.c - counts what Lua holds, around the VM's own allocator.
 *
 * A request is never refused: compiled code does not survive that on this LuaJIT. Who goes beyond the limit is stopped at the
 * next instruction instead, as one who runs too long is; a collection comes first, for much of what is there may be garbage. */
#include "alloc.h"
#include <lauxlib.h>
#include "base/clock.h"
#include "jitprofile.h"
#include "measure/account.h"
#include "measure/hist.h"
#include "measure/profile.h"
#include "measure/sampler.h"

enum { DRIVE_US = 500, FIRST = 4 << 20, STEP = 64 * 1024 };

static struct {
    lua_Alloc f;
    void *arg;
    size_t mark; /* what live may grow to before there is anything to see to: a new peak, the limit */
    int tripped; /* until the next turn */
    int driving; /* the collector, to the end of its cycle */
    int closing;
    mx_turn *turn;
    int whole;    /* whole: somebody was stopped, and what he held is garbage now */
    size_t start; /* the collector is driven once Lua holds so much */
} own = {.start = FIRST};

static void set_mark(const mx_heap *h) {
    own.mark = h->peak + STEP;
    if (own.mark > h->allow) own.mark = own.tripped ? SIZE_MAX : h->allow;
}

static void on_mark(mx_heap *h) {
    if (h->live > h->peak) h->peak = h->live;
    if (h->live > h->allow && !own.tripped) {
        own.tripped = 1;
        mx_jitprofile_interrupt_for_memory();
    }
    set_mark(h);
}

static void *count(void *arg, void *p, size_t before, size_t after) {
    (void)arg;
    mx_heap *h = &mx_heap_of_lua;
    h->live += after - before;
    if (!before) h->blocks++;
    else if (!after) h->blocks--;
    if (h->live > own.mark) on_mark(h);
    if (!after) {
        mx_sampler_gave(p);
        return own.f(own.arg, p, before, after);
    }
    void *now = own.f(own.arg, p, before, after);
    if (before) mx_sampler_resized(p, now);
    if (after > before) mx_sampler_took(now, after - before, !before);
    return now;
}

/* ---- the collector's cycles ---- */

static const char cycle[] = "mx.cycle";

static size_t next_start(void) {
    size_t n = mx_heap_of_lua.live + mx_heap_of_lua.live / 2;
    return n > FIRST ? n : FIRST;
}

/* A userdata that nobody holds is finalized at the end of each cycle, whoever drives it. */
static void wait_for_cycle(lua_State *L) {
    lua_newuserdata(L, 0);
    luaL_getmetatable(L, cycle);
    lua_setmetatable(L, -2);
    lua_pop(L, 1);
}

static int on_cycle(lua_State *L) {
    own.turn->gc_cycles++;
    own.driving = 0;
    own.start = next_start();
    if (!own.closing) wait_for_cycle(L);
    return 0;
}

void mx_alloc_start(lua_State *L, mx_turn *t) {
    mx_heap_of_lua.live = mx_heap_of_lua.peak = (size_t)lua_gc(L, LUA_GCCOUNT, 0) * 1024 + (size_t)lua_gc(L, LUA_GCCOUNTB, 0);
    own.f = lua_getallocf(L, &own.arg);
    own.turn = t;
#ifdef MX_UNMEASURED
    (void)count;
#else
    lua_setallocf(L, count, NULL);
#endif
    luaL_newmetatable(L, cycle);
    lua_pushcfunction(L, on_cycle);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    wait_for_cycle(L);
}

void mx_alloc_stop(lua_State *L) {
    own.closing = 1;
    lua_setallocf(L, own.f, own.arg);
}

int mx_alloc_is_over(void) { return mx_heap_of_lua.live > mx_heap_of_lua.allow - mx_heap_of_lua.allow / 16; }

void mx_alloc_rearm(void) {
    own.whole |= own.tripped;
    own.tripped = 0;
    set_mark(&mx_heap_of_lua);
}

MX_EXPORT void mx_memory_cap(double bytes) {
    mx_heap *h = &mx_heap_of_lua;
    mx_memory_allow();
    if (bytes > 0 && h->live + (size_t)bytes < h->allow) h->allow = h->live + (size_t)bytes;
    set_mark(h);
}

void mx_alloc_enter(void) {
    own.tripped = 0;
    mx_memory_allow();
    set_mark(&mx_heap_of_lua);
}

/* LuaJIT begins to collect when the heap is twice what the last cycle left; between messages there is time for it before that. */
void mx_alloc_leave(lua_State *L) {
    if (mx_heap_of_lua.live < own.start && !own.driving && !own.whole) return;
    uint64_t from = mx_clock_us(), now = from;
    own.driving = 1;
    mx_profile_inside(MX_IN_GC);
    do {
        lua_gc(L, own.whole ? LUA_GCCOLLECT : LUA_GCSTEP, 0);
        now = mx_clock_us();
    } while (own.driving && !own.whole && now - from < DRIVE_US);
    mx_profile_inside(MX_IN_C);
    own.whole = 0;
    mx_hist_add(own.turn->gc, now - from, 1);
    own.turn->gc_seconds += (double)(now - from) / 1e6;
}
