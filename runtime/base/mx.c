/* mx.c - names and texts of the errors; memory that does not fail. */
#include "base/mx.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *name, *text;
    int retryable;
} errors[] = {
#define X(name, n, lua, text, retryable) [n] = {lua, text, retryable},
    MX_ERROR_MAP(X)
#undef X
};

static int known(int code) { return code < 0 && (size_t)-code < sizeof errors / sizeof *errors; }

MX_EXPORT const char *mx_error_name(int code) { return known(code) ? errors[-code].name : NULL; }
MX_EXPORT const char *mx_error_text(int code) { return known(code) ? errors[-code].text : "unknown error"; }
MX_EXPORT int mx_error_retryable(int code) { return known(code) && errors[-code].retryable; }

void *mx_sure(void *p, size_t n) {
    if (p) return p;
    fprintf(stderr, "mxrun: out of memory asking for %zu bytes\n", n);
    abort();
}

void *mx_zalloc(size_t n) { return mx_sure(calloc(1, n ? n : 1), n); }
void *mx_realloc(void *p, size_t n) { return mx_sure(realloc(p, n ? n : 1), n); }
void *mx_aligned(size_t alignment, size_t n) { return mx_sure(aligned_alloc(alignment, n), n); }

MX_EXPORT uint64_t mx_random(void) {
    uint64_t v;
    if (getrandom(&v, sizeof v, 0) != sizeof v) abort();
    return v;
}

MX_EXPORT double mx_file_stamp(const char *path) {
    struct stat s;
    if (stat(path, &s)) return 0;
    uint64_t mixed = (uint64_t)s.st_mtim.tv_sec * 1000000000 + (uint64_t)s.st_mtim.tv_nsec;
    mixed = (mixed ^ (uint64_t)s.st_ino << 20) * 0x9e3779b97f4a7c15 ^ (uint64_t)s.st_size;
    return (double)(mixed * 0x9e3779b97f4a7c15 >> 12) + 1;
}

MX_EXPORT int mx_processors(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

char *mx_strndup(const void *p, size_t n) {
    char *s = mx_zalloc(n + 1);
    if (n) memcpy(s, p, n);
    return s;
}

int mx_has_terminal(void) {
    int fd = open("/dev/tty", O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd >= 0) close(fd);
    return fd >= 0 || errno == EMFILE;
}

int mx_ends_with_terminal(void) {
    struct sigaction hangup;
    return !sigaction(SIGHUP, NULL, &hangup) && hangup.sa_handler != SIG_IGN && mx_has_terminal();
}

MX_EXPORT int mx_process_id(void) { return getpid(); }
MX_EXPORT const char *mx_version(void) { return MX_VERSION; }
MX_EXPORT const char *mx_make_directory(const char *path) {
    return mkdir(path, 0777) && errno != EEXIST ? strerror(errno) : NULL;
}
