/* definition.h - the name of a Lua function, from the line of source where it is defined; of a whole source: abi.h. */
#ifndef MX_DEFINITION_H
#define MX_DEFINITION_H
#include "base/mx.h"
int mx_definition_in(const char *line, char *to, size_t size); /* 1: found; 0: there is none */
#endif
