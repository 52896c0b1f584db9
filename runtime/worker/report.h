/* report.h - what a worker says of itself once a second, for its supervisor to read at any moment.
 *
 * Design: two pages in turn. version counts them, and its last bit is the page that was written last: a reader that finds the
 * same version before and after has a whole page, also of a worker that died while it wrote the other. */
#ifndef MX_REPORT_H
#define MX_REPORT_H
#include "base/mx.h"

enum { MX_REPORT_WHY = 256 };

typedef struct mx_report_page {
    uint32_t ready, health; /* MX_HEALTHY ... */
    uint32_t size;
    char why[MX_REPORT_WHY];    /* it is not ready */
    char text[MX_REPORT_BYTES]; /* JSON, an object */
} mx_report_page;

typedef struct mx_report {
    uint32_t version; /* 0: nothing was said */
    mx_report_page page[2];
} mx_report;

void mx_report_write(mx_report *r, const char *why, int health, const char *text, size_t n); /* why NULL: it is ready */
int mx_report_read(const mx_report *r, mx_report_page *to);                                  /* 0: nothing was said */
#endif
