/* secret.h - passwords and tokens, where they are in no core dump and not swapped out, and leave nothing behind.
 *
 * Each has pages of its own: there are few. */
#ifndef MX_SECRET_H
#define MX_SECRET_H
#include "base/mx.h"

char *mx_secret(const void *p, size_t n); /* a copy, ends with a NUL */
void mx_secret_free(char *s);             /* NULL: nothing */
void mx_secret_wipe_stack(void);          /* below the caller: what handled a secret has returned */
/* As getenv. The environment that came with exec has no such text any more then, and children get it all the same. */
const char *mx_secret_environment(const char *name);
#endif
