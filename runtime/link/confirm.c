/* confirm.c - pending publishes in a ring by sequence number; those that failed, in an ordered list. */
#include "link/confirm.h"
#include <stdlib.h>
#include <string.h>
#include "measure/account.h"
#include "base/clock.h"
#include "wire/sendq.h"

enum {
    WINDOW_MAX = 1 << 20,
    FAILURES_MAX = 1 << 20,
    PROCESS_ID = 9,
    COUNT = MX_ID_SIZE - PROCESS_ID,
    NUMBER_BITS = 20,
    SEQ_BITS = 44
};
#define NEVER UINT64_MAX

typedef struct entry {
    uint64_t due, stamp;   /* us; stamp: when it was published */
    uint64_t hash;         /* of the caller's message id; 0: the id is ours */
    const uint8_t *frames; /* what was written of it, held while it is pending; may be NULL */
    uint32_t ticket;       /* the first who watches it */
    uint8_t state;         /* MX_PENDING until it ended */
    uint8_t returned;
    uint8_t crowd; /* there are more who watch it: in extra */
    uint8_t sendings;
} entry;

/* Those who watch what has a watcher already. Each keeps its own ticket: the first one's deadline may be past,
 * and then nobody would hear of the end. */
typedef struct extra {
    struct extra *next;
    uint64_t seq; /* 0: waits for room in the window */
    uint32_t ticket;
} extra;

struct mx_pending {
    extra *extra;
    entry slot[];
};

struct mx_failure {
    uint64_t seq;
    int state;
};

/* Confirmed publishes of the same stamp, recorded as one. */
typedef struct run {
    uint64_t now, stamp, count;
} run;

static char process_id[PROCESS_ID];
static uint32_t numbers;

static entry *at(const mx_confirm *c, uint64_t seq) { return &c->ring->slot[seq & c->mask]; }
static uint64_t settled(const mx_confirm *c) { return (uint64_t)c->pub.settled; }
static uint64_t published(const mx_confirm *c) { return (uint64_t)c->pub.seq; }

static void write64(uint8_t *to, int n, uint64_t v) {
    static const char letters[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz-";
    for (int i = n - 1; i >= 0; i--, v >>= 6) to[i] = (uint8_t)letters[v & 63];
}

static int digit64(int c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'Z' ? c - 'A' + 10
           : c == '_'             ? 36
           : c >= 'a' && c <= 'z' ? c - 'a' + 37
           : c == '-'             ? 63
                                  : -1;
}

static int read64(const uint8_t *p, int n, uint64_t *v) {
    *v = 0;
    for (int i = 0; i < n; i++) {
        int digit = digit64(p[i]);
        if (digit < 0) return 0;
        *v = *v << 6 | (unsigned)digit;
    }
    return 1;
}

static void name_process(void) {
    if (!process_id[0]) write64((uint8_t *)process_id, PROCESS_ID, mx_random());
}

/* At least 1: 0 means that there is no deadline. */
static uint64_t us_of(double seconds) { return mx_us_of(seconds) + 1; }

/* ---- the list of failures ---- */

static mx_failure *failure(const mx_confirm *c, size_t i) { return &c->failure[(c->failure_first + i) & (c->failure_room - 1)]; }

static void grow(mx_confirm *c) {
    size_t room = c->failure_room ? 2 * c->failure_room : 64;
    mx_failure *bigger = mx_realloc(NULL, room * sizeof *bigger);
    for (size_t i = 0; i < c->failures; i++) bigger[i] = *failure(c, i);
    free(c->failure);
    c->failure = bigger;
    c->failure_room = room;
    c->failure_first = 0;
}

static void list(mx_confirm *c, uint64_t seq, int state) {
    if (c->failures == FAILURES_MAX) {
        c->forgotten = (double)failure(c, 0)->seq;
        c->failure_first++;
        c->failures--;
    } else if (c->failures == c->failure_room) grow(c);
    *failure(c, c->failures++) = (mx_failure){seq, state};
}

/* The first listed failure at or behind seq, NULL: none. */
static const mx_failure *find(const mx_confirm *c, uint64_t seq) {
    size_t low = 0, high = c->failures;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (failure(c, mid)->seq < seq) low = mid + 1;
        else high = mid;
    }
    return low < c->failures ? failure(c, low) : NULL;
}

