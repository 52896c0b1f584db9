/* pprofparts.h - what a profile consists of, for those who read and write it. */
#ifndef MX_PPROFPARTS_H
#define MX_PPROFPARTS_H
#include "measure/intern.h"
#include "measure/pprof.h"

typedef struct mx_pprof_function_key {
    uint32_t name, file;
    int64_t line;
} mx_pprof_function_key;

typedef struct mx_pprof_location_key {
    uint32_t function, unused;
    int64_t line;
} mx_pprof_location_key;

typedef struct mx_pprof_label {
    uint32_t key, text; /* text MX_PPROF_EMPTY: it is a number */
    uint32_t unit, unused;
    int64_t number;
} mx_pprof_label;

typedef struct mx_pprof_kind {
    uint32_t type, unit;
} mx_pprof_kind;

enum { MX_PPROF_EMPTY = 1 }; /* the number of "": those of profile.proto are one less */

struct mx_pprof {
    mx_intern strings;
    mx_intern functions, locations; /* of mx_pprof_function_key, mx_pprof_location_key */
    mx_intern labels;               /* of mx_pprof_label, ordered by their bytes */
    mx_intern stacks;               /* the rows: the number of the labels, then of locations, leaf first */
    int64_t *values;                /* MX_PPROF_VALUES of each row */
    uint32_t value_room;            /* in rows */
    uint32_t *key;                  /* where the next stack is put together */
    size_t key_room;
    mx_pprof_kind type[MX_PPROF_VALUES], period_type;
    uint32_t types, default_type; /* default_type: MX_PPROF_EMPTY is none */
    int64_t period, time_ns, duration_ns;
    mx_intern comments; /* of texts */
};

uint32_t mx_pprof_text(mx_pprof *p, mx_span text);
uint32_t mx_pprof_function_of(mx_pprof *p, uint32_t name, uint32_t file, int64_t line);
uint32_t mx_pprof_labels_of(mx_pprof *p, mx_pprof_label *labels, size_t n); /* orders them */
/* Room for a stack of so many; it goes into the row that is asked for next. */
uint32_t *mx_pprof_stack(mx_pprof *p, size_t depth);
uint32_t mx_pprof_row_of_stack(mx_pprof *p, size_t depth, uint32_t labels);
#endif
