/* shard.c - the mapping: made by a supervisor, found by its workers. */
#include "worker/shard.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint64_t MAGIC = 0x316472616873786dull;
static mx_shard alone;
static mx_place place = {1, 1, &alone, NULL};

static size_t size_of(uint32_t count) { return sizeof(mx_shards) + count * sizeof(mx_shard); }

mx_shards *mx_shards_new(uint32_t count, int *fd) {
    *fd = memfd_create("mxrun", MFD_CLOEXEC);
    if (*fd < 0) return NULL;
    mx_shards *s = MAP_FAILED;
    if (!ftruncate(*fd, (off_t)size_of(count))) s = mmap(NULL, size_of(count), PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (s == MAP_FAILED) {
        close(*fd);
        return NULL;
    }
    s->magic = MAGIC;
    s->supervisor = getpid();
    s->count = count;
    return s;
}

void mx_shards_free(mx_shards *s) { munmap(s, size_of(s->count)); }

/* The mapping at the descriptor; NULL: it is something else. */
static mx_shards *find(uint32_t number) {
    struct stat about;
    if (fstat(MX_SHARD_FD, &about) || !S_ISREG(about.st_mode) || (size_t)about.st_size < size_of(1)) return NULL;
    size_t size = (size_t)about.st_size;
    mx_shards *s = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, MX_SHARD_FD, 0);
    if (s == MAP_FAILED) return NULL;
    if (s->magic == MAGIC && size == size_of(s->count) && number >= 1 && number <= s->count) return s;
    munmap(s, size);
    return NULL;
}

void mx_place_attach(void) {
    const char *text = getenv("MXRUN_WORKER");
    uint32_t number = text ? (uint32_t)strtoul(text, NULL, 10) : 0;
    mx_shards *s = text ? find(number) : NULL;
    unsetenv("MXRUN_WORKER");
    if (!s) return;
    close(MX_SHARD_FD);
    place = (mx_place){number, s->count, &s->shard[number - 1], &s->journal};
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != s->supervisor) raise(SIGTERM); /* it died before we asked to be told */
}

const mx_place *mx_place_get(void) { return &place; }