/* What became of a publish at or below settled. */
static int past(const mx_confirm *c, uint64_t seq) {
    if (seq <= (uint64_t)c->forgotten) return MX_LOST;
    const mx_failure *f = find(c, seq);
    return f && f->seq == seq ? f->state : MX_CONFIRMED;
}

/* ---- who watches ---- */

static void watch_also(mx_confirm *c, uint64_t seq, uint32_t ticket) {
    extra *x = mx_zalloc(sizeof *x);
    *x = (extra){c->ring->extra, seq, ticket};
    c->ring->extra = x;
}

static void post_extra(mx_confirm *c, uint64_t seq) {
    for (extra **at = &c->ring->extra, *x; (x = *at);) {
        if (x->seq != seq) {
            at = &x->next;
            continue;
        }
        *at = x->next;
        mx_wait_post(c->waits, x->ticket, 0, NULL);
        free(x);
    }
}

void mx_confirm_post_room(mx_confirm *c) {
    uint32_t ticket = c->watcher;
    c->watcher = 0;
    mx_wait_post(c->waits, ticket, 0, NULL);
    post_extra(c, 0);
}

/* ---- how a publish ends ---- */

static void record(mx_confirm *c, run *r) {
    if (r->count) mx_hist_add(c->latency, r->now > r->stamp ? r->now - r->stamp : 0, r->count);
    r->count = 0;
}

static inline void confirmed(mx_confirm *c, run *r, uint64_t seq, uint64_t stamp) {
    if (!c->latency) {
        if (c->probe) mx_probe_confirmed(c->probe, seq, stamp, r->now ? r->now : (r->now = mx_clock_us()));
        return;
    }
    if (!r->now) r->now = mx_clock_us();
    if (stamp != r->stamp) record(c, r);
    r->stamp = stamp;
    r->count++;
}

static inline void let_go(const entry *e) {
    if (e->frames) mx_sendq_release(e->frames);
}

static void end(mx_confirm *c, uint64_t seq, int state, run *r) {
    entry *e = at(c, seq);
    let_go(e);
    e->state = (uint8_t)(state == MX_CONFIRMED && e->returned ? MX_RETURNED : state);
    if (e->state == MX_CONFIRMED) confirmed(c, r, seq, e->stamp);
    else c->pub.failed++;
    if (e->ticket) mx_wait_post(c->waits, e->ticket, 0, NULL);
    if (e->crowd) post_extra(c, seq);
    e->ticket = 0;
    e->crowd = 0;
}

/* Room for an eighth of the window: to wake who waits for each single slot costs more than it gains, and a broker that is
 * given the window in few large parts waits for the next one. */
static int has_room(const mx_confirm *c) {
    return !mx_confirm_full(c) && 8 * (c->pub.seq - c->pub.settled) <= 7.0 * c->pub.window;
}

/* Takes what has ended off the front of the ring. */
static void advance(mx_confirm *c) {
    uint64_t seq = settled(c) + 1;
    for (; c->early && at(c, seq)->state; seq++) {
        if (at(c, seq)->state != MX_CONFIRMED) list(c, seq, at(c, seq)->state);
        c->early--;
    }
    c->pub.settled = (double)(seq - 1);
    if (c->watcher && has_room(c)) mx_confirm_post_room(c);
}

