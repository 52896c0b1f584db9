/* pprof.h - a profile as pprof has it (profile.proto): built sample by sample, read, added to another, written. What it does
 * stands in abi.h.
 *
 * Design: the tables of profile.proto, interned by hash, so that a sample costs a look-up; an equal sample (same stack, same
 * labels) is one row whose values grow. A live heap profile keeps the row's number with each object and takes the values away
 * when it is freed. A location is one line of one function: a compiler's inlined lines are locations of their own, addresses are
 * left out. */
#ifndef MX_PPROF_H
#define MX_PPROF_H
#include "base/mx.h"

enum { MX_PPROF_DEPTH = 128 }; /* what a sampler takes of a stack; a profile takes any, a file 2048 */

size_t mx_pprof_bytes(const mx_pprof *p); /* what it holds of memory */
#endif
