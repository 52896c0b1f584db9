/* death.h - dead letters: what becomes of a message that a queue gives up, written into it as RabbitMQ 3.10 writes it.
 *
 * A letter is sent when nothing is on its way any more (mx_letters_release), so that a publish never meets the letters
 * it caused. One that moved on a hundred times in one go is dropped. Not kept from a BCC: its keys are not among those
 * a letter goes by. */
#ifndef MX_DEATH_H
#define MX_DEATH_H
#include "broker/store.h"

/* To the dead-letter exchange, or dropped; the reference passes. reason: "rejected", "expired", "maxlen", "delivery_limit". */
void mx_queue_bury(mx_queue *q, mx_message *m, const char *reason);
static inline void mx_letters_hold(mx_store *s) { s->holding++; }
void mx_letters_send(mx_store *s);
static inline void mx_letters_release(mx_store *s) {
    if (!--s->holding && s->letters) mx_letters_send(s);
}
#endif