static void end_through(mx_confirm *c, uint64_t last, int state) {
    run r = {0};
    for (uint64_t seq = settled(c) + 1; seq <= last; seq++) {
        entry *e = at(c, seq);
        if (state == MX_CONFIRMED && !(e->state | e->returned) && !e->ticket) { /* nearly all */
            confirmed(c, &r, seq, e->stamp);
            let_go(e);
            continue;
        }
        if (!e->state) end(c, seq, state, &r);
        else c->early--;
        if (e->state != MX_CONFIRMED) list(c, seq, e->state);
    }
    record(c, &r);
    c->pub.settled = (double)last;
    advance(c);
}

static void on_deadline(mx_timer *t, void *arg) {
    mx_confirm *c = arg;
    uint64_t now = mx_clock_us(), next = NEVER;
    if (now < t->due_us) now = t->due_us;
    for (uint64_t seq = settled(c) + 1; seq <= published(c); seq++) {
        entry *e = at(c, seq);
        if (e->state) continue;
        if (e->due <= now) {
            end(c, seq, MX_TIMED_OUT, NULL);
            c->early++;
        } else if (e->due < next) next = e->due;
    }
    advance(c);
    if (next != NEVER) mx_timer_set(c->timers, t, next);
}

/* ---- the header's ---- */

static size_t bytes_of(const mx_confirm *c) { return sizeof *c->ring + (c->mask + (size_t)1) * sizeof *c->ring->slot; }

void mx_confirm_init(mx_confirm *c, uint32_t window, double timeout, mx_waits *waits, mx_timers *timers, mx_hist *latency) {
    uint32_t slots = 1;
    if (window < 1) window = 1;
    if (window > WINDOW_MAX) window = WINDOW_MAX;
    while (slots < window) slots *= 2;
    name_process();
    *c = (mx_confirm){.waits = waits, .timers = timers, .latency = latency, .mask = slots - 1, .number = ++numbers};
    c->pub.window = window;
    c->pub.confirm = 1;
    c->timeout_us = timeout > 0 ? us_of(timeout) : 0;
    c->ring = mx_zalloc(sizeof *c->ring + slots * sizeof *c->ring->slot);
    mx_hold_block(MX_OF_RECEIPTS, c->ring, bytes_of(c));
    c->timer.fire = on_deadline;
    c->timer.arg = c;
}

void mx_confirm_fini(mx_confirm *c) {
    mx_timer_stop(c->timers, &c->timer);
    for (extra *x; c->ring && (x = c->ring->extra);) {
        c->ring->extra = x->next;
        free(x);
    }
    if (c->ring) mx_let_go_block(MX_OF_RECEIPTS, c->ring, bytes_of(c));
    mx_probe_free(c->probe);
    free(c->ring);
    free(c->failure);
    free(c->resent);
    c->probe = NULL;
    c->resent = NULL;
    c->ring = NULL;
    c->failure = NULL;
}

double mx_confirm_add(mx_confirm *c, uint64_t now_us, double timeout, uint64_t id_hash, const uint8_t *frames) {
    c->pub.seq++;
    if (!c->pub.confirm) return c->pub.settled = c->pub.seq;
    uint64_t us = timeout == 0 ? c->timeout_us : timeout > 0 ? us_of(timeout) : 0, due = us ? now_us + us : NEVER;
    *at(c, published(c)) = (entry){.due = due, .stamp = now_us, .hash = id_hash, .frames = frames, .sendings = 1};
    if (frames) mx_sendq_hold(frames);
    /* one that guards an entry long settled just fires for nothing: cheaper than to follow each confirm */
    if (us && (!c->timer.place || due < c->timer.due_us)) mx_timer_set(c->timers, &c->timer, due);
    return c->pub.seq;
}

/* A settlement for something that has ended: late when its deadline came first, wrong otherwise. */
static int again(int state, int listed) { return state == MX_TIMED_OUT || (listed && state == MX_LOST) ? 0 : MX_EVALIDATION; }

