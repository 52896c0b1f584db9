/* death.c - dead letters. */
#include "broker/death.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "message/props.h"

enum { DEATH_ROOM = 131072 }; /* headers that would grow beyond it lose their x-death, not the message */
enum { OTHERS_MAX = 512 };    /* earlier deaths that are kept */
enum { HOPS_MAX = 100 };      /* circles that RabbitMQ does not see would never let go of the loop */
typedef struct mx_letter {
    struct mx_letter *next;
    mx_message *message;
    int by_hand;   /* rejected: it may go in circles */
    uint32_t hops; /* letters in whose wake it came, in one go */
} mx_letter;

typedef struct death {
    const mx_queue *queue;
    mx_message *message;
    const mx_props *props;
    const char *reason;
    int new_key;      /* the queue's own dead-letter key replaces all others */
    mx_entry deaths;  /* the header x-death; its type is 0 when there is none */
    mx_entry earlier; /* its entry of this queue and reason */
    uint64_t count;   /* of that one */
} death;

/* ---- reading x-death -------------------------------------------------------------------------------------------- */

static int says(const mx_entry *entry, const char *key, mx_span text) {
    mx_entry f;
    return entry->type == 'F' && mx_entry_find(entry->text, mx_span_of(key), &f) && f.type == 'S' && mx_same(f.text, text);
}

static int is_earlier(const death *d, const mx_entry *entry) {
    return says(entry, "queue", mx_name_of(&d->queue->named)) && says(entry, "reason", mx_span_of(d->reason));
}

static void read_deaths(death *d) {
    mx_entry f, count;
    mx_entry_find(d->props->headers, mx_span_of("x-death"), &d->deaths);
    if (d->deaths.type != 'A') return;
    for (const uint8_t *p = d->deaths.text.p, *end = p + d->deaths.text.n; p < end && !d->earlier.type;) {
        p += mx_entry_read(p, 0, &f);
        if (!is_earlier(d, &f)) continue;
        d->earlier = f;
        mx_entry_find(f.text, mx_span_of("count"), &count);
        d->count = mx_entry_is_integer(&count) ? (uint64_t)count.number : 1;
    }
}

/* It was in the target before and nobody rejected it since: RabbitMQ does not let it go round for ever. */
static int in_circles(mx_message *letter, const mx_queue *target) {
    mx_props p;
    mx_entry deaths, f;
    if (mx_props_decode(mx_message_props(letter), letter->props_size, &p)) return 0;
    mx_entry_find(p.headers, mx_span_of("x-death"), &deaths);
    for (const uint8_t *at = deaths.text.p, *end = at + deaths.text.n; deaths.type == 'A' && at < end;) {
        at += mx_entry_read(at, 0, &f);
        if (says(&f, "reason", mx_span_of("rejected"))) return 0;
        if (says(&f, "queue", mx_name_of(&target->named))) return 1;
    }
    return 0;
}

/* ---- writing it ------------------------------------------------------------------------------------------------- */

static void put_keys(mx_out *o, const death *d) {
    mx_entry list, key;
    mx_out_key(o, mx_span_of("routing-keys"), 'A');
    uint8_t *array = mx_out_open(o);
    mx_out_bytes(o, "S", 1);
    mx_out_number(o, d->message->key_size, 4);
    mx_out_bytes(o, mx_message_key(d->message), d->message->key_size);
    mx_entry_find(d->props->headers, mx_span_of("CC"), &list);
    for (const uint8_t *p = list.text.p, *end = p + list.text.n; list.type == 'A' && p < end;) {
        p += mx_entry_read(p, 0, &key);
        if (key.type == 'S') mx_out_bytes(o, key.bytes.p, key.bytes.n);
    }
    mx_out_close(o, array);
}

static void put_first(mx_out *o, const death *d) {
    mx_message *m = d->message;
    mx_out_key(o, mx_span_of("count"), 'l');
    mx_out_number(o, 1, 8);
    mx_out_text(o, "reason", mx_span_of(d->reason));
    mx_out_text(o, "queue", mx_name_of(&d->queue->named));
    mx_out_key(o, mx_span_of("time"), 'T');
    mx_out_number(o, (uint64_t)time(NULL), 8);
    mx_out_text(o, "exchange", (mx_span){m->bytes, m->exchange_size});
    put_keys(o, d);
    if (d->props->flags & MX_P_EXPIRATION) mx_out_text(o, "original-expiration", d->props->expiration);
}

/* The entry of an earlier death of this kind counts on; what else it says stays as it was then. */
static void put_again(mx_out *o, const death *d) {
    mx_entry f;
    mx_out_key(o, mx_span_of("count"), 'l');
    mx_out_number(o, d->count + 1, 8);
    for (const uint8_t *p = d->earlier.text.p, *end = p + d->earlier.text.n; p < end;) {
        p += mx_entry_read(p, 1, &f);
        if (!mx_is(f.key, "count")) mx_out_entry(o, &f);
    }
}

