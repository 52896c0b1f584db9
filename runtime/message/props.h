/* props.h - basic properties (AMQP 0-9-1, 4.2.6.1) as bytes: flags, then the fields that are set. */
#ifndef MX_PROPS_H
#define MX_PROPS_H
#include "base/mx.h"
enum { MX_TABLE_DEPTH = 32, MX_TABLE_ENTRIES = 4096 };

/* 0, or MX_EVALIDATION: walks every field and table; depth, entries, and each entry inside its table. One flag word. */
int mx_props_check(const uint8_t *p, size_t n);
int mx_table_check(const uint8_t *p, size_t n); /* the content of a table, without its length */
/* Bytes written to out, or MX_EVALIDATION (a text field over 255 bytes, a bad table) or MX_EMEMORY (cap too small). */
int mx_props_encode(const mx_props *in, uint8_t *out, size_t cap);
size_t mx_props_bound(const mx_props *in); /* mx_props_encode never needs more */
#endif
