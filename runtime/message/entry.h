/* entry.h - the entries of AMQP field tables, read where they lie and written to bounded memory.
 *
 * Everything here works on the content of a table that mx_table_check has passed, without its leading length. */
#ifndef MX_ENTRY_H
#define MX_ENTRY_H
#include "base/mx.h"

typedef struct mx_entry {
    mx_span key; /* empty in an array */
    int type;    /* the letter on the wire; 0: there is none */
    int64_t number;
    double real;
    mx_span text;  /* of S and x; the content of A and F */
    mx_span bytes; /* the value as it lies there, with its type */
} mx_entry;

size_t mx_entry_read(const uint8_t *p, int named, mx_entry *out); /* bytes used; named: a table's, not an array's */
int mx_entry_find(mx_span table, mx_span key, mx_entry *out);     /* 1, or 0 with type 0 */
int mx_entry_is_integer(const mx_entry *f);
int mx_entry_equal(const mx_entry *a, const mx_entry *b); /* as RabbitMQ compares: the number 1 is 1 in any of its types */
const char *mx_entry_type_name(int type);                 /* RabbitMQ's word for the letter: "longstr" */

typedef struct mx_out { /* a table being written; at is end once something did not fit */
    uint8_t *at, *end;
} mx_out;

void mx_out_bytes(mx_out *o, const void *p, size_t n);
void mx_out_number(mx_out *o, uint64_t v, size_t n); /* n bytes, the highest first */
void mx_out_key(mx_out *o, mx_span key, int type);
void mx_out_text(mx_out *o, const char *key, mx_span text); /* an entry of type S */
void mx_out_entry(mx_out *o, const mx_entry *f);            /* an entry as it was read */
/* An array or a table inside: what is written between the two calls. */
uint8_t *mx_out_open(mx_out *o);
void mx_out_close(mx_out *o, uint8_t *opened);
/* A copy whose entries stand in the order of their keys: tables that differ only in order become the same. free(p). */
mx_span mx_table_sorted(mx_span table);
/* Properties with the number among their headers, instead of what stood there under that key. Bytes, or negative: no room. */
int mx_props_with_number(mx_span props, const char *key, uint64_t number, uint8_t *to, size_t room);
#endif
