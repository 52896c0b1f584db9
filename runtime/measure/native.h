/* native.h - the C part of a stack, taken in a signal handler by frame pointers, and the names of what it shows.
 *
 * Design: mxrun itself keeps frame pointers, libraries mostly do not, the VM and what it compiles never do. So a walk goes on
 * only as long as each frame lies on this thread's stack above the one before and returns into code of mxrun; of a library it has
 * the innermost function alone, and it ends where Lua begins, whose frames Lua itself knows. Nothing here calls backtrace(),
 * which may allocate. */
#ifndef MX_NATIVE_H
#define MX_NATIVE_H
#include "base/mx.h"

enum { MX_NATIVE_DEPTH = 24 };

/* Learns what is loaded by now, and where this thread's stack is. To be called before a walk and now and then; not in a handler.
 */
void mx_native_look(void);
/* Async-signal-safe: code addresses, innermost first; how many. context: the handler's third argument; NULL: from the caller on.
 */
int mx_native_walk(const void *context, uintptr_t *to);
/* The name of the function around the address, "[cjson.so]" where the library does not say, and the library's file name; both
 * valid until the next call. Of code of the VM, or of none that is known: NULL. */
const char *mx_native_name(uintptr_t pc, const char **library);
#endif