int mx_confirm_settle(mx_confirm *c, uint64_t tag, int multiple, int nack) {
    uint64_t base = (uint64_t)c->base, seq = tag && tag <= c->resends ? c->resent[tag - 1] : base + tag;
    int state = nack ? MX_NACKED : MX_CONFIRMED;
    c->heard++;
    if (tag > published(c) - base || (!tag && !multiple)) return MX_EVALIDATION;
    if (!tag) {
        end_through(c, published(c), state);
        return 0;
    }
    if (seq <= settled(c)) return again(past(c, seq), 1);
    if (at(c, seq)->state && (!multiple || at(c, seq)->state != MX_TIMED_OUT)) return again(at(c, seq)->state, 0);
    if (multiple) {
        end_through(c, seq, state);
        return 0;
    }
    run r = {0};
    end(c, seq, state, &r);
    record(c, &r);
    c->early++;
    if (seq == settled(c) + 1) advance(c);
    return 0;
}

void mx_confirm_up_to(mx_confirm *c, double seq) {
    uint64_t last = (uint64_t)(seq < c->pub.seq ? seq : c->pub.seq);
    if (last > settled(c)) end_through(c, last, MX_CONFIRMED);
}

static int is_pending(const mx_confirm *c, uint64_t seq) { return seq > settled(c) && seq <= published(c) && !at(c, seq)->state; }

/* The sequence number in an id of ours, 0 when it is not of this publisher. */
static uint64_t seq_of(const mx_confirm *c, mx_span id) {
    uint64_t v, own = c->number & ((1u << NUMBER_BITS) - 1);
    if (id.n != MX_ID_SIZE || memcmp(id.p, process_id, PROCESS_ID) || !read64(id.p + PROCESS_ID, COUNT, &v)) return 0;
    return v >> SEQ_BITS == own ? v & ((1ull << SEQ_BITS) - 1) : 0;
}

void mx_confirm_return(mx_confirm *c, mx_span id, mx_span exchange, mx_span key) {
    uint64_t seq = seq_of(c, id), hash;
    if (is_pending(c, seq) && !at(c, seq)->hash) {
        at(c, seq)->returned = 1;
        return;
    }
    hash = mx_confirm_hash(id, exchange, key);
    for (seq = settled(c) + 1; seq <= published(c); seq++) {
        entry *e = at(c, seq);
        if (e->hash != hash || e->state || e->returned) continue;
        e->returned = 1;
        return;
    }
}

void mx_confirm_returned(mx_confirm *c, double seq) {
    if (seq >= 1 && is_pending(c, (uint64_t)seq)) at(c, (uint64_t)seq)->returned = 1;
}

void mx_confirm_lose(mx_confirm *c) {
    mx_timer_stop(c->timers, &c->timer);
    end_through(c, published(c), MX_LOST);
    c->base = c->pub.seq;
    c->resends = 0;
    mx_confirm_post_room(c);
}

size_t mx_confirm_lose_some(mx_confirm *c, int (*is_lost)(void *arg, const uint8_t *frames), void *arg) {
    size_t n = 0;
    for (uint64_t seq = settled(c) + 1; seq <= published(c); seq++) {
        if (at(c, seq)->state || !is_lost(arg, at(c, seq)->frames)) continue;
        end(c, seq, MX_LOST, NULL);
        c->early++;
        n++;
    }
    advance(c);
    return n;
}

void mx_confirm_unsent(mx_confirm *c) { at(c, published(c))->sendings = 0; }

void mx_confirm_resend(mx_confirm *c, const uint8_t *(*again)(void *arg, const uint8_t *frames, unsigned attempt), void *arg) {
    c->resends = 0;
    c->resent = mx_realloc(c->resent, (published(c) - settled(c)) * sizeof *c->resent);
    for (uint64_t seq = settled(c) + 1; seq <= published(c); seq++) {
        entry *e = at(c, seq);
        const uint8_t *before = e->frames;
        if (e->state) continue;
        if (e->sendings < UINT8_MAX) e->sendings++;
        e->returned = 0;
        e->frames = again(arg, before, e->sendings);
        mx_sendq_hold(e->frames);
        mx_sendq_release(before);
        c->resent[c->resends++] = seq;
    }
    c->base = c->pub.seq - (double)c->resends;
}

