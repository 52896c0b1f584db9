/* batch.h - what is gathered until it is enough: the limits that no policy can exceed. */
#ifndef MX_BATCH_H
#define MX_BATCH_H
#include "message/message.h"

/* One more of so many bytes; not an inbox's. */
void mx_batch_count(mx_batch *b, double bytes, double now);
#endif
