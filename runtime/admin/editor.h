/* editor.h - a line from the terminal while the loop turns.
 *
 * Design: libedit, one key a call, whenever the terminal has one. It is loaded when a prompt is opened: most processes have none.
 * It writes to a descriptor of its own that never blocks: a terminal that is stopped costs what it was to show, not the loop. */
#ifndef MX_EDITOR_H
#define MX_EDITOR_H
#include "link/link.h"

/* Its functions are those of abi.h; r->editor may be NULL for each of them. */
typedef struct mx_editor mx_editor;
#endif