/* RabbitMQ turns the others round each time. */
static void put_others(mx_out *o, const death *d) {
    mx_entry others[OTHERS_MAX];
    uint32_t n = 0;
    for (const uint8_t *p = d->deaths.text.p, *end = p + d->deaths.text.n; d->deaths.type == 'A' && p < end && n < OTHERS_MAX;) {
        p += mx_entry_read(p, 0, &others[n]);
        if (!is_earlier(d, &others[n])) n++;
    }
    while (n) {
        mx_entry *f = &others[--n];
        mx_out_bytes(o, f->bytes.p, f->bytes.n);
    }
}

static void put_deaths(mx_out *o, const death *d) {
    mx_out_key(o, mx_span_of("x-death"), 'A');
    uint8_t *array = mx_out_open(o);
    mx_out_bytes(o, "F", 1);
    uint8_t *entry = mx_out_open(o);
    if (d->earlier.type) put_again(o, d);
    else put_first(o, d);
    mx_out_close(o, entry);
    put_others(o, d);
    mx_out_close(o, array);
}

static int stays(const death *d, mx_span key) {
    if (mx_is(key, "x-death") || (d->new_key && mx_is(key, "CC"))) return 0;
    return d->deaths.type || key.n < 14 || memcmp(key.p, "x-first-death-", 14);
}

static mx_span headers_of(const death *d) {
    static uint8_t room[DEATH_ROOM];
    mx_out o = {room, room + sizeof room};
    mx_entry f;
    for (const uint8_t *p = d->props->headers.p, *end = p + d->props->headers.n; p < end;) {
        p += mx_entry_read(p, 1, &f);
        if (stays(d, f.key)) mx_out_entry(&o, &f);
    }
    put_deaths(&o, d);
    if (!d->deaths.type) {
        mx_out_text(&o, "x-first-death-exchange", (mx_span){d->message->bytes, d->message->exchange_size});
        mx_out_text(&o, "x-first-death-queue", mx_name_of(&d->queue->named));
        mx_out_text(&o, "x-first-death-reason", mx_span_of(d->reason));
    }
    return o.at < o.end ? (mx_span){room, (size_t)(o.at - room)} : d->props->headers;
}

/* Published anew: another exchange and key, and no expiration of its own. */
static mx_message *letter_of(const mx_queue *q, mx_message *m, const char *reason) {
    static uint8_t room[2 * DEATH_ROOM];
    const mx_arg *new_key = &q->arg[MX_ARG_DEAD_KEY];
    mx_span props = {mx_message_props(m), m->props_size};
    mx_span key = new_key->type ? mx_span_of(new_key->text) : (mx_span){mx_message_key(m), m->key_size};
    mx_props p;
    if (!mx_props_decode(props.p, props.n, &p)) {
        death d = {.queue = q, .message = m, .props = &p, .reason = reason, .new_key = new_key->type};
        read_deaths(&d);
        p.headers = headers_of(&d);
        p.flags = (p.flags | (p.headers.n ? MX_P_HEADERS : 0)) & ~(uint32_t)MX_P_EXPIRATION;
        int n = mx_props_encode(&p, room, sizeof room);
        if (n > 0) props = (mx_span){room, (size_t)n};
    }
    mx_message *letter = mx_message_new(mx_span_of(q->arg[MX_ARG_DEAD_EXCHANGE].text), key, props, m->size);
    return mx_message_append(letter, mx_message_body(m), m->size);
}

/* ---- sending ---------------------------------------------------------------------------------------------------- */

void mx_queue_bury(mx_queue *q, mx_message *m, const char *reason) {
    mx_store *s = q->store;
    if (q->arg[MX_ARG_DEAD_EXCHANGE].type && s->hops < HOPS_MAX) {
        mx_letter *l = mx_zalloc(sizeof *l);
        l->message = letter_of(q, m, reason);
        l->by_hand = !strcmp(reason, "rejected");
        l->hops = s->hops + 1;
        mx_letters_hold(s);
        *s->last_letter = l;
        s->last_letter = &l->next;
        mx_letters_release(s);
    }
    mx_message_unref(m);
}

static void send(mx_store *s, const mx_letter *l) {
    mx_message *m = l->message;
    mx_props p = {0};
    mx_props_decode(mx_message_props(m), m->props_size, &p);
    const mx_route *r =
        mx_store_route(s, (mx_span){m->bytes, m->exchange_size}, (mx_span){mx_message_key(m), m->key_size}, p.headers);
    for (uint32_t i = 0; i < r->count; i++) {
        if (!l->by_hand && in_circles(m, r->queue[i])) continue;
        mx_message_ref(m);
        mx_queue_put(r->queue[i], m);
    }
    mx_message_unref(m);
}

void mx_letters_send(mx_store *s) {
    for (mx_letter *l; (l = s->letters); free(l)) {
        if (!(s->letters = l->next)) s->last_letter = &s->letters;
        s->holding++;
        s->hops = l->hops;
        send(s, l);
        s->hops = 0;
        s->holding--;
    }
}
