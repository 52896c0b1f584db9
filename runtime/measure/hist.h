/* hist.h - an HDR histogram of microseconds, 1 us to 1 h, 3 significant digits; all samples, never a reservoir. */
#ifndef MX_HIST_H
#define MX_HIST_H
#include "base/mx.h"
void mx_hist_add(mx_hist *h, uint64_t us, uint64_t count);
double mx_hist_count(const mx_hist *h);
#endif
