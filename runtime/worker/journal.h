/* journal.h - which messages were running when their worker died, and how often.
 *
 * Design: a ring of marks in memory that a supervisor shares with its workers. Only the supervisor writes; a worker that reads
 * meanwhile finds a count that is too small at worst. When it is full the mark that came first makes room. */
#ifndef MX_JOURNAL_H
#define MX_JOURNAL_H
#include <stdint.h>

enum { MX_JOURNAL_SIZE = 512 };

typedef struct mx_journal {
    struct {
        uint64_t mark; /* of a message, 0: none */
        uint32_t crashes;
    } entry[MX_JOURNAL_SIZE];
    uint32_t added; /* marks so far */
} mx_journal;

uint32_t mx_journal_add(mx_journal *j, uint64_t mark); /* one crash more: how many these are */
uint32_t mx_journal_crashes(const mx_journal *j, uint64_t mark);
#endif
