/* table.h - field tables and arrays (AMQP 0-9-1, 4.2.5.5) as bytes, in RabbitMQ's dialect of the type letters.
 *
 * The one walker of them: a loop over mx_table_next never leaves the bytes it was given, whatever they are. */
#ifndef MX_TABLE_H
#define MX_TABLE_H
#include "base/mx.h"
enum { MX_TABLE_DEPTH = 32, MX_TABLE_ENTRIES = 4096 };

typedef struct mx_field {
    mx_span key;   /* empty in an array */
    mx_span whole; /* type, length and value: what a copy of the value needs */
    mx_span value; /* without type and length: the text of an S, the entries of an F or A, the big-endian bytes of the rest */
    uint8_t type;
} mx_field;

/* Takes the first entry off rest: 1; 0 when rest is empty; MX_EVALIDATION when its type is unknown (then type is set and
 * value is what is left) or it is cut short (then type is 0). named: a table, whose entries have keys; else an array. */
int mx_table_next(mx_span *rest, int named, mx_field *out);
int mx_table_find(mx_span table, const char *key, mx_field *out); /* 1: there it is; 0: it is not */
int mx_field_integer(const mx_field *f, int64_t *out);            /* 1: it is of an integer type, a boolean or a timestamp */

/* The content of a table, without its length: depth, entries, each entry inside its table, every type known.
 * 0 or MX_EVALIDATION. */
int mx_table_check(const uint8_t *p, size_t n);
/* What a peer may have sent, who has other limits: as mx_table_check, but too deep, too many or an unknown type is no harm
 * here; whoever reads the value refuses it, and that costs one message instead of the connection. */
int mx_table_check_foreign(const uint8_t *p, size_t n);
#endif
