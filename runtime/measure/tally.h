/* tally.h - what the processes of a benchmark count and measure, in memory that they share.
 *
 * Design: no process waits for another. Counts and histograms have one writer each. A window says which of the last half million
 * messages of one producer have arrived, whichever process took them: a ring of slots, each the number of a block of 32 messages
 * and a bit for each of these, changed by compare-and-swap. A block that a later one takes the slot of leaves behind how many of
 * it were missing; what arrives after that is new as long as some are missing, and a duplicate otherwise. */
#ifndef MX_TALLY_H
#define MX_TALLY_H
#include "base/mx.h"

enum { MX_TALLY_SLOTS = 16384, MX_TALLY_BLOCK = 32 };
enum { MX_TALLY_FD = 60 }; /* of the memory, in a process that was started for it */

mx_tallies *mx_tallies_map(int fd); /* NULL: there is none in that file */
int mx_tallies_fd(const mx_tallies *t);
/* A message that carries this stamp, or none of this run: NULL. now: in seconds. */
void mx_tally_take(mx_tallies *t, uint32_t number, const mx_stamp *s, uint32_t streams, uint32_t stream, double *last,
                   double now);

mx_probe *mx_probe_new(mx_tallies *t, uint32_t number, uint32_t mask);
void mx_probe_free(mx_probe *p);
void mx_probe_confirmed(mx_probe *p, uint64_t seq, uint64_t sent_us, uint64_t now_us);
#endif
