/* props.h - basic properties (AMQP 0-9-1, 4.2.6.1) as bytes: flags, then the fields that are set. */
#ifndef MX_PROPS_H
#define MX_PROPS_H
#include "message/table.h"

/* What a peer sent: 0, or MX_EVALIDATION. Every field, one flag word, and the headers by mx_table_check_foreign. */
int mx_props_check(const uint8_t *p, size_t n);
/* Bytes written to out, or MX_EVALIDATION (a text field over 255 bytes, a bad table) or MX_EMEMORY (cap too small). */
int mx_props_encode(const mx_props *in, uint8_t *out, size_t cap);
size_t mx_props_bound(const mx_props *in); /* mx_props_encode never needs more */
#endif
