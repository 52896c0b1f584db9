/* answer.h - what the embedded broker says when it refuses: RabbitMQ 3.10's codes and words. */
#ifndef MX_ANSWER_H
#define MX_ANSWER_H
#include "base/wait.h"
#include "broker/queue.h"

#define MX_TEXT(s) (int)(s).n, (const char *)(s).p /* for %.*s */

static inline mx_reply *mx_done(void) { return mx_reply_new(0, 0, NULL, 0); }
mx_reply *mx_refused(int reply_code, const char *format, ...) __attribute__((format(printf, 2, 3)));
mx_reply *mx_no_queue(mx_span name);
mx_reply *mx_no_exchange(mx_span name);
mx_reply *mx_is_default(void); /* what was asked for cannot be done to the default exchange */
mx_reply *mx_is_locked(mx_span queue);
mx_reply *mx_in_use(mx_span queue);
/* 406: kind is "queue" or "exchange"; got and current stand there with their quotes, or none. */
mx_reply *mx_unequal(const char *what, const char *kind, mx_span name, const char *got, const char *current);
mx_reply *mx_unequal_flag(const char *what, const char *kind, mx_span name, int got, int current); /* NULL: they are the same */
mx_reply *mx_bad_arg(mx_span queue, const char *key, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The arguments of queue.declare. */
void mx_args_collect(mx_span table, mx_entry args[MX_ARGS]);
mx_reply *mx_args_differ(const mx_queue *q, const mx_entry args[MX_ARGS]); /* NULL: as it was declared */
/* Why no queue can be made of them; NULL: one can. flags: MX_F_... of the declaration. */
mx_reply *mx_args_check(mx_span queue, const mx_entry args[MX_ARGS], uint32_t flags);
void mx_arg_words(const mx_entry *f, int other_type, char *to, size_t size); /* for mx_unequal */
#endif
