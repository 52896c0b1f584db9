/* journal.c - counts crashes by message. */
#include "worker/journal.h"

static uint64_t load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

static uint32_t used(const mx_journal *j) {
    uint32_t added = __atomic_load_n(&j->added, __ATOMIC_ACQUIRE);
    return added < MX_JOURNAL_SIZE ? added : MX_JOURNAL_SIZE;
}

static int find(const mx_journal *j, uint64_t mark) {
    for (int i = 0, n = (int)used(j); i < n; i++)
        if (load(&j->entry[i].mark) == mark) return i;
    return -1;
}

static int place(mx_journal *j, uint64_t mark) {
    int i = (int)(j->added % MX_JOURNAL_SIZE);
    __atomic_store_n(&j->entry[i].crashes, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&j->entry[i].mark, mark, __ATOMIC_RELEASE);
    __atomic_store_n(&j->added, j->added + 1, __ATOMIC_RELEASE);
    return i;
}

uint32_t mx_journal_add(mx_journal *j, uint64_t mark) {
    int i = find(j, mark);
    if (i < 0) i = place(j, mark);
    return __atomic_add_fetch(&j->entry[i].crashes, 1, __ATOMIC_RELEASE);
}

uint32_t mx_journal_crashes(const mx_journal *j, uint64_t mark) {
    int i = find(j, mark);
    return i < 0 ? 0 : __atomic_load_n(&j->entry[i].crashes, __ATOMIC_ACQUIRE);
}