static uint64_t mix(uint64_t h, uint64_t v) {
    unsigned __int128 m = (unsigned __int128)(h ^ v) * 0x9e3779b97f4a7c15u;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static uint64_t hash_more(uint64_t h, mx_span s) {
    uint64_t v;
    h = mix(h, s.n + 0x632be59bd9b4e019u);
    for (; s.n >= 8; s.p += 8, s.n -= 8) {
        memcpy(&v, s.p, 8);
        h = mix(h, v);
    }
    if (!s.n) return h;
    v = 0;
    memcpy(&v, s.p, s.n);
    return mix(h, v);
}

uint64_t mx_confirm_hash(mx_span id, mx_span exchange, mx_span key) {
    uint64_t h = hash_more(hash_more(hash_more(0xa0761d6478bd642fu, id), exchange), key);
    return h ? h : 1;
}

static void id_of(const mx_confirm *c, uint64_t seq, uint8_t *id) {
    memcpy(id, process_id, PROCESS_ID);
    write64(id + PROCESS_ID, COUNT, (uint64_t)c->number << SEQ_BITS | (seq & ((1ull << SEQ_BITS) - 1)));
}

void mx_confirm_id(const mx_confirm *c, uint8_t id[MX_ID_SIZE]) { id_of(c, published(c) + 1, id); }

const mx_props *mx_confirm_props(const mx_confirm *c, const mx_props *given, mx_props *own, uint8_t id[MX_ID_SIZE]) {
    if (given->flags & MX_P_MESSAGE_ID) return given;
    mx_confirm_id(c, id);
    *own = *given;
    own->flags |= MX_P_MESSAGE_ID;
    own->message_id = (mx_span){id, MX_ID_SIZE};
    return own;
}

MX_EXPORT int mx_receipt_state(mx_pub *p, double number) {
    mx_confirm *c = (mx_confirm *)p;
    if (!(number >= 1 && number <= p->seq)) return MX_LOST;
    uint64_t seq = (uint64_t)number;
    return seq <= settled(c) ? past(c, seq) : at(c, seq)->state;
}

MX_EXPORT size_t mx_receipt_id(mx_pub *p, double seq, uint8_t *to) {
    id_of((mx_confirm *)p, (uint64_t)seq, to);
    return MX_ID_SIZE;
}

MX_EXPORT double mx_pub_failure(const mx_pub *p, double after) {
    const mx_failure *f = find((const mx_confirm *)p, (uint64_t)after + 1);
    return f ? (double)f->seq : 0;
}

MX_EXPORT void mx_receipt_watch(mx_pub *p, double number, uint32_t ticket) {
    mx_confirm *c = (mx_confirm *)p;
    uint64_t seq = (uint64_t)(number > 0 ? number : 0);
    if (!is_pending(c, seq)) mx_wait_post(c->waits, ticket, 0, NULL);
    else if (!at(c, seq)->ticket) at(c, seq)->ticket = ticket;
    else {
        at(c, seq)->crowd = 1;
        watch_also(c, seq, ticket);
    }
}

MX_EXPORT void mx_pub_watch(mx_pub *p, uint32_t ticket) {
    mx_confirm *c = (mx_confirm *)p;
    if (!mx_confirm_full(c) || p->state == MX_CLOSED) mx_wait_post(c->waits, ticket, 0, NULL);
    else if (!c->watcher) c->watcher = ticket;
    else watch_also(c, 0, ticket);
}

MX_EXPORT mx_probe *mx_pub_probe(mx_pub *p, mx_tallies *t, uint32_t number) {
    mx_confirm *c = (mx_confirm *)p;
    c->latency = NULL;
    if (!c->probe) c->probe = mx_probe_new(t, number, c->mask);
    return c->probe;
}
