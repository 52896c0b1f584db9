/* script.h - the door between the runtime and Lua; no lua.h in it.
 *
 * load and turn may print to stderr; neither lets a Lua error out. */
#ifndef MX_SCRIPT_H
#define MX_SCRIPT_H
#include "link/link.h"
#include "options.h"

typedef struct mx_script mx_script;

mx_script *mx_script_new(mx_runtime *r, const mx_options *o); /* NULL: said why on stderr */
int mx_script_turn(void *script);                             /* one turn; not 0: the script has ended */
void mx_script_close(mx_script *s);
#endif
