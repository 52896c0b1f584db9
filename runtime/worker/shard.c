/* shard.c - the mapping: made by a supervisor, found by its workers. */
#include "worker/shard.h"
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "worker/ask.h"

static const uint64_t MAGIC = 0x316472616873786dull;
static mx_shard alone;
static mx_place place = {1, 1, &alone, NULL, 0};

enum { PAGE = 65536 }; /* the largest that machines have */
static size_t slabs_at(uint32_t count) { return (sizeof(mx_shards) + count * sizeof(mx_shard) + PAGE - 1) & ~(size_t)(PAGE - 1); }

static size_t size_of(const mx_shards *s) {
    return slabs_at(s->count) + (s->watched ? (s->count + (size_t)1) * MX_SLAB_BYTES : 0);
}

mx_shards *mx_shards_new(uint32_t count, int watched, int *fd) {
    mx_shards head = {.magic = MAGIC, .supervisor = getpid(), .count = count, .watched = watched != 0};
    size_t size = size_of(&head);
    *fd = memfd_create("mxrun", MFD_CLOEXEC);
    if (*fd < 0) return NULL;
    mx_shards *s = MAP_FAILED;
    if (!ftruncate(*fd, (off_t)size)) s = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (s == MAP_FAILED) {
        close(*fd);
        return NULL;
    }
    *s = head;
    return s;
}

void mx_shards_free(mx_shards *s) { munmap(s, size_of(s)); }

mx_slab *mx_shards_slab(const mx_shards *s, uint32_t i) {
    return (mx_slab *)((char *)(uintptr_t)s + slabs_at(s->count) + (size_t)i * MX_SLAB_BYTES);
}

void mx_shards_wipe(const mx_shards *s, uint32_t i) {
    mx_slab *slab = mx_shards_slab(s, i);
    if (madvise(slab, MX_SLAB_BYTES, MADV_REMOVE)) memset(slab, 0, MX_SLAB_BYTES);
}

/* The mapping at the descriptor, without slabs; NULL: it is something else. */
static mx_shards *find(uint32_t number) {
    struct stat about;
    mx_shards head;
    if (fstat(MX_SHARD_FD, &about) || !S_ISREG(about.st_mode)) return NULL;
    if (pread(MX_SHARD_FD, &head, sizeof head, 0) != (ssize_t)sizeof head || head.magic != MAGIC) return NULL;
    if ((size_t)about.st_size != size_of(&head) || number < 1 || number > head.count) return NULL;
    mx_shards *s = mmap(NULL, slabs_at(head.count), PROT_READ | PROT_WRITE, MAP_SHARED, MX_SHARD_FD, 0);
    return s == MAP_FAILED ? NULL : s;
}

/* Without addresses for it the worker counts for itself. */
static void use_slab(const mx_shards *s, uint32_t number) {
    off_t at = (off_t)(slabs_at(s->count) + (number - (size_t)1) * MX_SLAB_BYTES);
    void *p = mmap(NULL, MX_SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, MX_SHARD_FD, at);
    if (p != MAP_FAILED) mx_slab_use(mx_slab_init(p, MX_SLAB_BYTES));
}

void mx_place_attach(void) {
    const char *text = getenv("MXRUN_WORKER");
    uint32_t number = text ? (uint32_t)strtoul(text, NULL, 10) : 0;
    mx_shards *s = text ? find(number) : NULL;
    unsetenv("MXRUN_WORKER");
    if (!s) return;
    if (s->watched) use_slab(s, number);
    if (s->watched) fcntl(MX_ASK_FD, F_SETFD, FD_CLOEXEC); /* it is not for what the script starts */
    close(MX_SHARD_FD);
    place = (mx_place){number, s->count, &s->shard[number - 1], &s->journal, s->watched != 0};
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != s->supervisor) raise(SIGTERM); /* it died before we asked to be told */
}

const mx_place *mx_place_get(void) { return &place; }
